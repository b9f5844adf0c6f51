"""`gpukmeans demo`: compress a sample image or a photo, and draw a comparison sheet."""

from pathlib import Path

import gpukmeans_cli.options as options
from gpukmeans_cli.system.startup import import_torch
from gpukmeans_cli.terminal.messages import print_line, warn


def demo(
    image: options.DemoPhoto = None, colors: options.DemoColors = 20, folder: options.DemoFolder = Path("demo")
) -> int:
    """Compress a sample image or a photo, and draw both side by side with the palette below."""
    from gpukmeans_cli.system.atomic_files import ImageError, make_folder

    try:
        make_folder(folder)
        source = image if image is not None else _write_sample(folder / "sample.png")
        output = folder / f"{source.stem}-{colors}.png"
        _compress_and_compare(source, output, folder / f"{output.stem}-comparison.png", colors)
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


def _compress_and_compare(source: Path, output: Path, sheet: Path, colors: int) -> None:
    import_torch()
    import torch

    from gpukmeans import unique_colors
    from gpukmeans_cli.compression.pipeline import compress_image
    from gpukmeans_cli.compression.settings import Settings
    from gpukmeans_cli.formats.reading import read_image
    from gpukmeans_cli.formats.still import write_png
    from gpukmeans_cli.images.comparison_sheet import draw_comparison
    from gpukmeans_cli.system.device import pick_device
    from gpukmeans_cli.terminal.formatting import format_size

    settings = Settings(n_colors=colors, device=pick_device("auto"), force=True)
    report = compress_image(source, output, settings).report
    print_line(report.line())
    before, after = read_image(source).pixels, read_image(output).pixels
    palette = unique_colors(torch.from_numpy(after))
    captions = (
        f"{source.name}: {report.colors_in:,} colors, {format_size(report.bytes_in)}",
        f"{output.name}: {report.colors_out} colors, {format_size(report.bytes_out)}",
    )
    drawn = draw_comparison(before, after, palette.colors.numpy(), palette.counts.numpy(), captions=captions)
    write_png(sheet, drawn, overwrite=True)
    print_line(f"the comparison of {source} and {output} is {sheet}")
