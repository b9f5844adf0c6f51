"""The palette of images, and the number of pixels of each palette color."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gpukmeans import ColorHistogram, Palette, clear_transparent_pixels, fit_palette, unique_colors
from gpukmeans_cli.formats.color import to_srgb
from gpukmeans_cli.formats.reading import read_image
from gpukmeans_cli.images.channels import to_rgb
from gpukmeans_cli.system.device import within_memory


@dataclass(frozen=True, kw_only=True)
class PaletteUsage:
    """A palette sorted by pixel counts, descending. Colors of equal counts are ascending."""

    colors: np.ndarray
    """uint8 (K, 3), or (K, 4) with alpha."""
    counts: np.ndarray
    """int64 (K,), at least 1 each. The sum of the counts is the number of pixels."""

    @property
    def fractions(self) -> list[float]:
        """The fraction of the pixels of each color, from 0 to 1."""
        return (self.counts / self.counts.sum()).tolist()


def count_image(path: Path, device: torch.device, *, max_pixels: int | None = None) -> tuple[ColorHistogram, int]:
    """The histogram of the colors, in sRGB, of the first frame of an image, and the number of frames of the image.

    All pixels of alpha 0 have one color, 0 in all channels. ImageError if the file cannot be read or memory runs out.
    """
    with within_memory(device):
        picture = read_image(path, max_pixels=max_pixels)
        pixels = torch.from_numpy(to_srgb(picture.pixels, picture.metadata)).to(device)
        return unique_colors(clear_transparent_pixels(pixels)), picture.frames


def sort_by_count(colors: np.ndarray, counts: np.ndarray) -> PaletteUsage:
    """The usage of lexicographically sorted colors (K, C) with pixel counts (K,). Unused colors are dropped."""
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return PaletteUsage(colors=colors[order], counts=counts[order])


def count_pixels(palette: Palette, histogram: ColorHistogram) -> np.ndarray:
    """The number of pixels, int64 (K,), of each color of a palette that was fitted to this histogram."""
    counts = torch.zeros(len(palette.colors), dtype=torch.int64, device=histogram.colors.device)
    return counts.index_add_(0, palette.labels.int(), histogram.counts).cpu().numpy()


def find_palette_usage(histogram: ColorHistogram, n_colors: int, *, seed: int = 0) -> PaletteUsage:
    """The palette of `fit_palette`, at most `n_colors` colors, with its counts. ImageError if memory runs out."""
    with within_memory(histogram.colors.device):
        palette = fit_palette(histogram, n_colors, generator=torch.Generator().manual_seed(seed))
        return sort_by_count(to_rgb(palette.colors), count_pixels(palette, histogram))
