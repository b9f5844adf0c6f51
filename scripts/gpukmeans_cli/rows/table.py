"""Many files of rows as one table. Only the requested slices are read."""

import bisect
import glob
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpukmeans_cli.rows.files import KEYED_SUFFIXES, RowFile, RowFileError, dtype_name, open_row_file


class RowTable:
    """The rows of several files in file order. A slice is a new tensor, and `len` is the number of all rows.

    RowFileError, with the paths of two files, if the files differ in the number of columns or the dtype.
    """

    def __init__(self, files: Sequence[RowFile]) -> None:
        first = files[0]
        for file in files[1:]:
            if (file.shape[1], file.dtype) != (first.shape[1], first.dtype):
                raise RowFileError(
                    f"{file.path}: has rows of {_row_type(file)}, and {first.path} of {_row_type(first)}; "
                    "all must have the same"
                )
        self.files = tuple(files)
        self.n_columns = first.shape[1]
        self.dtype = first.dtype
        self.starts = tuple(itertools.accumulate((file.shape[0] for file in files), initial=0))
        """The index of the first row of each file, then the number of all rows."""

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, rows: slice) -> Tensor:
        """The rows (n, D) of a slice, in the dtype of the files. OSError as in `RowFile.read`."""
        start, stop = _slice_bounds(rows, len(self))
        # numpy allocates memory in huge pages. Reading into the smaller pages of torch.empty takes twice the time.
        memory = np.empty((stop - start, self.n_columns), f"u{self.dtype.itemsize}")
        target = torch.from_numpy(memory).view(self.dtype)
        for index, file_start, file_stop in self.file_ranges(start, stop):
            offset = self.starts[index] - start
            self.files[index].read(file_start, target[offset + file_start : offset + file_stop])
        return target

    def file_ranges(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The files that hold the rows `start` to `stop`: for each its index, and the start and stop row in it."""
        ranges = []
        index = bisect.bisect_right(self.starts, start) - 1
        while start < stop:
            file_start, file_stop = self.starts[index], self.starts[index + 1]
            if (end := min(stop, file_stop)) > start:
                ranges.append((index, start - file_start, end - file_start))
                start = end
            index += 1
        return ranges


class RowRange:
    """The rows `start` to `stop` of a table. `on_read` is called with the number of rows of each slice."""

    def __init__(
        self, table: RowTable, start: int, stop: int, on_read: Callable[[int], object] = lambda n_rows: None
    ) -> None:
        self._table = table
        self._start = start
        self._length = stop - start
        self._on_read = on_read

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop = _slice_bounds(rows, self._length)
        read = self._table[self._start + start : self._start + stop]
        self._on_read(len(read))
        return read


def rank_rows(n_rows: int, rank: int, size: int) -> tuple[int, int]:
    """The start and stop row of a rank. All rows are divided among the ranks evenly and in rank order."""
    return rank * n_rows // size, (rank + 1) * n_rows // size


def expand_patterns(inputs: Sequence[Path]) -> list[Path]:
    """The input files in order. The matches of a `glob` pattern, with ** for any folders, are sorted.

    RowFileError for a pattern without matches and for a file that is named twice.
    """
    paths: list[Path] = []
    for path in inputs:
        if glob.has_magic(str(path)) and not os.path.lexists(path):
            matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if not os.path.isdir(name))
            if not matches:
                raise RowFileError(f"{path}: matches no file; check the pattern")
            paths += matches
        else:
            paths.append(path)
    by_real_path: dict[str, Path] = {}
    for path in paths:
        real_path = os.path.realpath(path)
        if real_path in by_real_path:
            first = by_real_path[real_path]
            alias = f", also as {first}" if first != path else ""
            raise RowFileError(f"{path}: is named twice{alias}; its rows would count twice")
        by_real_path[real_path] = path
    return paths


def open_row_table(paths: Sequence[Path], key: str | None = None) -> RowTable:
    """The rows of these files. `key` names one of several tensors. RowFileError if a file has no rows."""
    if key is not None and not any(path.suffix.lower() in KEYED_SUFFIXES for path in paths):
        raise RowFileError(f"{paths[0]}: holds no tensors by name; leave --key {key} out")
    return RowTable([open_row_file(path, key) for path in paths])


def _slice_bounds(rows: slice, length: int) -> tuple[int, int]:
    start, stop, step = rows.indices(length)
    if step != 1:
        raise ValueError(f"a slice of rows must have step 1, got {step}")
    return start, max(start, stop)


def _row_type(file: RowFile) -> str:
    return f"{file.shape[1]:,} {dtype_name(file.dtype)}"
