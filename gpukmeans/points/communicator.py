"""Communication between the ranks of a process group. An error on one rank is raised on all, so that no rank hangs."""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# Errors that keep their type on other ranks. Other errors become a RuntimeError that contains the name of the type.
_KEPT_TYPES = {error.__name__: error for error in (TypeError, ValueError, RuntimeError, OSError, MemoryError)}


@runtime_checkable
class Communicator(Protocol):
    """The collectives of one call of `kmeans`. All ranks must call the same collectives in the same order.

    `work` is called on each rank, inside the collective. If `work` fails, the error of the lowest rank that failed is
    raised on all ranks. `what` is the name of the collective in errors.
    """

    @property
    def rank(self) -> int:
        """The number of this rank, from 0."""
        ...

    def all_gather(self, what: str, work: Callable[[], T]) -> list[T]:
        """The results of `work` on all ranks, by rank. They are sent by pickle, with their tensors on the CPU."""
        ...

    def all_reduce_sum(self, what: str, like: Tensor, work: Callable[[], Tensor]) -> Tensor:
        """The sum over the ranks of the results of `work`: int64, of the shape and on the device of `like`."""
        ...

    def all_reduce_max(self, what: str, values: Tensor) -> Tensor:
        """The elementwise maximum of `values` over the ranks."""
        ...


class SingleProcess:
    """The communicator of a single process."""

    rank = 0

    def all_gather(self, what: str, work: Callable[[], T]) -> list[T]:
        return [work()]

    def all_reduce_sum(self, what: str, like: Tensor, work: Callable[[], Tensor]) -> Tensor:
        return work()

    def all_reduce_max(self, what: str, values: Tensor) -> Tensor:
        return values


@dataclass(frozen=True, eq=False)
class ProcessGroupCommunicator:
    """The communicator of a `torch.distributed` process group, which uses the collectives of its backend.

    If a rank has ended, or does not arrive within the timeout of the group, the other ranks raise a RuntimeError with
    the name of the collective.
    """

    group: dist.ProcessGroup

    @property
    def rank(self) -> int:
        return self.group.rank()

    @property
    def size(self) -> int:
        return self.group.size()

    def all_gather(self, what: str, work: Callable[[], T]) -> list[T]:
        data, error = _result_or_error(lambda: pickle.dumps(_to_cpu(work())))
        gathered: list[Any] = [None] * self.size
        with self._collective(what):
            dist.all_gather_object(gathered, (data, _as_text(error)), group=self.group)
        _raise_first([failure for _, failure in gathered], error)
        return [pickle.loads(data) for data, _ in gathered]

    def all_reduce_sum(self, what: str, like: Tensor, work: Callable[[], Tensor]) -> Tensor:
        value, error = _result_or_error(work)
        flat = torch.zeros(like.numel() + 1, dtype=torch.int64, device=like.device)
        if value is None:
            flat[-1] = 1  # so that the same sum counts the failures
        else:
            flat[:-1] = value.flatten()
        with self._collective(what):
            dist.all_reduce(flat, op=dist.ReduceOp.SUM, group=self.group)
        if flat[-1] > 0:
            failures: list[Any] = [None] * self.size
            with self._collective(what):
                dist.all_gather_object(failures, _as_text(error), group=self.group)
            _raise_first(failures, error)
        return flat[:-1].view(like.shape)

    def all_reduce_max(self, what: str, values: Tensor) -> Tensor:
        largest = values.clone()
        with self._collective(what):
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.group)
        return largest

    @contextlib.contextmanager
    def _collective(self, what: str) -> Iterator[None]:
        """A context in which an error of the backend becomes a RuntimeError with the name of the collective."""
        try:
            yield
        except RuntimeError as error:  # the base of all errors of torch.distributed
            where = f"rank {self.rank} of {self.size} lost the other ranks at {what}"
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise RuntimeError(f"{where}: a rank may have ended or not arrived in time ({reason})") from error


def communicator_for(group: dist.ProcessGroup | None) -> Communicator:
    """The communicator of a process group; for None, of this process alone.

    TypeError for any other object, ValueError if this process is not in the group.
    """
    if group is None:
        return SingleProcess()
    if not isinstance(group, dist.ProcessGroup):
        if group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("group must contain this process, got a group of other processes")
        raise TypeError(f"group must be a process group of torch.distributed, got {type(group).__name__}")
    return ProcessGroupCommunicator(group)


def run_on_all_ranks(communicator: Communicator, what: str, work: Callable[[], T]) -> T:
    """The result of `work` on this rank, of any type. An error of `work` on one rank is raised on all ranks."""
    results: list[T] = []
    communicator.all_gather(what, lambda: results.append(work()))
    return results[0]


def on_device(value: T, device: torch.device) -> T:
    """The value with all tensors on the device, including those in tuples, lists, dicts and dataclasses."""
    return _map_tensors(value, lambda tensor: tensor.to(device))


def _to_cpu(value: T) -> T:
    """The value with all tensors on the CPU. Views are copied, because pickle would send their whole storage."""

    def to_cpu(tensor: Tensor) -> Tensor:
        tensor = tensor.cpu()
        return tensor if tensor.untyped_storage().nbytes() <= tensor.nbytes else tensor.clone()

    return _map_tensors(value, to_cpu)


def _map_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """The value with `function` applied to all of its tensors."""
    changed: Any = value
    if isinstance(value, Tensor):
        changed = function(value)
    elif isinstance(value, tuple):
        parts = [_map_tensors(part, function) for part in value]
        changed = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    elif isinstance(value, list):
        changed = [_map_tensors(part, function) for part in value]
    elif isinstance(value, dict):
        changed = {key: _map_tensors(part, function) for key, part in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value)]
        changed = replace(value, **{name: _map_tensors(getattr(value, name), function) for name in names})
    return changed


def _result_or_error(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # any error, because the other ranks must not wait for this one
        return None, error


def _as_text(error: Exception | None) -> tuple[str, str] | None:
    """The type name and the message of an error. Unlike some errors, both can be pickled."""
    return None if error is None else (type(error).__name__, str(error))


def _raise_first(failures: Sequence[tuple[str, str] | None], own: Exception | None) -> None:
    """Raise the error of the lowest rank that has an error, if any. All ranks raise the same error."""
    for rank, failure in enumerate(failures):
        if failure is not None:
            name, message = failure
            if name in _KEPT_TYPES:
                raise _KEPT_TYPES[name](f"rank {rank}: {message}") from own
            raise RuntimeError(f"rank {rank}: {name}: {message}") from own
