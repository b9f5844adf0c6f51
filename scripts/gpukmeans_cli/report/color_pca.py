"""The colors of an image as points in a plane: principal component analysis (PCA) in a color space."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpukmeans import COLOR_SPACES, ColorHistogram, ColorSpace

# Plane coordinates are integers from 0 to this number, so that most have three digits as text.
MAX_COORDINATE = 1000


@dataclass(frozen=True, kw_only=True)
class ColorPCA:
    """The first two principal components of the colors of an image, weighted by their pixel counts.

    Each component is scaled so that the colors of the image reach from 0 to `MAX_COORDINATE`.
    """

    space: ColorSpace
    components: Tensor
    """(2, D), float64, of length 1; the largest coordinate of each is positive."""
    low: Tensor
    high: Tensor
    """The smallest and largest coordinates of the colors along both components, each (2,)."""
    explained_variance_ratio: float
    """The fraction of the variance of the colors along the two components, 0 to 1. It is 1 if all colors are equal."""

    def project(self, colors: Tensor) -> np.ndarray:
        """The plane coordinates (N, 2) of uint8 colors (N, C): integers from 0 to `MAX_COORDINATE`.

        Along a component without variance, all coordinates are in the middle of the range.
        """
        along = self.space.encode(colors).double() @ self.components.T
        extent = self.high - self.low
        scaled = torch.where(extent > 0, (along - self.low) / extent.clamp(min=1e-12), 0.5)
        return (scaled.clamp(0, 1) * MAX_COORDINATE).round().long().cpu().numpy()


def fit_color_pca(histogram: ColorHistogram, space: str) -> ColorPCA:
    """The PCA of the colors of a histogram, in the color space of that name."""
    color_space = COLOR_SPACES[space]
    points = color_space.encode(histogram.colors).double()
    weights = histogram.counts.double() / histogram.counts.sum()
    centered = points - weights @ points
    # 3 or 4 eigenvalues, in ascending order.
    variances, vectors = torch.linalg.eigh(centered.T * weights @ centered)
    components = vectors.T[[-1, -2]]
    components = components * components.gather(1, components.abs().argmax(dim=1, keepdim=True)).sign()
    along = points @ components.T
    total = variances.clamp(min=0).sum()
    ratio = float(variances[-2:].clamp(min=0).sum() / total) if total > 0 else 1.0
    low, high = along.aminmax(dim=0)
    # A smaller range is a rounding error, for example if all colors lie on a straight line.
    high = torch.where(high - low < 1e-6 * color_space.scale, low, high)
    return ColorPCA(space=color_space, components=components, low=low, high=high, explained_variance_ratio=ratio)


def sample_rows(counts: Tensor, n_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a sample of colors, ascending, and the number of times each was drawn.

    `counts` are the numbers of pixels of the colors. If there are at most `n_draws` colors, each is drawn once.
    Otherwise the pixels are put in the order of the rows, and the colors of `n_draws` evenly spaced pixels are drawn.
    """
    if len(counts) <= n_draws:
        return np.arange(len(counts)), np.ones(len(counts), dtype=np.int64)
    ends = counts.cumsum(0).cpu().numpy()
    # The middle pixel of each of `n_draws` intervals of equal length.
    pixels = (2 * np.arange(n_draws) + 1) * int(ends[-1]) // (2 * n_draws)
    return np.unique(np.searchsorted(ends, pixels, side="right"), return_counts=True)
