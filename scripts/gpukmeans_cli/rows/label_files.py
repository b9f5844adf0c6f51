"""Label files, one for each file of rows. All ranks write them, and each file is complete or absent."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpukmeans_cli.rows.table import RowTable
from gpukmeans_cli.system.atomic_files import ImageError, move_to, temporary_path, write_error_reason
from gpukmeans_cli.system.rank_store import CollectiveError, RankStore, raise_on_all_ranks


@dataclass(frozen=True, kw_only=True)
class LabelFiles:
    """Temporary files into which all ranks write the labels of their rows."""

    table: RowTable
    targets: Sequence[Path]
    temporaries: Sequence[Path]
    offsets: Sequence[int]
    """The byte offset of the labels in each file."""
    dtype: np.dtype

    def write(self, start: int, labels: np.ndarray) -> None:
        """Write the labels of the rows of the table from `start`. ImageError if that fails."""
        for index, file_start, file_stop in self.table.file_ranges(start, start + len(labels)):
            offset = self.table.starts[index] - start
            file_labels = labels[offset + file_start : offset + file_stop].astype(self.dtype)
            with _write_errors(self.targets[index]), self.temporaries[index].open("r+b") as file:
                file.seek(self.offsets[index] + file_start * self.dtype.itemsize)
                file.write(file_labels.tobytes())


@contextlib.contextmanager
def label_files(
    table: RowTable, targets: Sequence[Path], dtype: np.dtype, ranks: RankStore, *, overwrite: bool
) -> Iterator[LabelFiles]:
    """Yields the files to which each rank writes the labels of its rows. At the end, all files move to `targets`.

    They are .npy files of shape (N_i,), where N_i is the number of rows of file i. An ImageError, OSError or ValueError
    of one rank while labels are written becomes a CollectiveError on all ranks, and no file moves. All ranks must share
    the file system of `targets`.
    """
    temporaries = ranks.broadcast([temporary_path(target) for target in targets])
    offsets: list[int] = []
    is_main = ranks.env.is_main
    try:
        with raise_on_all_ranks(ranks, ImageError):
            if is_main:
                for target, path, file in zip(targets, temporaries, table.files, strict=True):
                    offsets.append(_create(path, target, file.shape[0], dtype))
        offsets = ranks.broadcast(offsets)
        with raise_on_all_ranks(ranks, ImageError, OSError, ValueError):
            yield LabelFiles(table=table, targets=targets, temporaries=temporaries, offsets=offsets, dtype=dtype)
        with raise_on_all_ranks(ranks, ImageError):
            if is_main:
                for target, path in zip(targets, temporaries, strict=True):
                    with _write_errors(target):
                        move_to(path, target, overwrite=overwrite)
    finally:
        if is_main:
            for path in temporaries:
                path.unlink(missing_ok=True)


def label_targets(paths: Sequence[Path], folder: Path) -> list[Path]:
    """The path of the label file of each file of rows. CollectiveError if two files have the same path for labels."""
    targets = [folder / f"{path.stem}-labels.npy" for path in paths]
    by_target: dict[Path, Path] = {}
    for path, target in zip(paths, targets, strict=True):
        if target in by_target:
            raise CollectiveError(f"labels of {by_target[target]} and {path} would both be {target}; rename one file")
        by_target[target] = path
    return targets


def _create(path: Path, target: Path, n_rows: int, dtype: np.dtype) -> int:
    """Create a .npy file of `n_rows` zeros. Returns the byte offset of the labels."""
    with _write_errors(target), path.open("xb") as file:
        descr = np.lib.format.dtype_to_descr(dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (n_rows,)})
        offset = file.tell()
        file.truncate(offset + n_rows * dtype.itemsize)
        return offset


@contextlib.contextmanager
def _write_errors(target: Path) -> Iterator[None]:
    """In the context, an OSError becomes an ImageError with the path of the final file."""
    try:
        yield
    except OSError as error:
        raise ImageError(f"{target} {write_error_reason(error)}") from error
