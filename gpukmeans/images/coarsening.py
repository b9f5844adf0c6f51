"""A histogram with fewer colors: those that are alike become one, their mean."""

from typing import NamedTuple

import torch
from torch import Tensor

# Steps that each channel is parted into, from few to many; each time there are about twice as many means.
_STEPS = (32, 40, 50, 64, 80, 101)
# Means for each color of a palette: with fewer, a palette found among them is worse for the colors themselves.
_ENOUGH = 12
# Means that are more than this part of the colors spare too little.
_WORTHWHILE = 0.5


class Coarse(NamedTuple):
    """Points (M, D), float32, and their weights (M,), int64."""

    x: Tensor
    weights: Tensor


def coarse(colors: Tensor, x: Tensor, counts: Tensor, n_colors: int) -> Coarse | None:
    """Means of the points x (N, D), whole numbers, of colors (N, C) that are in the same step in each channel.

    As coarse as leaves enough of them for a palette of `n_colors`; None if that spares too little.
    """
    for steps in _STEPS:
        which = _cells(colors, steps)
        n_means = int(which.max()) + 1
        if n_means > _WORTHWHILE * len(colors):
            return None
        if n_means >= _ENOUGH * n_colors:
            return _means(which, n_means, x, counts)
    return None


def _cells(colors: Tensor, steps: int) -> Tensor:
    """For each color the number of its cell (N,), from 0 to the number of cells less 1."""
    codes = torch.zeros(len(colors), dtype=torch.int32, device=colors.device)
    for channel in colors.unbind(dim=1):
        codes = codes * steps + (channel.int() * steps >> 8)
    return torch.unique(codes, return_inverse=True)[1]


def _means(which: Tensor, n_means: int, x: Tensor, counts: Tensor) -> Coarse:
    weights = torch.zeros(n_means, dtype=torch.int64, device=x.device).scatter_add_(0, which, counts)
    terms = x.T.long() * counts
    sums = torch.zeros(len(terms), n_means, dtype=torch.int64, device=x.device)
    sums.scatter_add_(1, which.expand_as(terms), terms)  # of integers, so in whatever order
    return Coarse((sums / weights).float().T.contiguous(), weights)
