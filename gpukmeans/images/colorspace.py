"""Colors as points to cluster, and back, in spaces to choose from. The points are integers, so totals are exact."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

# Steps from black to white in linear light and in OKLab. Times 255 they are still below 2**24, up to where float32
# holds every integer; and with just these no color in OKLab is nearer than 1e-8 of a step to a tie.
_STEPS = 1 << 16

# Colors that are brought into OKLab at a time.
_BLOCK = 1 << 18

_Matrix = tuple[tuple[float, float, float], ...]

# From linear red, green and blue to the responses of the cones, from their cube roots to L, a, b, and the way back
# (Ottosson 2020).
_TO_CONES: _Matrix = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB: _Matrix = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
_FROM_LAB: _Matrix = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_FROM_CONES: _Matrix = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


@dataclass(frozen=True)
class ColorSpace:
    """Where colors are compared: which points they are, and which color is nearest to a point.

    `decode` takes back what `encode` gives, for every color whose alpha is not 0.
    """

    name: str
    steps: int
    """From black to white, and from invisible to opaque; at most 65793, so that 255 times as many are exact."""
    forward: Callable[[Tensor], Tensor]
    """Of opaque colors (M, 3), uint8, the points (M, 3): float32, whole numbers from -`steps` to `steps`."""
    backward: Callable[[Tensor], Tensor]
    """Of points (K, 3), float64, the nearest opaque colors (K, 3), float64: whole numbers in 0..255."""

    def encode(self, colors: UInt8[Tensor, "m c"]) -> Float[Tensor, "m d"]:
        """8-bit colors (M, C) as float32 points, whole numbers: (M, 3), or with alpha (M, 4).

        Grey (C = 1) counts as three equal channels. With alpha A (C = 2 or 4) the points are those of the colors
        without it times A, and `steps`·A: alpha and the premultiplied colors, each times 255, so that a color weighs
        as much as it can be seen.
        """
        color, alpha = _split(colors)
        points = self.forward(color.expand(-1, 3))
        return points if alpha is None else torch.cat([points * alpha, self.steps * alpha.float()], dim=1)

    def decode(self, points: Float[Tensor, "k d"], channels: int) -> UInt8[Tensor, "k c"]:
        """The 8-bit colors (K, C) of these `channels` nearest to points such as `encode` gives.

        A color whose alpha rounds to 0 is all 0.
        """
        points = points.double()
        n_colors = 1 if channels <= 2 else 3
        if channels in (1, 3):
            return self.backward(points)[:, :n_colors].to(torch.uint8)
        alpha = (points[:, 3:] / self.steps).round().clamp(0, 255)
        # By the rounded alpha, since it is what will multiply the color again.
        color = self.backward(torch.where(alpha > 0, points[:, :3] / alpha, 0))[:, :n_colors]
        return torch.cat([torch.where(alpha > 0, color, 0), alpha], dim=1).to(torch.uint8)


def check_space(space: str | ColorSpace) -> ColorSpace:
    """The color space of that name, or the space itself. ValueError for an unknown name, TypeError for what is none."""
    if isinstance(space, str):
        if space not in COLOR_SPACES:
            raise ValueError(f"space must be one of {', '.join(COLOR_SPACES)} or a color space, got {space!r}")
        return COLOR_SPACES[space]
    if not isinstance(space, ColorSpace):
        raise TypeError(f"space must be a name or a color space, got {type(space).__name__}")
    return space


def hide_invisible(image: UInt8[Tensor, "*batch c"]) -> UInt8[Tensor, "*batch c"]:
    """The image with all channels 0 wherever alpha is 0, since no one sees what color that is; itself without alpha."""
    _, alpha = _split(image)
    return image if alpha is None else torch.where(alpha > 0, image, 0)


def steps_of_a_level(channels: int) -> int:
    """How many steps of its points in `SRGB` make one of the 255 of a color with so many channels."""
    return SRGB.steps if channels in (2, 4) else 1


def _split(colors: Tensor) -> tuple[Tensor, Tensor | None]:
    """The color channels (..., 1 or 3) and alpha (..., 1), if there is one."""
    return (colors[..., :-1], colors[..., -1:]) if colors.shape[-1] in (2, 4) else (colors, None)


def _to_srgb(colors: Tensor) -> Tensor:
    return colors.float()


def _from_srgb(points: Tensor) -> Tensor:
    return points.round().clamp(0, 255)


def _to_linear(colors: Tensor) -> Tensor:
    return torch.tensor(_linear_steps(), dtype=torch.float32, device=colors.device)[colors.int()]


def _from_linear(points: Tensor) -> Tensor:
    steps = _linear_steps()
    return _value(points, [(one + other) / 2 for one, other in itertools.pairwise(steps)])


def _to_oklab(colors: Tensor) -> Tensor:
    table = torch.tensor([_light(float(value)) for value in range(256)], dtype=torch.float64, device=colors.device)
    return torch.cat([_oklab(table[part.int()]) for part in colors.split(_BLOCK)])


def _oklab(light: Tensor) -> Tensor:
    # A cube root in float64 may differ in its last bits between devices. Its error is below 1e-9 of a step, and none
    # of the 2**24 colors is that near to where it would be rounded the other way, so the points do not differ.
    roots = _product(_TO_CONES, light) ** (1 / 3)
    return (_product(_TO_LAB, roots) * _STEPS).round().float()


def _from_oklab(points: Tensor) -> Tensor:
    roots = _product(_FROM_LAB, points / _STEPS)
    light = _product(_FROM_CONES, roots * roots * roots)
    return _value(light, [_light(value + 0.5) for value in range(255)])


def _product(matrix: _Matrix, rows: Tensor) -> Tensor:
    """For each of the rows (N, 3) the matrix times it: each operation rounded once, so that all devices agree."""
    x, y, z = rows.unbind(1)
    return torch.stack([a * x + b * y + c * z for a, b, c in matrix], dim=1)


def _value(channels: Tensor, bounds: Sequence[float]) -> Tensor:
    """Of each entry the 8-bit value whose range between two of the 255 bounds holds it, the lower one at a bound."""
    table = torch.tensor(bounds, dtype=torch.float64, device=channels.device)
    return torch.bucketize(channels.contiguous(), table).double()


@functools.cache
def _linear_steps() -> list[int]:
    """The linear light of each 8-bit value in whole steps."""
    return [round(_light(float(value)) * _STEPS) for value in range(256)]


def _light(value: float) -> float:
    """The linear light, 0..1, of an sRGB value, 0..255 (IEC 61966-2-1)."""
    signal = value / 255
    return signal / 12.92 if signal <= 0.04045 else ((signal + 0.055) / 1.055) ** 2.4


SRGB = ColorSpace("srgb", 255, _to_srgb, _from_srgb)
COLOR_SPACES: dict[str, ColorSpace] = {
    "srgb": SRGB,
    "linear": ColorSpace("linear", _STEPS, _to_linear, _from_linear),
    "oklab": ColorSpace("oklab", _STEPS, _to_oklab, _from_oklab),
}
