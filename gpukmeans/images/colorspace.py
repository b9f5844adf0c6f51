"""Color spaces: conversion of 8-bit colors to points to cluster, and back. Coordinates are integers with exact sums."""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gpukmeans.images.histogram import hint_for_channels_first

# Coordinate of white in linear light and OKLab. 255 times this value is below 2**24, up to which float32 holds every
# integer. With this value no OKLab coordinate of an 8-bit color is within 1e-8 of a rounding tie.
_SCALE = 1 << 16

# Number of colors converted to OKLab at a time.
_BLOCK = 1 << 18

_Matrix = tuple[tuple[float, float, float], ...]

# OKLab (Ottosson 2020): linear RGB to cone responses, cube roots of cone responses to L, a, b, and the inverses.
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
    """A color space: converts 8-bit colors to the points that are clustered, and points to the nearest colors.

    `decode` inverts `encode` exactly, except that colors of alpha 0 become 0 in all channels.

    Args:
        name: the name of the space, for messages.
        scale: coordinate of white; black is 0. At most 65793, so that `scale` x 255 is exact in float32.
        forward: converts opaque colors (M, 3), uint8, to points (M, 3), float32 integers from -`scale` to `scale`.
        backward: converts points (K, 3), float64, to the nearest opaque colors (K, 3), float64 integers from 0 to 255.

    Example:
        >>> srgb = COLOR_SPACES["srgb"]
        >>> srgb.encode(torch.tensor([[255, 10, 0, 51]], dtype=torch.uint8))
        tensor([[13005.,   510.,     0., 13005.]])
        >>> srgb.decode(torch.tensor([[13005.0, 510.0, 0.0, 13005.0]]), 4)
        tensor([[255,  10,   0,  51]], dtype=torch.uint8)
    """

    name: str
    scale: int
    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor], Tensor]

    def encode(self, colors: UInt8[Tensor, "m c"]) -> Float[Tensor, "m d"]:
        """Points of 8-bit colors (M, C), float32 integers: (M, 3), or (M, 4) with alpha.

        Grey (C = 1) becomes three equal channels. With alpha A (C = 2 or 4) the first three coordinates are the
        coordinates of the opaque color times A, and the fourth is `scale` times A. So colors are premultiplied by A,
        without a division by 255, and distances between less visible colors are smaller.
        """
        color, alpha = split_alpha(colors)
        points = self.forward(color.expand(-1, 3))
        return points if alpha is None else torch.cat([points * alpha, self.scale * alpha.float()], dim=1)

    def unit(self, channels: int) -> int:
        """Factor that alpha adds to the points: 255 for colors of 2 or 4 channels, else 1.

        `encode` multiplies by alpha, 0 to 255, so points of opaque colors are 255 times as large as without alpha.
        Squared distances with and without alpha are comparable after division by `unit` squared. In sRGB they are then
        in squared 8-bit levels.
        """
        return 255 if has_alpha(channels) else 1

    def decode(self, points: Float[Tensor, "k d"], channels: int) -> UInt8[Tensor, "k c"]:
        """8-bit colors (K, C) of this number of channels nearest to points (K, 3), or (K, 4) with alpha.

        A color whose alpha rounds to 0 is 0 in all channels.
        """
        points = points.double()
        n_colors = n_color_channels(channels)
        if not has_alpha(channels):
            return self.backward(points)[:, :n_colors].to(torch.uint8)
        alpha = (points[:, 3:] / self.scale).round().clamp(0, 255)
        # Divided by the rounded alpha, because a viewer multiplies the color by the rounded alpha.
        color = self.backward(torch.where(alpha > 0, points[:, :3] / alpha, 0))[:, :n_colors]
        return torch.cat([torch.where(alpha > 0, color, 0), alpha], dim=1).to(torch.uint8)


def has_alpha(channels: int) -> bool:
    """Whether the last channel of colors is alpha.

    Args:
        channels: number of channels of the colors. 2 is grey with alpha, and 4 is RGB with alpha.

    Example:
        >>> has_alpha(3), has_alpha(4)
        (False, True)
    """
    return channels in (2, 4)


def n_color_channels(channels: int) -> int:
    """Number of color channels, 1 or 3, of a color with this number of channels."""
    return channels - has_alpha(channels)


def check_space(space: str | ColorSpace) -> ColorSpace:
    """The color space of this name, or the space itself. ValueError for an unknown name, TypeError for other types."""
    if isinstance(space, str):
        if space not in COLOR_SPACES:
            raise ValueError(f"space must be one of {', '.join(COLOR_SPACES)} or a color space, got {space!r}")
        return COLOR_SPACES[space]
    if not isinstance(space, ColorSpace):
        raise TypeError(f"space must be a name or a color space, got {type(space).__name__}")
    return space


