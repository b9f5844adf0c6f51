"""`gpukmeans report`: a photo and numbers of colors in, a page of HTML that shows what each of them does out."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import gpukmeans_cli.options as options
from gpukmeans_cli.compression.result import counted, format_size
from gpukmeans_cli.system.atomic_files import STDIO, ImageError, check_folder, check_free, publish
from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import say, warn, warn_of_frames
from gpukmeans_cli.validation import check_device_name, check_strength, device_called, numbers_of_colors

if TYPE_CHECKING:
    from gpukmeans_cli.compression.pipeline import Settings


def report(
    photo: Annotated[Path | None, typer.Argument(metavar="PHOTO", help="An image file.", show_default=False)] = None,
    colors: Annotated[
        str,
        typer.Option(
            "-k",
            "--colors",
            metavar="K,...",
            help="Most colors of the palettes, 1 to 256, with commas between them.",
            rich_help_panel=options.COLORS,
        ),
    ] = "4,8,16,32,64,128,256",
    space: options.SpaceName = "srgb",
    dither: options.DitherName = "none",
    dither_strength: options.DitherStrength = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Where to write, .html. Default: <stem>-report.html beside the photo.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    max_pixels: options.MaxPixels = None,
    device: options.DeviceName = "auto",
    seed: options.Seed = 0,
) -> int:
    """Write a page that shows a photo in several numbers of colors, and what each of them costs."""
    if photo is None:
        raise typer.TyperException("Please specify an image, for example: gpukmeans report photo.jpg")
    numbers = numbers_of_colors(colors)
    strength = check_strength(dither, dither_strength)
    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise typer.TyperException(f"--output must end in .html, got {output}")
    if photo == STDIO and output is None:
        raise typer.TyperException("standard input has no name to write beside; add --output")
    check_device_name(device)

    # Only now, when there is work to do: importing torch takes longer than most pictures.
    import_torch()
    from gpukmeans_cli.compression.pipeline import Settings

    settings = Settings(
        n_colors=numbers[-1],
        device=device_called(device),
        any_device=device == "auto",
        space=space,
        dither=dither,
        dither_strength=strength,
        force=force,
        max_pixels=max_pixels,
        seed=seed,
    )
    try:
        _report(photo, output or photo.parent / f"{photo.stem}-report.html", numbers, settings)
    except ImageError as error:
        warn(f"{photo}: {error}")
        return 1
    return 0


def _report(photo: Path, target: Path, numbers: Sequence[int], settings: "Settings") -> None:
    from gpukmeans_cli.report.page import render_page
    from gpukmeans_cli.report.variants import try_colors

    check_free(target, overwrite=settings.force)
    check_folder(target)
    trials = try_colors(photo, numbers, settings)
    warn_of_frames(photo, trials.frames_left_out + 1)
    data = render_page(photo.name, trials, _options(settings)).encode()
    publish(target, data, overwrite=settings.force)
    say(f"{photo} -> {target}: {_palettes(numbers)}, {format_size(len(data))}")


def _options(settings: "Settings") -> list[str]:
    """The arguments of `compress` that differ from its defaults."""
    options: list[str] = []
    if settings.space != "srgb":
        options += ["--space", settings.space]
    if settings.dither != "none":
        options += ["--dither", settings.dither]
        if settings.dither_strength != 1:
            options += ["--dither-strength", f"{settings.dither_strength:g}"]
    return [*options, "--seed", str(settings.seed)] if settings.seed else options


def _palettes(numbers: Sequence[int]) -> str:
    several = f"{numbers[0]} to " if len(numbers) > 1 else ""
    return f"{counted(len(numbers), 'palette')} of {several}{counted(numbers[-1], 'color')}"
