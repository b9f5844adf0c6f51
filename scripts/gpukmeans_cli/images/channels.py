"""Colors of different channels side by side: 1 is grey, 3 is R, G, B, and one more is alpha."""

import numpy as np
import torch
from torch import Tensor

from gpukmeans.images.histogram import ColorHistogram


def channels_of_both(one: int, other: int) -> int:
    """The channels of what may have color or alpha if either has."""
    return (3 if max(one, other) > 2 else 1) + (1 if {one, other} & {2, 4} else 0)


def with_channels(colors: Tensor, channels: int) -> Tensor:
    """Colors (..., C) with that many channels: grey in three of them, opaque alpha; never fewer than they have."""
    had = colors.shape[-1]
    if had == channels:
        return colors
    color, alpha = (
        (colors[..., :-1], colors[..., -1:]) if had in (2, 4) else (colors, torch.full_like(colors[..., :1], 255))
    )
    if channels > 2:
        color = color.expand(*color.shape[:-1], 3)
    return torch.cat([color, alpha], dim=-1) if channels in (2, 4) else color.contiguous()


def with_color(colors: Tensor) -> np.ndarray:
    """Colors (K, C) with R, G and B, and with alpha if they have it: (K, 3) or (K, 4)."""
    return with_channels(colors, channels_of_both(colors.shape[-1], 3)).cpu().numpy()


def add_histograms(one: ColorHistogram, other: ColorHistogram) -> ColorHistogram:
    """The histogram of both, with color if one has color and alpha if one has alpha."""
    channels = channels_of_both(one.colors.shape[1], other.colors.shape[1])
    # More channels leave the order of the colors as it is.
    return _widened(one, channels) + _widened(other, channels)


def _widened(histogram: ColorHistogram, channels: int) -> ColorHistogram:
    return ColorHistogram(colors=with_channels(histogram.colors, channels), counts=histogram.counts)
