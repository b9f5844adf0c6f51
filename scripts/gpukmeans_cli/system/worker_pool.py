"""Pools of threads or processes that run tasks, with results in the order of the tasks.

The processes are forked copies of a process that has imported torch, since each import takes more than a second. With
`concurrent.futures.ProcessPoolExecutor`, all tasks fail when one worker dies; here only the task of that worker fails.
"""

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

from gpukmeans_cli.system.startup import deferred_interrupt

T = TypeVar("T")
R = TypeVar("R")

# Maximum number of tasks per worker that are submitted ahead of the first unfinished task. Their results are kept in
# memory. With this number, a slow task rarely makes workers idle.
_MAX_AHEAD = 16


class Event(Protocol):
    """The methods that `threading.Event` and `SharedEvent` have in common."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...


class WorkerPool(Protocol):
    """Workers that run one function on many tasks."""

    n_workers: int

    def event(self) -> Event:
        """A new event that the workers can read. In worker processes the death of its creator also sets it."""
        ...

    def start(self, function: Callable[[Any], Any], on_lost: Callable[[Any], Any]) -> None:
        """Start the workers. `on_lost(task)` is the result of a task whose worker process died."""
        ...

    def can_submit(self) -> bool:
        """Whether the pool accepts another task now."""
        ...

    def submit(self, index: int, task: Any) -> None:
        """Queue a task."""
        ...

    def completed(self) -> list[tuple[int, Any]]:
        """Wait for at least one submitted task. Returns indices and results, or raises an error of `function`."""
        ...

    def shutdown(self) -> None:
        """Wait until no worker is running. Queued tasks are dropped."""
        ...


def in_order(
    pool: WorkerPool,
    function: Callable[[T], R],
    tasks: Sequence[T],
    *,
    stop: Event,
    on_result: Callable[[int, R], object] = lambda index, result: None,
    on_lost: Callable[[T], R],
) -> Generator[R, None, None]:
    """Yield the results of `function` in the order of the tasks.

    `on_result` is called with the index and result of each task as soon as it completes. Errors of `function` are
    raised. When the generator ends, raises an error or is closed, it sets `stop`, which `function` can read, starts no
    further task, and waits until no worker is running.
    """
    results: dict[int, R] = {}
    n_submitted = 0
    try:
        pool.start(function, on_lost)
        for index in range(len(tasks)):
            while index not in results:
                while n_submitted < min(len(tasks), index + _MAX_AHEAD * pool.n_workers) and pool.can_submit():
                    pool.submit(n_submitted, tasks[n_submitted])
                    n_submitted += 1
                for completed, result in pool.completed():
                    results[completed] = result
                    on_result(completed, result)
            yield results.pop(index)
    finally:
        stop.set()
        pool.shutdown()


class InlinePool:
    """The calling thread, which runs a task when its result is requested."""

    n_workers = 1

    def __init__(self) -> None:
        self._submitted: list[tuple[int, Any]] = []

    def event(self) -> Event:
        return threading.Event()

    def start(self, function: Callable[[Any], Any], on_lost: Callable[[Any], Any]) -> None:
        self._function = function

    def can_submit(self) -> bool:
        return not self._submitted

    def submit(self, index: int, task: Any) -> None:
        self._submitted.append((index, task))

    def completed(self) -> list[tuple[int, Any]]:
        index, task = self._submitted.pop()
        return [(index, self._function(task))]

    def shutdown(self) -> None:
        pass


class ThreadPool:
    """Threads of this process, which can use one GPU together."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self._executor = ThreadPoolExecutor(n_workers, thread_name_prefix="worker")
        self._submitted: dict[Future[Any], int] = {}

    def event(self) -> Event:
        return threading.Event()

    def start(self, function: Callable[[Any], Any], on_lost: Callable[[Any], Any]) -> None:
        self._function = function

    def can_submit(self) -> bool:
        return (
            len(self._submitted) < 2 * self.n_workers
        )  # one running and one queued task per thread, so that no thread idles

    def submit(self, index: int, task: Any) -> None:
        self._submitted[self._executor.submit(self._function, task)] = index

    def completed(self) -> list[tuple[int, Any]]:
        done, _ = wait(self._submitted, return_when=FIRST_COMPLETED)
        return [(self._submitted.pop(future), future.result()) for future in done]

    def shutdown(self) -> None:
        self._executor.shutdown(cancel_futures=True)


