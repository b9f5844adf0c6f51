"""From files of rows to a file of centers, and files of labels, by one process or by several ranks."""

import contextlib
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from gpukmeans import Batches, Checkpoint, KMeansResult, __version__, assign, kmeans
from gpukmeans.points.batches import default_rows
from gpukmeans.validation import short_name
from gpukmeans_cli.compression.result import counted
from gpukmeans_cli.rows.checkpoint_files import StateError, centers_bytes, load_state, save_state
from gpukmeans_cli.rows.files import ShardError
from gpukmeans_cli.rows.label_files import label_files, label_targets
from gpukmeans_cli.rows.progress import Rounds
from gpukmeans_cli.rows.table import Part, Shards, found_paths, open_shards, share
from gpukmeans_cli.system.atomic_files import ImageError, check_free, check_writable, make_folder, publish
from gpukmeans_cli.system.device import within_memory
from gpukmeans_cli.system.rank_env import Place, RankError
from gpukmeans_cli.system.rank_store import Meeting, SharedError, together
from gpukmeans_cli.terminal.messages import warn


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be done, the same on all ranks but for the device."""

    inputs: tuple[Path, ...]
    """Files and patterns."""
    key: str | None
    n_clusters: int
    metric: str
    init: str
    n_init: int
    refine: int
    max_iter: int
    tol: float
    seed: int
    batch_rows: int | None
    """None for as many as are about 32 MiB."""
    dtype: torch.dtype | None
    """What floats are converted to before anything is computed."""
    device: torch.device
    output: Path
    labels: Path | None
    """The folder for labels."""
    checkpoint: Path | None
    every: int
    resume: bool
    force: bool

    @property
    def replaces(self) -> bool:
        """Whether files of centers and labels may be replaced: a run that is gone on from may have written them."""
        return self.force or self.resume


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A task whose files are there."""

    task: Task
    shards: Shards
    label_targets: Sequence[Path]
    about: dict[str, Any]
    """What a state must be about to be gone on from."""
    state: dict[str, Tensor] | None

    @property
    def batch_rows(self) -> int:
        """How many rows are read at a time."""
        return self.task.batch_rows or default_rows(self.shards.width * self.shards.dtype.itemsize)

    def share(self, where: Place) -> float:
        """How many of all rows are those of that rank, from 0 to 1."""
        first, last = share(len(self.shards), where.rank, where.size)
        return (last - first) / len(self.shards)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of it. The fields are the keys of the JSON report."""

    inputs: list[str]
    rows: int
    dimensions: int
    clusters: int
    inertia: float
    n_iter: int
    converged: bool
    seconds: float
    rows_per_s: float
    """Rows that were read in a second, in all passes over them."""
    ranks: int
    device: str
    output: str
    labels: str | None

    def line(self) -> str:
        """The report as a person wants it."""
        files = self.inputs[0] if len(self.inputs) == 1 else counted(len(self.inputs), "file")
        written = self.output if self.labels is None else f"{self.output}, {self.labels}"
        return (
            f"{files}, {self.rows:,} x {self.dimensions:,} -> {written}: K={self.clusters:,}, "
            f"inertia {self.inertia:.6g}, {counted(self.n_iter, 'round')}, "
            f"{'converged' if self.converged else 'not converged'}, {self.seconds:.2f} s"
        )

    def as_json(self) -> dict[str, object]:
        """The report as keys and values that JSON knows."""
        return asdict(self)


def prepare(task: Task, ranks: Meeting) -> Prepared:
    """The task with its files opened, and what is to be written found free. SharedError if it cannot be done."""
    shards, targets, state = None, [], None
    with together(ranks, ShardError, ImageError, SharedError):
        shards = open_shards(found_paths(task.inputs), task.key)
        if task.n_clusters > len(shards):
            raise SharedError(
                f"--clusters must be at most the number of rows, {len(shards):,}, got {task.n_clusters:,}"
            )
        paths = [file.path for file in shards.files]
        targets = [] if task.labels is None else label_targets(paths, task.labels)
        if ranks.place.leads:
            _check_targets(task, paths, targets)
    assert shards is not None
    _check_alike(shards, ranks)
    about = _about(task, shards)
    with together(ranks, ImageError, StateError):
        if ranks.place.leads and task.resume and task.checkpoint is not None:
            state = load_state(task.checkpoint, about)
        if ranks.place.leads and task.labels is not None:
            make_folder(task.labels)
            check_writable(targets[0])
    state = ranks.share(state)
    return Prepared(task=task, shards=shards, label_targets=targets, about=about, state=state)


def cluster_rows(prepared: Prepared, ranks: Meeting, group: ProcessGroup | None, rounds: Rounds) -> Outcome:
    """Find the centers, write them, then the labels if there is a folder for them. Several ranks have a group.

    SharedError for what is wrong with rows, files or memory, on all ranks. RankError where another rank is lost.
    """
    task, shards = prepared.task, prepared.shards
    start = time.perf_counter()
    first, last = share(len(shards), ranks.place.rank, ranks.place.size)
    rows = Part(shards, first, last, rounds.seen)
    batches = Batches(rows, prepared.batch_rows, device=task.device, dtype=task.dtype)
    result = _clustered(prepared, batches, ranks, group, rounds)
    _write_centers(prepared, result, ranks)
    if task.labels is not None:
        rounds.begin("labels")
        dtype = np.dtype(np.int32 if task.n_clusters < 2**31 else np.int64)
        files_of_labels = label_files(shards, prepared.label_targets, dtype, ranks, overwrite=task.replaces)
        with files_of_labels as files, _memory_known(task.device):
            for batch in batches:
                assert isinstance(batch, Tensor)  # rows have no weights
                labels = assign(batch, result.centers, metric=task.metric).labels.cpu().numpy()
                files.write(first, labels)
                first += len(labels)
    n_read = sum(ranks.all(rounds.read))
    seconds = time.perf_counter() - start
    return Outcome(
        inputs=[str(file.path) for file in shards.files],
        rows=len(shards),
        dimensions=shards.width,
        clusters=task.n_clusters,
        inertia=float(result.inertia),
        n_iter=int(result.n_iter),
        converged=bool(result.converged),
        seconds=seconds,
        rows_per_s=n_read / seconds,
        ranks=ranks.place.size,
        device=str(task.device),
        output=str(task.output),
        labels=None if task.labels is None else str(task.labels),
    )


def _clustered(
    prepared: Prepared, batches: Batches, ranks: Meeting, group: ProcessGroup | None, rounds: Rounds
) -> KMeansResult:
    task = prepared.task
    path = task.checkpoint

    def save(state: dict[str, Tensor]) -> None:
        if path is not None and ranks.place.leads:
            save_state(path, state, prepared.about)

    def watch(n_iter: int, inertia: Tensor, shift: Tensor) -> None:
        rounds.ended(n_iter, float(inertia), float(shift))

    named = partial(_named, prepared, ranks.place)
    with warnings.catch_warnings(record=True) as caught, _errors_of_kmeans(named), _memory_known(task.device):
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
            callback=watch,
            generator=torch.Generator().manual_seed(task.seed),
            group=group,
            checkpoint=None if path is None else Checkpoint(save, every=task.every, state=prepared.state),
        )
    if ranks.place.leads:
        for each in caught:
            warn(str(each.message))
    return result


@contextlib.contextmanager
def _errors_of_kmeans(named: Callable[[str], str]) -> Iterator[None]:
    """Inside, what is wrong is a SharedError, as the library makes it one error on all ranks, with files `named`."""
    try:
        yield
    except (ValueError, OSError, ImageError) as error:
        raise SharedError(named(str(error))) from error
    except RuntimeError as error:
        # Those of the library begin so: of a rank that does not answer, and of what it has no class for.
        if re.match(r"rank \d+ of \d+ lost", str(error)):
            raise RankError(str(error)) from error
        if re.match(r"rank \d+: ", str(error)):
            raise SharedError(str(error)) from error
        raise


def _named(prepared: Prepared, where: Place, problem: str) -> str:
    """The same with the rows of a batch by their files: the library knows batches of a rank."""
    found = re.match(r"(?:rank (\d+): )?batch (\d+) of x ", problem)
    if found is None:
        return problem
    rank = where.rank if found[1] is None else int(found[1])
    first, last = share(len(prepared.shards), rank, where.size)
    start = first + int(found[2]) * prepared.batch_rows
    spans = prepared.shards.spans(start, min(start + prepared.batch_rows, last))
    rows = [f"{prepared.shards.files[index].path}: rows {a:,} to {b - 1:,}" for index, a, b in spans]
    return f"{' and '.join(rows)} {problem[found.end() :]}"


def _memory_known(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Inside, ImageError where memory runs out."""
    return within_memory(device, "use a smaller --batch-rows")


