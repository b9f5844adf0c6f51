"""Palettes of image files, printed as text, as JSON or in GIMP's format, or written to a file."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import typer

from gpukmeans import ColorHistogram
from gpukmeans_cli.formats.palette_files import format_gpl, format_hex, hex_of
from gpukmeans_cli.images.channels import add_all
from gpukmeans_cli.images.palette_usage import PaletteUsage, count_image, find_palette_usage
from gpukmeans_cli.system.atomic_files import (
    ImageError,
    check_free,
    stream_name,
    unexpected_error,
    write_atomically,
)
from gpukmeans_cli.terminal.formatting import format_percent
from gpukmeans_cli.terminal.messages import one_line, print_line, warn, warn_ignored_frames
from gpukmeans_cli.terminal.swatches import color_bits, swatch


@dataclass(frozen=True, kw_only=True)
class PaletteTask:
    """The options for all palettes of one run."""

    n_colors: int
    device: torch.device
    max_pixels: int | None = None
    seed: int = 0
    shared: bool = False
    """Whether all images get one palette."""
    as_json: bool = False
    as_gpl: bool = False
    output: Path | None = None
    """A .gpl or .hex file; None to print."""
    force: bool = False


def report_palettes(inputs: Sequence[Path], task: PaletteTask) -> bool:
    """Print or write the palettes, and print errors. Returns whether all images were read and all palettes found."""
    if task.shared:
        return _report_palette(inputs, task, heading=None)
    done = [_report_palette([path], task, f"{stream_name(path)}:" if len(inputs) > 1 else None) for path in inputs]
    return all(done)


def _report_palette(paths: Sequence[Path], task: PaletteTask, heading: str | None) -> bool:
    """Print or write one palette. Returns whether it was found and all these images were read."""
    read: list[Path] = []

    def histograms() -> Iterator[ColorHistogram]:
        for path in paths:
            if (histogram := _histogram(path, task)) is not None:
                read.append(path)
                yield histogram

    try:
        if task.output is not None:
            check_free(task.output, overwrite=task.force)
        if (total := add_all(histograms())) is not None:
            _print_or_write(read, _usage(total, task), task, heading)
    except ImageError as error:  # an error about the palette; errors about single images have been reported
        _report_error(error, _name(paths), _input_keys(paths, task), task)
        return False
    return len(read) == len(paths)


def _histogram(path: Path, task: PaletteTask) -> ColorHistogram | None:
    """The colors of one image; None after an error, which is reported."""
    try:
        histogram, n_frames = count_image(path, task.device, max_pixels=task.max_pixels)
    except ImageError as error:
        _report_error(error, stream_name(path), {"input": str(path)}, task)
        return None
    except Exception as error:
        _report_error(unexpected_error(error), stream_name(path), {"input": str(path)}, task)
        return None
    warn_ignored_frames(stream_name(path), n_frames)
    return histogram


def _usage(histogram: ColorHistogram, task: PaletteTask) -> PaletteUsage:
    """The palette of a histogram. Unexpected exceptions become an ImageError."""
    try:
        return find_palette_usage(histogram, task.n_colors, seed=task.seed)
    except ImageError:
        raise
    except Exception as error:
        raise unexpected_error(error) from error


def _report_error(error: ImageError, name: str, keys: dict[str, object], task: PaletteTask) -> None:
    warn(f"{name}: {error}")
    if task.as_json:
        typer.echo(json.dumps({**keys, "error": str(error)}))


def _print_or_write(paths: Sequence[Path], usage: PaletteUsage, task: PaletteTask, heading: str | None) -> None:
    title = one_line(paths[0].stem if len(paths) == 1 else f"{len(paths)} images")
    if task.output is not None:
        as_gpl = task.output.suffix.lower() == ".gpl"
        text = format_gpl(usage.colors, title) if as_gpl else format_hex(usage.colors)
        write_atomically(task.output, text.encode(), overwrite=task.force)
        print_line(f"{_name(paths)} -> {task.output}: {len(usage.colors)} colors")
    elif task.as_json:
        typer.echo(json.dumps({**_input_keys(paths, task), "colors": _as_json(usage)}))
    elif task.as_gpl:
        for line in format_gpl(usage.colors, title).splitlines():
            print_line(line)
    else:
        if heading is not None:
            print_line(heading)
        for line in palette_lines(usage, color_bits(sys.stdout, os.environ)):
            typer.echo(line)


def palette_lines(usage: PaletteUsage, bits: int) -> list[str]:
    """A line for each color: a swatch in colors of `bits` (0 for no swatch), hex digits, the percentage of pixels."""
    colors = usage.colors.tolist()
    names = [hex_of(color) for color in colors]
    percents = [format_percent(fraction) for fraction in usage.fractions]
    left, right = max(map(len, names)), max(map(len, percents))
    return [
        f"{swatch(color, bits)}{name:{left}}  {percent:>{right}}"
        for color, name, percent in zip(colors, names, percents, strict=True)
    ]


def _as_json(usage: PaletteUsage) -> list[dict[str, object]]:
    return [
        {"hex": hex_of(color), "rgb": color[:3], "alpha": (*color, 255)[3], "share": fraction}
        for color, fraction in zip(usage.colors.tolist(), usage.fractions, strict=True)
    ]


def _input_keys(paths: Sequence[Path], task: PaletteTask) -> dict[str, object]:
    """The keys of the JSON report that name the images."""
    return {"inputs": [str(path) for path in paths]} if task.shared else {"input": str(paths[0])}


def _name(paths: Sequence[Path]) -> str:
    first = stream_name(paths[0])
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"
