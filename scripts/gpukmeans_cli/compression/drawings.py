"""Fewer colors for drawings, as long as the error hardly shows.

The edges of drawings are blends of two colors. With more palette colors, more of these blends get an index of their
own. Then the compressor finds fewer repeats, and each pixel of an edge takes more bits. So fewer colors make the file
of a drawing smaller, unlike the file of a photo with optimized indices. Errors are visible in smooth areas, such as
gradients, sooner than at edges.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import cache

from torch import Tensor

from gpukmeans import ColorHistogram, Palette, flat_counts

HIDDEN_ERROR = 0.4
"""Mean squared error that hardly shows, in squared 8-bit levels, with pixels weighted by `drawing_weights`."""

DRAWING_QUALITY = 90
"""Lowest quality (`quality_scale`) at which the nearest colors of a drawing replace optimized dithering."""

FEWEST = 128
"""Lowest number of colors that is tried for a drawing."""

# Weight of a pixel in a smooth area (`flat_counts`). Other pixels have weight 1.
_FLAT_WEIGHT = 4

# Difference between two numbers of colors that are tried.
_STEP = 8


def drawing_weights(frame: Tensor, histogram: ColorHistogram) -> Tensor:
    """The weight, int64 (M,), of each color of a drawing (H, W, C): the sum of the weights of its pixels."""
    return histogram.counts + (_FLAT_WEIGHT - 1) * flat_counts(frame, histogram)


def fewest_colors(fit: Callable[[int], Palette], n_colors: int) -> Palette | None:
    """The palette with the fewest colors whose error is at most `HIDDEN_ERROR`; None if no candidate has that error.

    The candidates are the palettes that `fit` returns for every eighth number from `FEWEST` to below `n_colors`.
    Bisection finds the fewest colors, since the error falls as the number of colors grows.
    """
    cached_fit = cache(fit)
    numbers = range(FEWEST, n_colors, _STEP)[::-1]
    if not numbers or cached_fit(numbers[0]).mse > HIDDEN_ERROR:
        return None
    n_hidden = bisect_left(numbers, True, lo=1, key=lambda number: cached_fit(number).mse > HIDDEN_ERROR)
    return cached_fit(numbers[n_hidden - 1])
