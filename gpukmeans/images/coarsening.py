"""Coarse histograms: colors in the same bin of color space are replaced by their mean."""

from typing import NamedTuple

import torch
from torch import Tensor

# Bins per channel, from coarse to fine. Each value has about twice as many bins in three channels as the one before.
_BINS_PER_CHANNEL = (32, 40, 50, 64, 80, 101)
# Means per palette color. With fewer, a palette found among the means has a larger error over the colors themselves.
_MEANS_PER_PALETTE_COLOR = 12
# Largest ratio of means to colors. Above it, clustering the means saves too little time.
_MAX_MEANS_RATIO = 0.5


class ColorMeans(NamedTuple):
    """Mean points (M, D) of groups of similar colors, float32, and their weights (M,), int64."""

    x: Tensor
    weights: Tensor


def merge_similar_colors(colors: Tensor, x: Tensor, counts: Tensor, n_colors: int) -> ColorMeans | None:
    """Means of similar colors, for a faster search of a palette, or None if merging colors would save too little.

    Bins divide each channel evenly, and all colors in a bin are replaced by their mean. The widest bins with at least
    12 means for each palette color are used. The result is None if they have more than half as many means as there are
    colors, or if even the narrowest bins have fewer than 12 means for each palette color.

    Args:
        colors: distinct colors, uint8 (N, C).
        x: points of the colors in the color space used, float32 integers (N, D).
        counts: number of pixels of each color, int64 (N,).
        n_colors: number of colors of the palette.
    """
    for bins_per_channel in _BINS_PER_CHANNEL:
        bins = bin_indices(colors, bins_per_channel)
        n_means = int(bins.max()) + 1
        if n_means > _MAX_MEANS_RATIO * len(colors):
            return None
        if n_means >= _MEANS_PER_PALETTE_COLOR * n_colors:
            return bin_means(bins, x, counts)
    return None


def bin_indices(colors: Tensor, bins_per_channel: int) -> Tensor:
    """Index of the bin of each color (N,), numbered from 0 without gaps."""
    codes = torch.zeros(len(colors), dtype=torch.int32, device=colors.device)
    for channel in colors.unbind(dim=1):
        codes = codes * bins_per_channel + (channel.int() * bins_per_channel >> 8)
    return torch.unique(codes, return_inverse=True)[1]


def bin_means(bins: Tensor, x: Tensor, counts: Tensor) -> ColorMeans:
    """Means of the integer points x (N, D) in each bin, weighted by counts (N,). `bins` (N,) are from `bin_indices`."""
    n_means = int(bins.max()) + 1
    weights = torch.zeros(n_means, dtype=torch.int64, device=x.device).scatter_add_(0, bins, counts)
    means = torch.empty(n_means, x.shape[1], dtype=torch.float32, device=x.device)
    for axis, mean in zip(x.unbind(1), means.unbind(1), strict=True):
        # Sums of integers, because they do not depend on the order of addition.
        sums = torch.zeros_like(weights).scatter_add_(0, bins, axis.long().mul_(counts))
        mean.copy_(sums / weights)
    return ColorMeans(means, weights)
