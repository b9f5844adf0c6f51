"""Points that are read batch by batch, each time they are asked for: the next batch while one is computed."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.grad_mode import set_grad_enabled

from gpukmeans.validation import check_count

# Bytes of a batch, unless its rows are said. Measured on two cores with 16 coordinates and K = 64, 8 to 128 MiB were as
# fast, 1 and 2 took 14 % longer.
_BYTES = 1 << 25

T = TypeVar("T")
U = TypeVar("U")


class Batch(NamedTuple):
    """Points (N, D), N possibly 0, with weights (N,) or all of weight 1."""

    x: Tensor
    weights: Tensor | None


class Batches:
    """Points (N, D) by batches, for `kmeans`, `assign` and whoever else iterates: tensors, or pairs with weights.

    `source` is what can be iterated again and again, such as a list or a `DataLoader`, and gives tensors or arrays of
    rows, or pairs of these and their weights (N,), which labels are not. Or it has `len()` and slices that are such
    rows, like a memory-mapped array, a tensor or a `TensorDataset`: then `batch_rows` of them are taken at a time, by
    default as many as make 32 MiB. Each time it must give the same rows in the same order, and leave a batch alone
    once it is given.

    The next batch is read while one is in use, and put on `device`, to a GPU asynchronously; by default it stays where
    it is. `dtype` is what the points become there. That is done by a thread of its own, which has the caller's grad
    mode, current device and stream, but not autocast.

    TypeError or ValueError for a source that can be read only once, as the rounds of K-means read it again and again.
    """

    def __init__(
        self,
        source: Any,
        batch_rows: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if batch_rows is not None:
            check_count("batch_rows", batch_rows)
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, got {type(dtype).__name__}")
        ndim = getattr(source, "ndim", 2)
        if ndim != 2:
            raise ValueError(f"rows side by side must have shape (N, D), got {ndim} dimensions")
        self._source = source
        self._device = None if device is None else torch.device(device)
        self._dtype = dtype
        self._batch_rows = batch_rows
        self._stream: torch.Stream | None = None
        if batch_rows is None and _is_sliced(source):
            self._batch_rows = _rows_of_a_batch(source)
        if self._batch_rows is not None and not _has_slices(source):
            raise TypeError(f"a source of batch_rows must have len() and slices, got {type(source).__name__}")
        if self._batch_rows is None:
            _check_repeatable(source)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        for batch in self.read():
            yield batch.x if batch.weights is None else (batch.x, batch.weights)

    def read(self) -> Iterator[Batch]:
        """The batches, each with its weights or None."""
        if self._stream is None and self._device is not None and self._device.type != "cpu":
            self._stream = torch.Stream(self._device)
        stream, numbers = self._stream, itertools.count()

        def prepared(item: Any) -> tuple[Batch, Any]:
            batch = _batch(next(numbers), item)
            if stream is not None:
                return _sent(batch, stream)
            return batch if self._device is None else _moved(batch, self._device), None

        def arrived(batch_and_event: tuple[Batch, Any]) -> Batch:
            batch, event = batch_and_event
            if stream is not None:
                now = torch.accelerator.current_stream(stream.device)
                now.wait_event(event)
                for tensor in batch:
                    if tensor is not None:
                        tensor.record_stream(now)
            return batch if self._dtype is None else batch._replace(x=batch.x.to(self._dtype))

        # By `map`, which lets go of a batch before it asks for the next.
        return map(arrived, _read_ahead(self._items(), prepared))

    def _items(self) -> Iterable[Any]:
        if self._batch_rows is None:
            return self._source
        n, size = len(self._source), self._batch_rows
        return (_slice_of(self._source, start, min(start + size, n)) for start in range(0, n, size))


def _is_sliced(source: Any) -> bool:
    """Whether these are rows side by side, rather than batches one after the other."""
    return getattr(source, "ndim", None) == 2 or (not isinstance(source, Iterable) and _has_slices(source))


def _has_slices(source: Any) -> bool:
    return hasattr(source, "__len__") and hasattr(source, "__getitem__")


def _slice_of(source: Any, start: int, stop: int) -> Any:
    try:
        return source[start:stop]
    except TypeError as error:
        name = type(source).__name__
        raise TypeError(f"{name} has no slices ({error}): pass a DataLoader of it") from error


def _rows_of_a_batch(source: Any) -> int:
    if not len(source):
        return 1
    return default_rows(_batch(0, _slice_of(source, 0, 1)).x.nbytes)


def default_rows(row_bytes: int) -> int:
    """How many rows of so many bytes make a batch unless it is said."""
    return max(1, _BYTES // max(1, row_bytes))


def batch_name(number: int) -> str:
    """What errors call the batch of that number, from 0."""
    return f"batch {number} of x"


def _check_repeatable(source: Any) -> None:
    if isinstance(source, (str, bytes)) or not isinstance(source, Iterable):
        wanted = "a tensor, or batches that can be read again and again, such as a list or a DataLoader"
        raise TypeError(f"x must be {wanted}, got {type(source).__name__}")
    if isinstance(source, Iterator):
        why = "each round reads all batches once, and an iterator gives them only once"
        raise TypeError(
            f"x must be batches that can be read again and again, since {why}; got {type(source).__name__}:"
            " pass the list, the DataLoader or an object with __iter__ that it came from"
        )


def _batch(number: int, item: Any) -> Batch:
    """What a source gave, as tensors where they are. TypeError if it is no batch."""
    name = batch_name(number)
    if isinstance(item, (tuple, list)):
        if len(item) not in (1, 2):
            raise TypeError(f"{name} must be points, or a pair of points and weights, got {len(item)} things")
        x, weights = (*item, None)[:2]
    else:
        x, weights = item, None
    return Batch(_tensor(x, name), None if weights is None else _tensor(weights, f"the weights of {name}"))


def _tensor(values: Any, name: str) -> Tensor:
    if isinstance(values, Tensor):
        return values
    if not hasattr(values, "__array_interface__") or not hasattr(values, "dtype"):
        raise TypeError(f"{name} must be a tensor or an array, got {type(values).__name__}")
    if hasattr(values, "mask"):
        raise TypeError(f"{name} must be an array without a mask, got {type(values).__name__}: give weights of 0")
    # A copy of what is mapped is what reads it; and of what is read-only, or runs backwards, torch would make an error.
    ready = values.flags.writeable and not hasattr(values, "filename") and min(values.strides, default=0) >= 0
    try:
        return torch.from_numpy(values if ready else values.copy())
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be of a dtype that torch has, got an array of {values.dtype} ({error})") from None


def _moved(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.x.to(device), None if batch.weights is None else batch.weights.to(device))


def _sent(batch: Batch, stream: torch.Stream) -> tuple[Batch, Any]:
    """The batch on its way to the device of a stream of its own, and the event of its arrival."""
    tensors = [tensor for tensor in batch if tensor is not None]
    for device in {tensor.device for tensor in tensors if tensor.device.type != "cpu"}:
        # What is on a GPU already may not be ready yet.
        stream.wait_event(torch.accelerator.current_stream(device).record_event())
    with _on(stream):
        sent = [
            (tensor.pin_memory() if tensor.device.type == "cpu" else tensor).to(stream.device, non_blocking=True)
            for tensor in tensors
        ]
        return Batch(*sent, *[None] * (2 - len(sent))), stream.record_event()


_END = object()


def _read_ahead(items: Iterable[T], prepare: Callable[[T], U]) -> Iterator[U]:
    """Each item prepared, the next one by another thread while one is in use; no more than these two are held."""
    iterator, as_here = iter(items), _as_here()

    def following() -> Any:
        with as_here():
            return next(map(prepare, itertools.islice(iterator, 1)), _END)

    with ThreadPoolExecutor(1, thread_name_prefix="gpukmeans-batches") as reader:
        coming = reader.submit(following)
        while (item := coming.result()) is not _END:
            coming = reader.submit(following)
            held = [item]
            del item  # so that whoever takes it may let go of it
            yield held.pop()


def _as_here() -> Callable[[], contextlib.ExitStack]:
    """What another thread enters to have the grad mode, and the current device and stream, of this one."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    stream = torch.accelerator.current_stream() if torch.accelerator.is_available() else None

    def enter() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(set_grad_enabled(grad))
        if stream is not None:
            stack.enter_context(_on(stream))
        return stack

    return enter


@contextlib.contextmanager
def _on(stream: torch.Stream) -> Iterator[None]:
    """Inside, this stream and its device are the current ones of the thread."""
    # A stream is a context itself, from torch 2.7 on, but not one that several threads can be in.
    before = torch.accelerator.current_stream()
    torch.accelerator.set_stream(stream)
    try:
        yield
    finally:
        torch.accelerator.set_stream(before)
