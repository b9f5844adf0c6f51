"""The ranks of a process group: the few things they say to one another, none of which leaves a rank waiting."""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# Errors that keep their type on their way to other ranks; any other arrives as a RuntimeError that names it.
_KEPT = {error.__name__: error for error in (TypeError, ValueError, RuntimeError, OSError, MemoryError)}


@runtime_checkable
class Company(Protocol):
    """The ranks that work together, of which all must come to the same calls in the same order.

    Work that fails on a rank is an error on all of them: that of the lowest such rank.
    """

    @property
    def rank(self) -> int:
        """Which of them this one is, from 0."""
        ...

    def gather(self, what: str, work: Callable[[], T]) -> list[T]:
        """What the work gave on each rank, something that can be pickled, with tensors on the CPU."""
        ...

    def total(self, what: str, like: Tensor, work: Callable[[], Tensor]) -> Tensor:
        """The sum over the ranks of what the work gave, an int64 tensor of the shape and on the device of `like`."""
        ...

    def largest(self, what: str, values: Tensor) -> Tensor:
        """The largest of the values on each rank, entry by entry."""
        ...


class Alone:
    """A rank that is the only one."""

    rank = 0

    def gather(self, what: str, work: Callable[[], T]) -> list[T]:
        return [work()]

    def total(self, what: str, like: Tensor, work: Callable[[], Tensor]) -> Tensor:
        return work()

    def largest(self, what: str, values: Tensor) -> Tensor:
        return values


@dataclass(frozen=True, eq=False)
class Ranks:
    """The ranks of a `torch.distributed` process group, by the collectives of its backend.

    Where one does not come to a collective within the timeout of the group, or has ended, that is a RuntimeError on the
    others which names `what` they were at.
    """

    group: dist.ProcessGroup

    @property
    def rank(self) -> int:
        return self.group.rank()

    @property
    def size(self) -> int:
        return self.group.size()

    def gather(self, what: str, work: Callable[[], T]) -> list[T]:
        data, error = _tried(lambda: pickle.dumps(_apart(work())))
        told: list[Any] = [None] * self.size
        with self._at(what):
            dist.all_gather_object(told, (data, _told(error)), group=self.group)
        _raise_first([failure for _, failure in told], error)
        return [pickle.loads(data) for data, _ in told]

    def total(self, what: str, like: Tensor, work: Callable[[], Tensor]) -> Tensor:
        value, error = _tried(work)
        flat = torch.zeros(like.numel() + 1, dtype=torch.int64, device=like.device)
        if value is None:
            flat[-1] = 1  # so that one sum also says whether all went well
        else:
            flat[:-1] = value.flatten()
        with self._at(what):
            dist.all_reduce(flat, op=dist.ReduceOp.SUM, group=self.group)
        if flat[-1] > 0:
            failures: list[Any] = [None] * self.size
            with self._at(what):
                dist.all_gather_object(failures, _told(error), group=self.group)
            _raise_first(failures, error)
        return flat[:-1].view(like.shape)

    def largest(self, what: str, values: Tensor) -> Tensor:
        largest = values.clone()
        with self._at(what):
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.group)
        return largest

    @contextlib.contextmanager
    def _at(self, what: str) -> Iterator[None]:
        """Inside, at a collective, what goes wrong is an error that says which one it was."""
        try:
            yield
        except RuntimeError as error:  # as those of torch.distributed all are
            where = f"rank {self.rank} of {self.size} lost the others at {what}"
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise RuntimeError(f"{where}: one may have ended or not have come in time ({reason})") from error


def company_of(group: dist.ProcessGroup | None) -> Company:
    """The ranks of a group; without one, this rank alone. TypeError for anything else, ValueError where this process
    is not in it."""
    if group is None:
        return Alone()
    if not isinstance(group, dist.ProcessGroup):
        if group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("group must be one that this process is in, got one of others")
        raise TypeError(f"group must be a process group of torch.distributed, got {type(group).__name__}")
    return Ranks(group)


def on_device(value: T, device: torch.device) -> T:
    """The same with all tensors on the device, those in tuples, lists, dicts and dataclasses too."""
    return _each(value, lambda tensor: tensor.to(device))


def _apart(value: T) -> T:
    """The same with all tensors on the CPU, and none that is part of a larger one, which would be sent whole."""

    def apart(tensor: Tensor) -> Tensor:
        tensor = tensor.cpu()
        return tensor if tensor.untyped_storage().nbytes() <= tensor.nbytes else tensor.clone()

    return _each(value, apart)


def _each(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """The same with all tensors changed."""
    changed: Any = value
    if isinstance(value, Tensor):
        changed = change(value)
    elif isinstance(value, tuple):
        parts = [_each(part, change) for part in value]
        changed = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    elif isinstance(value, list):
        changed = [_each(part, change) for part in value]
    elif isinstance(value, dict):
        changed = {key: _each(part, change) for key, part in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        changed = replace(value, **{each.name: _each(getattr(value, each.name), change) for each in fields(value)})
    return changed


def _tried(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # of whatever kind, the others must not wait
        return None, error


def _told(error: Exception | None) -> tuple[str, str] | None:
    """An error as it can be sent."""
    return None if error is None else (type(error).__name__, str(error))


def _raise_first(failures: Sequence[tuple[str, str] | None], own: Exception | None) -> None:
    """Raise the error of the lowest rank that has one, the same on every rank."""
    for rank, failure in enumerate(failures):
        if failure is not None:
            name, message = failure
            if name in _KEPT:
                raise _KEPT[name](f"rank {rank}: {message}") from own
            raise RuntimeError(f"rank {rank}: {name}: {message}") from own
