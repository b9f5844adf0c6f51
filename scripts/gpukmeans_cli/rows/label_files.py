"""A file of labels for each file of rows, to which several ranks write, and which appear whole or not at all."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpukmeans_cli.rows.table import Shards
from gpukmeans_cli.system.atomic_files import ImageError, give_name, temporary_for, why_unwritten
from gpukmeans_cli.system.rank_store import Meeting, SharedError, together


@dataclass(frozen=True, kw_only=True)
class LabelFiles:
    """Files that take the labels of rows while they have no name yet."""

    shards: Shards
    targets: Sequence[Path]
    unnamed: Sequence[Path]
    offsets: Sequence[int]
    """Where the labels begin in each of the files."""
    dtype: np.dtype

    def write(self, start: int, labels: np.ndarray) -> None:
        """Write the labels of the rows from `start`, of all files together. ImageError if it cannot be."""
        for index, first, last in self.shards.spans(start, start + len(labels)):
            begins = self.shards.starts[index] + first - start
            part = labels[begins : begins + last - first].astype(self.dtype)
            with _said(self.targets[index]), self.unnamed[index].open("r+b") as file:
                file.seek(self.offsets[index] + first * self.dtype.itemsize)
                file.write(part.tobytes())


@contextlib.contextmanager
def label_files(
    shards: Shards, targets: Sequence[Path], dtype: np.dtype, ranks: Meeting, *, overwrite: bool
) -> Iterator[LabelFiles]:
    """Inside, each rank writes the labels of its rows; afterwards the files (N_i,), .npy, have their names.

    If a rank raises ImageError, OSError or ValueError, it is a SharedError on all, and there is no file. All ranks must
    have one file system for `targets`.
    """
    unnamed = ranks.share([temporary_for(target) for target in targets])
    offsets: list[int] = []
    leads = ranks.place.leads
    try:
        with together(ranks, ImageError):
            if leads:
                for target, path, file in zip(targets, unnamed, shards.files, strict=True):
                    offsets.append(_begin(path, target, file.shape[0], dtype))
        offsets = ranks.share(offsets)
        with together(ranks, ImageError, OSError, ValueError):
            yield LabelFiles(shards=shards, targets=targets, unnamed=unnamed, offsets=offsets, dtype=dtype)
        with together(ranks, ImageError):
            if leads:
                for target, path in zip(targets, unnamed, strict=True):
                    with _said(target):
                        give_name(path, target, overwrite=overwrite)
    finally:
        if leads:
            for path in unnamed:
                path.unlink(missing_ok=True)


def label_targets(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Where the labels of each file go. SharedError if two would go to one place, or to a file of rows."""
    targets = [folder / f"{path.stem}-labels.npy" for path in paths]
    taken: dict[Path, Path] = {}
    for path, target in zip(paths, targets, strict=True):
        if target in taken:
            raise SharedError(f"labels of {taken[target]} and {path} would both be {target}; give one another name")
        taken[target] = path
    return targets


def _begin(path: Path, target: Path, n_rows: int, dtype: np.dtype) -> int:
    """Make the file of so many labels that are to be written, and say where they begin."""
    with _said(target), path.open("xb") as file:
        descr = np.lib.format.dtype_to_descr(dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (n_rows,)})
        offset = file.tell()
        file.truncate(offset + n_rows * dtype.itemsize)
        return offset


@contextlib.contextmanager
def _said(target: Path) -> Iterator[None]:
    """Inside, an OSError is an ImageError with the path of the file that is to be."""
    try:
        yield
    except OSError as error:
        raise ImageError(f"{target} {why_unwritten(error)}") from error
