"""`gpukmeans palette`: arguments in, the colors of each picture out, with their shares."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import gpukmeans_cli.options as options
from gpukmeans_cli.compression.result import format_share
from gpukmeans_cli.system.atomic_files import STDIO
from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import one_line, say, warn, warn_of_frames
from gpukmeans_cli.terminal.swatches import color_bits, swatch
from gpukmeans_cli.validation import check_device_name, device_called

if TYPE_CHECKING:
    import torch

    from gpukmeans.images.histogram import ColorHistogram
    from gpukmeans_cli.images.palette_usage import Shares


def palette(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="PHOTO...", help="Image files.", show_default=False, readable=False)
    ] = None,
    colors: Annotated[
        int,
        typer.Option(
            "-k",
            "--colors",
            metavar="K",
            min=1,
            max=256,
            help="Most colors of a palette, 1 to 256.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = 8,
    shared: Annotated[
        bool, typer.Option("--shared", help="One palette over all pictures.", rich_help_panel=options.OUTPUT)
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object a line on stdout, for each palette.", rich_help_panel=options.OUTPUT
        ),
    ] = False,
    as_gpl: Annotated[
        bool, typer.Option("--gpl", help="Print one palette as GIMP reads it.", rich_help_panel=options.OUTPUT)
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Write one palette to a file: .gpl for GIMP, .hex for lines like #ff8000.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    max_pixels: options.MaxPixels = None,
    device: options.DeviceName = "auto",
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**63 - 1, help="Same seed, same colors.", rich_help_panel=options.CLUSTERING),
    ] = 0,
) -> int:
    """Print the colors that stand for each picture, with the share of its pixels that each serves."""
    if not inputs:
        raise typer.TyperException("Please specify an image, for example: gpukmeans palette photo.jpg")
    _check_form(1 if shared else len(inputs), as_json, as_gpl, output)
    if inputs.count(STDIO) > 1:
        raise typer.TyperException("standard input can be read only once; name - once")
    check_device_name(device)

    # Only now, when there is work to do: importing torch takes longer than most pictures.
    import_torch()

    job = _Job(
        n_colors=colors,
        device=device_called(device),
        max_pixels=max_pixels,
        seed=seed,
        shared=shared,
        named=len(inputs) > 1 and not shared,
        as_json=as_json,
        as_gpl=as_gpl,
        output=output,
        force=force,
    )
    groups = [inputs] if shared else [[source] for source in inputs]
    done = [_do(group, job) for group in groups]
    return 0 if all(done) else 1


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What holds for every palette of a run."""

    n_colors: int
    device: "torch.device"
    max_pixels: int | None
    seed: int
    shared: bool
    named: bool
    """Whether a line above each palette says whose it is."""
    as_json: bool
    as_gpl: bool
    output: Path | None
    force: bool


def _check_form(n_palettes: int, as_json: bool, as_gpl: bool, output: Path | None) -> None:
    if as_json and as_gpl:
        raise typer.TyperException("--json and --gpl cannot both be printed; choose one")
    if output is not None and (as_json or as_gpl):
        asked = "--json" if as_json else "--gpl"
        raise typer.TyperException(f"--output writes in place of what {asked} prints; leave one of them out")
    if output is not None and output.suffix.lower() not in (".gpl", ".hex"):
        raise typer.TyperException(f"--output must end in .gpl or .hex, got {output}")
    if n_palettes > 1 and (as_gpl or output is not None):
        asked = "--gpl" if as_gpl else "--output"
        raise typer.TyperException(
            f"{asked} takes one palette, got {n_palettes} pictures; add --shared or name only one"
        )


def _do(sources: Sequence[Path], job: _Job) -> bool:
    """Whether all these pictures are in the one palette that was found; either way all has been reported."""
    from gpukmeans_cli.images.channels import add_histograms
    from gpukmeans_cli.images.palette_usage import find_shares
    from gpukmeans_cli.system.atomic_files import ImageError, check_free

    total: ColorHistogram | None = None
    used = []
    try:
        if job.output is not None:
            check_free(job.output, overwrite=job.force)
        for source in sources:
            if (histogram := _count(source, job)) is not None:
                total = histogram if total is None else add_histograms(total, histogram)
                used.append(source)
        if total is not None:
            _show(used, find_shares(total, job.n_colors, seed=job.seed), job)
    except ImageError as error:
        # Of the palette, not of one picture: those of pictures have been reported.
        warn(f"{_name(sources)}: {error}")
        if job.as_json:
            typer.echo(json.dumps({**_inputs(sources, job), "error": str(error)}))
        return False
    return len(used) == len(sources)


def _count(source: Path, job: _Job) -> "ColorHistogram | None":
    """The colors of one picture, or None after it has been said what is wrong with it."""
    from gpukmeans_cli.images.palette_usage import count_picture
    from gpukmeans_cli.system.atomic_files import ImageError

    try:
        histogram, frames = count_picture(source, job.device, max_pixels=job.max_pixels)
    except ImageError as error:
        warn(f"{source}: {error}")
        if job.as_json:
            typer.echo(json.dumps({"input": str(source), "error": str(error)}))
        return None
    warn_of_frames(source, frames)
    return histogram


def _show(sources: Sequence[Path], found: "Shares", job: _Job) -> None:
    from gpukmeans_cli.formats.palette_files import format_gpl

    title = one_line(sources[0].stem if len(sources) == 1 else f"{len(sources)} pictures")
    if job.output is not None:
        _write(job.output, found, title, job.force)
        say(f"{_name(sources)} -> {job.output}: {len(found.colors)} colors")
    elif job.as_json:
        typer.echo(json.dumps({**_inputs(sources, job), "colors": _as_json(found)}))
    elif job.as_gpl:
        for line in format_gpl(found.colors, title).splitlines():
            say(line)
    else:
        if job.named:
            say(f"{sources[0]}:")
        for line in _lines(found, color_bits(sys.stdout, os.environ)):
            typer.echo(line)


def _write(path: Path, found: "Shares", title: str, force: bool) -> None:
    from gpukmeans_cli.formats.palette_files import format_gpl, format_hex
    from gpukmeans_cli.system.atomic_files import publish

    gimp = path.suffix.lower() == ".gpl"
    text = format_gpl(found.colors, title) if gimp else format_hex(found.colors)
    publish(path, text.encode(), overwrite=force)


def _lines(found: "Shares", bits: int) -> list[str]:
    """A line for each color: its swatch if the terminal shows colors, its hex digits and its share."""
    from gpukmeans_cli.formats.palette_files import hex_of

    colors = found.colors.tolist()
    names = [hex_of(color) for color in colors]
    percents = [format_share(share) for share in found.shares]
    left, right = max(map(len, names)), max(map(len, percents))
    return [
        f"{swatch(color, bits)}{name:{left}}  {percent:>{right}}"
        for color, name, percent in zip(colors, names, percents, strict=True)
    ]


def _as_json(found: "Shares") -> list[dict[str, object]]:
    from gpukmeans_cli.formats.palette_files import hex_of

    return [
        {"hex": hex_of(color), "rgb": color[:3], "alpha": (*color, 255)[3], "share": share}
        for color, share in zip(found.colors.tolist(), found.shares, strict=True)
    ]


def _inputs(sources: Sequence[Path], job: _Job) -> dict[str, object]:
    """The keys that say whose palette it is."""
    return {"inputs": [str(source) for source in sources]} if job.shared else {"input": str(sources[0])}


def _name(sources: Sequence[Path]) -> str:
    return str(sources[0]) if len(sources) == 1 else f"{sources[0]} and {len(sources) - 1} more"
