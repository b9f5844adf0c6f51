"""Checks of arguments. Each raises TyperException with one sentence; the command prints it and exits with code 2."""

import math
import os
import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from gpukmeans_cli.compression.plan import Job, PlanError, plan
from gpukmeans_cli.system.atomic_files import STDIO, ImageError
from gpukmeans_cli.system.rank_env import RankEnv, RankError, device_name, rank_env
from gpukmeans_cli.system.rank_store import RankStore, raise_on_all_ranks

if TYPE_CHECKING:
    import torch

    from gpukmeans_cli.compression.targets import Target

T = TypeVar("T")


# Single values


def required(value: T | None, what: str, example: str) -> T:
    """The value of a required argument, which must not be empty."""
    if not value:
        raise typer.TyperException(f"Please specify {what}, for example: {example}")
    return value


def check_exclusive(options: dict[str, object]) -> None:
    """At most one of these options may be given. None and False mean that an option is not given."""
    given = [name for name, value in options.items() if value is not None and value is not False]
    if len(given) > 1:
        raise typer.TyperException(f"{given[0]} and {given[1]} cannot be used together")


def check_suffix(path: Path | None, *suffixes: str) -> None:
    """The path of an output, if given, must have one of these suffixes, in lower or upper case."""
    if path is not None and path.suffix.lower() not in suffixes:
        raise typer.TyperException(f"--output must end in {' or '.join(suffixes)}, got {path}")


def check_tol(tol: float | None) -> None:
    """The tolerance must be finite; the parser has checked that it is not negative."""
    if tol is not None and not tol < math.inf:
        raise typer.TyperException(f"--tol must be a number, at least 0, got {tol}")


def parse_timeout(seconds: float | None) -> timedelta | None:
    """The timeout of the process group. None stands for torch's default."""
    if seconds is None:
        return None
    if not 0 < seconds < 1e9:
        raise typer.TyperException(f"--timeout must be a number of seconds above 0, got {seconds}")
    return timedelta(seconds=seconds)


def parse_dither_strength(dither: str | None, strength: float | None) -> float:
    """The strength of the dithering, from 0 to 1, by default 1. `dither` None is the default dithering of each file."""
    if strength is None:
        return 1.0
    if dither == "none":
        raise typer.TyperException("--dither-strength needs --dither")
    if math.isnan(strength):
        raise typer.TyperException("--dither-strength must be a number from 0 to 1, got nan")
    return strength


def check_lossy(dither: str | None, lossy: float | None) -> None:
    """--lossy, if given, must be a number, and above 0 needs the dithering optimized or none."""
    if lossy is not None and math.isnan(lossy):
        raise typer.TyperException("--lossy must be a number, at least 0, got nan")
    if lossy and dither not in (None, "none", "optimized"):
        raise typer.TyperException(f"--lossy needs --dither optimized or none, got --dither {dither}")


