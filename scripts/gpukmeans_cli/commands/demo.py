"""`gpukmeans demo`: a sample picture or a photo compressed, with a sheet that shows what it cost."""

from pathlib import Path
from typing import Annotated

import typer

from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import say, warn


def demo(
    image: Annotated[
        Path | None, typer.Argument(help="A photo of yours. Default: a sample picture.", show_default=False)
    ] = None,
    colors: Annotated[
        int, typer.Option("-k", "--colors", metavar="K", min=1, max=256, help="Most colors of the palette, 1 to 256.")
    ] = 20,
    folder: Annotated[
        Path, typer.Option("-d", "--folder", help="Where to put the pictures, over any of the same names.")
    ] = Path("demo"),
) -> int:
    """Compress a sample picture or a photo, and draw both beside each other with the palette below."""
    from gpukmeans_cli.system.atomic_files import ImageError, make_folder

    try:
        make_folder(folder)
        source = image if image is not None else _write_sample(folder / "sample.png")
        target = folder / f"{source.stem}-{colors}.png"
        _compress_and_compare(source, target, folder / f"{target.stem}-comparison.png", colors)
    except ImageError as error:
        warn(str(error) if image is None else f"{image}: {error}")
        return 1
    return 0


def _write_sample(path: Path) -> Path:
    from PIL import Image

    from gpukmeans_cli.formats.still import write_png
    from gpukmeans_cli.images.sample import draw_sample

    write_png(path, Image.fromarray(draw_sample()), overwrite=True)
    return path


def _compress_and_compare(source: Path, target: Path, sheet: Path, colors: int) -> None:
    import_torch()
    import torch

    from gpukmeans.images.histogram import unique_colors
    from gpukmeans_cli.compression.pipeline import Settings, compress_picture
    from gpukmeans_cli.compression.result import format_size
    from gpukmeans_cli.formats.reading import read_picture
    from gpukmeans_cli.formats.still import write_png
    from gpukmeans_cli.images.comparison_sheet import draw_comparison
    from gpukmeans_cli.system.device import pick_device

    settings = Settings(n_colors=colors, device=pick_device("auto"), force=True)
    report = compress_picture(source, target, settings).report
    say(report.line())
    before, after = read_picture(source).pixels, read_picture(target).pixels
    palette = unique_colors(torch.from_numpy(after))
    captions = (
        f"{source.name}: {report.colors_in:,} colors, {format_size(report.bytes_in)}",
        f"{target.name}: {report.colors_out} colors, {format_size(report.bytes_out)}",
    )
    drawn = draw_comparison(before, after, palette.colors.numpy(), palette.counts.numpy(), captions=captions)
    write_png(sheet, drawn, overwrite=True)
    say(f"{source}, {target} and the comparison {sheet} are there to look at")
