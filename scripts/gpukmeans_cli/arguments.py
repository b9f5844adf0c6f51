"""What arguments mean together, or a sentence on why they cannot be meant."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gpukmeans_cli.files import SUFFIXES, ImageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from gpukmeans_cli.goals import Goal


def check_one_of(options: dict[str, object]) -> None:
    """TyperException if more than one of these options, which may be None, is given."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise typer.TyperException(f"{given[0]} and {given[1]} exclude each other")


def check_device_name(name: str) -> None:
    """TyperException unless it may be the name of a device, whether that is there or not."""
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", name):
        raise typer.TyperException(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")


def device_called(name: str) -> "torch.device":
    """The device of that name. TyperException if it is not there. Imports torch."""
    from gpukmeans_cli.device import DeviceError, pick_device

    try:
        return pick_device(name)
    except DeviceError as error:
        raise typer.TyperException(str(error)) from None


def goal_of(min_psnr: float | None, max_bytes: str | None) -> "Goal | None":
    """What is to be reached in place of a number of colors, if anything."""
    from gpukmeans_cli.goals import MaxBytes, MinPsnr, parse_size

    if min_psnr is not None:
        if not 0 < min_psnr < float("inf"):
            raise typer.TyperException(f"--min-psnr must be a number above 0, got {min_psnr}")
        return MinPsnr(min_psnr)
    if max_bytes is not None:
        try:
            return MaxBytes(parse_size(max_bytes))
        except ValueError as error:
            raise typer.TyperException(f"--max-bytes: {error}") from None
    return None


def given_colors(fixed: str | None, palette: Path | None) -> "dict[str, np.ndarray]":
    """The colors that one of these options names, as settings of `gpukmeans_cli.pipeline`."""
    if fixed is None and palette is None:
        return {}
    from gpukmeans_cli.palettes import parse_colors, read_palette

    try:
        if palette is not None:
            return {"palette": read_palette(palette)}
        return {} if fixed is None else {"fixed": parse_colors(fixed)}
    except ImageError as error:
        option = "--fixed" if palette is None else f"--palette {palette}"
        raise typer.TyperException(f"{option}: {error}") from None


def pair_with_outputs(inputs: Sequence[Path], output: Path | None, name: str) -> list[tuple[Path, Path]]:
    """Each input with the file to write, or an error if two would write the same."""
    if output is not None and len(inputs) > 1:
        raise typer.TyperException(f"--output takes one input, got {len(inputs)}; leave it out to write beside each")
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise typer.TyperException(f"--output must end in one of {', '.join(SUFFIXES)}, got {output}")
    jobs = [(source, output or source.parent / f"{source.stem}-{name}.png") for source in inputs]
    target, times = Counter(os.path.realpath(target) for _, target in jobs).most_common(1)[0]
    if times > 1:
        raise typer.TyperException(f"{times} inputs would write {target}; compress them one by one with --output")
    sources = {os.path.realpath(source) for source in inputs}
    if len(jobs) > 1 and (both := [target for _, target in jobs if os.path.realpath(target) in sources]):
        raise typer.TyperException(f"{both[0]} is both an input and an output; compress them one by one")
    return jobs
