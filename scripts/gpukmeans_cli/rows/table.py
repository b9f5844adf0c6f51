"""The rows of many files as those of one table, of which only the slices that are asked for are read."""

import bisect
import glob
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gpukmeans.validation import short_name
from gpukmeans_cli.rows.files import KEYED, Shard, ShardError, open_shard


class Rows(Protocol):
    """Something that has a length and slices (n, D)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


class Shards:
    """The rows of files in their order. A slice is a new tensor; len is the number of all rows.

    All files have the same number of coordinates, `width`, and the same dtype, or it is a ShardError that names two.
    """

    def __init__(self, files: Sequence[Shard]) -> None:
        first = files[0]
        for file in files[1:]:
            if (file.shape[1], file.dtype) != (first.shape[1], first.dtype):
                raise ShardError(
                    f"{file.path}: has rows of {_kind(file)}, and {first.path} of {_kind(first)}; all must be alike"
                )
        self.files = tuple(files)
        self.width = first.shape[1]
        self.dtype = first.dtype
        self.starts = tuple(itertools.accumulate((file.shape[0] for file in files), initial=0))
        """The row that each file begins with, and after these the number of all."""

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, rows: slice) -> Tensor:
        """The rows (n, D) from start to stop, in the dtype of the files. OSError as `Shard.read` says."""
        start, stop = _bounds(rows, len(self))
        # By numpy, which has large pages for it: with those of torch.empty reading took twice the time.
        memory = np.empty((stop - start, self.width), f"u{self.dtype.itemsize}")
        target = torch.from_numpy(memory).view(self.dtype)
        for index, first, last in self.spans(start, stop):
            begins = self.starts[index]
            self.files[index].read(first, target[begins + first - start : begins + last - start])
        return target

    def spans(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The files that the rows from `start` to `stop` lie in, and which of each one's rows: (index, first, last)."""
        found = []
        index = bisect.bisect_right(self.starts, start) - 1
        while start < stop:
            begins, ends = self.starts[index], self.starts[index + 1]
            if (last := min(stop, ends)) > start:
                found.append((index, start - begins, last - begins))
                start = last
            index += 1
        return found


class Part:
    """The rows of a table from `start` to `stop`. `seen` is told of how many were read, each time."""

    def __init__(self, rows: Rows, start: int, stop: int, seen: Callable[[int], object] | None = None) -> None:
        self._rows = rows
        self._start = start
        self._length = stop - start
        self._seen = seen

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: slice) -> Tensor:
        start, stop = _bounds(rows, self._length)
        found = self._rows[self._start + start : self._start + stop]
        if self._seen is not None:
            self._seen(len(found))
        return found


def share(n_rows: int, rank: int, size: int) -> tuple[int, int]:
    """The rows that are those of one rank of so many, from and to: all are shared, in order, and evenly."""
    return rank * n_rows // size, (rank + 1) * n_rows // size


def found_paths(inputs: Sequence[Path]) -> list[Path]:
    """The files that these name, in their order; those of a pattern, as of `glob` with ** for any folders, sorted.

    ShardError for a pattern that matches none, and for a file that is named twice.
    """
    paths: list[Path] = []
    for given in inputs:
        if glob.has_magic(str(given)) and not os.path.lexists(given):
            matching = sorted(Path(name) for name in glob.glob(str(given), recursive=True) if not os.path.isdir(name))
            if not matching:
                raise ShardError(f"{given}: matches no file; check the pattern")
            paths += matching
        else:
            paths.append(given)
    seen: dict[str, Path] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            other = f", also as {seen[real]}" if seen[real] != path else ""
            raise ShardError(f"{path}: is named twice{other}; its rows would count twice")
        seen[real] = path
    return paths


def open_shards(paths: Sequence[Path], key: str | None = None) -> Shards:
    """The rows of these files, of those that name their tensors by that key. ShardError if they are not there."""
    if key is not None and not any(path.suffix.lower() in KEYED for path in paths):
        raise ShardError(f"{paths[0]}: holds no tensors by name; leave --key {key} out")
    return Shards([open_shard(path, key) for path in paths])


def _bounds(rows: slice, length: int) -> tuple[int, int]:
    start, stop, step = rows.indices(length)
    if step != 1:
        raise ValueError(f"rows are read one after the other, got a step of {step}")
    return start, max(start, stop)


def _kind(file: Shard) -> str:
    return f"{file.shape[1]:,} {short_name(file.dtype)}"
