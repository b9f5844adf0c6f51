"""Animations: GIF, APNG and WebP are decoded to whole frames; palette and frames of indices become GIF or APNG."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ImageFile

from gpukmeans_cli.formats.apng import decode_apng, encode_apng
from gpukmeans_cli.formats.frames import Animation, DecodedFrames, blank_frames, upright
from gpukmeans_cli.formats.gif import encode_gif
from gpukmeans_cli.formats.metadata import read_metadata, read_orientation
from gpukmeans_cli.formats.reading import as_rgba, decoder_errors, file_size, open_for_decoding, open_image
from gpukmeans_cli.formats.still import check_palette_and_indices
from gpukmeans_cli.system.atomic_files import ImageError

_ENCODERS: Mapping[str, Callable[[np.ndarray, np.ndarray, Animation], bytes]] = {
    ".gif": encode_gif,
    ".png": encode_apng,
}


def read_animation(path: Path, *, max_pixels: int | None = None) -> Animation | None:
    """The animation in a GIF, PNG or WebP file; None for a still image or another format.

    Frames are whole canvases: each is composed with the frames before it, which are disposed of as the file specifies.
    The default image of an APNG is left out unless it is a frame. Pixels outside the canvas of a GIF are cut off.
    Color profiles for grey are dropped, since the frames are RGBA.

    Raises ImageError as `read_image` does; `max_pixels` limits the sum over all frames.
    """
    with open_for_decoding(path, max_pixels) as file:
        return decode_animation(file)


def decode_animation(file: BinaryIO) -> Animation | None:
    """The result of `read_animation` for a file from `open_for_decoding`, at its beginning."""
    with decoder_errors():
        image = open_image(file)
        if image.format not in ("GIF", "PNG", "WEBP") or not getattr(image, "is_animated", False):
            return None
        mode, kind, orientation = image.mode, image.format, read_orientation(image)
        if kind == "PNG":
            file.seek(0)
            decoded = decode_apng(file.read())
        else:
            decoded = _decode_with_pillow(image)
    if decoded is None:
        return None
    metadata = read_metadata(decoded.still, orientation)
    if metadata.icc_profile and metadata.icc_profile[16:20] == b"GRAY":
        metadata = dataclasses.replace(metadata, icc_profile=None)
    return Animation(
        frames=upright(decoded.frames, orientation),
        durations=tuple(decoded.durations),
        loop=decoded.loop,
        mode=mode,
        format=kind,
        n_bytes=file_size(file),
        metadata=metadata,
    )


def _decode_with_pillow(image: ImageFile.ImageFile) -> DecodedFrames:
    width, height = image.size
    frames = blank_frames(getattr(image, "n_frames", 1), height, width)
    durations = []
    for number, frame in enumerate(frames):
        # If a GIF gives no disposal, Pillow repeats that of the previous frame; other decoders keep the frame.
        if image.format == "GIF" and number:
            image.disposal_method = 0  # pyright: ignore[reportAttributeAccessIssue]
        image.seek(number)
        image.load()
        # A later frame may enlarge Pillow's canvas of a GIF.
        frame[...] = np.asarray(image.convert("RGBA"))[:height, :width]
        durations.append(float(image.info.get("duration", 0)))
    image.seek(0)
    image.load()
    return DecodedFrames(frames, durations, image.info.get("loop"), image)


def encode_animation(palette: np.ndarray, indices: np.ndarray, animation: Animation, suffix: str) -> bytes:
    """The animated GIF or PNG file of the colors `palette` (K, C) at `indices` (F, height, width), both uint8.

    K is 1..256, C as in `DecodedImage`. The number of frames, durations, loop and metadata are those of `animation`, as
    far as the format can store them; its frames are not used. A GIF stores durations in 1/100 s: rounding errors do not
    accumulate, and a positive duration never becomes 0. Each frame is stored as the box of changed pixels.

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
