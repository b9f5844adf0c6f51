"""Long axes in blocks, so that what is computed of them stays small."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def blocks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size`, at least 1, that cover 0..length in order."""
    size = max(1, size)
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def tiles(n_runs: int, n_rows: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of runs x rows of at most `size` entries, at least 1: parts of one run, or several runs that are whole."""
    for runs in blocks(n_runs, size // n_rows):
        for rows in blocks(n_rows, size):
            yield runs, rows


class Problems:
    """Numbers of problems as an index on a device. The last ones are kept, as a GPU is waited for when it gets them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: tuple[tuple[int, ...], Tensor] | None = None

    def __call__(self, problems: Sequence[int]) -> Tensor:
        """These problems (B,), int64."""
        key = tuple(problems)
        if self._last is None or self._last[0] != key:
            self._last = key, torch.tensor(key, dtype=torch.int64, device=self._device)
        return self._last[1]


def of_runs(problems: Sequence[int], index: Tensor) -> slice | Tensor:
    """What selects these problems, numbers that the index holds too: this one, which copies, but for one a slice."""
    return slice(problems[0], problems[0] + 1) if len(problems) == 1 else index
