"""`gpukmeans cluster`: files of rows in, their centers out, by one process or by the ranks that torchrun starts."""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import gpukmeans_cli.options as options
from gpukmeans_cli.system.atomic_files import STDIO
from gpukmeans_cli.system.rank_env import Place, RankError, device_name, process_group
from gpukmeans_cli.system.rank_store import Meeting, SharedError, agreed, meeting
from gpukmeans_cli.system.startup import Terminated, import_torch, termination_interrupts
from gpukmeans_cli.terminal.messages import say, warn
from gpukmeans_cli.validation import check_device_name, device_called, place_of_rank

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

    from gpukmeans_cli.rows.run import Outcome, Task


def cluster(
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help=".npy, .safetensors or .pt files of rows (N, D), or patterns.",
            show_default=False,
            readable=False,
        ),
    ] = None,
    n_clusters: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--clusters",
            metavar="K",
            min=1,
            help="Number of clusters.",
            rich_help_panel=options.CLUSTERING,
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which tensor of .safetensors and .pt files. Default: the only one.",
            rich_help_panel=options.FILES,
            show_default=False,
        ),
    ] = None,
    batch_rows: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Rows read at a time, which change no bit. Default: about 32 MiB.",
            rich_help_panel=options.FILES,
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="Where to write centers: .safetensors, with totals and inertia, or .npy.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = Path("centers.safetensors"),
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where to write <stem>-labels.npy for each file, made if it is missing; seen by all ranks.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to keep what --resume goes on from.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        int,
        typer.Option(
            metavar="M", min=1, help="Rounds from one checkpoint to the next.", rich_help_panel=options.OUTPUT
        ),
    ] = 10,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from --checkpoint, to the same bits, and replace what was written.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    metric: Annotated[
        Literal["euclidean", "cosine"], typer.Option(help="What is near.", rich_help_panel=options.CLUSTERING)
    ] = "euclidean",
    init: Annotated[
        Literal["auto", "k-means++", "k-means||", "random"],
        typer.Option(
            help="How first centers are chosen. auto: k-means||; k-means++ reads all rows three times for each center.",
            rich_help_panel=options.CLUSTERING,
        ),
    ] = "auto",
    n_init: Annotated[
        int, typer.Option(min=1, help="Runs, of which the best is kept.", rich_help_panel=options.CLUSTERING)
    ] = 1,
    refine: Annotated[
        int,
        typer.Option(
            min=0,
            help="Searches for better centers before a run, each of several passes over all rows.",
            rich_help_panel=options.CLUSTERING,
        ),
    ] = 0,
    max_iter: options.MaxIter = 100,
    tol: Annotated[
        float,
        typer.Option(
            min=0, help="Stop when a round gains no more than this share.", rich_help_panel=options.CLUSTERING
        ),
    ] = 1e-4,
    seed: options.Seed = 0,
    dtype: Annotated[
        Literal["float32", "float64"] | None,
        typer.Option(
            help="What floats are converted to first. Default: float64 stays, others become float32.",
            rich_help_panel=options.CLUSTERING,
            show_default=False,
        ),
    ] = None,
    device: options.DeviceName = "auto",
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="How long ranks wait for one another. Default: that of torch.",
            rich_help_panel=options.CLUSTERING,
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=options.MESSAGES)
    ] = False,
    quiet: options.Quiet = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Also print each round.", rich_help_panel=options.MESSAGES)
    ] = False,
) -> int:
    """Find K centers of rows in files that need not fit into memory; torchrun shares the rows among ranks."""
    if not inputs:
        raise typer.TyperException("Please specify a file of rows, for example: gpukmeans cluster rows.npy -k 64")
    if n_clusters is None:
        raise typer.TyperException("Please say how many clusters, for example: -k 64")
    if STDIO in inputs:
        raise typer.TyperException("standard input cannot be read again and again; name a file")
    if output.suffix.lower() not in (".safetensors", ".npy"):
        raise typer.TyperException(f"--output must end in .safetensors or .npy, got {output}")
    if resume and checkpoint is None:
        raise typer.TyperException("--resume goes on from a --checkpoint; name its file")
    if not tol < math.inf:
        raise typer.TyperException(f"--tol must be a number, at least 0, got {tol}")
    if timeout is not None and not 0 < timeout < 1e9:
        raise typer.TyperException(f"--timeout must be a number of seconds above 0, got {timeout}")
    check_device_name(device)
    here = place_of_rank(output)
    voice = _Voice(leads=here.leads, as_json=as_json, quiet=quiet, verbose=verbose, inputs=[*map(str, inputs)])
    wait = None if timeout is None else timedelta(seconds=timeout)

    with meeting(here) as ranks:
        # Only now, when there is work to do.
        import_torch()
        import torch

        from gpukmeans_cli.rows.run import Task

        with agreed(ranks):
            chosen = device_called(device_name(device, here))
            kinds = ranks.all(chosen.type)
            if len(set(kinds)) > 1:
                came = ", ".join(kinds)
                raise typer.TyperException(f"all ranks need devices of one kind, got {came}; use --device cpu")
        task = Task(
            inputs=tuple(inputs),
            key=key,
            n_clusters=n_clusters,
            metric=metric,
            init=init,
            n_init=n_init,
            refine=refine,
            max_iter=max_iter,
            tol=tol,
            seed=seed,
            batch_rows=batch_rows,
            dtype=None if dtype is None else getattr(torch, dtype),
            device=chosen,
            output=output,
            labels=labels,
            checkpoint=checkpoint,
            every=every,
            resume=resume,
            force=force,
        )
        return _run(task, ranks, wait, voice)