def _write_centers(prepared: Prepared, result: KMeansResult, ranks: Meeting) -> None:
    task = prepared.task
    with together(ranks, ImageError):
        if ranks.place.leads:
            tensors = {"centers": result.centers, "totals": result.totals, "inertia": result.inertia}
            about = {
                "metric": task.metric,
                "n_iter": int(result.n_iter),
                "converged": bool(result.converged),
                "version": __version__,
            }
            data = centers_bytes(tensors, about, task.output.suffix.lower())
            publish(task.output, data, overwrite=task.replaces)


def _check_targets(task: Task, inputs: Sequence[Path], labels: Sequence[Path]) -> None:
    """ImageError or SharedError if something that is to be written has no place, or that of something else."""
    check_free(task.output, overwrite=task.replaces)
    check_writable(task.output)
    if task.checkpoint is not None:
        if not task.resume:
            try:
                check_free(task.checkpoint, overwrite=task.force)
            except ImageError as error:
                hint = "; go on from it by --resume, or overwrite it by --force"
                raise ImageError(str(error).replace("; use --force to overwrite it", hint)) from None
        check_writable(task.checkpoint)
    if task.labels is not None and task.labels.is_dir():
        for path in labels:
            check_free(path, overwrite=task.replaces)
    taken = dict.fromkeys(map(os.path.realpath, inputs), "is an input, and would be overwritten")
    for path in (task.output, *([] if task.checkpoint is None else [task.checkpoint]), *labels):
        real = os.path.realpath(path)
        if real in taken:
            raise SharedError(f"{path} {taken[real]}; choose another name")
        taken[real] = "would be written twice"


def _check_alike(shards: Shards, ranks: Meeting) -> None:
    """SharedError if ranks see other files than the leading one."""
    seen = ranks.all((_table(shards), shards.starts))
    for rank, (table, starts) in enumerate(seen):
        if (table, starts) != seen[0]:
            raise SharedError(f"rank {rank}: sees other files, {table} in {len(starts) - 1}, than rank 0, {seen[0][0]}")


def _about(task: Task, shards: Shards) -> dict[str, Any]:
    return {
        "rows": _table(shards),
        "files": ", ".join(file.path.name for file in shards.files),
        "--clusters": task.n_clusters,
        "--metric": task.metric,
        "--init": task.init,
        "--n-init": task.n_init,
        "--refine": task.refine,
        "--tol": task.tol,
        "--seed": task.seed,
        "--dtype": None if task.dtype is None else short_name(task.dtype),
    }


def _table(shards: Shards) -> str:
    return f"{len(shards):,} x {shards.width:,} {short_name(shards.dtype)}"
