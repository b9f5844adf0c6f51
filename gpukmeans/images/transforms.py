"""`QuantizeColors`: images of few colors as a step of a pipeline of tensors."""

import inspect
import math

import torch
from jaxtyping import Num, UInt8
from torch import Tensor, nn

from gpukmeans.images.quantization import quantize


class QuantizeColors(nn.Module):
    """Images in at most `n_colors` colors each, as a module for `nn.Sequential` or torchvision's `v2.Compose`.

    `forward` takes one tensor (..., C, H, W) of uint8, or of floats from 0 to 1, which are rounded to 8 bits and
    divided by 255 again. What comes out has its shape, dtype and device, and is also what it was of a subclass, such as
    `tv_tensors.Image`; it has no gradient. Each image gets what `gpukmeans.quantize` makes of it alone, with the same
    options and a generator of this `seed`: equal images come out equal, in whatever batch or process.

    `fixed` colors, uint8 (F, C), are a buffer that is not saved. All options are checked when an image comes.
    """

    fixed: Tensor | None

    def __init__(
        self,
        n_colors: int,
        *,
        space: str = "srgb",
        dither: str = "none",
        strength: float = 1.0,
        fixed: UInt8[Tensor, "f c"] | None = None,
        n_init: int = 1,
        refine: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.n_colors = n_colors
        self.space = space
        self.dither = dither
        self.strength = strength
        self.n_init = n_init
        self.refine = refine
        self.seed = seed
        self.register_buffer("fixed", fixed, persistent=False)

    @torch.no_grad()
    def forward(self, image: Num[Tensor, "*batch c h w"]) -> Num[Tensor, "*batch c h w"]:
        """The image in few colors. TypeError or ValueError for what is no image (..., C, H, W) of uint8 or floats."""
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
                fixed=None if self.fixed is None else self.fixed.to(images.device),
                n_init=self.n_init,
                refine=self.refine,
                generator=torch.Generator(device="cpu").manual_seed(self.seed),
            )
            images = indexed.pixels()
        found = images.movedim(-1, -3).reshape(plain.shape)
        if plain.dtype != torch.uint8:
            found = (found.float() / 255).to(plain.dtype)
        return found if type(image) in (Tensor, nn.Parameter) else found.as_subclass(type(image))

    def extra_repr(self) -> str:
        """The options that are not left at their defaults, after the number of colors."""
        given = [
            f"{name}={getattr(self, name)!r}" for name, default in _DEFAULTS.items() if getattr(self, name) != default
        ]
        if self.fixed is not None:
            given.append(f"fixed={len(self.fixed)} colors")
        return ", ".join([str(self.n_colors), *given])


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
        wanted = "(..., C, H, W), C from 1 to 4, H and W at least 1"
        raise ValueError(f"image must have shape {wanted}, got {tuple(image.shape)}")


def _rounded(image: Tensor) -> Tensor:
    """Floats from 0 to 1 as 8 bits, ties to even. ValueError for others."""
    if image.numel() > 0:
        lowest, highest = torch.aminmax(image)
        if not (lowest >= 0 and highest <= 1):
            # Digits enough that float32 just above 1 is not said to be 1.
            came = f"{float(lowest):.8g} to {float(highest):.8g}"
            raise ValueError(f"image must be uint8 or of floats from 0 to 1, got floats from {came}")
    return (image.float() * 255).round().to(torch.uint8)
