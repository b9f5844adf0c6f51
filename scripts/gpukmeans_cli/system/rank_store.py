"""What the ranks of one run tell each other, by way of the store that `torchrun` keeps for them."""

import contextlib
import pickle
import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from gpukmeans_cli.system.rank_env import Place, RankError, place
from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import warn

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage] # documented, as those below are

T = TypeVar("T")

# The store takes no more than 8 MiB at a time.
_MOST_AT_A_TIME = 4 << 20
# Seconds between two looks at the store, at most.
_PATIENCE = 0.05


class Meeting:
    """All ranks, of which each calls the same methods in the same order. One alone sends nothing.

    This is not a process group: a rank may copy itself between two calls, and while it waits it hears Ctrl-C.
    RankError where another rank has left by an error, or the store cannot be reached.
    """

    def __init__(self, place: Place, store: "Store | None" = None) -> None:
        """`store` is one that all of them reach; one alone needs none."""
        self.place = place
        self._store: Any = store
        self._calls = 0

    def gather(self, thing: T) -> list[T] | None:
        """What the ranks gave, in their order, to the one that leads; None to the others, which do not wait."""
        if self.place.size == 1:
            return [thing]
        self._calls += 1
        with _reached():
            if not self.place.leads:
                self._put(f"{self._calls}/{self.place.rank}", thing)
                return None
            return [thing, *(self._taken(f"{self._calls}/{rank}") for rank in range(1, self.place.size))]

    def share(self, thing: T | None) -> T:
        """What the rank that leads gave; that of the others is not looked at."""
        if self.place.size > 1:
            self._calls += 1
            with _reached():
                if not self.place.leads:
                    return self._got(str(self._calls))
                self._put(str(self._calls), thing)
        return thing  # pyright: ignore[reportReturnType] # None is what was given, too

    def all(self, thing: T) -> list[T]:
        """What the ranks gave, in their order, to each of them."""
        return self.share(self.gather(thing))

    def desert(self) -> None:
        """Let those who would wait for this rank know that it does not come."""
        if self.place.size > 1:
            with contextlib.suppress(RankError), _reached():
                self._store.set("gone", str(self.place.rank))

    def _put(self, key: str, thing: object) -> None:
        data = pickle.dumps(thing)
        starts = range(0, len(data), _MOST_AT_A_TIME)
        for part, start in enumerate(starts):
            self._store.set(f"{key}/part/{part}", data[start : start + _MOST_AT_A_TIME])
        self._store.set(key, str(len(starts)))

    def _got(self, key: str) -> Any:
        self._wait_for(key)
        return pickle.loads(b"".join(map(self._store.get, self._parts(key))))

    def _taken(self, key: str) -> Any:
        """What is there for this rank alone, and then no more: it may be large."""
        thing = self._got(key)
        for part in self._parts(key):
            self._store.delete_key(part)
        return thing

    def _parts(self, key: str) -> list[str]:
        return [f"{key}/part/{part}" for part in range(int(self._store.get(key)))]

    def _wait_for(self, key: str) -> None:
        pause = _PATIENCE / 64
        while not self._store.check([key]):
            # One that has come so far may be gone by now; what it gave before is there.
            if self._store.check(["gone"]) and not self._store.check([key]):
                raise RankError(f"rank {int(self._store.get('gone'))} has ended before the others, which cannot go on")
            time.sleep(pause)
            pause = min(2 * pause, _PATIENCE)


@contextlib.contextmanager
def meeting(place: Place) -> Iterator[Meeting]:
    """The ranks while they are at work, to be entered by all. Imports torch unless this one is alone.

    They leave together, as `torchrun` ends all others when one ends by an error, of a file perhaps. Whoever leaves by
    an error leaves at once; one of arguments is for all of them to raise, see `agreed`.
    """
    ranks = _all_ranks(place) if place.size > 1 else Meeting(place)
    try:
        yield ranks
    except typer.TyperException:
        raise
    except (Exception, KeyboardInterrupt):
        ranks.desert()
        raise
    ranks.share(None)
    ranks.gather(None)  # that which leads may keep the store, and is the last to go


@contextlib.contextmanager
def agreed(ranks: Meeting) -> Iterator[None]:
    """Inside, a TyperException on one rank is raised on all, when they have come to the end."""
    problem = None
    try:
        yield
    except typer.TyperException as error:
        if ranks.place.size == 1:
            raise
        problem = error.format_message()
    for rank, said in enumerate(ranks.all(problem)):
        if said is not None:
            raise typer.TyperException(f"rank {rank}: {said}" if rank else said)


class SharedError(Exception):
    """What ends the work of all ranks; its text is one sentence, the same on all of them."""


@contextlib.contextmanager
def together(ranks: Meeting, *failures: type[Exception]) -> Iterator[None]:
    """Inside, each rank does its part and may fail by one of these. At the end that is a SharedError on all, in the
    words of the first that failed."""
    problem = None
    try:
        yield
    except failures as error:
        problem = str(error)
    for rank, said in enumerate(ranks.all(problem)):
        if said is not None:
            raise SharedError(f"rank {rank}: {said}" if rank else said)


def warn_once(text: str) -> None:
    """Print on stderr, as `warn` does, what all ranks are about to end for. It is printed when any of them goes on."""
    try:
        with meeting(place()) as ranks:
            if ranks.place.leads:
                warn(text)
    except RankError:
        warn(text)
    except KeyboardInterrupt:
        pass  # they end in any case


@cache
def _all_ranks(place: Place) -> Meeting:
    """What is the same for as long as the process lives, since the calls are counted."""
    import_torch()
    import torch.distributed as dist

    try:
        meet = dist.rendezvous  # pyright: ignore[reportPrivateImportUsage]
        store, _, _ = next(iter(meet("env://", place.rank, place.size)))
    except (dist.DistError, ValueError) as error:
        raise RankError(f"the ranks cannot meet ({error}); start them by torchrun") from None
    return Meeting(place, dist.PrefixStore("gpukmeans", store))  # pyright: ignore[reportPrivateImportUsage]


@contextlib.contextmanager
def _reached() -> Iterator[None]:
    import torch.distributed as dist

    try:
        yield
    except dist.DistError:
        raise RankError("the other ranks cannot be reached any more; see what has ended torchrun or rank 0") from None
