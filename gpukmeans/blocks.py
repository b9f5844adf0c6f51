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


def of_runs(problems: Sequence[int], device: torch.device) -> slice | Tensor:
    """What selects these problems: an index, which copies what it selects, but for one problem alone a slice."""
    return slice(problems[0], problems[0] + 1) if len(problems) == 1 else torch.tensor(problems, device=device)
