"""`gpukmeans compress`: arguments in, a picture with a palette and a line of report for each file out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gpukmeans_cli.arguments import (
    CLUSTERING,
    OUTPUT,
    DeviceName,
    Force,
    MaxPixels,
    check_device_name,
    check_one_of,
    device_called,
    given_colors,
    goal_of,
    pair_with_outputs,
)
from gpukmeans_cli.files import ImageError
from gpukmeans_cli.messages import say, warn
from gpukmeans_cli.runtime import import_torch

if TYPE_CHECKING:
    from gpukmeans_cli.pipeline import Outcome, Settings

_COLORS, _MESSAGES = "Colors", "Messages"

# The dicts of these are in modules that import torch, which takes longer than to print the help.
Init = Literal["k-means++", "k-means||", "random"]
Space = Literal["srgb", "linear", "oklab"]
Dither = Literal["none", "floyd-steinberg", "bayer", "blue-noise"]


def compress(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="INPUT...", help="Image files.", show_default=False)
    ] = None,
    colors: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--colors",
            metavar="K",
            min=1,
            max=256,
            help="Most colors of the palette, 1 to 256. Default: 20.",
            rich_help_panel=_COLORS,
            show_default=False,
        ),
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Instead of K: the fewest colors that reach this PSNR.",
            rich_help_panel=_COLORS,
            show_default=False,
        ),
    ] = None,
    max_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Instead of K: the most colors that fit a file of this size, such as 40k.",
            rich_help_panel=_COLORS,
            show_default=False,
        ),
    ] = None,
    fixed: Annotated[
        str | None,
        typer.Option(
            metavar="COLORS",
            help="Colors that the palette has in any case, such as '#ff0000,#fff'.",
            rich_help_panel=_COLORS,
            show_default=False,
        ),
    ] = None,
    palette: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Only map to these colors: an image, a GIMP palette or a list in hex.",
            rich_help_panel=_COLORS,
            show_default=False,
        ),
    ] = None,
    shared_palette: Annotated[
        bool, typer.Option("--shared-palette", help="One palette for all inputs.", rich_help_panel=_COLORS)
    ] = False,
    space: Annotated[
        Space, typer.Option(help="Where colors are near to each other or far.", rich_help_panel=_COLORS)
    ] = "srgb",
    dither: Annotated[
        Dither, typer.Option(help="How pixels share what their color is off.", rich_help_panel=_COLORS)
    ] = "none",
    dither_strength: Annotated[
        float, typer.Option(metavar="S", min=0, max=1, help="How much of it, 0 to 1.", rich_help_panel=_COLORS)
    ] = 1.0,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Where to write, of one input: .png, .gif or .webp. Default: <stem>-<K>.png beside the input, or "
            "<stem>-palette.png where there is no K.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    allow_larger: Annotated[
        bool,
        typer.Option(
            "--allow-larger",
            help="Write also where the input, of the same format, is no larger, which else is kept.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    optimize: Annotated[
        bool,
        typer.Option("--optimize", help="Make PNGs smaller by oxipng, which takes longer.", rich_help_panel=OUTPUT),
    ] = False,
    strip: Annotated[
        bool,
        typer.Option(
            "--strip", help="Leave out color profile, resolution, EXIF, XMP and text.", rich_help_panel=OUTPUT
        ),
    ] = False,
    max_pixels: MaxPixels = None,
    device: DeviceName = "auto",
    best: Annotated[
        bool, typer.Option("--best", help="Search longer for a better palette.", rich_help_panel=CLUSTERING)
    ] = False,
    init: Annotated[Init, typer.Option(help="How first centers are chosen.", rich_help_panel=CLUSTERING)] = "random",
    n_init: Annotated[
        int | None,
        typer.Option(
            min=1, help="Runs, of which the best is kept. Default: 1.", rich_help_panel=CLUSTERING, show_default=False
        ),
    ] = None,
    refine: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Searches for better centers before a run. Default: 2, for more than 64 colors 1.",
            rich_help_panel=CLUSTERING,
            show_default=False,
        ),
    ] = None,
    max_iter: Annotated[int, typer.Option(min=1, help="Most rounds of a run.", rich_help_panel=CLUSTERING)] = 100,
    tol: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Stop when a round gains no more than this share. Default: 0.0001.",
            rich_help_panel=CLUSTERING,
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**63 - 1, help="Same seed, same bytes.", rich_help_panel=CLUSTERING),
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
    """Write each picture with a palette of few colors."""
    if not inputs:
        raise typer.TyperException("Please specify an image, for example: gpukmeans compress photo.jpg")
    check_one_of({"--colors": colors, "--min-psnr": min_psnr, "--max-bytes": max_bytes, "--palette": palette})
    # None where it is not given, as the others are.
    check_one_of(
        {
            "--shared-palette": shared_palette or None,
            "--min-psnr": min_psnr,
            "--max-bytes": max_bytes,
            "--palette": palette,
        }
    )
    check_one_of({"--fixed": fixed, "--palette": palette})
    goal = goal_of(min_psnr, max_bytes)
    n_colors = colors or 20
    given = given_colors(fixed, palette)
    if fixed is not None and goal is None and len(given["fixed"]) > n_colors:
        raise typer.TyperException(
            f"--fixed names {len(given['fixed'])} colors, more than the {n_colors} of the palette"
        )
    name = "palette" if goal is not None or palette is not None else str(n_colors)
    jobs = pair_with_outputs(inputs, output, name)
    if tol is not None and not tol < float("inf"):
        raise typer.TyperException(f"--tol must be a number, at least 0, got {tol}")
    check_device_name(device)

    # Only now, when there is work to do: importing torch takes longer than most pictures.
    import_torch()
    from gpukmeans.palette import BEST
    from gpukmeans_cli.pipeline import Settings
    from gpukmeans_cli.pipeline import shared_palette as fit_shared_palette

    asked = {"n_init": n_init, "refine": refine, "tol": tol}
    settings = Settings(
        n_colors=n_colors,
        device=device_called(device),
        any_device=device == "auto",
        goal=goal,
        space=space,
        dither=dither,
        dither_strength=dither_strength,
        force=force,
        strip=strip,
        optimize=optimize,
        allow_larger=allow_larger,
        max_pixels=max_pixels,
        clustering={
            "init": init,
            "max_iter": max_iter,
            **(BEST if best else {}),
            **{option: value for option, value in asked.items() if value is not None},
        },
        seed=seed,
        **given,
    )
    if shared_palette:
        try:
            settings = replace(settings, palette=fit_shared_palette(inputs, settings))
        except ImageError as error:
            warn(str(error))
            return 1
    done = [_compress_one(source, target, settings, as_json, quiet, verbose) for source, target in jobs]
    return 0 if all(done) else 1


def _compress_one(source: Path, target: Path, settings: "Settings", as_json: bool, quiet: bool, verbose: bool) -> bool:
    """Whether the file was done; either way it has been reported."""
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
    if outcome.frames_left_out:
        warn(f"{name}: took the first of {outcome.frames_left_out + 1} frames")
    if verbose:
        ended = "converged" if outcome.report.converged else "stopped at --max-iter"
        stages = ", ".join(f"{stage} {seconds:.3f} s" for stage, seconds in outcome.stages.items())
        warn(f"{name}: engine {outcome.engine}")
        warn(f"{name}: {ended} after {outcome.report.iterations} iterations")
        warn(f"{name}: {stages}")
