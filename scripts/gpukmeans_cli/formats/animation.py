"""Animations: decoding of GIF, APNG and WebP to whole frames, and encoding of palette and indices as GIF or APNG."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from gpukmeans_cli.formats.apng import encode_apng
from gpukmeans_cli.formats.apng_decoding import apng_parts, default_image, parse_apng
from gpukmeans_cli.formats.color import with_color_chunks
from gpukmeans_cli.formats.composition import FramePart, compose
from gpukmeans_cli.formats.frames import Animation, Recomputed, check_pixels, upright
from gpukmeans_cli.formats.gif import encode_gif
from gpukmeans_cli.formats.gif_decoding import gif_parts
from gpukmeans_cli.formats.gif_scan import parse_gif
from gpukmeans_cli.formats.metadata import read_metadata, read_orientation
from gpukmeans_cli.formats.png_repair import repaired
from gpukmeans_cli.formats.reading import (
    PILLOW_LIMIT,
    as_rgba,
    decode_png,
    decoder_errors,
    file_size,
    open_image,
    rgba_of_png,
)
from gpukmeans_cli.formats.still import check_indices, check_palette
from gpukmeans_cli.formats.stored_file import StoredFile
from gpukmeans_cli.system.atomic_files import ImageError

_ENCODERS: Mapping[str, Callable[[np.ndarray, Iterable[np.ndarray], Animation], bytes]] = {
    ".gif": encode_gif,
    ".png": encode_apng,
}


def decode_animation(file: BinaryIO, stored: StoredFile, max_pixels: int | None) -> Animation | None:
    """The animation in a GIF, PNG or WebP file; None for a still image or another format.

    Each frame is a whole canvas, composed with the frames before it as the file specifies. All frames are decoded once
    here, and again for each iteration over `Animation.frames`. An iteration raises ImageError if the file has changed.
    The default image of an APNG is left out unless it is a frame. A GIF is transparent where nothing is drawn. The
    canvas of a GIF contains its first frame; pixels of later frames outside the canvas are cut off. Color profiles for
    grey are dropped, since the frames are RGB.

    Args:
        file: the result of `open_for_decoding`, at its beginning.
        stored: the same file, to open it again.
        max_pixels: the highest sum of pixels over all frames. A frame of fewer than `frames.MIN_FRAME_PIXELS` pixels
            counts as that many. None stands for the limit of `read_image`.

    Raises:
        ImageError: as `read_image`.
    """
    with decoder_errors():
        image = open_image(file)
        mode, kind = image.mode, image.format or ""
        orientation = read_orientation(image)
        found = _stored_frames(image, file)
        if found is None:
            return None
        durations, is_opaque = [], True
        for canvas, duration in compose(found.parts, found.height, found.width):
            durations.append(duration)
            is_opaque = is_opaque and canvas[..., 3].min() == 255
        still = found.still()
    metadata = read_metadata(still, orientation)
    if metadata.icc_profile and metadata.icc_profile[16:20] == b"GRAY":
        metadata = dataclasses.replace(metadata, icc_profile=None)
    if kind == "PNG":
        metadata = with_color_chunks(metadata, file)
    channels = 3 if is_opaque else 4
    height, width = (found.width, found.height) if orientation >= 5 else (found.height, found.width)
    return Animation(
        frames=Recomputed(partial(_decode_again, stored, max_pixels, orientation, channels)),
        height=height,
        width=width,
        channels=channels,
        durations=tuple(durations),
        plays=found.plays,
        mode=mode,
        format=kind,
        n_bytes=file_size(file),
        upright=orientation == 1,
        metadata=metadata,
    )


def _decode_again(stored: StoredFile, max_pixels: int | None, orientation: int, channels: int) -> Iterator[np.ndarray]:
    """The frames of a file that has been decoded before."""
    with stored.open() as file:
        canvases = _canvases(file)
        while True:
            # The limit is global to the process. While the caller uses a frame, other threads may need another limit.
            with decoder_errors(), PILLOW_LIMIT.set_to(max_pixels):
                canvas = next(canvases, None)
            if canvas is None:
                return
            yield upright(canvas[..., :channels], orientation).copy(order="C")


def _canvases(file: BinaryIO) -> Iterator[np.ndarray]:
    file = repaired(file)
    found = _stored_frames(open_image(file), file)
    if found is not None:
        for canvas, _ in compose(found.parts, found.height, found.width):
            yield canvas


class _StoredFrames(NamedTuple):
    """The frames of an open file, before they are decoded.

    `parts` are the frames as stored: rectangles of the canvas (`FramePart`).
    """

    height: int
    width: int
    plays: int
    parts: Iterator[FramePart]
    still: Callable[[], Image.Image]
    """Returns the decoded image with the metadata of the file. Call it after all parts are decoded."""


def _stored_frames(image: ImageFile.ImageFile, file: BinaryIO) -> _StoredFrames | None:
    """At least two frames of an animation; None for a still. ImageError for more pixels than Pillow's limit."""
    if image.format == "GIF":
        return _gif_frames(image, file)
    if image.format not in ("PNG", "WEBP") or not getattr(image, "is_animated", False):
        return None
    return _apng_frames(file) if image.format == "PNG" else _webp_frames(image)


