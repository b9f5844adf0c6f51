"""SSIMULACRA2 of two images, by the optional package of that name."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpukmeans import has_alpha
from gpukmeans_cli.images.comparison_sheet import over_grey

# Rows and columns of the smallest image for which SSIMULACRA2 is defined.
_MIN_SIZE = 8

# Grey levels of a dark and a light background, as in the reference implementation.
_BACKGROUNDS = (26, 230)


def measure_ssimulacra2(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float | None:
    """SSIMULACRA2 of two images (H, W, C) with the same H and W, each C from 1 to 4.

    Equal images have 100, and a good copy has 90. Images with alpha are measured over a dark and over a light grey, and
    the lower value counts. None if the package is not installed, and for images of fewer than 8 rows or columns.
    """
    if min(before.shape[:2]) < _MIN_SIZE:
        return None
    try:
        from ssimulacra2 import compute_ssimulacra2  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        if error.name != "ssimulacra2":
            raise
        return None
    backgrounds = _BACKGROUNDS if any(has_alpha(pixels.shape[-1]) for pixels in (before, after)) else _BACKGROUNDS[:1]
    return min(
        float(compute_ssimulacra2(_file(over_grey(before, level)), _file(over_grey(after, level))))
        for level in backgrounds
    )


def _file(pixels: NDArray[np.uint8]) -> BytesIO:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "ppm")
    return file
