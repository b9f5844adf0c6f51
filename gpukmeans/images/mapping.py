"""`Mapping`: options for mapping pixels to a palette by nearest colors, by dithering, or by optimization."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gpukmeans.images.contrast import contrast_weights
from gpukmeans.images.dithering import (
    Dithering,
    DitheringName,
    check_dithering,
    check_number,
    check_strength,
    dither_batch,
)
from gpukmeans.images.histogram import ColorHistogram
from gpukmeans.images.indexed import IndexedImage
from gpukmeans.images.rate_distortion import RATES, Objective, RateName, blurred_share, optimized, price_of_bit
from gpukmeans.validation import check_count

# Largest `lossy`. At higher prices of a bit all pixels have one color.
_MAX_LOSSY = 100_000.0


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """Options of `quantize` that determine the indices for a palette. `check_mapping` returns a valid `Mapping`.

    Args:
        dither: a name of `DITHERINGS` or a `Dithering` function.
        strength: strength of the dithering, 0 to 1.
        lossy: price of a bit in hundredths of the mean squared error, at least 0.
        rounds: number of rounds of the optimizer, at least 1.
        rate: file format, "png" or "gif", whose bits have the price `lossy`.
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
        """Whether the indices, and the free colors of the palette, are optimized."""
        return not self.takes_nearest and self.dither in ("none", "optimized")

    def dithered(self, images: Tensor, palette: Tensor, histogram: ColorHistogram | None = None) -> Tensor:
        """Indices (B, H, W) of images (B, H, W, C) by dithering alone, without a price of bits."""
        return dither_batch(images, palette, self.dither, strength=self.strength, histogram=histogram)

    def optimized(
        self, image: Tensor, indexed: IndexedImage, free: Tensor, squared_error: Callable[[], int]
    ) -> IndexedImage:
        """An image with optimized palette and indices.

        Args:
            image: uint8 (H, W, C).
            indexed: palette, and index of the nearest color of each pixel, with which the optimization begins.
            free: mask (K,) of the palette colors that may change.
            squared_error: function that returns the squared error of the K-means palette, summed over the pixels.
                Called only if `lossy` is not 0. `lossy` is in hundredths of the mean.
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
    """The options as a `Mapping`. TypeError or ValueError for wrong options."""
    check_dithering(dither)
    mapping = Mapping(
        dither=dither,
        strength=check_strength(strength),
        rounds=check_count("rounds", rounds, least=1),
        lossy=check_number("lossy", lossy, most=_MAX_LOSSY),
        rate=_check_rate(rate),
    )
    if mapping.lossy > 0 and dither not in ("none", "optimized"):
        name = dither if isinstance(dither, str) else "a function"
        raise ValueError(f"lossy must be 0 unless dither is none or optimized, got {lossy} with {name}")
    return mapping


def _check_rate(value: object) -> RateName:
    """The name, if it is one of `RATES`. ValueError otherwise."""
    for name in RATES:
        if value == name:
            return name
    raise ValueError(f"rate must be one of {', '.join(RATES)}, got {value!r}")
