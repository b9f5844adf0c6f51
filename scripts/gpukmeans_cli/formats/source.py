"""What a picture file holds, of one frame or of many."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpukmeans_cli.formats.animation import Animation, animation_in
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.reading import Picture, opened, picture_in, why_unopened
from gpukmeans_cli.system.atomic_files import ImageError


@dataclass(frozen=True, kw_only=True)
class Source:
    """The pixels (F, H, W, C) of a file, uint8, and what is to be kept of it beside them."""

    path: Path
    pixels: np.ndarray
    mode: str
    """The mode that Pillow reports for the file as stored."""
    format: str
    """Pillow's name of the format, by what the file holds and not by its name: "PNG", "JPEG", ..."""
    n_bytes: int
    frames_in_file: int
    """More than F where only the first is taken."""
    upright: bool
    """Whether a still is known to lie so in the file, as in `Picture`."""
    metadata: Metadata
    animation: Animation | None
    _held: "bytes | _Stamp" = field(repr=False)
    """The bytes of what can be read only once, or what shows whether a file is still the same."""

    def original(self) -> bytes:
        """The bytes of the file as they were when it was read. ImageError if it has changed since, or is gone."""
        if isinstance(self._held, bytes):
            return self._held
        try:
            with self.path.open("rb") as file:
                before, data, after = _stamp(file), file.read(), _stamp(file)
        except OSError as error:
            raise ImageError(why_unopened(error)) from error
        if not before == after == self._held:
            raise ImageError("has changed while it was worked on; try again")
        return data


_Stamp = tuple[int, int, int, int]


def read_source(path: Path, *, max_pixels: int | None = None) -> Source:
    """The pixels of a picture file: all frames of an animation, or the first. ImageError if it cannot be read.

    The path is that of a file or a pipe, which is opened once, or `STDIO`.
    """
    with opened(path, max_pixels) as file:
        held = _held(file)
        animation = animation_in(file)
        if animation is None:
            file.seek(0)
            return _still(path, held, picture_in(file))
    opaque = animation.frames[..., 3].min() == 255
    return Source(
        path=path,
        pixels=animation.frames[..., :3].copy() if opaque else animation.frames,
        mode=animation.mode,
        format=animation.format,
        n_bytes=animation.n_bytes,
        frames_in_file=len(animation.frames),
        upright=False,
        metadata=animation.metadata,
        animation=animation,
        _held=held,
    )


def read_still(path: Path, *, max_pixels: int | None = None) -> Source:
    """The same of the first frame, whatever follows it in the file."""
    with opened(path, max_pixels) as file:
        return _still(path, _held(file), picture_in(file))


def _still(path: Path, held: bytes | _Stamp, picture: Picture) -> Source:
    return Source(
        path=path,
        pixels=picture.pixels[None],
        mode=picture.mode,
        format=picture.format,
        n_bytes=picture.n_bytes,
        frames_in_file=picture.frames,
        upright=picture.upright,
        metadata=picture.metadata,
        animation=None,
        _held=held,
    )


def _held(file: BinaryIO) -> bytes | _Stamp:
    return file.getvalue() if isinstance(file, io.BytesIO) else _stamp(file)


def _stamp(file: BinaryIO) -> _Stamp:
    """What is different when another file, or another content, has taken its place."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
