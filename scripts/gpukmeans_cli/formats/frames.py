"""Frames of an animation: whole canvases, their orientation, and the box of pixels that changed between two frames."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.reading import too_many_pixels
from gpukmeans_cli.system.atomic_files import ImageError

Box = tuple[slice, slice]
"""Rows and columns of a rectangle."""

# A frame costs at least about as much time as this number of pixels.
MIN_FRAME_PIXELS = 4096

T = TypeVar("T")


@dataclass(frozen=True)
class Recomputed(Generic[T]):
    """An iterable whose values are computed again for each iteration, so that only one of them is in memory."""

    compute: Callable[[], Iterator[T]]

    def __iter__(self) -> Iterator[T]:
        return self.compute()


@dataclass(frozen=True, kw_only=True)
class Animation:
    """A decoded animation: each frame as a viewer shows it, upright."""

    frames: Iterable[np.ndarray]
    """uint8 (height, width, C): RGB if all pixels of all frames are opaque, else RGBA. Each iteration decodes again."""
    height: int
    width: int
    channels: int
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
    """ImageError if the numbers of pixels of all frames together are above Pillow's limit.

    A frame counts as at least `MIN_FRAME_PIXELS`.
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
    """The smallest box around all true pixels; the top left pixel if none is true, as a frame cannot be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def smaller_encoding(
    indices: np.ndarray, changed: np.ndarray, skip: int | None, encode: Callable[[np.ndarray], bytes]
) -> tuple[bytes, bool]:
    """The smaller encoding of the indices of a box, and whether unchanged pixels are skipped in it.

    One encoding has all indices, the other has the transparent index `skip` where `changed` is false. With None for
    `skip` there is only the first.
    """
    full = encode(indices)
    if skip is None or changed.all():
        return full, False
    skipping = encode(np.where(changed, indices, np.uint8(skip)))
    return (skipping, True) if len(skipping) < len(full) else (full, False)
