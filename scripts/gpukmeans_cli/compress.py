"""`gpukmeans compress`: arguments in, a picture with a palette and a line of report for each file out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import gpukmeans_cli.options as options
from gpukmeans_cli.arguments import (
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


def compress(
    inputs: options.Inputs = None,
    colors: options.Colors = None,
    min_psnr: options.MinPsnr = None,
    max_bytes: options.MaxBytes = None,
    fixed: options.Fixed = None,
    palette: options.PaletteFile = None,
    shared_palette: options.SharedPalette = False,
    space: options.SpaceName = "srgb",
    dither: options.DitherName = "none",
    dither_strength: options.DitherStrength = 1.0,
    output: options.Output = None,
    force: options.Force = False,
    allow_larger: options.AllowLarger = False,
    optimize: options.Optimize = False,
    strip: options.Strip = False,
    max_pixels: options.MaxPixels = None,
    device: options.DeviceName = "auto",
    best: options.Best = False,
    init: options.InitName = "random",
    n_init: options.Restarts = None,
    refine: options.Refine = None,
    max_iter: options.MaxIter = 100,
    tol: options.Tol = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
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
