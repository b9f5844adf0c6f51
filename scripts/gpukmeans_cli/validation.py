"""What arguments mean together, or a sentence on why they cannot be meant."""

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from gpukmeans_cli.compression.plan import Job, PlanError, plan
from gpukmeans_cli.system.atomic_files import STDIO, ImageError
from gpukmeans_cli.system.rank_env import Place, RankError, place

if TYPE_CHECKING:
    import torch

    from gpukmeans_cli.compression.targets import Goal


def check_one_of(options: dict[str, object]) -> None:
    """TyperException if more than one of these options, which may be None, is given."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise typer.TyperException(f"{given[0]} and {given[1]} exclude each other")


def check_device_name(name: str) -> None:
    """TyperException unless it may be the name of a device, whether that is there or not."""
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", name):
        raise typer.TyperException(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")


def check_strength(dither: str, strength: float | None) -> float:
    """The strength of the dithering, by default 1. TyperException if it is given for nothing, or is no number."""
    if strength is None:
        return 1.0
    if dither == "none":
        raise typer.TyperException("--dither-strength needs --dither")
    if math.isnan(strength):
        raise typer.TyperException("--dither-strength must be a number from 0 to 1, got nan")
    return strength


def device_called(name: str) -> "torch.device":
    """The device of that name. TyperException if it is not there. Imports torch."""
    from gpukmeans_cli.system.device import DeviceError, pick_device

    try:
        return pick_device(name)
    except DeviceError as error:
        raise typer.TyperException(str(error)) from None


def numbers_of_colors(text: str) -> list[int]:
    """The numbers of a text such as "4, 16,256", each once, ascending; TyperException unless all are 1 to 256."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,3}", part) and 1 <= int(part) <= 256 for part in parts):
        wanted = "numbers from 1 to 256 with commas between them, such as 4,16,64"
        raise typer.TyperException(f"--colors must be {wanted}, got {text!r}")
    return sorted({int(part) for part in parts})


def goal_of(min_psnr: float | None, max_bytes: str | None) -> "Goal | None":
    """What is to be reached in place of a number of colors, if anything."""
    from gpukmeans_cli.compression.targets import MaxBytes, MinPsnr, parse_size

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


def given_colors(fixed: str | None, palette: Path | None) -> dict[str, Any]:
    """The colors that one of these options names, as settings of `gpukmeans_cli.compression.pipeline`."""
    if fixed is None and palette is None:
        return {}
    from gpukmeans_cli.formats.palette_files import parse_colors, read_palette

    try:
        if palette is not None:
            return {"palette": read_palette(palette)}
        return {} if fixed is None else {"fixed": parse_colors(fixed)}
    except ImageError as error:
        option = "--fixed" if palette is None else f"--palette {palette}"
        raise typer.TyperException(f"{option}: {error}") from None


def planned(
    inputs: Sequence[Path], *, name: str, output: Path | None, folder: Path | None, recursive: bool
) -> list[Job]:
    """What is to be done, as `gpukmeans_cli.compression.plan.plan` finds it, or TyperException with its sentence."""
    try:
        jobs = plan(inputs, name=name, output=output, folder=folder, recursive=recursive)
    except PlanError as error:
        raise typer.TyperException(str(error)) from None
    if not jobs:
        raise typer.TyperException(f"there is no picture to compress in {', '.join(map(str, inputs))}")
    return jobs


def place_of_rank(*paths: Path | None) -> Place:
    """The place of this process. TyperException if it is none, or for a standard stream where there are several ranks.

    `paths` are all that are to be read and written, as far as they are named.
    """
    try:
        here = place()
    except RankError as error:
        raise typer.TyperException(str(error)) from None
    if here.size > 1 and STDIO in paths:
        raise typer.TyperException(f"- is a picture for one process, and there are {here.size} ranks; name files")
    return here


def check_standard_streams(jobs: Sequence[Job], as_json: bool, *, twice: bool = False) -> None:
    """TyperException if a picture is to come from a terminal, to go where it does not belong, or has no stream.

    And, if each picture is to be read `twice`, for one that cannot be.
    """
    if any(job.source == STDIO for job in jobs):
        if twice:
            raise typer.TyperException(
                "--shared-palette reads pictures twice, and standard input can be read only once"
            )
        if sys.stdin is None:
            raise typer.TyperException("- reads a picture from standard input, which is closed; send one in by < or |")
        if sys.stdin.isatty():
            raise typer.TyperException(
                "- reads a picture from standard input, which is a terminal; send one in by < or |"
            )
    if any(job.target == STDIO for job in jobs):
        if as_json:
            raise typer.TyperException("--json and a picture cannot both go to standard output; add --output")
        if sys.stdout is None:
            raise typer.TyperException("the picture would go to standard output, which is closed; add --output")
        if sys.stdout.isatty():
            raise typer.TyperException("the picture would go to a terminal; send it elsewhere by > or add --output")
