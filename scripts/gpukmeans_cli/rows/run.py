"""Clustering of the rows of files by one process or several ranks. Centers and labels are written to files."""

import contextlib
import os
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from gpukmeans import Batches, Checkpoint, InitName, KMeansResult, MetricName, __version__, assign, kmeans
from gpukmeans_cli.rows.checkpoint_files import CheckpointError, centers_bytes, load_checkpoint, save_checkpoint
from gpukmeans_cli.rows.files import RowFileError, dtype_name
from gpukmeans_cli.rows.label_files import label_files, label_targets
from gpukmeans_cli.rows.progress import ClusterProgress
from gpukmeans_cli.rows.table import RowRange, RowTable, expand_patterns, open_row_table, rank_rows
from gpukmeans_cli.system.atomic_files import ImageError, check_free, check_writable, make_folder, write_atomically
from gpukmeans_cli.system.device import within_memory
from gpukmeans_cli.system.rank_env import RankEnv, RankError
from gpukmeans_cli.system.rank_store import CollectiveError, RankStore, raise_on_all_ranks
from gpukmeans_cli.terminal.formatting import format_count
from gpukmeans_cli.terminal.messages import warn

_MEMORY_ADVICE = "use a smaller --batch-rows"


@dataclass(frozen=True, kw_only=True)
class ClusterTask:
    """The options of one clustering. All but the device are equal on all ranks."""

    inputs: tuple[Path, ...]
    """Files and patterns."""
    key: str | None
    n_clusters: int
    metric: MetricName
    init: InitName
    n_init: int
    refine: int
    max_iter: int
    tol: float
    seed: int
    batch_rows: int | None
    """Rows per batch. None for batches of about 32 MiB."""
    dtype: torch.dtype | None
    """The dtype to which floats are converted before the clustering."""
    device: torch.device
    output: Path
    labels: Path | None
    """The folder for labels."""
    checkpoint: Path | None
    every: int
    """Iterations between two checkpoints."""
    resume: bool
    force: bool

    @property
    def overwrite(self) -> bool:
        """Whether files of centers and labels may be replaced. A resumed run may already have written them."""
        return self.force or self.resume


@dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """A task with open input files and checked output paths."""

    task: ClusterTask
    table: RowTable
    label_targets: Sequence[Path]
    metadata: dict[str, Any]
    """The rows and options with which a checkpoint must have been saved."""
    state: dict[str, Tensor] | None
    """The state of the run to resume."""

    @property
    def batch_rows(self) -> int:
        """The number of rows per batch."""
        return self.task.batch_rows or Batches.default_rows(self.table.n_columns * self.table.dtype.itemsize)

    def rank_fraction(self, env: RankEnv) -> float:
        """The fraction of all rows that a rank reads, from 0 to 1."""
        start, stop = rank_rows(len(self.table), env.rank, env.size)
        return (stop - start) / len(self.table)


@dataclass(frozen=True, kw_only=True)
class ClusterResult:
    """The report of a finished clustering. The fields are the keys of the JSON output."""

    inputs: list[str]
    rows: int
    dimensions: int
    clusters: int
    inertia: float
    n_iter: int
    converged: bool
    seconds: float
    rows_per_s: float
    """Rows read per second by all ranks, over all passes."""
    ranks: int
    device: str
    output: str
    labels: str | None

    def line(self) -> str:
        """The report as one line of text."""
        files = self.inputs[0] if len(self.inputs) == 1 else format_count(len(self.inputs), "file")
        written = self.output if self.labels is None else f"{self.output}, {self.labels}"
        return (
            f"{files}, {self.rows:,} x {self.dimensions:,} -> {written}: K={self.clusters:,}, "
            f"inertia {self.inertia:.6g}, {format_count(self.n_iter, 'iteration')}, "
            f"{'converged' if self.converged else 'not converged'}, {self.seconds:.2f} s"
        )

    def as_json(self) -> dict[str, object]:
        """The report as a JSON object."""
        return asdict(self)