def parse_color_counts(text: str) -> list[int]:
    """The distinct integers of a list such as "4, 16,256", ascending; each must be from 1 to 256."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,3}", part) and 1 <= int(part) <= 256 for part in parts):
        expected = "numbers from 1 to 256 with commas between them, such as 4,16,64"
        raise typer.TyperException(f"--colors must be {expected}, got {text!r}")
    return sorted({int(part) for part in parts})


# Colors


def parse_target(min_psnr: float | None, quality: float | None, max_bytes: str | None) -> "Target | None":
    """The target quality or size that replaces a number of colors; None if none is given."""
    from gpukmeans_cli.compression.targets import MaxBytes, MinPsnr, MinQuality, parse_size

    if quality is not None:
        if math.isnan(quality):
            raise typer.TyperException("--quality must be a number from 0 to 100, got nan")
        return MinQuality(quality)
    if min_psnr is not None:
        if not 0 < min_psnr < math.inf:
            raise typer.TyperException(f"--min-psnr must be a number above 0, got {min_psnr}")
        return MinPsnr(min_psnr)
    if max_bytes is not None:
        try:
            return MaxBytes(parse_size(max_bytes))
        except ValueError as error:
            raise typer.TyperException(f"--max-bytes: {error}") from None
    return None


def check_palette_space(palette: Path | None, space: str) -> None:
    """A given palette is applied in srgb only."""
    if palette is not None and space != "srgb":
        raise typer.TyperException(f"--palette maps to the nearest colors in srgb; remove --space {space}")


def load_colors(fixed: str | None, palette: Path | None, *, max_fixed: int) -> dict[str, Any]:
    """The colors of --fixed, at most `max_fixed`, or of --palette, as fields of `compression.settings.Settings`."""
    if fixed is None and palette is None:
        return {}
    from gpukmeans_cli.formats.palette_files import parse_colors, read_palette

    try:
        colors = {"palette": read_palette(palette)} if palette is not None else {"fixed": parse_colors(fixed or "")}
    except ImageError as error:
        option = "--fixed" if palette is None else f"--palette {palette}"
        raise typer.TyperException(f"{option}: {error}") from None
    if len(colors.get("fixed", ())) > max_fixed:
        raise typer.TyperException(
            f"--fixed names {len(colors['fixed'])} colors, more than the {max_fixed} of the palette"
        )
    return colors


# Inputs and outputs


def plan_jobs(
    inputs: Sequence[Path],
    *,
    name: str,
    output: Path | None = None,
    folder: Path | None = None,
    recursive: bool = False,
    in_place: bool = False,
) -> list[Job]:
    """The jobs of `compression.plan.plan`, at least one."""
    try:
        jobs = plan(inputs, name=name, output=output, folder=folder, recursive=recursive, in_place=in_place)
    except PlanError as error:
        raise typer.TyperException(str(error)) from None
    if not jobs:
        raise typer.TyperException(f"there is no image to compress in {', '.join(map(str, inputs))}")
    return jobs


def check_stdin_once(inputs: Sequence[Path]) -> None:
    """Standard input may be one of the inputs, but only one."""
    if inputs.count(STDIO) > 1:
        raise typer.TyperException("standard input can be read only once; name - once")


def check_no_stdin(inputs: Sequence[Path]) -> None:
    """Standard input may not be an input, since the files are read several times."""
    if STDIO in inputs:
        raise typer.TyperException("standard input cannot be read several times; name a file")


def check_output_known(inputs: Sequence[Path], output: Path | None, remedy: str = "--output") -> None:
    """If standard input is an input, an output must be given. The error suggests `remedy`."""
    if STDIO in inputs and output is None:
        raise typer.TyperException(f"the output cannot be named after standard input; add {remedy}")


def check_standard_streams(jobs: Sequence[Job], as_json: bool, *, read_twice: bool = False) -> None:
    """If jobs use standard input or output, it must be open, no terminal, and used for nothing else.

    Args:
        jobs: all jobs of the command.
        as_json: whether standard output is used for JSON.
        read_twice: whether each image is read twice, which standard input cannot be.
    """
    if any(job.source == STDIO for job in jobs):
        if read_twice:
            raise typer.TyperException("--shared-palette reads images twice, and standard input can be read only once")
        if sys.stdin is None:
            raise typer.TyperException("- reads an image from standard input, which is closed; send one in by < or |")
        if sys.stdin.isatty():
            raise typer.TyperException(
                "- reads an image from standard input, which is a terminal; send one in by < or |"
            )
    if any(job.output == STDIO for job in jobs):
        if as_json:
            raise typer.TyperException("--json and an image cannot both go to standard output; add --output")
        if sys.stdout is None:
            raise typer.TyperException("the image would go to standard output, which is closed; add --output")
        if sys.stdout.isatty():
            raise typer.TyperException("the image would go to a terminal; redirect it by > or add --output")


def check_single_palette(n_palettes: int, as_gpl: bool, output: Path | None) -> None:
    """GIMP's format and an output file hold one palette."""
    if n_palettes > 1 and (as_gpl or output is not None):
        option = "--gpl" if as_gpl else "--output"
        raise typer.TyperException(
            f"{option} takes one palette, got {n_palettes} images; add --shared or name only one"
        )


def check_sheet(output: Path, *pictures: Path) -> None:
    """The comparison sheet must be a PNG file and none of the images compared."""
    check_suffix(output, ".png")
    if os.path.realpath(output) in map(os.path.realpath, pictures):
        raise typer.TyperException(f"--output must be a new image, got {output}, which is to be compared")


def check_resume(resume: bool, checkpoint: Path | None) -> None:
    """Resuming requires a checkpoint."""
    if resume and checkpoint is None:
        raise typer.TyperException("--resume continues from a --checkpoint; name its file")


# Devices and ranks


def check_device_name(name: str) -> None:
    """The name must be a valid name of a device. The device need not exist."""
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", name):
        raise typer.TyperException(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")


def find_device(name: str) -> "torch.device":
    """The device of that name, which must exist. Imports torch."""
    from gpukmeans_cli.system.device import DeviceError, pick_device

    try:
        return pick_device(name)
    except DeviceError as error:
        raise typer.TyperException(str(error)) from None


def find_device_of_rank(name: str, ranks: RankStore) -> "torch.device":
    """The device of this rank. All ranks must find one, of the same type. Imports torch."""
    with raise_on_all_ranks(ranks):
        device = find_device(device_name(name, ranks.env))
    types = ranks.all_gather(device.type)
    if len(set(types)) > 1:  # every rank raises this
        raise typer.TyperException(f"all ranks need devices of one kind, got {', '.join(types)}; use --device cpu")
    return device


def find_rank_env(*paths: Path | None) -> RankEnv:
    """The rank of this process. With several ranks, none of the inputs and outputs may be a standard stream."""
    try:
        env = rank_env()
    except RankError as error:
        raise typer.TyperException(str(error)) from None
    if env.size > 1 and STDIO in paths:
        raise typer.TyperException(f"- needs a single process, got {env.size} ranks; name files")
    return env
