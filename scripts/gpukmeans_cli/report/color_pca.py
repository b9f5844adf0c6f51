"""The colors of a picture as a cloud of points in the plane, as K-means sees them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gpukmeans.images.colorspace import COLOR_SPACES, ColorSpace
from gpukmeans.images.histogram import ColorHistogram

# Places are whole numbers from 0 to this, so that text holds them in three digits or little more.
SIDE = 1000


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The plane through a color space in which the pixels of a picture lie farthest apart.

    Its axes are the two principal ones of the colors, each weighing as many pixels as wear it, and each is stretched so
    that the colors reach from 0 to `SIDE`.
    """

    space: ColorSpace
    axes: Tensor
    """(2, D), float64, of length 1; the largest coordinate of each is positive."""
    low: Tensor
    high: Tensor
    """Where the colors begin and end on the two axes (2,)."""
    share: float
    """Of the variance, what lies in the plane: 0 to 1, and 1 where there is none."""

    def place(self, colors: Tensor) -> np.ndarray:
        """Where colors (N, C), uint8, lie: (N, 2), whole numbers from 0 to `SIDE`; on an axis without extent amid."""
        along = self.space.encode(colors).double() @ self.axes.T
        extent = self.high - self.low
        scaled = torch.where(extent > 0, (along - self.low) / extent.clamp(min=1e-12), 0.5)
        return (scaled.clamp(0, 1) * SIDE).round().long().cpu().numpy()


def fit_plane(histogram: ColorHistogram, space: str) -> Plane:
    """The plane in which the colors of a picture are to be drawn, in the color space of that name."""
    points = COLOR_SPACES[space].encode(histogram.colors).double()
    weights = histogram.counts.double() / histogram.counts.sum()
    off = points - weights @ points
    # The smallest come first; there are 3 or 4 of them.
    variances, vectors = torch.linalg.eigh(off.T * weights @ off)
    axes = vectors.T[[-1, -2]]
    signs = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    axes = axes * signs
    along = points @ axes.T
    total = variances.clamp(min=0).sum()
    share = float(variances[-2:].clamp(min=0).sum() / total) if total > 0 else 1.0
    low, high = along.aminmax(dim=0)
    # What is left of a straight line across it is only rounding.
    flat = high - low < 1e-6 * COLOR_SPACES[space].steps
    return Plane(space=COLOR_SPACES[space], axes=axes, low=low, high=torch.where(flat, low, high), share=share)


def drawn_rows(counts: Tensor, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of at most so many colors that stand for all, ascending, and how many times each was drawn.

    All of them, once each, if there are no more. Else those of every n-th pixel, in the order of the rows: a color that
    many pixels wear is drawn more often, and no chance is involved.
    """
    if len(counts) <= most:
        return np.arange(len(counts)), np.ones(len(counts), dtype=np.int64)
    ends = counts.cumsum(0).cpu().numpy()
    # The middle pixel of each of `most` stretches of equal length.
    pixels = (2 * np.arange(most) + 1) * int(ends[-1]) // (2 * most)
    return np.unique(np.searchsorted(ends, pixels, side="right"), return_counts=True)
