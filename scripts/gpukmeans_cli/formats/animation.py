"""Animations: GIF, APNG and WebP are decoded to whole frames; palette and frames of indices become GIF or APNG."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ImageFile

from gpukmeans_cli.formats.apng import encode_apng
from gpukmeans_cli.formats.apng_decoding import apng_parts, default_image, parse_apng
from gpukmeans_cli.formats.color import with_color_chunks
from gpukmeans_cli.formats.composition import FramePart
from gpukmeans_cli.formats.frames import Animation, DecodedFrames, check_pixels, compose_frames, upright
from gpukmeans_cli.formats.gif import encode_gif
from gpukmeans_cli.formats.gif_decoding import gif_parts, parse_gif
from gpukmeans_cli.formats.metadata import read_metadata, read_orientation
from gpukmeans_cli.formats.reading import (
    as_rgba,
    decode_png,
    decoder_errors,
    file_size,
    open_for_decoding,
    open_image,
    rgba_of_png,
)
from gpukmeans_cli.formats.still import check_palette_and_indices
from gpukmeans_cli.system.atomic_files import ImageError

_ENCODERS: Mapping[str, Callable[[np.ndarray, np.ndarray, Animation], bytes]] = {
    ".gif": encode_gif,
    ".png": encode_apng,
}


def read_animation(path: Path, *, max_pixels: int | None = None) -> Animation | None:
    """The animation in a GIF, PNG or WebP file; None for a still image or another format.

    Frames are whole canvases: each is composed with the frames before it, which are disposed of as the file specifies.
    The default image of an APNG is left out unless it is a frame. A GIF is transparent where
    nothing is drawn; its canvas contains the first frame, and pixels of later frames outside it are cut off.
    Color profiles for grey are dropped, since the frames are RGBA.

    Raises ImageError as `read_image` does; `max_pixels` limits the sum over all frames.
    """
    with open_for_decoding(path, max_pixels) as file:
        return decode_animation(file)


def decode_animation(file: BinaryIO) -> Animation | None:
    """The result of `read_animation` for a file from `open_for_decoding`, at its beginning."""
    with decoder_errors():
        image = open_image(file)
        mode, kind = image.mode, image.format or ""
        if kind not in _DECODERS:
            return None
        orientation = read_orientation(image)
        decoded = _DECODERS[kind](image, file)
    if decoded is None:
        return None
    metadata = read_metadata(decoded.still, orientation)
    if metadata.icc_profile and metadata.icc_profile[16:20] == b"GRAY":
        metadata = dataclasses.replace(metadata, icc_profile=None)
    if kind == "PNG":
        metadata = with_color_chunks(metadata, file)
    return Animation(
        frames=upright(decoded.frames, orientation),
        durations=decoded.durations,
        plays=decoded.plays,
        mode=mode,
        format=kind,
        n_bytes=file_size(file),
        upright=orientation == 1,
        metadata=metadata,
    )


def _decode_gif(image: ImageFile.ImageFile, file: BinaryIO) -> DecodedFrames | None:
    file.seek(0)
    gif = parse_gif(file.read())
    if len(gif.frames) < 2:
        return None
    # A frame may be larger than the canvas.
    check_pixels(sum(frame.height * frame.width for frame in gif.frames), len(gif.frames))
    frames, durations = compose_frames(gif_parts(gif), len(gif.frames), gif.height, gif.width)
    return DecodedFrames(frames, durations, gif.plays, image)


def _decode_apng(image: ImageFile.ImageFile, file: BinaryIO) -> DecodedFrames | None:
    if not getattr(image, "is_animated", False):
        return None
    file.seek(0)
    apng = parse_apng(file.read())
    if len(apng.frames) < 2:
        return None
    parts = apng_parts(apng, rgba_of_png)
    frames, durations = compose_frames(parts, len(apng.frames), apng.height, apng.width)
    return DecodedFrames(frames, durations, apng.plays, decode_png(default_image(apng)))


def _decode_webp(image: ImageFile.ImageFile, file: BinaryIO) -> DecodedFrames | None:
    if not getattr(image, "is_animated", False):
        return None
    n_frames = getattr(image, "n_frames", 1)
    frames, durations = compose_frames(_webp_parts(image, n_frames), n_frames, image.height, image.width)
    image.seek(0)
    return DecodedFrames(frames, durations, image.info.get("loop", 0), image)


def _webp_parts(image: ImageFile.ImageFile, n_frames: int) -> Iterator[FramePart]:
    """The frames of a WebP, which libwebp has composed."""
    for number in range(n_frames):
        image.seek(number)
        image.load()
        yield FramePart(
            top=0,
            left=0,
            pixels=np.asarray(image.convert("RGBA")),
            blend="source",
            disposal="keep",
            duration=float(image.info.get("duration", 0)),
        )


_DECODERS: Mapping[str, Callable[[ImageFile.ImageFile, BinaryIO], DecodedFrames | None]] = {
    "GIF": _decode_gif,
    "PNG": _decode_apng,
    "WEBP": _decode_webp,
}


def encode_animation(palette: np.ndarray, indices: np.ndarray, animation: Animation, suffix: str) -> bytes:
    """The animated GIF or PNG file of the colors `palette` (K, C) at `indices` (F, height, width), both uint8.

    K is 1..256, C as in `DecodedImage`. The number of frames, durations, plays and metadata are those of `animation`,
    as far as the format can store them; its frames are not used. A GIF stores durations in 1/100 s: rounding errors do
    not accumulate, and a positive duration never becomes 0. It plays forever or at most 65,536 times. Each frame is
    stored as the box of changed pixels.

    Raises ImageError for another suffix, and for properties that the format cannot store: partial alpha, sides above
    65,535 pixels or frames above 655 s in a GIF, frames above 65,535 s in a PNG. ValueError if the arguments do not
    match.
    """
    encode = _ENCODERS.get(suffix.lower())
    if encode is None:
        raise ImageError(f"cannot become an animated {suffix or 'file without suffix'}; use {' or '.join(_ENCODERS)}")
    check_palette_and_indices(palette, indices, "F, height, width")
    if len(indices) != len(animation.durations):
        raise ValueError(
            f"indices must have {len(animation.durations)} frames, one for each duration, got {len(indices)}"
        )
    if not all(math.isfinite(duration) and duration >= 0 for duration in animation.durations):
        raise ValueError("durations must be finite and not negative")
    return encode(as_rgba(palette), indices, animation)
