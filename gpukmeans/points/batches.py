"""`Batches`: points in batches, which each pass over the points reads again, one batch ahead of the computation."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.autograd.grad_mode import set_grad_enabled

from gpukmeans.arrays import check_dense, to_tensor, weights_tensor
from gpukmeans.validation import check_count

# Default bytes of a batch. Measured on two cores with 16 coordinates and K = 64: batches of 8 to 128 MiB were equally
# fast, and batches of 1 and 2 MiB took 14 % longer.
_BYTES = 1 << 25

T = TypeVar("T")
U = TypeVar("U")


class Batch(NamedTuple):
    """Points (N, D), N possibly 0, with weights (N,) or None for weights of 1."""

    x: Tensor
    weights: Tensor | None


class Batches:
    """Batches of points (N, D) from a source: an iterable of tensors, or of pairs whose first entry is the points.

    Each iteration reads the source once. A thread reads the next batch, and copies it to the device, while the current
    batch is in use. No more than two batches are in memory. The thread has the grad mode, current device and stream of
    the caller, but not its autocast.

    Args:
        source: an iterable of batches that can be iterated again, such as a list or a `DataLoader`, or a table of rows
            with slices and `len()` or `shape`, such as a memory-mapped array, a tensor or a `TensorDataset`. Each
            iteration must give the same rows in the same order, and no batch may change after it was given. If a batch
            is a tuple or a list, such as points and their classes, its first entry is the points and the rest is
            ignored.
        batch_rows: the number of rows in a batch of a table, by default as many as have about 32 MiB.
        device: the device to which batches are copied, asynchronously for a GPU. By default they are not copied. On a
            GPU, `kmeans` keeps the first batches, up to a quarter of the free memory, until it returns.
        dtype: the dtype of the points, by default the dtype of the source.
        weighted: whether each batch is a pair of points and their weights (N,), which may be a mask.

    Raises:
        TypeError, ValueError: for any other source, such as an iterator, which can be read only once.

    Example:
        >>> table = torch.arange(10.0).view(5, 2)
        >>> [len(batch) for batch in Batches(table, 2)]
        [2, 2, 1]
        >>> kmeans(Batches(table, 2), 2).cluster_weights.sum().item()
        5.0
        >>> pairs = Batches([(table, torch.arange(5))], weighted=True)
        >>> kmeans(pairs, 2).cluster_weights.sum().item()
        10.0
    """

    def __init__(
        self,
        source: Any,
        batch_rows: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weighted: bool = False,
    ) -> None:
        check_dense(source, "x")
        if batch_rows is not None:
            check_count("batch_rows", batch_rows)
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, got {type(dtype).__name__}")
        ndim = getattr(source, "ndim", 2)
        if ndim != 2:
            raise ValueError(f"a table of rows must have shape (N, D), got {ndim} dimensions")
        self._source = source
        self._device = None if device is None else torch.device(device)
        self._dtype = dtype
        self._weighted = weighted
        self._batch_rows = batch_rows
        self._stream: torch.Stream | None = None
        if batch_rows is None and _is_table(source):
            self._batch_rows = self._default_batch_rows()
        if self._batch_rows is not None and not _has_slices(source):
            raise TypeError(f"x must have len() and slices for batch_rows, got {type(source).__name__}")
        if self._batch_rows is None:
            _check_repeatable(source)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        for batch in self.read():
            yield batch.x if batch.weights is None else (batch.x, batch.weights)

    @staticmethod
    def default_rows(row_bytes: int) -> int:
        """The default of `batch_rows` for rows of `row_bytes` bytes: about 32 MiB, at least 1 row."""
        return max(1, _BYTES // max(1, row_bytes))

    @property
    def copies_to_gpu(self) -> bool:
        """Whether batches are copied to a GPU."""
        return self._device is not None and self._device.type != "cpu"

    def read(self, first: int = 0) -> Iterator[Batch]:
        """The batches from the number `first` on, each with its weights or None."""
        if self._stream is None and self.copies_to_gpu:
            self._stream = torch.Stream(self._device)
        stream, numbers = self._stream, itertools.count(first)

        def prepare(item: Any) -> tuple[Batch, Any]:
            batch = _as_batch(next(numbers), item, self._weighted)
            if stream is not None:
                return _start_copy(batch, stream)
            return batch if self._device is None else _on_device(batch, self._device), None

        def finish(batch_and_event: tuple[Batch, Any]) -> Batch:
            batch, event = batch_and_event
            if stream is not None:
                current = torch.accelerator.current_stream(stream.device)
                current.wait_event(event)
                for tensor in batch:
                    if tensor is not None:
                        tensor.record_stream(current)
            return batch if self._dtype is None else batch._replace(x=batch.x.to(self._dtype))

        # The built-in `map` releases a batch before it requests the next one.
        return map(finish, _read_ahead(self._items(first), prepare))

    def _items(self, first: int) -> Iterable[Any]:
        if self._batch_rows is None:
            return itertools.islice(self._source, first, None)
        n, size = _n_rows(self._source), self._batch_rows
        return (_slice_of(self._source, start, min(start + size, n)) for start in range(first * size, n, size))

    def _default_batch_rows(self) -> int:
        if not _n_rows(self._source):
            return 1
        return self.default_rows(_as_batch(0, _slice_of(self._source, 0, 1), self._weighted).x.nbytes)


def _is_table(source: Any) -> bool:
    """Whether the source is a table of rows, not an iterable of batches."""
    return getattr(source, "ndim", None) == 2 or (not isinstance(source, Iterable) and _has_slices(source))


def _has_slices(source: Any) -> bool:
    return (hasattr(source, "__len__") or hasattr(source, "shape")) and hasattr(source, "__getitem__")


def _n_rows(table: Any) -> int:
    """The number of rows. An array of zarr has no `len()`."""
    return table.shape[0] if hasattr(table, "shape") else len(table)


def _slice_of(table: Any, start: int, stop: int) -> Any:
    try:
        return table[start:stop]
    except (TypeError, ValueError, IndexError, RuntimeError) as error:  # some tables only allow the index of one row
        name = type(table).__name__
        raise TypeError(f"{name} has no slices ({error}): pass a DataLoader of it") from error


def batch_name(number: int) -> str:
    """The name in errors of the batch with this number, from 0."""
    return f"batch {number} of x"


def _check_repeatable(source: Any) -> None:
    if isinstance(source, (str, bytes)) or not isinstance(source, Iterable):
        expected = "a tensor, an array, or batches that can be read again, such as a list or a DataLoader"
        raise TypeError(f"x must be {expected}, got {type(source).__name__}")
    if isinstance(source, Iterator):
        why = "each iteration reads all batches once, and an iterator gives them only once"
        raise TypeError(
            f"x must be batches that can be read again, because {why}; got {type(source).__name__}:"
            " pass the list, the DataLoader or the object with __iter__ that it came from"
        )


def _as_batch(number: int, item: Any, weighted: bool) -> Batch:
    """The batch of an item of the source, not moved to another device. TypeError if the item is not a batch."""
    name = batch_name(number)
    is_tuple = isinstance(item, (tuple, list))
    entries = list(item) if is_tuple else [item]
    if len(entries) < 1 + weighted:
        expected = "a pair of points and weights" if weighted else "points, or a tuple whose first entry is the points"
        received = f"{len(entries)} entries" if is_tuple else type(item).__name__
        raise TypeError(f"{name} must be {expected}, got {received}")
    weights = weights_tensor(entries[1], f"the weights of {name}") if weighted else None
    return Batch(to_tensor(entries[0], name), weights)


def _on_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.x.to(device), None if batch.weights is None else batch.weights.to(device))


def _start_copy(batch: Batch, stream: torch.Stream) -> tuple[Batch, Any]:
    """A copy of the batch on the device of the stream, not yet complete, and the event of its completion."""
    tensors = [tensor for tensor in batch if tensor is not None]
    for device in {tensor.device for tensor in tensors if tensor.device.type != "cpu"}:
        # The GPU may still be computing the values of the batch.
        stream.wait_event(torch.accelerator.current_stream(device).record_event())
    with _current_stream(stream):
        copies = [
            (tensor.pin_memory() if tensor.device.type == "cpu" else tensor).to(stream.device, non_blocking=True)
            for tensor in tensors
        ]
        return Batch(*copies, *[None] * (2 - len(copies))), stream.record_event()


_END = object()


def _read_ahead(items: Iterable[T], prepare: Callable[[T], U]) -> Iterator[U]:
    """`prepare(item)` for each item, by a thread that is one item ahead. No more than two items are in memory."""
    iterator, caller_context = iter(items), _context_of_caller()

    def read_next() -> Any:
        with caller_context():
            return next(map(prepare, itertools.islice(iterator, 1)), _END)

    with ThreadPoolExecutor(1, thread_name_prefix="gpukmeans-batches") as reader:
        future = reader.submit(read_next)
        while (item := future.result()) is not _END:
            future = reader.submit(read_next)
            held = [item]
            del item  # so that this generator has no reference while the caller uses the item
            yield held.pop()


def _context_of_caller() -> Callable[[], contextlib.ExitStack]:
    """A function that opens a context in another thread, with the grad mode, device and stream of this thread."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    stream = torch.accelerator.current_stream() if torch.accelerator.is_available() else None

    def enter() -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(set_grad_enabled(grad))
        if stream is not None:
            stack.enter_context(_current_stream(stream))
        return stack

    return enter


@contextlib.contextmanager
def _current_stream(stream: torch.Stream) -> Iterator[None]:
    """A context in which the stream and its device are current in this thread."""
    # From torch 2.7 on a stream is itself a context, but several threads cannot enter the same stream.
    before = torch.accelerator.current_stream()
    torch.accelerator.set_stream(stream)
    try:
        yield
    finally:
        torch.accelerator.set_stream(before)
