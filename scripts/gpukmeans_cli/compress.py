"""`gpukmeans compress`: arguments in, a palette PNG and a line of report for each file out."""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gpukmeans_cli.messages import say, warn
from gpukmeans_cli.runtime import import_torch

if TYPE_CHECKING:
    from gpukmeans_cli.pipeline import Outcome, Settings

_OUTPUT, _CLUSTERING, _MESSAGES = "Output", "Clustering", "Messages"


def compress(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="INPUT...", help="Image files.", show_default=False)
    ] = None,
    colors: Annotated[
        int,
        typer.Option(
            "-k",
            "--colors",
            metavar="K",
            min=1,
            max=256,
            help="Most colors of the palette, 1 to 256.",
            rich_help_panel=_OUTPUT,
        ),
    ] = 20,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Where to write, of one input. Default: <stem>-<K>.png beside the input.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("-f", "--force", help="Overwrite an existing output.", rich_help_panel=_OUTPUT)
    ] = False,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Refuse pictures of more pixels. Default: Pillow's limit, about 179 million.",
            rich_help_panel=_OUTPUT,
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_CLUSTERING)] = "auto",
    init: Annotated[
        Literal["k-means++", "k-means||", "random"],
        typer.Option(help="How first centers are chosen.", rich_help_panel=_CLUSTERING),
    ] = "random",
    n_init: Annotated[
        int, typer.Option(min=1, help="Runs, of which the best is kept.", rich_help_panel=_CLUSTERING)
    ] = 1,
    refine: Annotated[
        int, typer.Option(min=0, help="Searches for better centers before a run.", rich_help_panel=_CLUSTERING)
    ] = 1,
    max_iter: Annotated[int, typer.Option(min=1, help="Most rounds of a run.", rich_help_panel=_CLUSTERING)] = 100,
    tol: Annotated[
        float,
        typer.Option(min=0, help="Stop when a round gains no more than this share.", rich_help_panel=_CLUSTERING),
    ] = 1e-4,
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**63 - 1, help="Same seed, same bytes.", rich_help_panel=_CLUSTERING),
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line on stdout, for each file.", rich_help_panel=_MESSAGES)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Print nothing but errors.", rich_help_panel=_MESSAGES)
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", help="Also print engine, convergence and timings.", rich_help_panel=_MESSAGES),
    ] = False,
) -> int:
    """Write each picture as a PNG with a palette of few colors."""
    if not inputs:
        raise typer.TyperException("Please specify an image, for example: gpukmeans compress photo.jpg")
    jobs = _pair_with_outputs(inputs, output, colors)
    if not tol < float("inf"):
        raise typer.TyperException(f"--tol must be a number, at least 0, got {tol}")
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", device):
        raise typer.TyperException(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}")

    # Only now, when there is work to do: importing torch takes longer than most pictures.
    import_torch()
    from gpukmeans_cli.device import DeviceError, pick_device
    from gpukmeans_cli.pipeline import Settings

    try:
        picked = pick_device(device)
    except DeviceError as error:
        raise typer.TyperException(str(error)) from None
    settings = Settings(
        n_colors=colors,
        device=picked,
        any_device=device == "auto",
        force=force,
        max_pixels=max_pixels,
        init=init,
        n_init=n_init,
        refine=refine,
        max_iter=max_iter,
        tol=tol,
        seed=seed,
    )
    done = [_compress_one(source, target, settings, as_json, quiet, verbose) for source, target in jobs]
    return 0 if all(done) else 1


def _pair_with_outputs(inputs: Sequence[Path], output: Path | None, colors: int) -> list[tuple[Path, Path]]:
    """Each input with the file to write, or an error if two would write the same."""
    if output is not None and len(inputs) > 1:
        raise typer.TyperException(f"--output takes one input, got {len(inputs)}; leave it out to write beside each")
    if output is not None and not output.name.lower().endswith(".png"):
        raise typer.TyperException(f"--output must end in .png, got {output}")
    jobs = [(source, output or source.parent / f"{source.stem}-{colors}.png") for source in inputs]
    target, times = Counter(os.path.realpath(target) for _, target in jobs).most_common(1)[0]
    if times > 1:
        raise typer.TyperException(f"{times} inputs would write {target}; compress them one by one with --output")
    sources = {os.path.realpath(source) for source in inputs}
    if len(jobs) > 1 and (both := [target for _, target in jobs if os.path.realpath(target) in sources]):
        raise typer.TyperException(f"{both[0]} is both an input and an output; compress them one by one")
    return jobs


def _compress_one(source: Path, target: Path, settings: "Settings", as_json: bool, quiet: bool, verbose: bool) -> bool:
    """Whether the file was done; either way it has been reported."""
    from gpukmeans_cli.files import ImageError
    from gpukmeans_cli.pipeline import compress_picture

    try:
        outcome = compress_picture(source, target, settings)
    except ImageError as error:
        warn(f"{source}: {error}")
        if as_json:
            typer.echo(json.dumps({"input": str(source), "error": str(error)}))
        return False
    if not quiet:
        _tell(outcome, verbose)
    if as_json:
        typer.echo(json.dumps(outcome.report.as_json()))
    elif not quiet:
        say(outcome.report.line())
    return True


def _tell(outcome: "Outcome", verbose: bool) -> None:
    """What is worth knowing beside the report, on stderr."""
    name = outcome.report.input
    if outcome.frames > 1:
        warn(f"{name}: took the first of {outcome.frames} frames")
    if verbose:
        ended = "converged" if outcome.report.converged else "stopped at --max-iter"
        stages = ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in outcome.stages.items())
        warn(f"{name}: engine {outcome.engine}")
        warn(f"{name}: {ended} after {outcome.report.iterations} iterations")
        warn(f"{name}: {stages}")
