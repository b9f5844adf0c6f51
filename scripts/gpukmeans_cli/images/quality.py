"""Image quality: mean squared error, PSNR and SSIM of two images."""

import itertools
import math
from typing import NamedTuple

from torch import Tensor

from gpukmeans import COLOR_SPACES, has_alpha, mean_squared_error
from gpukmeans_cli.images.channels import common_channels, with_channels, without_opaque_alpha

_SRGB = COLOR_SPACES["srgb"]

# Rows and columns of the windows that are computed at a time. A tile of this size, with its border, has fewer than
# 32,768 values. They fit into caches, and torch adds them in one thread. On a busy machine, the synchronization of
# threads for many short sums would take many times as long.
_TILE = (96, 256)

# The window and the constants of Wang et al. 2004.
_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03


class Similarity(NamedTuple):
    """The quality measures of `compare_pixels`."""

    mse: float
    """Mean of dR² + dG² + dB² over the pixels. With alpha, colors are premultiplied, and dA² is added."""
    psnr: float | None
    """In dB; None for an error of 0, since JSON has no infinity."""
    ssim: float
    """At most 1; 1 for equal images. Negative values occur if one image is light where the other is dark."""


def compare_pixels(one: Tensor, other: Tensor) -> Similarity:
    """MSE, PSNR and SSIM of two uint8 images (H, W, C) on the CPU, with the same H and W, each C from 1 to 4.

    Grey counts as three equal channels, and an image without alpha as opaque. An alpha channel that is opaque in both
    images does not count. The color of pixels of alpha 0 is ignored. The measures are symmetric in the two images.
    """
    one, other = without_opaque_alpha(one), without_opaque_alpha(other)
    channels = common_channels(one.shape[-1], other.shape[-1])
    pair = with_channels(one, channels), with_channels(other, channels)
    mse = mean_squared_error(*pair)
    return Similarity(mse, peak_signal_to_noise(mse, channels), structural_similarity(*pair))


def peak_signal_to_noise(mse: float, channels: int) -> float | None:
    """PSNR in dB of the error per channel: `mse` divided by 3, or by 4 with alpha. None for an error of 0."""
    if mse == 0:
        return None
    return 10 * math.log10(255**2 * (4 if has_alpha(channels) else 3) / mse)


def structural_similarity(one: Tensor, other: Tensor) -> float:
    """SSIM of two images (H, W, C) with the same C (Wang et al. 2004), in float64.

    The window is Gaussian, 11 x 11 with sigma 1.5, and weights population variances. K1 is 0.01, K2 is 0.03, the range
    is 255. The mean is over R, G, B and over the pixels whose window lies inside. Images with alpha are composited
    over black, and alpha is a fourth channel. In an image less than 11 pixels high or wide, the window is the largest
    odd square that fits, with the same sigma.
    """
    size = min(_WINDOW, *one.shape[:2])
    window = _gaussian(size if size % 2 else size - 1)
    border = len(window) - 1
    height, width = one.shape[0] - border, one.shape[1] - border
    peak = 255 * _SRGB.unit(one.shape[-1])  # the unit of `encode` cancels in the quotient
    sums = []
    for top, left in itertools.product(range(0, height, _TILE[0]), range(0, width, _TILE[1])):
        tile = slice(top, top + _TILE[0] + border), slice(left, left + _TILE[1] + border)
        channels = zip(_channels(one[tile]), _channels(other[tile]), strict=True)
        # NumPy's sums are the same for any number of threads.
        sums += [float(_ssim(x, y, window, peak).numpy().sum()) for x, y in channels]
    return math.fsum(sums) / (height * width * (4 if has_alpha(one.shape[-1]) else 3))


def _ssim(x: Tensor, y: Tensor, window: list[float], peak: float) -> Tensor:
    """SSIM of each window that fits inside two channels (h, w)."""
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    mean_x, mean_y = _window_means(x, window), _window_means(y, window)
    # In this form, numerator and denominator of equal channels are equal to the last bit, and the quotient is 1.
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = _window_means(x * y, window) - product
    variances = _window_means(x.square() + y.square(), window) - squares
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _channels(pixels: Tensor) -> Tensor:
    """The pixels (h, w, C) as sRGB points, float64 (3 or 4, h, w)."""
    return _SRGB.encode(pixels.flatten(0, 1)).T.double().unflatten(1, pixels.shape[:2]).contiguous()


def _window_means(values: Tensor, window: list[float]) -> Tensor:
    """The weighted mean of values (h, w) over each window that fits inside, by a separable convolution.

    `torch.nn.functional.conv2d` gives the same SSIM more slowly: in 2.3 s instead of 0.8 s for 6 megapixels, by one
    thread.
    """
    for dim in (1, 0):
        n = values.shape[dim] - len(window) + 1
        total = values.narrow(dim, 0, n) * window[0]
        for start, weight in enumerate(window[1:], 1):
            total.add_(values.narrow(dim, start, n), alpha=weight)
        values = total
    return values


def _gaussian(size: int) -> list[float]:
    """Gaussian weights (size,) that sum to 1."""
    weights = [math.exp(-((index - size // 2) ** 2) / (2 * _SIGMA**2)) for index in range(size)]
    return [weight / math.fsum(weights) for weight in weights]
