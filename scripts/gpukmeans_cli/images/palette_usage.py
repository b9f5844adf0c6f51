"""The colors that stand for pictures, and how many of their pixels each serves."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gpukmeans.images.colorspace import hide_invisible
from gpukmeans.images.histogram import ColorHistogram, unique_colors
from gpukmeans.images.palette import fit_palette
from gpukmeans_cli.formats.reading import read_picture
from gpukmeans_cli.images.channels import with_color
from gpukmeans_cli.system.device import within_memory


@dataclass(frozen=True, kw_only=True)
class Shares:
    """A palette by the pixels that each color serves: most first, of equally many the lexicographically lower color."""

    colors: np.ndarray
    """uint8 (K, 3), or (K, 4) with alpha."""
    counts: np.ndarray
    """int64 (K,), at least 1 each; their sum is the number of pixels."""

    @property
    def shares(self) -> list[float]:
        """Of all pixels, those that each color serves: from 0 to 1."""
        return (self.counts / self.counts.sum()).tolist()


def count_picture(path: Path, device: torch.device, *, max_pixels: int | None = None) -> tuple[ColorHistogram, int]:
    """The histogram of a picture's colors, on the device, and the number of its frames, of which only the first counts.

    Pixels of alpha 0 are one color, 0 in all channels. ImageError if the file cannot be read or memory runs out.
    """
    with within_memory(device):
        picture = read_picture(path, max_pixels=max_pixels)
        return unique_colors(hide_invisible(torch.from_numpy(picture.pixels).to(device))), picture.frames


def most_first(colors: np.ndarray, counts: np.ndarray) -> Shares:
    """Colors (K, C) in lexicographic order, and how many pixels each serves (K,), without those that serve none."""
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return Shares(colors=colors[order], counts=counts[order])


def find_shares(histogram: ColorHistogram, n_colors: int, *, seed: int = 0) -> Shares:
    """The palette of at most `n_colors` that `fit_palette` finds, with its counts. ImageError if memory runs out."""
    device = histogram.colors.device
    with within_memory(device):
        palette = fit_palette(histogram, n_colors, generator=torch.Generator().manual_seed(seed))
        counts = torch.zeros(len(palette.colors), dtype=torch.int64, device=device)
        counts.scatter_add_(0, palette.labels.long(), histogram.counts)
        return most_first(with_color(palette.colors), counts.cpu().numpy())
