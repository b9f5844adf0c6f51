"""`QuantizeColors`: color quantization as a module, for pipelines of tensor transforms."""

import inspect
import math
from typing import Any, SupportsIndex

import torch
from jaxtyping import Num, UInt8
from torch import Tensor, nn

from gpukmeans.compilation import eager
from gpukmeans.images.colorspace import ColorSpace, ColorSpaceName
from gpukmeans.images.dithering import Dithering, DitheringName
from gpukmeans.images.quantization import quantize
from gpukmeans.images.rate_distortion import RateName
from gpukmeans.seeding import seeded


class QuantizeColors(nn.Module):
    """Quantizes images to at most `n_colors` colors, in an `nn.Sequential` or torchvision's `v2.Compose`.

    `forward` takes one tensor (..., C, H, W) of uint8, or of floats from 0 to 1. Floats are multiplied by 255 and
    rounded, and the result is divided by 255. The result has the same shape, dtype, device and tensor subclass, such as
    `tv_tensors.Image`, but no gradient. `forward(image, target)` returns the pair with an unchanged target, as
    transforms of torchvision do with classes, boxes and masks. Each image is quantized on its own with a generator of
    the given seed, so equal images have equal results in every batch and process.

    Options are checked when `forward` is called. `fixed` is a buffer that is not in the `state_dict`.

    Args:
        n_colors: maximum number of colors of each image, 1 to 256.
        space: a name of `COLOR_SPACES` or a `ColorSpace`. `quantize` describes this and the other options.
        dither: a name of `DITHERINGS` or a `Dithering` function, called once for each image.
        strength: strength of the dithering, 0 to 1.
        lossy: price of a bit in hundredths of the mean squared error, 0 or more.
        rounds: number of rounds of the optimizer.
        rate: file format whose bits have the price, "png" or "gif".
        fixed: first colors of each palette, uint8 (F, C).
        keep_vivid: whether small vivid areas keep a color of their own.
        n_init: number of runs; the best is kept.
        refine: refinement cycles; by default 2 up to 64 colors, else 1.
        seed: seed of the generator.

    Raises:
        TypeError: by `forward`, if an option or the image has the wrong type.
        ValueError: by `forward`, if an option or the image has the wrong shape or range.

    Example:
        >>> QuantizeColors(2)(torch.tensor([[[0, 2, 200]]], dtype=torch.uint8)).tolist()
        [[[1, 1, 200]]]
    """

    space: ColorSpaceName | ColorSpace
    dither: DitheringName | Dithering
    fixed: Tensor | None

    def __init__(
        self,
        n_colors: SupportsIndex,
        *,
        space: ColorSpaceName | ColorSpace = "srgb",
        dither: DitheringName | Dithering = "none",
        strength: float = 1.0,
        lossy: float = 0.0,
        rounds: int = 4,
        rate: RateName = "png",
        fixed: UInt8[Tensor, "f c"] | None = None,
        keep_vivid: bool = False,
        n_init: int = 1,
        refine: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.n_colors = n_colors
        self.space = space
        self.dither = dither
        self.strength = strength
        self.lossy = lossy
        self.rounds = rounds
        self.rate: RateName = rate
        self.keep_vivid = keep_vivid
        self.n_init = n_init
        self.refine = refine
        self.seed = seed
        self.register_buffer("fixed", fixed, persistent=False)

    def forward(self, image: Num[Tensor, "*batch c h w"], *target: Any) -> Any:
        """The quantized images (..., C, H, W), in a tuple with `target` if it is given.

        Args:
            image: uint8 or floats from 0 to 1, (..., C, H, W).
            *target: anything, returned unchanged.

        Raises:
            TypeError: if the image is not a tensor of uint8 or floats.
            ValueError: if the image has another shape, or floats outside 0 to 1.
        """
        result = self._quantized(image)
        return (result, *target) if target else result

    @eager
    @torch.no_grad()
    def _quantized(self, image: Num[Tensor, "*batch c h w"]) -> Num[Tensor, "*batch c h w"]:
        _check_channels_first(image)
        plain = image.as_subclass(Tensor)
        pixels = plain if plain.dtype == torch.uint8 else _rounded(plain)
        images = pixels.movedim(-3, -1).reshape(math.prod(plain.shape[:-3]), *plain.shape[-2:], plain.shape[-3])
        if len(images) > 0:
            indexed = quantize(
                images,
                self.n_colors,
                space=self.space,
                dither=self.dither,
                strength=self.strength,
                lossy=self.lossy,
                rounds=self.rounds,
                rate=self.rate,
                fixed=None if self.fixed is None else self.fixed.to(images.device),
                keep_vivid=self.keep_vivid,
                n_init=self.n_init,
                refine=self.refine,
                generator=seeded(self.seed),
            )
            images = indexed.pixels()
        result = images.movedim(-1, -3).reshape(plain.shape)
        if plain.dtype != torch.uint8:
            result = (result.float() / 255).to(plain.dtype)
        return result if type(image) in (Tensor, nn.Parameter) else result.as_subclass(type(image))

    def extra_repr(self) -> str:
        """The number of colors and the options that differ from their defaults."""
        options = [
            f"{name}={getattr(self, name)!r}" for name, default in _DEFAULTS.items() if getattr(self, name) != default
        ]
        if self.fixed is not None:
            options.append(f"fixed={len(self.fixed)} colors")
        return ", ".join([str(self.n_colors), *options])


_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(QuantizeColors.__init__).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name != "fixed"
}


def _check_channels_first(image: object) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a tensor, got {type(image).__name__}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"image must be uint8 or of floats from 0 to 1, got {image.dtype}")
    if image.ndim < 3 or not 1 <= image.shape[-3] <= 4 or 0 in image.shape[-2:]:
        expected = "(..., C, H, W), C from 1 to 4, H and W at least 1"
        raise ValueError(f"image must have shape {expected}, got {tuple(image.shape)}")


def _rounded(image: Tensor) -> Tensor:
    """Floats from 0 to 1 rounded to 8 bits, ties to even. ValueError for floats out of range."""
    if image.numel() > 0:
        lowest, highest = torch.aminmax(image)
        if not (lowest >= 0 and highest <= 1):
            # With 8 digits the smallest float32 above 1 is not shown as 1.
            received = f"{float(lowest):.8g} to {float(highest):.8g}"
            raise ValueError(f"image must be uint8 or of floats from 0 to 1, got floats from {received}")
    return (image.float() * 255).round().to(torch.uint8)
