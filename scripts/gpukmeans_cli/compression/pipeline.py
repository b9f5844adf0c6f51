"""The pipeline for one file: read, count colors, cluster, map the pixels, encode, write, report.

A target is a limit of the file size, the PSNR or the quality (`targets`). With a target, each try quantizes the
image with another number of colors or, if its indices are optimized, with another price of a bit (`mapping`).

A still is decoded once. The frames of an animation are decoded again whenever they are needed, one at a time: to count
colors, and to map the pixels to each palette that is tried. Therefore memory does not grow with the number of frames.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from gpukmeans import Palette
from gpukmeans_cli.compression.input_frames import frames_and_histogram, in_output_encoding
from gpukmeans_cli.compression.mapping import mapping_options
from gpukmeans_cli.compression.output_choice import Output, find_output, write_output
from gpukmeans_cli.compression.palette_fit import describe_engine, fit_colors
from gpukmeans_cli.compression.quantized_image import QuantizedImage, quantize_source
from gpukmeans_cli.compression.result import CompressionReport, CompressionResult
from gpukmeans_cli.compression.settings import Settings, StageTimer
from gpukmeans_cli.compression.targets import Choice, Target, search, search_colors
from gpukmeans_cli.formats.source import Source, read_source
from gpukmeans_cli.system.atomic_files import STDIO, check_free, check_inside
from gpukmeans_cli.system.device import within_memory
from gpukmeans_cli.terminal.formatting import format_count


def compress_image(source: Path, output: Path, settings: Settings) -> CompressionResult:
    """Compress the file `source` to `output`, an image with a palette, and return the report on it.

    Raises:
        ImageError: if `source` cannot be read, `output` cannot be written, the target cannot be reached or memory
            runs out. `output` is then unchanged.
    """
    if settings.root is not None:
        check_inside(output, settings.root)
    check_free(output, overwrite=settings.force)
    with within_memory(settings.device):
        return _compress(source, output, settings)


def _compress(path: Path, output: Path, settings: Settings) -> CompressionResult:
    timer = StageTimer(settings.device, settings.stop)
    file = read_source(path, max_pixels=settings.max_pixels)
    suffix = ".png" if output == STDIO else output.suffix.lower()
    source = in_output_encoding(file, suffix, settings)
    timer.lap("read")
    with settings.gpu_lock or nullcontext():
        if settings.gpu_lock is not None:
            timer.lap("wait")
        picture, tries = _quantize(source, suffix, settings, timer)
        picture.finish_on_device()
    found = find_output(file, picture, output, settings)
    if found.data is not None and not settings.dry_run:
        write_output(output, found.data, settings)
    timer.lap("write")
    return CompressionResult(
        _report(path, output, picture, found),
        source.frames_in_file - source.n_frames,
        describe_engine(picture.fit, picture.histogram, settings),
        timer.stages,
        broken_animation=source.broken_animation,
        lacks_kernels=picture.lacks_kernels,
        left_out=source.left_out,
        tries=tuple(tries),
    )


def _quantize(source: Source, suffix: str, settings: Settings, timer: StageTimer) -> tuple[QuantizedImage, list[str]]:
    """The quantized source, which reaches the target if the settings have one, and a text about each try."""
    frames, histogram = frames_and_histogram(source, settings, timer)

    @cache
    def fit(n_colors: int) -> Palette:
        return fit_colors(histogram, n_colors, settings, frames)

    def quantize(n_colors: int, lossy: float | None) -> QuantizedImage:
        chosen = replace(settings, lossy=lossy)
        return quantize_source(source, frames, histogram, partial(fit, n_colors), suffix, chosen, timer)

    if settings.target is None:
        return quantize(settings.n_colors, settings.lossy), []
    mapping = mapping_options(settings, suffix, animated=source.animation is not None)
    # The price of a bit has an effect on optimized indices only.
    searches_price = settings.lossy is None and mapping["lossy"] > 0
    max_colors = min(256, len(histogram.colors))
    return _search(settings.target, max_colors, searches_price, settings, quantize)


def _search(
    target: Target,
    max_colors: int,
    searches_price: bool,
    settings: Settings,
    quantize: Callable[[int, float | None], QuantizedImage],
) -> tuple[QuantizedImage, list[str]]:
    """The quantized image that reaches the target, and a text about each try.

    The number of colors is searched and, with `searches_price`, the price of a bit, too.
    """
    tries: list[str] = []
    found = ""

    @cache
    def tried(n_colors: int, lossy: float | None) -> QuantizedImage:
        nonlocal found
        price = f", lossy {lossy:.3g}" if searches_price else ""
        name = f"try {len(tries) + 1}: {format_count(n_colors, 'color')}{price}"
        settings.on_try(f"{name} (last {found})" if found else name)
        picture = quantize(n_colors, lossy)
        found = target.measure(picture)
        tries.append(f"{name}: {found}")
        return picture

    if searches_price:
        choice = search(target, max_colors, tried)
    else:
        choice = Choice(search_colors(target, max_colors, lambda n: tried(n, settings.lossy)), settings.lossy)
    return tried(choice.n_colors, choice.lossy), tries


def _report(path: Path, output: Path, picture: QuantizedImage, found: Output) -> CompressionReport:
    source, fit = picture.source, picture.fit
    n_colors = len(picture.histogram.colors)
    return CompressionReport(
        input=str(path),
        output=None if found.data is None else str(output),
        width=source.width,
        height=source.height,
        frames=source.n_frames,
        mode=source.mode,
        colors_in=n_colors,
        colors_out=n_colors if found.kept else picture.n_colors,
        bytes_in=source.n_bytes,
        bytes_out=source.n_bytes if found.data is None else len(found.data),
        bytes_with_palette=picture.n_bytes,
        dither=picture.mapping["dither"],
        lossy=picture.mapping["lossy"],
        mse=0.0 if found.kept else picture.statistics.mse,
        psnr=None if found.kept else picture.psnr,
        iterations=fit.n_iter if fit else 0,
        converged=fit.converged if fit else True,
        kept=found.kept,
        written=found.data is not None and not picture.settings.dry_run,
        device=str(picture.histogram.colors.device),
        seconds=sum(picture.timer.stages.values()),
    )