def _gif_frames(image: ImageFile.ImageFile, file: BinaryIO) -> _StoredFrames | None:
    gif = parse_gif(file)
    if len(gif.frames) < 2:
        return None
    # The decoder allocates the whole frame, even where it is larger than the canvas.
    check_pixels(max(gif.height * gif.width, frame.height * frame.width) for frame in gif.frames)
    return _StoredFrames(gif.height, gif.width, gif.plays, gif_parts(gif, file), lambda: image)


def _apng_frames(file: BinaryIO) -> _StoredFrames | None:
    apng = parse_apng(file)
    if len(apng.frames) < 2:
        return None
    check_pixels([apng.height * apng.width] * len(apng.frames))
    parts = apng_parts(apng, file, rgba_of_png)
    return _StoredFrames(apng.height, apng.width, apng.plays, parts, lambda: decode_png(default_image(file)))


def _webp_frames(image: ImageFile.ImageFile) -> _StoredFrames:
    n_frames = getattr(image, "n_frames", 1)
    check_pixels([image.height * image.width] * n_frames)

    def parts() -> Iterator[FramePart]:
        for number in range(n_frames):
            image.seek(number)
            image.load()
            yield FramePart(
                top=0,
                left=0,
                pixels=np.asarray(image.convert("RGBA")),  # composed by libwebp
                blend="source",
                disposal="keep",
                duration=float(image.info.get("duration", 0)),
            )

    def still() -> Image.Image:
        image.seek(0)
        return image

    return _StoredFrames(image.height, image.width, image.info.get("loop", 0), parts(), still)


def encode_animation(palette: np.ndarray, indices: Iterable[np.ndarray], animation: Animation, suffix: str) -> bytes:
    """The animated GIF or PNG file of the colors `palette` (K, C) at `indices`, both uint8.

    K is 1..256, and C is as in `DecodedImage`. `indices` has one array (height, width) for each frame. For a PNG of up
    to 16 colors, `indices` may be iterated over twice. Durations, plays and metadata come from `animation`, as far as
    the format can store them. The frames of `animation` are not used. A GIF stores durations in 1/100 s: rounding
    errors do not accumulate, and a positive duration never becomes 0. A GIF plays forever or at most 65,536 times. Each
    frame is stored as its smallest rectangle with all changed pixels.

    Raises ImageError for another suffix, and for properties that the format cannot store: in a GIF partial alpha, sides
    above 65,535 pixels and frames above 655 s, in a PNG frames above 65,535 s. Raises ValueError if the arguments do
    not match.
    """
    encode = _ENCODERS.get(suffix.lower())
    if encode is None:
        raise ImageError(f"cannot become an animated {suffix or 'file without suffix'}; use {' or '.join(_ENCODERS)}")
    check_palette(palette)
    if not animation.durations:
        raise ValueError("durations must have at least 1 value, got none")
    if not all(math.isfinite(duration) and duration >= 0 for duration in animation.durations):
        raise ValueError("durations must be finite and not negative")
    checked = Recomputed(partial(_checked, palette, indices, len(animation.durations)))
    return encode(as_rgba(palette), checked, animation)


def _checked(palette: np.ndarray, frames: Iterable[np.ndarray], n_frames: int) -> Iterator[np.ndarray]:
    """The frames. ValueError for invalid indices, for frames of different sizes, and unless there are `n_frames`."""
    mismatch = ValueError(f"indices must have {n_frames} frames of one size, one for each duration")
    n_checked, size = 0, None
    for frame in frames:
        check_indices(frame, palette)
        n_checked, size = n_checked + 1, size or frame.shape
        if n_checked > n_frames or frame.shape != size:
            raise mismatch
        yield frame
    if n_checked < n_frames:
        raise mismatch
