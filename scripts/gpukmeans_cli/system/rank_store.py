"""Data exchange and common errors of the ranks, over the key-value store of `torchrun`.

A process group of torch is not used here. Ctrl-C does not interrupt its collective calls, and while its threads exist
a worker pool cannot fork processes. A rank polls the store instead, so Ctrl-C interrupts it while it waits.
"""

import contextlib
import pickle
import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from gpukmeans_cli.system.rank_env import RankEnv, RankError, rank_env
from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import warn

if TYPE_CHECKING:
    from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage] # documented, like the others below

T = TypeVar("T")

# The store takes at most 8 MiB per value.
_CHUNK_BYTES = 4 << 20
# Seconds between two polls of the store, at most.
_MAX_POLL_SECONDS = 0.05


class RankStore:
    """Collective operations over a key-value store. All ranks call the same methods in the same order.

    A single process exchanges nothing. RankError if another rank has aborted, or if the store cannot be reached.
    """

    def __init__(self, env: RankEnv, store: "Store | None" = None) -> None:
        """`store` is the store of all ranks, None for a single process."""
        self.env = env
        self._store: Any = store
        self._n_calls = 0

    def gather(self, value: T) -> list[T] | None:
        """The values of all ranks in rank order on rank 0; None on the other ranks, which do not wait."""
        if self.env.size == 1:
            return [value]
        self._n_calls += 1
        with _connection_errors():
            if not self.env.is_main:
                self._put(f"{self._n_calls}/{self.env.rank}", value)
                return None
            return [value, *(self._pop(f"{self._n_calls}/{rank}") for rank in range(1, self.env.size))]

    def broadcast(self, value: T | None) -> T:
        """The value of rank 0. Values of other ranks are ignored."""
        if self.env.size > 1:
            self._n_calls += 1
            with _connection_errors():
                if not self.env.is_main:
                    return self._get(str(self._n_calls))
                self._put(str(self._n_calls), value)
        return value  # pyright: ignore[reportReturnType] # None is a valid value, too

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks in rank order, on every rank."""
        return self.broadcast(self.gather(value))

    def abort(self) -> None:
        """Make the other ranks raise RankError when they wait for a missing value."""
        if self.env.size > 1:
            with contextlib.suppress(RankError), _connection_errors():
                self._store.set("aborted", str(self.env.rank))

    def _put(self, key: str, value: object) -> None:
        data = pickle.dumps(value)
        starts = range(0, len(data), _CHUNK_BYTES)
        for index, start in enumerate(starts):
            self._store.set(f"{key}/chunk/{index}", data[start : start + _CHUNK_BYTES])
        self._store.set(key, str(len(starts)))

    def _get(self, key: str) -> Any:
        self._wait_for(key)
        return pickle.loads(b"".join(map(self._store.get, self._chunk_keys(key))))

    def _pop(self, key: str) -> Any:
        """A value that no other rank reads. Its chunks, which may be large, are deleted from the store."""
        value = self._get(key)
        for chunk_key in self._chunk_keys(key):
            self._store.delete_key(chunk_key)
        return value

    def _chunk_keys(self, key: str) -> list[str]:
        return [f"{key}/chunk/{index}" for index in range(int(self._store.get(key)))]

    def _wait_for(self, key: str) -> None:
        seconds = _MAX_POLL_SECONDS / 64
        while not self._store.check([key]):
            # The second check of the key finds a value that was written just before the rank aborted.
            if self._store.check(["aborted"]) and not self._store.check([key]):
                raise RankError(
                    f"rank {int(self._store.get('aborted'))} ended before the others, which cannot continue"
                )
            time.sleep(seconds)
            seconds = min(2 * seconds, _MAX_POLL_SECONDS)


@contextlib.contextmanager
def rank_store(env: RankEnv) -> Iterator[RankStore]:
    """The store of all ranks. All ranks enter and exit the block. Imports torch if there is more than one rank.

    The ranks exit together, because `torchrun` ends all other ranks when one fails, for example on a file. An error
    aborts the store at once. A TyperException does not, so it must be raised on all ranks (`raise_on_all_ranks`).
    """
    ranks = _all_ranks(env) if env.size > 1 else RankStore(env)
    try:
        yield ranks
    except typer.TyperException:
        raise
    except (Exception, KeyboardInterrupt):
        ranks.abort()
        raise
    ranks.broadcast(None)
    ranks.gather(None)  # rank 0 exits last, because its process may host the store


class CollectiveError(Exception):
    """An error that is raised on all ranks. The text is one sentence, equal on all of them."""


@contextlib.contextmanager
def raise_on_all_ranks(ranks: RankStore, *failures: type[Exception]) -> Iterator[None]:
    """Raise a failure inside the block on all ranks, when all of them have reached its end.

    One of `failures` becomes a CollectiveError. A TyperException stays a TyperException. If several ranks fail, the
    error of the lowest rank is raised.
    """
    failure = None
    try:
        yield
    except typer.TyperException as error:
        if ranks.env.size == 1:
            raise
        failure = typer.TyperException, error.format_message()
    except failures as error:
        failure = CollectiveError, str(error)
    for rank, failed in enumerate(ranks.all_gather(failure)):
        if failed is not None:
            error_type, text = failed
            raise error_type(f"rank {rank}: {text}" if rank else text)


def warn_once(text: str) -> None:
    """Print an error of all ranks on stderr, on rank 0 only. All ranks return after the error is printed."""
    try:
        with rank_store(rank_env()) as ranks:
            if ranks.env.is_main:
                warn(text)
    except RankError:
        warn(text)
    except KeyboardInterrupt:
        pass  # the ranks are ending anyway


@cache
def _all_ranks(env: RankEnv) -> RankStore:
    """The store of all ranks. It is cached, because its keys contain the number of earlier calls."""
    import_torch()
    import torch.distributed as dist

    try:
        rendezvous = dist.rendezvous  # pyright: ignore[reportPrivateImportUsage]
        store, _, _ = next(iter(rendezvous("env://", env.rank, env.size)))
    except (dist.DistError, ValueError) as error:
        raise RankError(f"the ranks cannot connect ({error}); start them by torchrun") from None
    return RankStore(env, dist.PrefixStore("gpukmeans", store))  # pyright: ignore[reportPrivateImportUsage]


@contextlib.contextmanager
def _connection_errors() -> Iterator[None]:
    """Inside the block, errors of the store become RankErrors."""
    import torch.distributed as dist

    try:
        yield
    except dist.DistError:
        raise RankError("the other ranks cannot be reached any more; check why torchrun or rank 0 ended") from None
