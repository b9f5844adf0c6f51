"""Image quality: mean squared error, PSNR and SSIM of two images."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from gpukmeans import COLOR_SPACES, mean_squared_error
from gpukmeans_cli.images.channels import common_channels, with_channels, without_opaque_alpha

_SRGB = COLOR_SPACES["srgb"]

# Rows and columns of windows computed at a time. With their borders they are fewer than 32,768 values, which stay in
# caches and which torch adds in one thread: on a busy machine, synchronizing threads for so many short sums would take
# many times as long.
_TILE = (96, 256)

# The window and the constants of Wang et al. 2004; an even number of pixels has no middle.
_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


class Similarity(NamedTuple):
    """The quality measures of `compare_pixels`."""

    mse: float
    """Mean of dR² + dG² + dB² over the pixels; with alpha, of premultiplied colors, plus dA²."""
    psnr: float | None
    """In dB; None for an error of 0, since JSON has no infinity."""
    ssim: float
    """At most 1, the value of equal images; negative if one is light where the other is dark."""


def compare_pixels(one: Tensor, other: Tensor) -> Similarity:
    """MSE, PSNR and SSIM of two uint8 images (H, W, C) on the CPU, with the same H and W, each C from 1 to 4.

    Grey counts as three equal channels, and an image without alpha as opaque. An alpha channel that is opaque in both
    images does not count. The color of pixels of alpha 0 is ignored. Symmetric in the two images.
    """
    one, other = without_opaque_alpha(one), without_opaque_alpha(other)
    channels = common_channels(one.shape[-1], other.shape[-1])
    pair = with_channels(one, channels), with_channels(other, channels)
    mse = mean_squared_error(*pair)
    return Similarity(mse, peak_signal_to_noise(mse, channels), structural_similarity(*pair))


def peak_signal_to_noise(mse: float, channels: int) -> float | None:
    """PSNR per channel, in dB, over R, G, B and, with alpha, A. None for an error of 0."""
    if mse == 0:
        return None
    return 10 * math.log10(255**2 * (4 if channels in (2, 4) else 3) / mse)


def structural_similarity(one: Tensor, other: Tensor) -> float:
    """SSIM of two images (H, W, C) with the same C (Wang et al. 2004), in float64.

    The window is Gaussian, 11 x 11 with sigma 1.5, and weights population variances. K1 is 0.01, K2 is 0.03, the range
    is 255. The mean is over R, G, B and over the pixels whose window lies inside. Images with alpha are composited
    over black, with alpha as a fourth channel. In an image less than 11 pixels high or wide the window is the largest
    odd square that fits, with the same sigma.
    """
    size = min(_WINDOW, *one.shape[:2])
    window = _gaussian(size if size % 2 else size - 1)
    # Summed by numpy, whose sums are the same for any number of threads.
    sums = [float(values.numpy().sum()) for values in _ssim_tiles(one, other, window)]
    n_windows = (one.shape[0] - len(window) + 1) * (one.shape[1] - len(window) + 1)
    return math.fsum(sums) / (n_windows * (4 if one.shape[-1] in (2, 4) else 3))


def _ssim_tiles(one: Tensor, other: Tensor, window: list[float]) -> Iterator[Tensor]:
    """SSIM of each window: tile by tile, channel by channel, (rows, columns)."""
    border = len(window) - 1
    # In units of the points, which cancel.
    peak = 255 * _SRGB.unit(one.shape[-1])
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    for rows in _spans(one.shape[0] - border, _TILE[0]):
        for columns in _spans(one.shape[1] - border, _TILE[1]):
            tile = slice(rows.start, rows.stop + border), slice(columns.start, columns.stop + border)
            n_rows, n_columns = rows.stop - rows.start, columns.stop - columns.start
            for x, y in zip(_channels(one[tile]), _channels(other[tile]), strict=True):
                values = _ssim(x, y, window, n_columns + border, c1, c2)
                # Without the windows that begin in one row and end in the next.
                yield values.as_strided((n_rows, n_columns), (n_columns + border, 1))


def _spans(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover 0..length in order."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _ssim(x: Tensor, y: Tensor, window: list[float], width: int, c1: float, c2: float) -> Tensor:
    """SSIM of each window of `_window_means`."""
    # In this form, equal channels have equal products to the last bit, and their quotient is 1.
    mean_x, mean_y = _window_means(x, window, width), _window_means(y, window, width)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = _window_means(x * y, window, width) - product
    variances = _window_means(x.square() + y.square(), window, width) - squares
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _channels(pixels: Tensor) -> Tensor:
    """The points of pixels (h, w, C), channel by channel: float64 (3 or 4, h w)."""
    return _SRGB.encode(pixels.flatten(0, 1)).T.double().contiguous()


def _window_means(values: Tensor, window: list[float], width: int) -> Tensor:
    """The weighted mean over the window that begins at each value of flattened rows (h w,) and fits inside."""
    return _convolve(_convolve(values, window, 1), window, width)


def _convolve(values: Tensor, weights: list[float], stride: int) -> Tensor:
    """The weighted sum of each value and the values 1, 2, ... times `stride` after it, for all sums that fit inside."""
    length = len(values) - (len(weights) - 1) * stride
    total = values[:length] * weights[0]
    for index, weight in enumerate(weights[1:], 1):
        total.add_(values[index * stride :][:length], alpha=weight)
    return total


def _gaussian(size: int) -> list[float]:
    """Gaussian weights (size,) that sum to 1."""
    weights = [math.exp(-((index - size // 2) ** 2) / (2 * _SIGMA**2)) for index in range(size)]
    return [weight / math.fsum(weights) for weight in weights]
