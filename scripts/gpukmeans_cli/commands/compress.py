"""`gpukmeans compress`: arguments in, a picture with a palette and a line of report for each file out."""

from dataclasses import replace

import typer

import gpukmeans_cli.options as options
from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.reporter import Voice
from gpukmeans_cli.system.atomic_files import STDIO, ImageError
from gpukmeans_cli.system.rank_env import device_name
from gpukmeans_cli.system.rank_store import agreed, meeting
from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import warn
from gpukmeans_cli.validation import (
    check_device_name,
    check_one_of,
    check_standard_streams,
    check_strength,
    device_called,
    given_colors,
    goal_of,
    place_of_rank,
    planned,
)


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
    dither_strength: options.DitherStrength = None,
    recursive: options.Recursive = False,
    jobs: options.Jobs = None,
    skip_existing: options.SkipExisting = False,
    fail_fast: options.FailFast = False,
    dry_run: options.DryRun = False,
    output: options.Output = None,
    output_folder: options.OutputFolder = None,
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
    check_one_of({"--palette": palette, "--fixed": fixed, "--best": best or None})
    if palette is not None and space != "srgb":
        raise typer.TyperException(f"--palette maps to the nearest colors in srgb; leave --space {space} out")
    strength = check_strength(dither, dither_strength)
    goal = goal_of(min_psnr, max_bytes)
    n_colors = colors or 20
    name = "palette" if goal is not None or palette is not None else str(n_colors)
    check_one_of({"--output": output, "--output-folder": output_folder})
    check_one_of({"--skip-existing": skip_existing or None, "--force": force or None})
    if tol is not None and not tol < float("inf"):
        raise typer.TyperException(f"--tol must be a number, at least 0, got {tol}")
    check_device_name(device)
    here = place_of_rank(*inputs, output)

    with meeting(here) as ranks:
        with agreed(ranks):
            given = given_colors(fixed, palette)
            if fixed is not None and goal is None and len(given["fixed"]) > n_colors:
                raise typer.TyperException(
                    f"--fixed names {len(given['fixed'])} colors, more than the {n_colors} of the palette"
                )
            todo: list[Job] = []
            if here.leads:  # files may come and go meanwhile, and all should share the same ones
                todo = planned(inputs, name=name, output=output, folder=output_folder, recursive=recursive)
            check_standard_streams(todo, as_json, twice=shared_palette)

            # Only now, when there is work to do: importing torch takes longer than most pictures.
            import_torch()
            chosen = device_called(device_name(device, here))
        todo = ranks.share(todo)[here.rank :: here.size]

        from gpukmeans.images.palette import BEST
        from gpukmeans_cli.compression.batch import compress_all, palette_for_all
        from gpukmeans_cli.compression.pipeline import Settings

        asked = {"n_init": n_init, "refine": refine, "tol": tol}
        settings = Settings(
            n_colors=n_colors,
            device=chosen,
            any_device=device == "auto",
            goal=goal,
            space=space,
            dither=dither,
            dither_strength=strength,
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
            root=output_folder,
            dry_run=dry_run,
            **given,
        )
        if shared_palette:
            try:
                settings = replace(settings, palette=palette_for_all(todo, settings, ranks))
            except ImageError as error:
                if here.leads:
                    warn(str(error))
                return 1
        aside = any(job.target == STDIO for job in todo)
        voice = Voice(as_json=as_json, quiet=quiet, verbose=verbose, aside=aside)
        sound = compress_all(
            todo, settings, voice, n_workers=jobs, skip_existing=skip_existing, fail_fast=fail_fast, ranks=ranks
        )
        return 0 if sound else 1
