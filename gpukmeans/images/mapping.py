"""How pixels are mapped to a palette: by dithering, by the price of bits, or to the nearest colors."""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gpukmeans.images.contrast import contrast_weights
from gpukmeans.images.dithering import Dithering, DitheringName, check_dithering, check_strength
from gpukmeans.images.dithering import dither as dithered
from gpukmeans.images.histogram import ColorHistogram
from gpukmeans.images.indexed import IndexedImage
from gpukmeans.images.rate_distortion import RATES, Objective, RateName, blurred_share, optimized, price_of_bit
from gpukmeans.validation import check_count

# Above this price of a bit all pixels have one color.
_MAX_LOSSY = 100_000.0


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """The options of `quantize` for the indices of a palette, made by `check_mapping`.

    Args:
        dither: a name of `DITHERINGS` or a `Dithering` function.
        strength: strength of the dithering, 0 to 1.
        lossy: price of a bit in hundredths of the mean squared error, at least 0.
        rounds: number of rounds of the optimizer, at least 1.
        rate: file format whose bits have the price.
    """

    dither: DitheringName | Dithering
    strength: float
    lossy: float
    rounds: int
    rate: RateName

    @property
    def takes_nearest(self) -> bool:
        """Whether each pixel takes the nearest color."""
        return self.lossy == 0 and (self.dither == "none" or self.strength == 0)

    @property
    def optimizes(self) -> bool:
        """Whether indices are optimized, and the palette with them."""
        return not self.takes_nearest and self.dither in ("none", "optimized")

    def dithered(self, image: Tensor, palette: Tensor, histogram: ColorHistogram | None) -> Tensor:
        """Indices (H, W) by the dithering alone."""
        return dithered(image, palette, self.dither, strength=self.strength, histogram=histogram)

    def optimized(
        self, image: Tensor, indexed: IndexedImage, free: Tensor, squared_error: Callable[[], int]
    ) -> IndexedImage:
        """The image (H, W, C) in an optimized palette and indices. The given ones have the nearest colors.

        `squared_error` returns the sum of that of the K-means palette, whose mean is the unit of prices.
        """
        share = blurred_share(self.strength) if self.dither == "optimized" else 0
        price = price_of_bit(self.lossy, squared_error(), indexed.indices.numel()) if self.lossy > 0 else 0
        objective, weights = Objective(share=share, price=price), contrast_weights(image) if share and price else None
        return optimized(
            image, *indexed, objective, n_rounds=self.rounds, free=free, rate_name=self.rate, bit_weights=weights
        )


def check_mapping(
    dither: DitheringName | Dithering, strength: object, lossy: object, rounds: object, rate: RateName
) -> Mapping:
    """The options as a `Mapping`. TypeError or ValueError for wrong ones."""
    check_dithering(dither)
    mapping = Mapping(
        dither=dither,
        strength=check_strength(strength),
        rounds=check_count("rounds", rounds, least=1),
        lossy=_check_lossy(lossy),
        rate=_check_rate(rate),
    )
    if mapping.lossy > 0 and dither not in ("none", "optimized"):
        name = dither if isinstance(dither, str) else "a function"
        raise ValueError(f"lossy must be 0 unless dither is none or optimized, got {lossy} with {name}")
    return mapping


def _check_lossy(value: object) -> float:
    """The price, if it is a number from 0 to `_MAX_LOSSY`. TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"lossy must be a number, got {type(value).__name__}")
    lossy = float(value)
    if not (0 <= lossy <= _MAX_LOSSY) or math.isnan(lossy):
        raise ValueError(f"lossy must be from 0 to {_MAX_LOSSY:g}, got {value}")
    return lossy


def _check_rate(value: object) -> RateName:
    """The name, if it is one of `RATES`. ValueError otherwise."""
    for name in RATES:
        if value == name:
            return name
    raise ValueError(f"rate must be one of {', '.join(RATES)}, got {value!r}")