class SharedEvent:
    """An event in memory shared with processes that are forked later. For them, the death of its creator also sets it.

    A killed process could hold the lock of `multiprocessing.Event` forever. This event has no lock.
    """

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)  # shared with forked processes
        self._creator = os.getpid()

    def set(self) -> None:
        self._byte[0] = 1

    def is_set(self) -> bool:
        return self._byte[0] == 1 or self._creator not in (os.getpid(), os.getppid())


class ProcessPool:
    """Forked processes, which run Python code in parallel. The death of one process loses only its task.

    When the processes are forked, no other thread may be computing and no GPU may be in use. The workers ignore Ctrl-C,
    SIGTERM and SIGHUP, which only the parent handles. After the death of the parent they exit when their task ends.
    """

    def __init__(self, n_workers: int, initializer: Callable[[], object] = lambda: None) -> None:
        """`initializer` is called once in each worker before its first task."""
        self.n_workers = n_workers
        self._initializer = initializer
        self._context = multiprocessing.get_context("fork")
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, int, Any]] = {}

    @staticmethod
    def unsupported_reason() -> str | None:
        """The reason why this platform has no process pool, or None."""
        # The system libraries of macOS are not safe to fork.
        return None if sys.platform == "linux" else "processes cannot be forked safely on this platform"

    def event(self) -> Event:
        return SharedEvent()

    def start(self, function: Callable[[Any], Any], on_lost: Callable[[Any], Any]) -> None:
        self._function, self._on_lost = function, on_lost
        for _ in range(self.n_workers):
            self._add_worker()

    def can_submit(self) -> bool:
        return bool(self._idle)

    def submit(self, index: int, task: Any) -> None:
        worker = self._idle.pop()
        with suppress(ConnectionError):  # the worker has died; `completed` handles that
            worker.pipe.send(task)
        self._busy[worker.pipe] = worker, index, task

    def completed(self) -> list[tuple[int, Any]]:
        return [self._result(pipe) for pipe in wait_for_any(list(self._busy)) if isinstance(pipe, Connection)]

    def shutdown(self) -> None:
        workers = [*self._idle, *(worker for worker, _, _ in self._busy.values())]
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join()

    def _result(self, pipe: Connection) -> tuple[int, Any]:
        worker, index, task = self._busy.pop(pipe)
        try:
            result, failure = pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            pipe.close()
            self._add_worker()
            return index, self._on_lost(task)
        self._idle.append(worker)
        if failure is not None:
            error, error_traceback = failure
            raise error from RuntimeError(error_traceback)  # traceback objects cannot be pickled
        return index, result

    def _add_worker(self) -> None:
        # Ctrl-C could end the worker before it ignores the signal, or leave a process that no list contains.
        with deferred_interrupt():
            self._idle.append(self._new_worker())

    def _new_worker(self) -> "_Worker":
        own_end, worker_end = self._context.Pipe()
        inherited = [own_end, *(worker.pipe for worker in self._idle), *self._busy]
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # otherwise both processes would print the buffered text
        args = worker_end, inherited, self._function, self._initializer
        process = self._context.Process(target=_run_worker, args=args)
        with warnings.catch_warnings():
            # Python warns about a fork while other threads exist, since locks that they hold stay locked in the child.
            # Here these may be threads of a progress bar or of torch, which hold no lock that a worker uses.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        worker_end.close()
        # On Windows, Pipe returns another type.
        return _Worker(process, own_end)  # pyright: ignore[reportArgumentType]


class _Worker(NamedTuple):
    process: BaseProcess
    pipe: Connection


def _run_worker(
    pipe: Connection, inherited: Sequence[Connection], function: Callable[[Any], Any], initializer: Callable[[], object]
) -> None:
    """Run the tasks from the pipe until the parent closes its end or dies."""
    # A terminal sends signals to the whole process group. A worker that a signal ended while `function` writes a file
    # would leave the unfinished file. Therefore the worker ignores the signals, and exits when its task ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for other in inherited:
        other.close()
    initializer()
    with suppress(EOFError, ConnectionError):  # ConnectionError if the parent closed the pipe with a result unread
        while True:
            task = pipe.recv()
            try:
                answer = function(task), None
            except Exception as error:
                answer = None, (error, traceback.format_exc())
            pipe.send(answer)
    os._exit(0)
