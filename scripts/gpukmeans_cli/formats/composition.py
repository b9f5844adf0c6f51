"""Composition of animations: the parts that a file stores become whole canvases, by the same rules in all formats."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Blend = Literal["over", "source"]
"""Whether a part is composited over the canvas, or replaces its pixels."""

Disposal = Literal["keep", "clear", "restore"]
"""The change of the area of a part before the next frame: none, to transparent, or back to the pixels before it."""


@dataclass(frozen=True, kw_only=True)
class FramePart:
    """One frame as stored: a rectangle of the canvas. What lies outside the canvas is not shown."""

    top: int
    left: int
    pixels: np.ndarray
    """uint8 (height, width, 4), RGBA with straight alpha; a side may be 0."""
    blend: Blend
    disposal: Disposal
    duration: float
    """Milliseconds."""


def compose(parts: Iterable[FramePart], height: int, width: int) -> Iterator[tuple[np.ndarray, float]]:
    """The canvas, uint8 (height, width, 4), with each part, and its duration.

    The canvas is transparent at first. It is one array, which the next iteration changes.
    """
    canvas = np.zeros((height, width, 4), dtype=np.uint8)
    for part in parts:
        area = canvas[part.top : part.top + part.pixels.shape[0], part.left : part.left + part.pixels.shape[1]]
        before = area.copy()
        pixels = part.pixels[: area.shape[0], : area.shape[1]]
        area[...] = _blend_over(pixels, before) if part.blend == "over" else pixels
        yield canvas, part.duration
        if part.disposal == "restore":
            area[...] = before
        elif part.disposal == "clear":
            area[...] = 0


def _blend_over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Alpha compositing of RGBA over RGBA, both (H, W, 4) with straight alpha, rounded once."""
    if above[..., 3].min(initial=255) == 255:
        return above
    blended = np.where(above[..., 3:] == 0, below, above)
    mixed = (above[..., 3] % 255 > 0) & (below[..., 3] > 0)
    if mixed.any():
        top, bottom = above[mixed].astype(np.float64), below[mixed].astype(np.float64)
        a, b = top[:, 3:] / 255, bottom[:, 3:] / 255
        alpha = a + b * (1 - a)
        colors = (top[:, :3] * a + bottom[:, :3] * (b * (1 - a))) / alpha
        blended[mixed] = np.rint(np.concatenate([colors, 255 * alpha], axis=-1))
    return blended
