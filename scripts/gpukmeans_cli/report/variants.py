"""One photo in several numbers of colors. A variant is the encoded file, palette and K-means run for one number.

For comparison, each variant also has a plain encoding: its palette with the nearest color for each pixel. There is none
if the options request nearest colors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpukmeans import ColorHistogram
from gpukmeans_cli.compression.input_frames import frames_and_histogram, in_output_encoding
from gpukmeans_cli.compression.mapping import mapping_options
from gpukmeans_cli.compression.output_choice import keeps_input
from gpukmeans_cli.compression.palette_fit import fit_colors
from gpukmeans_cli.compression.quality_scale import quality_of_error
from gpukmeans_cli.compression.quantized_image import QuantizedImage, quantize_source
from gpukmeans_cli.compression.settings import Settings, StageTimer
from gpukmeans_cli.formats.color import to_srgb
from gpukmeans_cli.formats.source import Source, read_still
from gpukmeans_cli.formats.still import encode_pixels
from gpukmeans_cli.images.channels import to_rgb
from gpukmeans_cli.images.palette_usage import PaletteUsage, sort_by_count
from gpukmeans_cli.report.color_pca import ColorPCA, fit_color_pca, sample_rows
from gpukmeans_cli.system.device import within_memory

# Number of colors drawn for the cloud: enough to show its shape, and few enough for a browser to draw at once.
MAX_POINTS = 2000

# Name of the mode that maps each pixel to the nearest color.
PLAIN = "Nearest"

_BROWSER_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_BROWSER_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # programs differ in how they convert others, such as CMYK


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The photo in the colors of a palette, as a file."""

    data: bytes
    """The PNG file that `compress --allow-larger` writes."""
    kept: bool
    """Whether `compress` would keep the file of the photo, since it is no larger."""
    psnr: float | None
    """In dB; None without error."""
    quality: float
    """On the scale of `compress --quality`, 0 to 100."""


@dataclass(frozen=True, kw_only=True)
class Variant(Encoding, PaletteUsage):
    """The photo in one number of colors, with the usage of its palette without unused colors."""

    n_colors: int
    """The requested number of colors."""
    mode: str
    """Name of the method that maps pixels to colors, such as Optimized."""
    plain: Encoding | None
    """The photo with the nearest color of the K-means palette for each pixel; None if the options request it."""
    inertia: tuple[float, ...]
    """The inertia after each iteration; empty if nothing was clustered."""
    centers: np.ndarray
    """The plane coordinates (K', 2) of the palette entries, from `ColorPCA.project`."""
    center_colors: np.ndarray
    """Colors (K', 3 or 4) of the palette entries."""
    labels: np.ndarray
    """The palette entry of each point of the cloud (N,)."""

    @property
    def n_iter(self) -> int:
        return len(self.inertia)


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A sample of the distinct colors of the photo, as points in a plane."""

    points: np.ndarray
    """Plane coordinates (N, 2) from `ColorPCA.project`; N is at most `MAX_POINTS`."""
    colors: np.ndarray
    """uint8 (N, 3), or (N, 4) with alpha."""
    draw_counts: np.ndarray
    """The number of times each color was drawn (N,), at least 1."""
    explained_variance_ratio: float
    """The fraction of the variance of the colors in the plane: 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """A photo and its variants."""

    width: int
    height: int
    n_colors: int
    """Number of distinct colors of the photo."""
    n_bytes: int
    """Size of the file."""
    dropped_frames: int
    """Frames of the file after the first, which are not in the report."""
    original: bytes
    """A file that browsers can show: the file of the photo, or a lossless copy."""
    original_suffix: str
    cloud: Cloud
    variants: tuple[Variant, ...]
    """In the order of the requested numbers of colors."""


def build_report_data(path: Path, numbers: Sequence[int], settings: Settings) -> ReportData:
    """The first frame of a photo in each of these numbers of colors.

    ImageError if it cannot be read or memory runs out.
    """
    with within_memory(settings.device):
        source = read_still(path, max_pixels=settings.max_pixels)
        original, suffix = _original(source)
        file, source = source, in_output_encoding(source, ".png", settings)
        frames, histogram = frames_and_histogram(source, settings, StageTimer(settings.device))
        pca = fit_color_pca(histogram, settings.space)
        rows, draw_counts = sample_rows(histogram.counts, MAX_POINTS)
        sample = torch.from_numpy(rows).to(histogram.colors.device)
        colors = histogram.colors[sample]
        return ReportData(
            width=source.width,
            height=source.height,
            n_colors=len(histogram.colors),
            n_bytes=source.n_bytes,
            dropped_frames=source.frames_in_file - 1,
            original=original,
            original_suffix=suffix,
            cloud=Cloud(
                points=pca.project(colors),
                colors=to_srgb(to_rgb(colors), source.metadata),
                draw_counts=draw_counts,
                explained_variance_ratio=pca.explained_variance_ratio,
            ),
            variants=tuple(_variant(source, file, frames, histogram, n, pca, sample, settings) for n in numbers),
        )


def _original(source: Source) -> tuple[bytes, str]:
    """The file of the photo if all browsers show the pixels of `source`, else a lossless copy; and its suffix."""
    is_unchanged = source.upright and source.frames_in_file == 1 and source.mode in _BROWSER_MODES
    if is_unchanged and source.format in _BROWSER_FORMATS:
        return source.original(), f".{source.format.lower()}"
    return encode_pixels(next(iter(source.frames)), source.metadata)


def _mode(mapping: dict[str, Any]) -> str:
    if mapping["dither"] != "none":
        return mapping["dither"].title()
    return "Lossy" if mapping["lossy"] > 0 else PLAIN


def _variant(
    source: Source,
    file: Source,
    frames: Iterable[Tensor],
    histogram: ColorHistogram,
    n_colors: int,
    pca: ColorPCA,
    sample: Tensor,
    settings: Settings,
) -> Variant:
    inertia: list[float] = []

    def record(n_iter: int, value: Tensor, shift: Tensor) -> None:
        inertia.append(float(value))

    recorded = replace(settings, clustering={**settings.clustering, "callback": record})
    fit = fit_colors(histogram, n_colors, recorded, frames)

    def quantized(settings: Settings) -> QuantizedImage:
        timer = StageTimer(histogram.colors.device)
        return quantize_source(source, frames, histogram, lambda: fit, ".png", settings, timer)

    picture, plain = quantized(settings), None
    if _mode(mapping_options(settings, ".png", animated=False)) != PLAIN:
        plain = quantized(replace(settings, dither="none", dither_strength=1.0, lossy=0.0))
    encoding = _encoding(
        file, picture, settings
    )  # before the usage: this call maps the pixels, which may change palette and mapping
    usage = sort_by_count(to_srgb(to_rgb(picture.palette), source.metadata), picture.statistics.counts)
    return Variant(
        n_colors=n_colors,
        mode=_mode(picture.mapping),
        **vars(encoding),
        **vars(usage),
        plain=None if plain is None else _encoding(file, plain, settings),
        inertia=tuple(inertia),
        centers=pca.project(fit.colors),
        center_colors=to_srgb(to_rgb(fit.colors), source.metadata),
        labels=fit.labels[sample].cpu().numpy(),
    )


def _encoding(file: Source, picture: QuantizedImage, settings: Settings) -> Encoding:
    return Encoding(
        data=picture.data,
        kept=keeps_input(file, picture, settings),
        psnr=picture.psnr,
        quality=quality_of_error(picture.visible_error),
    )
