"""Fewer colors for drawings, as long as the error hardly shows.

The edges of drawings are blends of two colors. Of more blends fewer repeat, and each pixel of an edge takes more bits,
so the size of the file falls with the number of colors, where that of a photo in optimized indices does not. Errors
show in smooth areas, such as gradients, sooner than at edges.
"""

from collections.abc import Callable

from torch import Tensor

from gpukmeans import ColorHistogram, Palette, flat_counts

HIDDEN_ERROR = 0.4
"""Mean squared error that hardly shows, in squared 8-bit levels, with pixels weighted by `drawing_weights`."""

DRAWING_QUALITY = 90
"""Least quality of the nearest colors, on the scale of `quality_scale`, that a drawing has instead of dithered ones."""

FEWEST = 128
"""Number of colors that drawings keep, however small their error is."""

# Weight of a flat pixel, beside 1 of the others, and difference of the numbers of colors that are tried.
_FLAT_WEIGHT, _STEP = 4, 8


def drawing_weights(frame: Tensor, histogram: ColorHistogram) -> Tensor:
    """The weight of each color of a drawing (H, W, C), int64 (M,): its pixels, of which flat ones count 4."""
    return histogram.counts + (_FLAT_WEIGHT - 1) * flat_counts(frame, histogram)


def fewest_colors(fit: Callable[[int], Palette], n_colors: int) -> Palette | None:
    """The palette of the fewest colors, from `FEWEST` to below `n_colors`, of at most `HIDDEN_ERROR`; None if none has.

    Numbers 8 apart are tried, by bisection, since the error falls with the number of colors.
    """
    most = (n_colors - 1 - FEWEST) // _STEP
    best = fit(FEWEST + most * _STEP) if most >= 0 else None
    if best is None or best.mse > HIDDEN_ERROR:
        return None
    low, high = 0, most - 1
    while low <= high:
        middle = (low + high) // 2
        tried = fit(FEWEST + middle * _STEP)
        if tried.mse <= HIDDEN_ERROR:
            best, high = tried, middle - 1
        else:
            low = middle + 1
    return best