def prepare(task: ClusterTask, ranks: RankStore) -> PreparedTask:
    """Open the input files, check the output paths and load the checkpoint. CollectiveError if any of this fails."""
    table, targets, state = None, [], None
    with raise_on_all_ranks(ranks, RowFileError, ImageError, CollectiveError):
        table = open_row_table(expand_patterns(task.inputs), task.key)
        if task.n_clusters > len(table):
            raise CollectiveError(
                f"--clusters must be at most the number of rows, {len(table):,}, got {task.n_clusters:,}"
            )
        paths = [file.path for file in table.files]
        targets = [] if task.labels is None else label_targets(paths, task.labels)
        if ranks.env.is_main:
            _check_outputs(task, paths, targets)
    assert table is not None
    _check_equal_on_ranks(table, ranks)
    metadata = _checkpoint_metadata(task, table)
    with raise_on_all_ranks(ranks, ImageError, CheckpointError):
        if ranks.env.is_main and task.resume and task.checkpoint is not None:
            state = load_checkpoint(task.checkpoint, metadata)
        if ranks.env.is_main and task.labels is not None:
            make_folder(task.labels)
            check_writable(targets[0])
    state = ranks.broadcast(state)
    return PreparedTask(task=task, table=table, label_targets=targets, metadata=metadata, state=state)


def cluster_rows(
    prepared: PreparedTask, ranks: RankStore, group: ProcessGroup | None, progress: ClusterProgress
) -> ClusterResult:
    """Cluster the rows and write the centers, then the labels if the task has a folder for them.

    `group` is the process group of several ranks. Errors of rows, files and memory become a CollectiveError on all
    ranks. RankError if another rank is lost.
    """
    task, table = prepared.task, prepared.table
    start_time = time.perf_counter()
    start, stop = rank_rows(len(table), ranks.env.rank, ranks.env.size)
    rows = RowRange(table, start, stop, progress.add_rows)
    batches = Batches(rows, prepared.batch_rows, device=task.device, dtype=task.dtype)
    result = _run_kmeans(prepared, batches, ranks, group, progress)
    _write_centers(prepared, result, ranks)
    if task.labels is not None:
        progress.begin_stage("labels")
        dtype = np.dtype(np.int32 if task.n_clusters < 2**31 else np.int64)
        targets = label_files(table, prepared.label_targets, dtype, ranks, overwrite=task.overwrite)
        with targets as files, within_memory(task.device, _MEMORY_ADVICE):
            for batch in batches:
                assert isinstance(batch, Tensor)  # rows have no weights
                labels = assign(batch, result.centers, metric=task.metric).labels.cpu().numpy()
                files.write(start, labels)
                start += len(labels)
    rows_read = sum(ranks.all_gather(progress.rows_read))
    seconds = time.perf_counter() - start_time
    return ClusterResult(
        inputs=[str(file.path) for file in table.files],
        rows=len(table),
        dimensions=table.n_columns,
        clusters=task.n_clusters,
        inertia=float(result.inertia),
        n_iter=int(result.n_iter),
        converged=bool(result.converged),
        seconds=seconds,
        rows_per_s=rows_read / seconds,
        ranks=ranks.env.size,
        device=str(task.device),
        output=str(task.output),
        labels=None if task.labels is None else str(task.labels),
    )


def _run_kmeans(
    prepared: PreparedTask, batches: Batches, ranks: RankStore, group: ProcessGroup | None, progress: ClusterProgress
) -> KMeansResult:
    task = prepared.task
    path = task.checkpoint

    def save(state: dict[str, Tensor]) -> None:
        if path is not None and ranks.env.is_main:
            save_checkpoint(path, state, prepared.metadata)

    def callback(n_iter: int, inertia: Tensor, shift: Tensor) -> None:
        progress.end_iteration(n_iter, float(inertia), float(shift))

    errors = _kmeans_errors(prepared, ranks.env)
    with warnings.catch_warnings(record=True) as caught, errors, within_memory(task.device, _MEMORY_ADVICE):
        warnings.simplefilter("always", UserWarning)
        result = kmeans(
            batches,
            task.n_clusters,
            init=task.init,
            n_init=task.n_init,
            refine=task.refine,
            max_iter=task.max_iter,
            tol=task.tol,
            metric=task.metric,
            callback=callback,
            generator=torch.Generator().manual_seed(task.seed),
            group=group,
            checkpoint=None if path is None else Checkpoint(save, every=task.every, state=prepared.state),
        )
    if ranks.env.is_main:
        for warning in caught:
            warn(str(warning.message))
    return result


