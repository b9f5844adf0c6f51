"""Nearest palette colors. An opaque color takes the nearest opaque palette color, if there is one."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gpukmeans.assignment import assign_valid
from gpukmeans.engines import Assignment, Engine, EngineName
from gpukmeans.images.colorspace import SRGB, ColorSpace, has_alpha
from gpukmeans.images.histogram import ColorHistogram


def nearest_colors(
    colors: UInt8[Tensor, "m c"],
    palette: UInt8[Tensor, "k c"],
    space: ColorSpace = SRGB,
    *,
    engine: EngineName | Engine = "auto",
) -> Assignment:
    """Index of the nearest palette color of each color, int64 (M,), and squared distances of their points (M,).

    An opaque color takes the nearest opaque palette color if there is one, because the background would be visible
    through a translucent color. The lowest index wins a tie.

    Args:
        colors: uint8 (M, C).
        palette: uint8 (K, C).
        space: color space of the distances.
        engine: a name of `ENGINES`, "auto" or an `Engine`.

    Example:
        >>> palette = torch.tensor([[100, 250], [0, 255]], dtype=torch.uint8)
        >>> nearest_colors(torch.tensor([[100, 254], [100, 255]], dtype=torch.uint8), palette).labels.tolist()
        [0, 1]
    """
    x, centers = space.encode(colors), space.encode(palette)
    if not has_alpha(colors.shape[1]):
        return assign_valid(x, centers, engine)
    return assign_within_opaque(x, is_opaque(colors), centers, is_opaque(palette), engine=engine)


def nearest_indices(
    image: UInt8[Tensor, "h w c"], histogram: ColorHistogram, palette: UInt8[Tensor, "k c"]
) -> UInt8[Tensor, "h w"]:
    """Index (H, W) of the palette color nearest to each pixel in premultiplied sRGB, as by `nearest_colors`.

    Args:
        image: uint8 (H, W, C).
        histogram: a histogram that has all colors of the image.
        palette: uint8 (K, C), K from 1 to 256.
    """
    return histogram.map_values(nearest_colors(histogram.colors, palette).labels.to(torch.uint8), image)


def assign_within_opaque(
    x: Float[Tensor, "m d"],
    opaque: Bool[Tensor, " m"],
    centers: Float[Tensor, "k d"],
    opaque_centers: Bool[Tensor, " k"],
    *,
    engine: EngineName | Engine = "auto",
) -> Assignment:
    """Labels and squared distances as by `assign`, but opaque points take the nearest opaque center if there is one.

    Args:
        x: points (M, D).
        opaque: mask (M,) of the opaque points.
        centers: centers (K, D).
        opaque_centers: mask (K,) of the opaque centers.
        engine: a name of `ENGINES`, "auto" or an `Engine`.
    """
    labels, sqdist = assign_valid(x, centers, engine)
    entries = opaque_centers.nonzero().squeeze(1)
    if not 0 < len(entries) < len(centers):
        return Assignment(labels, sqdist)
    rows = (opaque & ~opaque_centers.index_select(0, labels)).nonzero().squeeze(1)
    if len(rows) > 0:
        among_opaque = assign_valid(x[rows], centers[entries], engine)
        labels, sqdist = labels.clone(), sqdist.clone()
        labels[rows], sqdist[rows] = entries[among_opaque.labels], among_opaque.sqdist
    return Assignment(labels, sqdist)


def is_opaque(colors: UInt8[Tensor, "*batch c"]) -> Bool[Tensor, "*batch"]:
    """Mask (...) of the colors (..., C) of alpha 255. Colors without an alpha channel are all opaque.

    Example:
        >>> is_opaque(torch.tensor([[9, 254], [9, 255]], dtype=torch.uint8)).tolist()
        [False, True]
    """
    return _has_alpha_value(colors, 255)


def is_transparent(colors: UInt8[Tensor, "*batch c"]) -> Bool[Tensor, "*batch"]:
    """Mask (...) of the colors (..., C) of alpha 0. Colors without an alpha channel are never transparent.

    Example:
        >>> is_transparent(torch.tensor([[9, 1], [0, 0]], dtype=torch.uint8)).tolist()
        [False, True]
    """
    return _has_alpha_value(colors, 0)


def _has_alpha_value(colors: Tensor, value: int) -> Tensor:
    """Mask (...) of the colors (..., C) with this value of alpha. Colors without an alpha channel have alpha 255."""
    if has_alpha(colors.shape[-1]):
        return colors[..., -1] == value
    return torch.full((), value == 255, device=colors.device).expand(colors.shape[:-1])
