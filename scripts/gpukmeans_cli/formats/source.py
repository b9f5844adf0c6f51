"""Source images: all frames of an animation or one still, with metadata and access to the original bytes."""

import io
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpukmeans_cli.formats.animation import decode_animation
from gpukmeans_cli.formats.color import is_srgb, to_srgb, without_encoding
from gpukmeans_cli.formats.frames import Animation
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.png_chunks import without_metadata
from gpukmeans_cli.formats.png_repair import left_out, stored_file, without_animation
from gpukmeans_cli.formats.reading import (
    DamagedImageError,
    DecodedImage,
    decode_image,
    open_error_reason,
    open_for_decoding,
)
from gpukmeans_cli.system.atomic_files import ImageError


@dataclass(frozen=True, kw_only=True)
class Source:
    """The decoded frames of an image file, and its properties for the output."""

    path: Path
    pixels: np.ndarray
    """uint8 (F, H, W, C)."""
    mode: str
    """The mode that Pillow reports for the file as stored."""
    format: str
    """Pillow's name of the format, from the content of the file: "PNG", "JPEG", ..."""
    n_bytes: int
    frames_in_file: int
    """More than F where only the first is used."""
    upright: bool
    """Whether the file stores its pixels upright, as in `DecodedImage`."""
    metadata: Metadata
    animation: Animation | None
    broken_animation: bool = False
    """Whether this is the default image of an APNG whose frames cannot be decoded."""
    left_out: tuple[str, ...] = ()
    """Phrases about the chunks of a PNG that were left out, since Pillow would refuse the file for them."""
    _original: "bytes | _FileVersion" = field(repr=False)
    """The bytes of a pipe, which can be read only once, or the version of a file."""

    def original(self) -> bytes:
        """The bytes of the file as decoded. ImageError if the file has changed or is missing now."""
        if isinstance(self._original, bytes):
            return self._original
        try:
            with self.path.open("rb") as file:
                before, data, after = _file_version(file), file.read(), _file_version(file)
        except OSError as error:
            raise ImageError(open_error_reason(error)) from error
        if not before == after == self._original:
            raise ImageError("has changed since it was read; try again")
        return data

    def original_without_metadata(self) -> bytes | None:
        """The bytes of the file without metadata, for equal pixels; None if only new encoding can remove it.

        That is for other formats than PNG, for pixels that the metadata turns, and for color profiles. Errors as in
        `original`.
        """
        has_profile = self.metadata.icc_profile is not None and not is_srgb(self.metadata)
        if self.format != "PNG" or not self.upright or has_profile:
            return None
        color_kinds = [kind for kind, _ in self.metadata.color_chunks]
        return without_metadata(self.original(), color_kinds, animated=self.animation is not None)

    def in_srgb(self) -> "Source":
        """The source with its pixels in sRGB, as browsers show them."""
        return replace(self, pixels=to_srgb(self.pixels, self.metadata), metadata=without_encoding(self.metadata))


_FileVersion = tuple[int, int, int, int]


def read_source(path: Path, *, max_pixels: int | None = None) -> Source:
    """All frames of an animation, otherwise the first frame of an image file. ImageError if it cannot be read.

    `path` is a file or a pipe, which is opened once, or `STDIO`. An APNG whose frames cannot be decoded is a still, its
    default image.
    """
    with open_for_decoding(path, max_pixels) as file:
        original, chunks_left_out = _original(file), left_out(file)
        still, broken = file, False
        try:
            animation = decode_animation(file)
        except DamagedImageError:
            animation, still, broken = None, without_animation(file), True
            if still is None:
                raise
        if animation is None:
            still.seek(0)
            source = _still(path, original, decode_image(still))
            return replace(source, broken_animation=broken, left_out=chunks_left_out)
    opaque = animation.frames[..., 3].min() == 255
    return Source(
        path=path,
        pixels=animation.frames[..., :3].copy() if opaque else animation.frames,
        mode=animation.mode,
        format=animation.format,
        n_bytes=animation.n_bytes,
        frames_in_file=len(animation.frames),
        upright=animation.upright,
        metadata=animation.metadata,
        animation=animation,
        left_out=chunks_left_out,
        _original=original,
    )


def read_still(path: Path, *, max_pixels: int | None = None) -> Source:
    """The first frame of an image file, also of an animation. Arguments and errors as in `read_source`."""
    with open_for_decoding(path, max_pixels) as file:
        return replace(_still(path, _original(file), decode_image(file)), left_out=left_out(file))


def _still(path: Path, original: bytes | _FileVersion, picture: DecodedImage) -> Source:
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
        _original=original,
    )


def _original(file: BinaryIO) -> bytes | _FileVersion:
    stored = stored_file(file)
    return stored.getvalue() if isinstance(stored, io.BytesIO) else _file_version(stored)


def _file_version(file: BinaryIO) -> _FileVersion:
    """A value that differs for another file, or other content, at the same path."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