@dataclass(frozen=True, kw_only=True)
class _Voice:
    """How the command speaks: by the leading rank alone, but for what that cannot know."""

    leads: bool
    as_json: bool
    quiet: bool
    verbose: bool
    inputs: list[str]

    def done(self, outcome: "Outcome") -> None:
        if not self.leads:
            return
        if self.as_json:
            typer.echo(json.dumps(outcome.as_json()))
        elif not self.quiet:
            say(outcome.line())

    def failed(self, problem: str) -> None:
        if not self.leads:
            return
        warn(problem)
        if self.as_json:
            typer.echo(json.dumps({"inputs": self.inputs, "error": problem}))

    def interrupted(self, checkpoint: Path | None, *, from_outside: bool, n_ranks: int) -> None:
        if not self.leads or self.quiet:
            return
        why = "told to end" if from_outside else "interrupted"
        if from_outside and n_ranks > 1:
            why += ", perhaps as another rank has ended"
        kept = checkpoint is not None and checkpoint.is_file()
        warn(f"{why}; --resume goes on from {checkpoint}" if kept else why)


def _run(task: "Task", ranks: Meeting, wait: timedelta | None, voice: _Voice) -> int:
    """The exit code, after all has been done and said, the same on all ranks. TyperException if nothing was begun."""
    from gpukmeans_cli.rows.progress import rounds_shown
    from gpukmeans_cli.rows.run import cluster_rows, prepare

    here, prepared = ranks.place, None
    try:
        with termination_interrupts():
            prepared = prepare(task, ranks)
            quiet = voice.quiet or not here.leads
            with (
                _group(here, task.device, wait) as group,
                rounds_shown(prepared.share(here), quiet=quiet, each=voice.verbose) as rounds,
            ):
                outcome = cluster_rows(prepared, ranks, group, rounds)
    except KeyboardInterrupt as stop:
        voice.interrupted(task.checkpoint, from_outside=isinstance(stop, Terminated), n_ranks=here.size)
        raise
    except SharedError as error:
        if prepared is None:
            raise typer.TyperException(str(error)) from None
        voice.failed(str(error))
        return 1
    voice.done(outcome)
    return 0


@contextlib.contextmanager
def _group(here: Place, device: "torch.device", wait: timedelta | None) -> "Iterator[ProcessGroup | None]":
    """The group of all ranks, None where there is only one. RankError if they do not come together."""
    with contextlib.ExitStack() as stack:
        group = None
        if here.size > 1:
            try:
                group = stack.enter_context(process_group(here, device, wait))
            except (RuntimeError, ValueError) as error:
                reason = str(error).strip().partition("\n")[0]
                raise RankError(f"{here.prefix}the ranks find no group ({reason}); start them by torchrun") from None
        yield group
