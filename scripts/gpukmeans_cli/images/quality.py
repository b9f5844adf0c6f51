"""How alike two pictures are: mean squared error, PSNR, SSIM."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from gpukmeans.images.colorspace import SRGB, steps_of_a_level
from gpukmeans.tiling import blocks
from gpukmeans_cli.images.channels import channels_of_both, with_channels

# Pixels whose squared differences are summed at a time.
_BLOCK = 1 << 20

# Rows and columns of windows that are looked through at a time. With what is around them these are fewer than 32,768
# values, which stay in caches and which torch adds in one thread: on a busy machine, threads that wait for each other
# at each of so many short sums take many times as long.
_TILE = (96, 256)

# The window and the constants of Wang et al. 2004; an even number of pixels has no middle.
_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


class Similarity(NamedTuple):
    """What `compare_pixels` finds."""

    mse: float
    """Mean over the pixels of dR² + dG² + dB²; with alpha of the premultiplied colors, plus dA²."""
    psnr: float | None
    """In dB; None where the pictures look the same: infinity is not JSON."""
    ssim: float
    """At most 1, which equal pictures have; below 0 where one is light where the other is dark."""


def compare_pixels(one: Tensor, other: Tensor) -> Similarity:
    """How alike two pictures (H, W, C) are, uint8 on the CPU, of one height and width, each C from 1 to 4.

    Grey counts as three equal channels, what has no alpha as opaque, and what is invisible has no color. The order of
    the two makes no difference.
    """
    channels = channels_of_both(one.shape[-1], other.shape[-1])
    pair = with_channels(one, channels), with_channels(other, channels)
    mse = mean_squared_error(*pair)
    return Similarity(mse, peak_signal_to_noise(mse, channels), structural_similarity(*pair))


def mean_squared_error(one: Tensor, other: Tensor) -> float:
    """`Similarity.mse` of pictures (H, W, C) of the same C, exact but for one division.

    It is what `gpukmeans.images.palette.mean_squared_error` is of an image and its palette.
    """
    pixels, others, total = one.flatten(0, 1), other.flatten(0, 1), 0
    for block in blocks(len(pixels), _BLOCK):
        off = SRGB.encode(pixels[block]) - SRGB.encode(others[block])
        total += int(off.long().square().sum())
    return total / len(pixels) / steps_of_a_level(one.shape[-1]) ** 2


def peak_signal_to_noise(mse: float, channels: int) -> float | None:
    """PSNR per channel, in dB: of R, G and B, and of alpha if there is one. None where nothing was lost."""
    if mse == 0:
        return None
    return 10 * math.log10(255**2 * (4 if channels in (2, 4) else 3) / mse)


def structural_similarity(one: Tensor, other: Tensor) -> float:
    """SSIM of pictures (H, W, C) of the same C (Wang et al. 2004), in float64.

    The window is Gaussian, 11 x 11 of sigma 1.5, and weighs population variances, K1 is 0.01, K2 0.03, the range 255;
    the mean is over R, G, B and over the pixels whose window lies inside. Pictures with alpha are compared as they are
    over black, and alpha is a fourth channel. In a picture less than 11 pixels high or wide the window is the largest
    odd square that fits, of the same sigma.
    """
    size = min(_WINDOW, *one.shape[:2])
    window = _gaussian(size if size % 2 else size - 1)
    # A tile's by numpy, whose sums are the same for any number of threads.
    sums = [float(values.numpy().sum()) for values in _similarities(one, other, window)]
    n_windows = (one.shape[0] - len(window) + 1) * (one.shape[1] - len(window) + 1)
    return math.fsum(sums) / (n_windows * (4 if one.shape[-1] in (2, 4) else 3))


def _similarities(one: Tensor, other: Tensor, window: list[float]) -> Iterator[Tensor]:
    """SSIM of each window, of tile after tile and in it of channel after channel: (rows, columns)."""
    around = len(window) - 1
    # In steps of the points, which cancel.
    peak = 255 * steps_of_a_level(one.shape[-1])
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    for rows in blocks(one.shape[0] - around, _TILE[0]):
        for columns in blocks(one.shape[1] - around, _TILE[1]):
            part = slice(rows.start, rows.stop + around), slice(columns.start, columns.stop + around)
            n_rows, n_columns = rows.stop - rows.start, columns.stop - columns.start
            for x, y in zip(_channels(one[part]), _channels(other[part]), strict=True):
                found = _similarity(x, y, window, n_columns + around, c1, c2)
                # Without the windows that begin in one row and end in the next.
                yield found.as_strided((n_rows, n_columns), (n_columns + around, 1))


def _similarity(x: Tensor, y: Tensor, window: list[float], width: int, c1: float, c2: float) -> Tensor:
    """SSIM at each place of `_weighted`."""
    # Written so that of equal channels both products are equal to the last bit, and their quotient 1.
    mean_x, mean_y = _weighted(x, window, width), _weighted(y, window, width)
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = _weighted(x * y, window, width) - product
    variances = _weighted(x.square() + y.square(), window, width) - squares
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _channels(pixels: Tensor) -> Tensor:
    """The points of pixels (h, w, C), channel by channel: float64 (3 or 4, h w)."""
    return SRGB.encode(pixels.flatten(0, 1)).T.double().contiguous()


def _weighted(values: Tensor, window: list[float], width: int) -> Tensor:
    """The weighted mean in the window that begins at each value (h w,) of rows end to end, as long as they last."""
    return _slid(_slid(values, window, 1), window, width)


def _slid(values: Tensor, window: list[float], stride: int) -> Tensor:
    """At each place the weighted sum of the values there and 1, 2, ... times `stride` after it, while these last."""
    length = len(values) - (len(window) - 1) * stride
    total = values[:length] * window[0]
    for place, weight in enumerate(window[1:], 1):
        total.add_(values[place * stride :][:length], alpha=weight)
    return total


def _gaussian(size: int) -> list[float]:
    """Weights that sum to 1."""
    weights = [math.exp(-((place - size // 2) ** 2) / (2 * _SIGMA**2)) for place in range(size)]
    return [weight / math.fsum(weights) for weight in weights]
