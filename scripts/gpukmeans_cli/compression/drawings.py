"""Fewer colors for drawings, as long as the error hardly shows.

The edges of drawings are blends of two colors. With more colors, more of the blends differ, so that fewer repeats are
found and each pixel of an edge takes more bits. Therefore the file of a drawing becomes smaller with fewer colors,
unlike that of a photo in optimized indices. Errors show in smooth areas, such as gradients, sooner than at edges.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import cache

from torch import Tensor

from gpukmeans import ColorHistogram, Palette, flat_counts

HIDDEN_ERROR = 0.4
"""Mean squared error that hardly shows, in squared 8-bit levels, with pixels weighted by `drawing_weights`."""

DRAWING_QUALITY = 90
"""Lowest quality of the nearest colors, on the scale of `quality_scale`, with which they replace dithering."""

FEWEST = 128
"""Lowest number of colors that is tried for a drawing."""

# Weight of a flat pixel; the others have 1.
_FLAT_WEIGHT = 4

# Difference between the numbers of colors that are tried.
_STEP = 8


def drawing_weights(frame: Tensor, histogram: ColorHistogram) -> Tensor:
    """The weight of each color of a drawing (H, W, C), int64 (M,): its number of pixels, where flat ones count 4."""
    return histogram.counts + (_FLAT_WEIGHT - 1) * flat_counts(frame, histogram)


def fewest_colors(fit: Callable[[int], Palette], n_colors: int) -> Palette | None:
    """The palette with the fewest colors whose error is at most `HIDDEN_ERROR`; None if no palette has such an error.

    Every eighth number of colors from `FEWEST` to below `n_colors` is a candidate. The fewest are found by bisection,
    since the error falls with the number of colors.
    """
    cached_fit = cache(fit)
    numbers = range(FEWEST, n_colors, _STEP)[::-1]
    if not numbers or cached_fit(numbers[0]).mse > HIDDEN_ERROR:
        return None
    n_hidden = bisect_left(numbers, True, lo=1, key=lambda number: cached_fit(number).mse > HIDDEN_ERROR)
    return cached_fit(numbers[n_hidden - 1])
