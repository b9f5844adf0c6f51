"""Division of long axes into blocks and tiles, which bounds the memory of intermediate results."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def blocks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` entries (at least 1) that cover 0 to `length` in order."""
    size = max(1, size)
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def tiles(n_runs: int, n_rows: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Tiles of runs x rows of at most `size` entries (at least 1): rows of one run, or all rows of several runs."""
    for runs in blocks(n_runs, size // n_rows):
        for rows in blocks(n_rows, size):
            yield runs, rows


# On CUDA, the largest number of entries of a tile, and the bytes of free memory for each entry. A pass makes several
# temporary tensors of up to 8 bytes an entry.
_CUDA_TILE, _FREE_BYTES_PER_ENTRY = 1 << 28, 128


def tile_size(device: torch.device, cpu_size: int) -> int:
    """The number of entries of a tile on this device: `cpu_size` on a CPU, more on CUDA if memory is free.

    A small tile on CUDA takes many launches, and a GPU that waits for them is idle.
    """
    if device.type != "cuda":
        return cpu_size
    return max(cpu_size, min(_CUDA_TILE, free_bytes(device) // _FREE_BYTES_PER_ENTRY))


def free_bytes(device: torch.device) -> int:
    """The bytes of free memory of a GPU."""
    return torch.get_device_module(device).mem_get_info(device)[0]


def blocks_of(rows: Tensor, cpu_size: int) -> Iterator[slice]:
    """Slices that cover the rows in order, of at most `cpu_size` rows on a CPU, of more on CUDA if memory is free."""
    is_one = len(rows) <= cpu_size
    return blocks(len(rows), cpu_size if is_one else tile_size(rows.device, cpu_size))


class ProblemIndex:
    """Problem numbers as an index tensor. The last tensor is cached, because a copy to a GPU synchronizes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: tuple[tuple[int, ...], Tensor] | None = None

    def __call__(self, problems: Sequence[int]) -> Tensor:
        """Problem numbers (B,) as int64 on the device."""
        key = tuple(problems)
        if self._last is None or self._last[0] != key:
            index = torch.tensor(key, dtype=torch.int64, device="cpu")
            self._last = key, index.to(self._device, non_blocking=True)
        return self._last[1]


def problem_index(problems: Sequence[int], index: Tensor) -> slice | Tensor:
    """An index that selects these problems: for a single problem a slice, which makes a view, else `index`."""
    return slice(problems[0], problems[0] + 1) if len(problems) == 1 else index
