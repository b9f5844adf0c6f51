"""`gpukmeans compare`: two pictures in, how alike they are out, and a sheet with both beside each other."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import gpukmeans_cli.options as options
from gpukmeans_cli.compression.result import format_quality, format_size, format_sizes
from gpukmeans_cli.system.atomic_files import STDIO, ImageError, check_free
from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import one_line, say, warn, warn_of_frames
from gpukmeans_cli.validation import check_one_of

if TYPE_CHECKING:
    from gpukmeans_cli.formats.reading import Picture


def compare(
    a: Annotated[
        Path | None, typer.Argument(metavar="A", help="A picture, such as a photo.", show_default=False)
    ] = None,
    b: Annotated[
        Path | None, typer.Argument(metavar="B", help="Another of its size, such as it compressed.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Where to write both beside each other, a .png. Default: <stem of A>-<stem of B>-comparison.png "
            "beside B.",
            rich_help_panel=options.OUTPUT,
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    no_sheet: Annotated[
        bool, typer.Option("--no-sheet", help="Write no picture.", rich_help_panel=options.OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout.", rich_help_panel=options.OUTPUT)
    ] = False,
    max_pixels: options.MaxPixels = None,
) -> int:
    """Print how alike two pictures are, and draw them beside each other."""
    if a is None or b is None:
        raise typer.TyperException("Please specify two images, for example: gpukmeans compare photo.jpg photo-20.png")
    check_one_of({"--no-sheet": no_sheet or None, "--output": output})
    if a == b == STDIO:
        raise typer.TyperException("standard input can be read only once; name a file for A or for B")
    if STDIO in (a, b) and output is None and not no_sheet:
        raise typer.TyperException("standard input has no name to write beside; add --output or --no-sheet")
    target = None if no_sheet else output or b.parent / f"{a.stem}-{b.stem}-comparison.png"
    if target is not None:
        _check_target(target, a, b)
    try:
        found = _compare(a, b, target, force=force, max_pixels=max_pixels)
    except ImageError as error:
        warn(str(error))
        if as_json:
            typer.echo(json.dumps({"a": str(a), "b": str(b), "error": str(error)}))
        return 1
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        say(found.line())
    return 0


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """What was found of two files. The fields are the keys of the JSON report; sizes are in bytes, `psnr` in dB."""

    a: str
    b: str
    width: int
    height: int
    mse: float
    psnr: float | None
    """None where the pictures look the same: infinity is not JSON."""
    ssim: float
    bytes_a: int
    bytes_b: int
    output: str | None
    """The sheet, if there is one."""

    def quality(self) -> str:
        return f"{format_quality(self.psnr, 'identical')}, SSIM {self.ssim:.4f}"

    def line(self) -> str:
        """The report as a person wants it."""
        return f"{self.a}, {self.b}: {self.quality()}, {format_sizes(self.bytes_a, self.bytes_b)}"


def _check_target(target: Path, a: Path, b: Path) -> None:
    """TyperException if the sheet would be no PNG, or take the place of a picture."""
    if target.suffix.lower() != ".png":
        raise typer.TyperException(f"--output must end in .png, got {target}")
    if os.path.realpath(target) in (os.path.realpath(a), os.path.realpath(b)):
        raise typer.TyperException(f"--output must be a new picture, got {target}, which is to be compared")


def _compare(a: Path, b: Path, target: Path | None, *, force: bool, max_pixels: int | None) -> _Comparison:
    """What was found, after `target` has been written. ImageError, a whole sentence, if anything failed."""
    if target is not None:
        check_free(target, overwrite=force)
    import_torch()
    import torch

    from gpukmeans_cli.images.quality import compare_pixels
    from gpukmeans_cli.system.device import within_memory

    with within_memory(torch.device("cpu")):
        before, after = _read(a, max_pixels), _read(b, max_pixels)
        (height, width), other = before.pixels.shape[:2], after.pixels.shape[:2]
        if other != (height, width):
            raise ImageError(
                f"{a} is {width} x {height} and {b} {other[1]} x {other[0]}, but only pictures of one size can be "
                "compared; resize one of them"
            )
        mse, psnr, ssim = compare_pixels(torch.from_numpy(before.pixels), torch.from_numpy(after.pixels))
        found = _Comparison(
            a=str(a),
            b=str(b),
            width=width,
            height=height,
            mse=mse,
            psnr=psnr,
            ssim=ssim,
            bytes_a=before.n_bytes,
            bytes_b=after.n_bytes,
            output=None if target is None else str(target),
        )
        if target is not None:
            captions = (
                _caption(a, format_size(before.n_bytes)),
                _caption(b, f"{format_size(after.n_bytes)}, {found.quality()}"),
            )
            _draw(before, after, captions, target, force)
    return found


def _read(path: Path, max_pixels: int | None) -> "Picture":
    """The picture, or ImageError with its path in front; a note if there are frames beside it."""
    from gpukmeans_cli.formats.reading import read_picture

    try:
        picture = read_picture(path, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    warn_of_frames(path, picture.frames)
    return picture


def _caption(path: Path, text: str) -> str:
    # The font of a Pillow without FreeType has no more letters than these.
    return f"{one_line(path.name, 'latin-1')}: {text}"


def _draw(before: "Picture", after: "Picture", captions: tuple[str, str], target: Path, force: bool) -> None:
    from gpukmeans_cli.formats.still import write_png
    from gpukmeans_cli.images.comparison_sheet import draw_comparison

    write_png(target, draw_comparison(before.pixels, after.pixels, captions=captions), overwrite=force)