@contextlib.contextmanager
def _kmeans_errors(prepared: PreparedTask, env: RankEnv) -> Iterator[None]:
    """In the context, an error of `kmeans`, equal on all ranks, becomes a CollectiveError or a RankError."""
    try:
        yield
    except (ValueError, OSError, ImageError) as error:
        raise CollectiveError(_with_file_names(str(error), prepared, env)) from error
    except RuntimeError as error:
        # `kmeans` raises RuntimeErrors with these texts if a rank is lost, and if another error occurs on one rank.
        if re.match(r"rank \d+ of \d+ lost", str(error)):
            raise RankError(str(error)) from error
        if re.match(r"rank \d+: ", str(error)):
            raise CollectiveError(str(error)) from error
        raise


def _with_file_names(message: str, prepared: PreparedTask, env: RankEnv) -> str:
    """The message of an error of `kmeans`, with the number of a batch replaced by its files and rows."""
    match = re.match(r"(?:rank (\d+): )?batch (\d+) of x ", message)
    if match is None:
        return message
    rank = env.rank if match[1] is None else int(match[1])
    rank_start, rank_stop = rank_rows(len(prepared.table), rank, env.size)
    start = rank_start + int(match[2]) * prepared.batch_rows
    ranges = prepared.table.file_ranges(start, min(start + prepared.batch_rows, rank_stop))
    rows = [f"{prepared.table.files[index].path}: rows {a:,} to {b - 1:,}" for index, a, b in ranges]
    return f"{' and '.join(rows)} {message[match.end() :]}"


def _write_centers(prepared: PreparedTask, result: KMeansResult, ranks: RankStore) -> None:
    task = prepared.task
    with raise_on_all_ranks(ranks, ImageError):
        if ranks.env.is_main:
            tensors = {"centers": result.centers, "cluster_weights": result.cluster_weights, "inertia": result.inertia}
            metadata = {
                "metric": task.metric,
                "n_iter": int(result.n_iter),
                "converged": bool(result.converged),
                "version": __version__,
            }
            data = centers_bytes(tensors, metadata, task.output.suffix.lower())
            write_atomically(task.output, data, overwrite=task.overwrite)


def _check_outputs(task: ClusterTask, inputs: Sequence[Path], labels: Sequence[Path]) -> None:
    """ImageError or CollectiveError if an output cannot be written, is also an input, or is named twice."""
    check_free(task.output, overwrite=task.overwrite)
    check_writable(task.output)
    if task.checkpoint is not None:
        if not task.resume:
            try:
                check_free(task.checkpoint, overwrite=task.force)
            except ImageError as error:
                hint = "; continue from it by --resume, or overwrite it by --force"
                raise ImageError(str(error).replace("; use --force to overwrite it", hint)) from None
        check_writable(task.checkpoint)
    if task.labels is not None and task.labels.is_dir():
        for path in labels:
            check_free(path, overwrite=task.overwrite)
    used = dict.fromkeys(map(os.path.realpath, inputs), "is an input, and would be overwritten")
    for path in (task.output, *([] if task.checkpoint is None else [task.checkpoint]), *labels):
        real_path = os.path.realpath(path)
        if real_path in used:
            raise CollectiveError(f"{path} {used[real_path]}; choose another name")
        used[real_path] = "would be written twice"


def _check_equal_on_ranks(table: RowTable, ranks: RankStore) -> None:
    """CollectiveError if the files of a rank differ from those of rank 0."""
    text = f"{_table_text(table)} in {format_count(len(table.files), 'file')}"
    by_rank = ranks.all_gather((text, table.starts))
    for rank, (text, starts) in enumerate(by_rank):
        if (text, starts) != by_rank[0]:
            raise CollectiveError(f"rank {rank}: found {text}, but rank 0 found {by_rank[0][0]}")


def _checkpoint_metadata(task: ClusterTask, table: RowTable) -> dict[str, Any]:
    return {
        "rows": _table_text(table),
        "files": ", ".join(file.path.name for file in table.files),
        "--clusters": task.n_clusters,
        "--metric": task.metric,
        "--init": task.init,
        "--n-init": task.n_init,
        "--refine": task.refine,
        "--tol": task.tol,
        "--seed": task.seed,
        "--dtype": None if task.dtype is None else dtype_name(task.dtype),
    }


def _table_text(table: RowTable) -> str:
    return f"{len(table):,} x {table.n_columns:,} {dtype_name(table.dtype)}"
