"""Options of `map_to_palette` for a file: the dithering and the price of a bit, with their defaults.

The optimizer of `map_to_palette` chooses indices for a small sum of two terms: the error of the image, and the price of
a bit (`--lossy`) times the bits of the file. At a higher price, more pixels have a color with a larger error and fewer
bits, so the file is smaller. The unit of the price is a hundredth of the `mean_squared_error` of the image in the
nearest colors of a K-means palette with the same number of colors.
"""

from typing import Any

from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.system.atomic_files import ImageError

DEFAULT_LOSSY = 15.0
"""Price of a bit at which images with optimized dithering look best for their size."""

NEAREST: dict[str, Any] = {"dither": "none", "lossy": 0.0}
"""Options for the nearest color of each pixel."""

# Number of optimization rounds for each effort.
_ROUNDS = (1, 2, 4, 8)


def mapping_options(settings: Settings, suffix: str, *, animated: bool) -> dict[str, Any]:
    """The options of `map_to_palette` for a file.

    By default, stills have optimized dithering with the price `DEFAULT_LOSSY`. Animations, and stills with effort 0,
    have the nearest colors. `QuantizedImage` replaces this default for drawings. Bits are estimated for a PNG or, with
    any other suffix, for a GIF. The estimate for a GIF makes WebP files smaller, too.

    Raises:
        ImageError: if the options would optimize the indices of an animation.
    """
    is_optimized = settings.effort > 0 and not animated
    dither = settings.dither or ("optimized" if is_optimized else "none")
    lossy = default_lossy(dither) if settings.lossy is None else settings.lossy
    if animated and (dither == "optimized" or lossy > 0):
        raise ImageError("is an animation, whose still areas would flicker with --dither optimized or --lossy")
    strength = settings.dither_strength
    return {
        "dither": "none" if strength == 0 else dither,
        "strength": strength,
        "lossy": lossy,
        "rounds": _ROUNDS[settings.effort],
        "rate": "png" if suffix == ".png" else "gif",
    }


def default_lossy(dither: str) -> float:
    """The price of a bit for this dithering if no price is given."""
    return DEFAULT_LOSSY if dither == "optimized" else 0.0


def takes_optimizer(mapping: dict[str, Any]) -> bool:
    """Whether these options of `map_to_palette` optimize the indices, instead of dithering or nearest colors."""
    return mapping["lossy"] > 0 or mapping["dither"] == "optimized"
