"""Work on many things at a time whose results come in the order of the things."""

import mmap
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol, TypeVar

from gpukmeans_cli.system.startup import interruption_held

T = TypeVar("T")
R = TypeVar("R")

# Results that may wait for their turn, for each worker: so a slow file holds up the others late, and memory is bounded.
_AHEAD = 16


class Event(Protocol):
    """What `threading.Event` and `SharedEvent` have in common."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...


class Crew(Protocol):
    """Workers that are given things and give results."""

    n_workers: int

    def event(self) -> Event:
        """One that the workers see when it is set, and when the process that made it is no more."""
        ...

    def start(self, work: Callable[[Any], Any], lost: Callable[[Any], Any]) -> None:
        """Get ready for what all of them are to do, `lost` being the result for a thing whose worker died."""
        ...

    def is_free(self) -> bool:
        """Whether another thing may be given."""
        ...

    def give(self, place: int, thing: Any) -> None: ...

    def ended(self) -> list[tuple[int, Any]]:
        """Places and results of things that have ended, at least one of those given. What `work` raised is raised."""
        ...

    def leave(self) -> None:
        """Return when no worker is at work any more."""
        ...


def in_order(
    crew: Crew,
    work: Callable[[T], R],
    things: Sequence[T],
    *,
    stop: Event,
    seen: Callable[[int, R], object] = lambda place, result: None,
    lost: Callable[[T], R],
) -> Generator[R, None, None]:
    """The results of `work` in the order of the things; `seen` is told of each, and its place, as soon as it is there.

    What `work` raises is raised. However the generator is left, no further thing is begun, `stop` is set for `work` to
    see, and it is left only when no worker is at work any more.
    """
    results: dict[int, R] = {}
    begun = 0
    try:
        crew.start(work, lost)
        for place in range(len(things)):
            while place not in results:
                while begun < min(len(things), place + _AHEAD * crew.n_workers) and crew.is_free():
                    crew.give(begun, things[begun])
                    begun += 1
                for ended, result in crew.ended():
                    results[ended] = result
                    seen(ended, result)
            yield results.pop(place)
    finally:
        stop.set()
        crew.leave()


class Alone:
    """This thread, which does what it is given when the result is asked for."""

    n_workers = 1

    def __init__(self) -> None:
        self._given: list[tuple[int, Any]] = []

    def event(self) -> Event:
        return threading.Event()

    def start(self, work: Callable[[Any], Any], lost: Callable[[Any], Any]) -> None:
        self._work = work

    def is_free(self) -> bool:
        return not self._given

    def give(self, place: int, thing: Any) -> None:
        self._given.append((place, thing))

    def ended(self) -> list[tuple[int, Any]]:
        place, thing = self._given.pop()
        return [(place, self._work(thing))]

    def leave(self) -> None:
        pass


class Threads:
    """Threads, which share a device."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self._pool = ThreadPoolExecutor(n_workers, thread_name_prefix="crew")
        self._given: dict[Future[Any], int] = {}

    def event(self) -> Event:
        return threading.Event()

    def start(self, work: Callable[[Any], Any], lost: Callable[[Any], Any]) -> None:
        self._work = work

    def is_free(self) -> bool:
        return len(self._given) < 2 * self.n_workers  # one waits for each, which so never waits for us

    def give(self, place: int, thing: Any) -> None:
        self._given[self._pool.submit(self._work, thing)] = place

    def ended(self) -> list[tuple[int, Any]]:
        done, _ = wait(self._given, return_when=FIRST_COMPLETED)
        return [(self._given.pop(future), future.result()) for future in done]

    def leave(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class SharedEvent:
    """An event for this process and copies of it that are made later; in a copy it is set, too, if this one is no more.

    It has no lock, unlike that of multiprocessing: one that is killed while it holds that would stop all others.
    """

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)  # which copies share
        self._maker = os.getpid()

    def set(self) -> None:
        self._byte[0] = 1

    def is_set(self) -> bool:
        return self._byte[0] == 1 or self._maker not in (os.getpid(), os.getppid())


class Processes:
    """Copies of this process, which do not wait for each other as threads of Python do, and may die alone.

    Before they are made, no thread may be at work, nor a GPU in use. Ctrl-C, SIGTERM and SIGHUP are for this process
    alone; without it they end as soon as they can.
    """

    def __init__(self, n_workers: int, prepare: Callable[[], object] = lambda: None) -> None:
        """`prepare` is called in each before it works."""
        self.n_workers = n_workers
        self._prepare = prepare
        self._context = multiprocessing.get_context("fork")
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, int, Any]] = {}

    @staticmethod
    def obstacle() -> str | None:
        """Why there can be none here."""
        # On macOS its own libraries do not stand being copied.
        return None if sys.platform == "linux" else "processes cannot be copied here"

    def event(self) -> Event:
        return SharedEvent()

    def start(self, work: Callable[[Any], Any], lost: Callable[[Any], Any]) -> None:
        self._work, self._lost = work, lost
        for _ in range(self.n_workers):
            self._add_worker()

    def is_free(self) -> bool:
        return bool(self._idle)

    def give(self, place: int, thing: Any) -> None:
        worker = self._idle.pop()
        with suppress(ConnectionError):  # it is dead, as will be seen when the result is waited for
            worker.pipe.send(thing)
        self._busy[worker.pipe] = worker, place, thing

    def ended(self) -> list[tuple[int, Any]]:
        return [self._result(pipe) for pipe in wait_for_any(list(self._busy)) if isinstance(pipe, Connection)]

    def leave(self) -> None:
        workers = [*self._idle, *(worker for worker, _, _ in self._busy.values())]
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join()

    def _result(self, pipe: Connection) -> tuple[int, Any]:
        worker, place, thing = self._busy.pop(pipe)
        try:
            result, failure = pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            pipe.close()
            self._add_worker()
            return place, self._lost(thing)
        self._idle.append(worker)
        if failure is not None:
            error, where = failure
            raise error from RuntimeError(where)  # a traceback does not go through a pipe
        return place, result

    def _add_worker(self) -> None:
        # Ctrl-C just now would end the worker before it can ignore that, or leave one behind that nobody knows of.
        with interruption_held():
            self._idle.append(self._new_worker())

    def _new_worker(self) -> "_Worker":
        ours, theirs = self._context.Pipe()
        others = [worker.pipe for worker in self._idle] + list(self._busy)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # else what is not written yet would be twice
        process = self._context.Process(target=_serve, args=(theirs, [ours, *others], self._work, self._prepare))
        with warnings.catch_warnings():
            # Python warns where there are threads, for what they hold is held for ever in the copy; those that may be
            # here, of a bar or of torch, hold nothing that is used there.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        return _Worker(process, ours)  # pyright: ignore[reportArgumentType] # of Windows


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection


def _serve(
    pipe: Connection, of_others: Sequence[Connection], work: Callable[[Any], Any], prepare: Callable[[], object]
) -> None:
    """Work on what comes through the pipe until its other end is closed, also by the death of the process there."""
    # Whole groups get them. When the process there dies of one, this ends, too, but first takes away a half of a file.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for other in of_others:
        other.close()
    prepare()
    with suppress(EOFError, ConnectionError):  # a reset, if an answer was not read any more
        while True:
            thing = pipe.recv()
            try:
                answer = work(thing), None
            except Exception as error:
                answer = None, (error, traceback.format_exc())
            pipe.send(answer)
    os._exit(0)