def clear_transparent_pixels(image: UInt8[Tensor, "*batch c"]) -> UInt8[Tensor, "*batch c"]:
    """The image with fully transparent pixels (alpha 0) set to 0 in all channels. Without alpha, the image itself.

    Transparent pixels of all colors look the same. After this function they are one color of the histogram.

    Args:
        image: uint8 (..., C), C from 1 to 4. Alpha is the last channel if C is 2 or 4.

    Raises:
        ValueError: if the image has more than 4 channels.

    Example:
        >>> clear_transparent_pixels(torch.tensor([[[5, 6, 7, 0], [5, 6, 7, 1]]], dtype=torch.uint8)).tolist()
        [[[0, 0, 0, 0], [5, 6, 7, 1]]]
    """
    if image.shape[-1] > 4:
        received = f"{tuple(image.shape)}{hint_for_channels_first(image)}"
        raise ValueError(f"image must have shape (..., C), C from 1 to 4, got {received}")
    _, alpha = split_alpha(image)
    return image if alpha is None else image * (alpha > 0)


def split_alpha(colors: Tensor) -> tuple[Tensor, Tensor | None]:
    """Color channels (..., 1 or 3), and alpha (..., 1), or None without alpha."""
    return (colors[..., :-1], colors[..., -1:]) if has_alpha(colors.shape[-1]) else (colors, None)


def _to_srgb(colors: Tensor) -> Tensor:
    return colors.float()


def _from_srgb(points: Tensor) -> Tensor:
    return points.round().clamp(0, 255)


def _to_linear(colors: Tensor) -> Tensor:
    return torch.tensor(_linear_coordinates(), dtype=torch.float32, device=colors.device)[colors.int()]


def _from_linear(points: Tensor) -> Tensor:
    return _nearest_level(points, [(low + high) / 2 for low, high in itertools.pairwise(_linear_coordinates())])


def _to_oklab(colors: Tensor) -> Tensor:
    levels = [_linear_light(float(level)) for level in range(256)]
    table = torch.tensor(levels, dtype=torch.float64, device=colors.device)
    return torch.cat([_oklab(table[block.int()]) for block in colors.split(_BLOCK)])


def _oklab(light: Tensor) -> Tensor:
    # The last bits of a float64 cube root may differ between devices. This changes coordinates by less than 1e-9. No
    # coordinate of the 2**24 colors is so close to a rounding tie, so the rounded points are equal on all devices.
    roots = _matrix_product(_TO_CONES, light) ** (1 / 3)
    return (_matrix_product(_TO_LAB, roots) * _SCALE).round().float()


def _from_oklab(points: Tensor) -> Tensor:
    roots = _matrix_product(_FROM_LAB, points / _SCALE)
    light = _matrix_product(_FROM_CONES, roots * roots * roots)
    return _nearest_level(light, [_linear_light(level + 0.5) for level in range(255)])


def _matrix_product(matrix: _Matrix, rows: Tensor) -> Tensor:
    """The matrix times each row (N, 3). Each operation is rounded on its own, so all devices return the same bits."""
    x, y, z = rows.unbind(1)
    return torch.stack([a * x + b * y + c * z for a, b, c in matrix], dim=1)


def _nearest_level(channels: Tensor, bounds: Sequence[float]) -> Tensor:
    """8-bit level of each entry, float64: the number of the 255 ascending bounds that are below the entry."""
    table = torch.tensor(bounds, dtype=torch.float64, device=channels.device)
    return torch.bucketize(channels.contiguous(), table).double()


@functools.cache
def _linear_coordinates() -> list[int]:
    """Linear-light coordinate, 0 to `_SCALE`, of each 8-bit level, rounded to an integer."""
    return [round(_linear_light(float(level)) * _SCALE) for level in range(256)]


def _linear_light(level: float) -> float:
    """Linear light, 0 to 1, of an sRGB level, 0 to 255 (IEC 61966-2-1)."""
    signal = level / 255
    return signal / 12.92 if signal <= 0.04045 else ((signal + 0.055) / 1.055) ** 2.4


ColorSpaceName = Literal["srgb", "linear", "oklab"]
"""A name of `COLOR_SPACES`."""

SRGB = ColorSpace("srgb", 255, _to_srgb, _from_srgb)
COLOR_SPACES: dict[str, ColorSpace] = {
    "srgb": SRGB,
    "linear": ColorSpace("linear", _SCALE, _to_linear, _from_linear),
    "oklab": ColorSpace("oklab", _SCALE, _to_oklab, _from_oklab),
}
