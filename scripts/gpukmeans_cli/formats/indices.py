"""Counts and look-ups for arrays of palette indices. Blocks of rows bound the memory: NumPy takes 8 bytes an index."""

from collections.abc import Iterator

import numpy as np

# Indices processed at a time.
_BLOCK = 1 << 17


def row_blocks(height: int, width: int, size: int = _BLOCK) -> Iterator[slice]:
    """Slices that cover all rows in order. Each slice has at most `size` pixels, or is a single row."""
    n_rows = max(1, size // max(1, width))
    return (slice(start, min(start + n_rows, height)) for start in range(0, height, n_rows))


def index_counts(indices: np.ndarray, n: int) -> np.ndarray:
    """The number of times, int64 (n,), that each index below n occurs in `indices`, uint8 (height, width)."""
    counts = np.zeros(n, dtype=np.int64)
    for rows in row_blocks(*indices.shape):
        counts += np.bincount(indices[rows].ravel(), minlength=n)
    return counts


def look_up(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The entries `table[indices]`, (height, width, ...), of a table (K, ...) for indices (height, width) below K."""
    found = np.empty((*indices.shape, *table.shape[1:]), dtype=table.dtype)
    for rows in row_blocks(*indices.shape):
        np.take(table, indices[rows], axis=0, out=found[rows], mode="clip")
    return found
