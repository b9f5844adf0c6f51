"""Colors as points to cluster, and back. The points are integers, so that totals of them are exact."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def encode(colors: UInt8[Tensor, "m c"]) -> Float[Tensor, "m d"]:
    """8-bit colors (M, C) as float32 points: (M, 3) of R, G, B in 0..255, or with alpha (M, 4) in 0..65025.

    Grey (C = 1) counts as three equal channels. With alpha (C = 2 or 4) the points are R·A, G·A, B·A and 255·A: alpha
    and the premultiplied colors, each times 255, so that a color weighs as much as it can be seen.
    """
    color, alpha = _split(colors.float())
    color = color.expand(-1, 3)
    return color if alpha is None else torch.cat([color * alpha, 255 * alpha], dim=1)


def decode(points: Float[Tensor, "k d"], channels: int) -> UInt8[Tensor, "k c"]:
    """The 8-bit colors (K, C) of these `channels` nearest to points such as `encode` gives. Ties round to even.

    A color whose alpha rounds to 0 is all 0.
    """
    points = points.double()
    if channels in (1, 3):
        colors = points[:, :channels]
    else:
        alpha = (points[:, 3:] / 255).round()
        # By the rounded alpha, since it is what will multiply the color again.
        color = torch.where(alpha > 0, points[:, : channels - 1] / alpha, 0)
        colors = torch.cat([color, alpha], dim=1)
    return colors.round().clamp(0, 255).to(torch.uint8)


def hide_invisible(image: UInt8[Tensor, "h w c"]) -> UInt8[Tensor, "h w c"]:
    """The image with all channels 0 wherever alpha is 0, since no one sees what color that is; itself without alpha."""
    _, alpha = _split(image)
    return image if alpha is None else torch.where(alpha > 0, image, 0)


def _split(colors: Tensor) -> tuple[Tensor, Tensor | None]:
    """The color channels (..., 1 or 3) and alpha (..., 1), if there is one."""
    return (colors[..., :-1], colors[..., -1:]) if colors.shape[-1] in (2, 4) else (colors, None)
