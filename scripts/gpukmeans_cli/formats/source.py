"""Source images: all frames of an animation or one still, with metadata and access to the original bytes."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gpukmeans_cli.formats.animation import decode_animation
from gpukmeans_cli.formats.color import is_srgb, to_srgb, without_encoding
from gpukmeans_cli.formats.frames import Animation, Recomputed
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.png_chunks import without_metadata
from gpukmeans_cli.formats.png_repair import left_out, stored_file, without_animation
from gpukmeans_cli.formats.reading import DamagedImageError, DecodedImage, decode_image, open_for_decoding
from gpukmeans_cli.formats.stored_file import StoredFile


@dataclass(frozen=True, kw_only=True)
class Source:
    """The frames of an image file, and its properties for the output."""

    path: Path
    frames: Iterable[np.ndarray]
    """uint8 (height, width, C) each. Frames of an animation are decoded again for each iteration."""
    n_frames: int
    height: int
    width: int
    channels: int
    """C of the frames as stored."""
    mode: str
    """The mode that Pillow reports for the file as stored."""
    format: str
    """Pillow's name of the format, from the content of the file: "PNG", "JPEG", ..."""
    n_bytes: int
    frames_in_file: int
    """The number of frames in the file. It is larger than `n_frames` if only the first frame is used."""
    upright: bool
    """Whether the file stores its pixels upright, as in `DecodedImage`."""
    metadata: Metadata
    animation: Animation | None
    broken_animation: bool = False
    """Whether this is the default image of an APNG whose frames cannot be decoded."""
    left_out: tuple[str, ...] = ()
    """Phrases about the chunks of a PNG that were left out, since Pillow would refuse or misread the file."""
    stored: StoredFile = field(repr=False)

    def original(self) -> bytes:
        """The bytes of the file that was decoded. ImageError if the file has changed or is missing now."""
        return self.stored.read()

    def original_without_metadata(self) -> bytes | None:
        """The bytes of the file without metadata, which decode to equal pixels; None if they cannot be removed.

        They cannot be removed from formats other than PNG, from pixels that an orientation turns, and from files with a
        color profile that changes colors, or with broken chunks. Errors are as in `original`.
        """
        has_profile = self.metadata.icc_profile is not None and not is_srgb(self.metadata)
        if self.format != "PNG" or not self.upright or has_profile:
            return None
        color_kinds = [kind for kind, _ in self.metadata.color_chunks]
        return without_metadata(self.original(), color_kinds, animated=self.animation is not None)

    def in_srgb(self) -> "Source":
        """The source with its frames in sRGB, as browsers show them."""
        converted = Recomputed(lambda: (to_srgb(frame, self.metadata) for frame in self.frames))
        return replace(self, frames=converted, metadata=without_encoding(self.metadata))


def read_source(path: Path, *, max_pixels: int | None = None) -> Source:
    """All frames of an animation, otherwise the first frame of an image file. ImageError if it cannot be read.

    `path` is a file, a pipe, which is opened once, or `STDIO`. For an APNG whose frames cannot be decoded, the result
    is a still, the default image.
    """
    with open_for_decoding(path, max_pixels) as file:
        stored, chunks_left_out = StoredFile.of(path, stored_file(file)), left_out(file)
        still, broken = file, False
        try:
            animation = decode_animation(file, stored, max_pixels)
        except DamagedImageError:
            animation, still, broken = None, without_animation(file), True
            if still is None:
                raise
        if animation is None:
            still.seek(0)
            source = _still(path, stored, decode_image(still))
            return replace(source, broken_animation=broken, left_out=chunks_left_out)
    return Source(
        path=path,
        frames=animation.frames,
        n_frames=len(animation.durations),
        height=animation.height,
        width=animation.width,
        channels=animation.channels,
        mode=animation.mode,
        format=animation.format,
        n_bytes=animation.n_bytes,
        frames_in_file=len(animation.durations),
        upright=animation.upright,
        metadata=animation.metadata,
        animation=animation,
        left_out=chunks_left_out,
        stored=stored,
    )


def read_still(path: Path, *, max_pixels: int | None = None) -> Source:
    """The first frame of an image file or animation, as a still. Arguments and errors are as in `read_source`."""
    with open_for_decoding(path, max_pixels) as file:
        stored = StoredFile.of(path, stored_file(file))
        return replace(_still(path, stored, decode_image(file)), left_out=left_out(file))


def _still(path: Path, stored: StoredFile, picture: DecodedImage) -> Source:
    height, width, channels = picture.pixels.shape
    return Source(
        path=path,
        frames=[picture.pixels],
        n_frames=1,
        height=height,
        width=width,
        channels=channels,
        mode=picture.mode,
        format=picture.format,
        n_bytes=picture.n_bytes,
        frames_in_file=picture.frames,
        upright=picture.upright,
        metadata=picture.metadata,
        animation=None,
        stored=stored,
    )
