"""Frames of an animation: whole canvases, their orientation, and the box of pixels that differ between two frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from gpukmeans_cli.formats.composition import FramePart, compose
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.reading import too_many_pixels
from gpukmeans_cli.system.atomic_files import ImageError

Box = tuple[slice, slice]
"""Rows and columns of a rectangle."""


@dataclass(frozen=True, kw_only=True)
class Animation:
    """A decoded animation: each frame as a viewer shows it, upright."""

    frames: np.ndarray  # uint8 (F, height, width, 4), RGBA, F at least 2
    durations: tuple[float, ...]  # of each frame, in milliseconds
    plays: int  # how often it is shown; 0 is forever
    mode: str  # the mode Pillow reports for the first frame as stored
    format: str  # Pillow's name of the format: "GIF", "PNG" or "WEBP"
    n_bytes: int  # size of the file
    upright: bool  # whether the file stores the frames upright
    metadata: Metadata


class DecodedFrames(NamedTuple):
    """Whole frames as stored, before rotation by the EXIF orientation."""

    frames: np.ndarray
    durations: tuple[float, ...]
    plays: int
    still: Image.Image  # decoded; the source of the metadata


def compose_frames(
    parts: Iterable[FramePart], n_frames: int, height: int, width: int
) -> tuple[np.ndarray, tuple[float, ...]]:
    """All frames of an animation, uint8 (n_frames, height, width, 4), and their durations.

    `parts` yields `n_frames` parts. ImageError, before the first of them, above Pillow's limit of pixels.
    """
    check_pixels(n_frames * height * width, n_frames)
    frames, durations = np.empty((n_frames, height, width, 4), dtype=np.uint8), []
    for frame, (canvas, duration) in zip(frames, compose(parts, height, width), strict=True):
        frame[...] = canvas
        durations.append(duration)
    return frames, tuple(durations)


def check_pixels(n_pixels: int, n_frames: int) -> None:
    """ImageError if `n_frames` frames have more pixels together than Pillow's limit."""
    if Image.MAX_IMAGE_PIXELS is not None and n_pixels > Image.MAX_IMAGE_PIXELS:
        raise ImageError(too_many_pixels(n_pixels, f" in {n_frames} frames"))


def upright(frames: np.ndarray, orientation: int) -> np.ndarray:
    """Frames (F, H, W, 4) mirrored and rotated as their EXIF orientation, 1..8, requires."""
    if orientation in (3, 4, 6, 7):
        frames = frames[:, ::-1]
    if orientation in (2, 3, 7, 8):
        frames = frames[:, :, ::-1]
    return np.ascontiguousarray(frames.swapaxes(1, 2) if orientation >= 5 else frames)


def bounding_box(mask: np.ndarray) -> Box:
    """The smallest box around all true pixels; the top left pixel if none is true, as a frame cannot be empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def smaller_encoding(
    indices: np.ndarray, changed: np.ndarray, skip: int | None, encode: Callable[[np.ndarray], bytes]
) -> tuple[bytes, bool]:
    """The smaller encoding of a box: of its indices, or with index `skip` where `changed` is false; whether skipped.

    `skip` is a transparent index, or None where the box must not skip pixels.
    """
    full = encode(indices)
    if skip is None or changed.all():
        return full, False
    skipping = encode(np.where(changed, indices, np.uint8(skip)))
    return (skipping, True) if len(skipping) < len(full) else (full, False)
