"""Conversion of colors between 1 to 4 channels: grey, grey and alpha, RGB, RGBA; sums of histograms."""

import functools
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from gpukmeans import ColorHistogram, has_alpha


def common_channels(one: int, other: int) -> int:
    """The least number of channels that can store colors of `one` channels and of `other` channels."""
    return (3 if max(one, other) > 2 else 1) + (has_alpha(one) or has_alpha(other))


def with_channels(colors: Tensor, channels: int) -> Tensor:
    """Colors (..., C) in at least as many `channels`. Grey becomes R, G and B, and new alpha is opaque."""
    n_channels = colors.shape[-1]
    if n_channels == channels:
        return colors
    color, alpha = colors, torch.full_like(colors[..., :1], 255)
    if has_alpha(n_channels):
        color, alpha = colors[..., :-1], colors[..., -1:]
    if channels > 2:
        color = color.expand(*color.shape[:-1], 3)
    return torch.cat([color, alpha], dim=-1) if has_alpha(channels) else color.contiguous()


def without_opaque_alpha(colors: Tensor) -> Tensor:
    """Colors (..., C), without their alpha channel if all colors are opaque."""
    is_opaque = has_alpha(colors.shape[-1]) and bool((colors[..., -1] == 255).all())
    return colors[..., :-1] if is_opaque else colors


def to_rgb(colors: Tensor) -> np.ndarray:
    """Colors (K, C) as an array of RGB (K, 3), or of RGBA (K, 4) if they have alpha."""
    return with_channels(colors, common_channels(colors.shape[-1], 3)).cpu().numpy()


def add_all(histograms: Iterable[ColorHistogram]) -> ColorHistogram | None:
    """The sum of histograms as in `add_histograms`; None without histograms."""
    # Each addition sorts. As in a merge sort, only sums of equally many histograms are added, so that the large sums
    # are sorted seldom.
    partial: list[tuple[int, ColorHistogram]] = []
    for histogram in histograms:
        partial.append((1, histogram))
        while len(partial) > 1 and partial[-2][0] == partial[-1][0]:
            (count, last), (_, before) = partial.pop(), partial.pop()
            partial.append((2 * count, add_histograms(before, last)))
    return functools.reduce(add_histograms, [histogram for _, histogram in partial]) if partial else None


def add_histograms(one: ColorHistogram, other: ColorHistogram) -> ColorHistogram:
    """The sum of two histograms, in color if either has color and with alpha if either has alpha."""
    channels = common_channels(one.colors.shape[1], other.colors.shape[1])
    # Added channels do not change the order of the colors.
    return _with_channels(one, channels) + _with_channels(other, channels)


def _with_channels(histogram: ColorHistogram, channels: int) -> ColorHistogram:
    return ColorHistogram(colors=with_channels(histogram.colors, channels), counts=histogram.counts)
