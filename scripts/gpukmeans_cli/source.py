"""What a picture file holds, of one frame or of many."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpukmeans_cli.animation import Animation, read_animation
from gpukmeans_cli.image_io import read_picture
from gpukmeans_cli.metadata import Metadata


@dataclass(frozen=True, kw_only=True)
class Source:
    """The pixels (F, H, W, C) of a file, uint8, and what is to be kept of it beside them."""

    pixels: np.ndarray
    mode: str
    """The mode that Pillow reports for the file as stored."""
    format: str
    """Pillow's name of the format, by what the file holds and not by its name: "PNG", "JPEG", ..."""
    n_bytes: int
    frames_in_file: int
    """More than F where only the first is taken."""
    metadata: Metadata
    animation: Animation | None


def read_source(path: Path, *, max_pixels: int | None = None) -> Source:
    """The pixels of a picture file: all frames of an animation, or the first. ImageError if it cannot be read."""
    animation = read_animation(path, max_pixels=max_pixels)
    if animation is None:
        picture = read_picture(path, max_pixels=max_pixels)
        pixels, frames_in_file = picture.pixels[None], picture.frames
    else:
        picture = animation
        opaque = animation.frames[..., 3].min() == 255
        pixels = animation.frames[..., :3].copy() if opaque else animation.frames
        frames_in_file = len(pixels)
    return Source(
        pixels=pixels,
        mode=picture.mode,
        format=picture.format,
        n_bytes=picture.n_bytes,
        frames_in_file=frames_in_file,
        metadata=picture.metadata,
        animation=animation,
    )
