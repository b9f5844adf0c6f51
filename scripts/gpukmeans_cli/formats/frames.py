"""Frames of animations: their limit of pixels, their orientation, and the boxes that encoders store.

A frame is a whole canvas, as a viewer shows it. A box is a rectangle of the canvas.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.reading import too_many_pixels
from gpukmeans_cli.system.atomic_files import ImageError

Box = tuple[slice, slice]
"""The slices of the rows and of the columns of a rectangle."""

# A smaller frame takes about as much time to decode as a frame of this many pixels.
MIN_FRAME_PIXELS = 4096

T = TypeVar("T")


@dataclass(frozen=True)
class Recomputed(Generic[T]):
    """An iterable that calls `compute` for each iteration, so that only one value at a time is in memory."""

    compute: Callable[[], Iterator[T]]

    def __iter__(self) -> Iterator[T]:
        return self.compute()


@dataclass(frozen=True, kw_only=True)
class Animation:
    """A decoded animation: each frame as a viewer shows it, upright."""

    frames: Iterable[np.ndarray]
    """uint8 (height, width, C): RGB if all frames are opaque, else RGBA. Each iteration decodes the file again."""
    height: int
    width: int
    channels: int
    """C of the frames, 3 or 4."""
    durations: tuple[float, ...]
    """The durations of the frames, at least 2, in milliseconds."""
    plays: int
    """The number of times that the animation is shown; 0 is forever."""
    mode: str
    """The mode that Pillow reports for the first frame as stored."""
    format: str
    """Pillow's name of the format: "GIF", "PNG" or "WEBP"."""
    n_bytes: int
    """Size of the file."""
    upright: bool
    """Whether the file stores the frames upright."""
    metadata: Metadata


def check_pixels(pixels: Iterable[int]) -> None:
    """ImageError if the sum of the numbers of pixels of all frames exceeds `Image.MAX_IMAGE_PIXELS`.

    A frame of fewer than `MIN_FRAME_PIXELS` pixels counts as that many.
    """
    counted = [max(n_pixels, MIN_FRAME_PIXELS) for n_pixels in pixels]
    if Image.MAX_IMAGE_PIXELS is not None and sum(counted) > Image.MAX_IMAGE_PIXELS:
        at_least = f", counted as at least {MIN_FRAME_PIXELS} each" if min(counted) == MIN_FRAME_PIXELS else ""
        raise ImageError(too_many_pixels(sum(counted), f" in {len(counted)} frames{at_least}"))


def upright(frame: np.ndarray, orientation: int) -> np.ndarray:
    """A frame (H, W, C) mirrored and rotated as its EXIF orientation, 1..8, requires."""
    if orientation in (3, 4, 6, 7):
        frame = frame[::-1]
    if orientation in (2, 3, 7, 8):
        frame = frame[:, ::-1]
    return frame.swapaxes(0, 1) if orientation >= 5 else frame


def bounding_box(mask: np.ndarray) -> Box:
    """The smallest box around the true pixels of a mask (H, W). It is the top left pixel if no pixel is true."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def smaller_encoding(
    indices: np.ndarray, changed: np.ndarray, skip: int | None, encode: Callable[[np.ndarray], bytes]
) -> tuple[bytes, bool]:
    """The smaller of two encodings of the indices of a box, uint8 (H, W), and whether it skips unchanged pixels.

    The first encoding has all indices. The second has the transparent index `skip` where `changed`, bool (H, W), is
    false. If `skip` is None, the first is the result.
    """
    full = encode(indices)
    if skip is None or changed.all():
        return full, False
    skipping = encode(np.where(changed, indices, np.uint8(skip)))
    return (skipping, True) if len(skipping) < len(full) else (full, False)
