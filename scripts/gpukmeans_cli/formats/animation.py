"""Animations in and out: GIF, APNG and WebP become whole frames; a palette with frames of indices a GIF or an APNG."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile

import gpukmeans_cli.formats.png_chunks as png
from gpukmeans_cli.formats.metadata import Metadata, read_metadata, read_orientation
from gpukmeans_cli.formats.reading import (
    as_rgba,
    decoding,
    load,
    open_image,
    opened,
    pixels_of,
    size_of,
    too_many_pixels,
)
from gpukmeans_cli.formats.still import check_fit
from gpukmeans_cli.system.atomic_files import ImageError

# What becomes of the place of a frame before the next is shown, in the numbers of APNG.
_KEEP, _CLEAR, _RESTORE = 0, 1, 2
_REPLACE, _OVER = 0, 1

# How to turn frames (F, H, W, 4) upright, by the orientation of EXIF.
_TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda frames: frames[:, :, ::-1],
    3: lambda frames: frames[:, ::-1, ::-1],
    4: lambda frames: frames[:, ::-1],
    5: lambda frames: frames.swapaxes(1, 2),
    6: lambda frames: frames[:, ::-1].swapaxes(1, 2),
    7: lambda frames: frames[:, ::-1, ::-1].swapaxes(1, 2),
    8: lambda frames: frames[:, :, ::-1].swapaxes(1, 2),
}


@dataclass(frozen=True, kw_only=True)
class Animation:
    """An animated picture file: each frame as it is seen, upright."""

    frames: np.ndarray  # uint8 (F, height, width, 4), RGBA, F at least 2
    durations: tuple[float, ...]  # of each frame, in milliseconds
    loop: int | None  # the count in the file, 0 forever; None where a GIF has none, and plays once
    mode: str  # the mode Pillow reports for the first frame as stored
    format: str  # Pillow's name of the format: "GIF", "PNG" or "WEBP"
    n_bytes: int  # size of the file
    metadata: Metadata  # what the file says beside its pixels


# Reading


def read_animation(path: Path, *, max_pixels: int | None = None) -> Animation | None:
    """The animation in a GIF, PNG or WebP file; None for a still or another format.

    Frames are whole: what a frame leaves of those before is filled in, and disposed of as the file says. The default
    image of an APNG that is no frame is left out. What lies outside the canvas of a GIF is cut off. Profiles for grey
    are dropped, since the frames are RGBA.

    Raises ImageError as `read_picture` does; `max_pixels` is for all frames together.
    """
    with opened(path, max_pixels) as file:
        return animation_in(file)


def animation_in(file: BinaryIO) -> Animation | None:
    """What `read_animation` returns, of an open file (`opened`) at its beginning."""
    with decoding():
        image = open_image(file)
        if image.format not in ("GIF", "PNG", "WEBP") or not getattr(image, "is_animated", False):
            return None
        mode, kind = image.mode, image.format
        if kind == "PNG":
            file.seek(0)
            stored = _read_apng(file.read())
        else:
            stored = _read_by_pillow(image)
    if stored is None:
        return None
    still = stored.still
    metadata, orientation = read_metadata(still), read_orientation(still)
    if metadata.icc_profile and metadata.icc_profile[16:20] == b"GRAY":
        metadata = dataclasses.replace(metadata, icc_profile=None)
    frames = stored.frames
    if orientation in _TURNS:
        frames = np.ascontiguousarray(_TURNS[orientation](frames))
    return Animation(
        frames=frames,
        durations=tuple(stored.durations),
        loop=stored.loop,
        mode=mode,
        format=kind,
        n_bytes=size_of(file),
        metadata=metadata,
    )


class _Stored(NamedTuple):
    frames: np.ndarray  # as stored, not upright
    durations: list[float]
    loop: int | None
    still: Image.Image  # decoded, to ask for metadata


def _read_by_pillow(image: ImageFile.ImageFile) -> _Stored:
    width, height = image.size
    frames = _room(getattr(image, "n_frames", 1), height, width)
    durations = []
    for number, frame in enumerate(frames):
        # Pillow takes the disposal of the frame before where a GIF says none; to others none means to keep.
        if image.format == "GIF" and number:
            image.disposal_method = 0  # pyright: ignore[reportAttributeAccessIssue]
        image.seek(number)
        image.load()
        # The canvas of a GIF may grow by a later frame.
        frame[...] = np.asarray(image.convert("RGBA"))[:height, :width]
        durations.append(float(image.info.get("duration", 0)))
    image.seek(0)
    image.load()
    return _Stored(frames, durations, image.info.get("loop"), image)


def _room(n_frames: int, height: int, width: int) -> np.ndarray:
    """Transparent frames to fill; ImageError if they are more pixels than the limit."""
    n_pixels = n_frames * height * width
    if Image.MAX_IMAGE_PIXELS is not None and n_pixels > Image.MAX_IMAGE_PIXELS:
        raise ImageError(too_many_pixels(n_pixels, f" in {n_frames} frames"))
    return np.zeros((n_frames, height, width, 4), dtype=np.uint8)


class _Control(NamedTuple):
    """What the chunk fcTL says of a frame."""

    number: int
    width: int
    height: int
    left: int
    top: int
    delay: int
    delay_unit: int
    disposal: int
    blending: int

    def place(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def duration(self) -> float:
        return 1000 * self.delay / (self.delay_unit or 100)


_CONTROL = struct.Struct(">IIIIIHHBB")


def _read_apng(data: bytes) -> _Stored | None:
    """The frames put together here, by the specification of APNG.

    Pillow 13 mixes indices of palettes, and makes opaque pixels transparent, where a frame is laid over another.
    """
    chunks = list(png.chunks(data))
    bodies = dict(reversed(chunks))  # the first of a kind
    width, height = struct.unpack_from(">II", bodies[b"IHDR"])
    n_frames, loop = struct.unpack_from(">II", bodies[b"acTL"])
    if n_frames < 2:
        return None
    parts = _frame_parts(chunks, n_frames)
    frames = _room(n_frames, height, width)
    canvas = np.zeros_like(frames[0])
    for frame, (control, compressed) in zip(frames, parts, strict=True):
        place = control.place()
        before = canvas[place].copy()
        if before.shape[:2] != (control.height, control.width) or not before.size:
            raise SyntaxError("a frame lies outside the picture")
        drawn = _rgba(_part_as_png(bodies, control, compressed))
        canvas[place] = _laid_over(drawn, before) if control.blending == _OVER else drawn
        frame[...] = canvas
        if control.disposal == _RESTORE:
            canvas[place] = before
        elif control.disposal == _CLEAR:
            canvas[place] = 0
    of_stills = [chunk for chunk in chunks if chunk[0] not in (b"acTL", b"fcTL", b"fdAT", b"IEND")]
    still = _decoded(png.assembled(*itertools.starmap(png.chunk, of_stills)))
    return _Stored(frames, [control.duration() for control, _ in parts], loop, still)


def _frame_parts(chunks: list[tuple[bytes, bytes]], n_frames: int) -> list[tuple[_Control, bytes]]:
    """What each frame says and its compressed pixels."""
    parts: list[tuple[_Control, list[bytes]]] = []
    number = 0
    for kind, body in chunks:
        if kind in (b"fcTL", b"fdAT"):
            if int.from_bytes(body[:4], "big") != number:
                raise SyntaxError("frames are missing or out of order")
            number += 1
        if kind == b"fcTL":
            parts.append((_Control(*_CONTROL.unpack(body)), []))
        elif kind == b"fdAT":
            parts[-1][1].append(body[4:])
        elif kind == b"IDAT" and parts:  # before the first fcTL it is an image for those that know no animations
            parts[-1][1].append(body)
    if len(parts) < n_frames:
        raise SyntaxError(f"{len(parts)} of {n_frames} frames are there")
    return [(control, b"".join(data)) for control, data in parts[:n_frames]]


def _part_as_png(bodies: Mapping[bytes, bytes], control: _Control, compressed: bytes) -> bytes:
    header = struct.pack(">II", control.width, control.height) + bodies[b"IHDR"][8:]
    colors = [png.chunk(kind, bodies[kind]) for kind in (b"PLTE", b"tRNS") if kind in bodies]
    return png.assembled(png.chunk(b"IHDR", header), *colors, png.chunk(b"IDAT", compressed))


def _decoded(data: bytes) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(data))
    load(image)
    return image


def _rgba(data: bytes) -> np.ndarray:
    return as_rgba(pixels_of(_decoded(data)))


def _laid_over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """RGBA above RGBA, both (H, W, 4) with straight alpha, rounded once."""
    a, b = above[..., 3:].astype(np.float64) / 255, below[..., 3:].astype(np.float64) / 255
    alpha = a + b * (1 - a)
    colors = (above[..., :3] * a + below[..., :3] * (b * (1 - a))) / np.where(alpha == 0, 1, alpha)
    mixed = np.rint(np.concatenate([colors, 255 * alpha], axis=-1)).astype(np.uint8)
    return np.where(a == 0, below, np.where((a == 1) | (b == 0), above, mixed))


# Writing


def encode_animation(palette: np.ndarray, indices: np.ndarray, animation: Animation, suffix: str) -> bytes:
    """A GIF or PNG file that plays the colors `palette` (K, C), placed by `indices` (F, height, width), all uint8.

    K is 1..256, C as in `Picture`. Count, timing and loops are those of `animation`, whose own frames are not looked
    at; its metadata comes along as far as the format has a place for it. A GIF counts time in 1/100 s: the errors of
    rounding do not add up, and what was not 0 does not become 0. Of each frame only the rectangle that changes is
    written.

    Raises ImageError for another suffix, and for what the format cannot hold: partial alpha in a GIF, sides above
    65,535 pixels or frames above 655 s there, frames above 65,535 s in a PNG. ValueError if the arguments do not fit.
    """
    if suffix.lower() not in _ENCODERS:
        raise ImageError(f"cannot become an animated {suffix or 'file without suffix'}; use {' or '.join(_ENCODERS)}")
    check_fit(palette, indices, "F, height, width")
    _check_durations(animation.durations, len(indices))
    return _ENCODERS[suffix.lower()](as_rgba(palette), indices, animation)


def _check_durations(durations: tuple[float, ...], n_frames: int) -> None:
    if n_frames != len(durations):
        raise ValueError(f"indices must have {len(durations)} frames, one for each duration, got {n_frames}")
    if not all(math.isfinite(duration) and duration >= 0 for duration in durations):
        raise ValueError("durations must be finite and not negative")


def _gif(colors: np.ndarray, indices: np.ndarray, animation: Animation) -> bytes:
    height, width = indices.shape[1:]
    if max(height, width) > 65535:
        raise ImageError("has a side above 65535 pixels, which a GIF cannot have; use .png")
    colors, indices, clear = _gif_colors(colors, indices)
    # An index that draws nothing is of use also where nothing is transparent.
    skip = clear if clear is not None else len(colors) if len(colors) < 256 else None
    bits = max(1, (max(len(colors) - 1, skip or 0)).bit_length())
    table = colors[:, :3].tobytes().ljust(3 << bits, b"\0")
    blocks = [b"GIF89a", struct.pack("<HHBBB", width, height, 0x80 | 0x70 | bits - 1, 0, 0), table]
    if animation.loop is not None:
        blocks.append(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", min(animation.loop, 65535), 0))
    if comment := animation.metadata.text.get("Comment"):
        blocks.append(b"\x21\xfe" + _sub_blocks(comment.encode()))
    shown = None
    for number, ticks in enumerate(_gif_ticks(animation.durations)):
        frame, erased = indices[number], np.zeros(1, dtype=bool)
        if clear is not None and number + 1 < len(indices):
            erased = (frame != clear) & (indices[number + 1] == clear)
        changed = np.ones(frame.shape, dtype=bool) if shown is None else frame != shown
        place = _rectangle(changed | erased)
        drawn, skips = _smaller_part(frame[place], changed[place], skip, partial(_gif_data, bits=max(2, bits)))
        # GIF clears no more than a frame's own rectangle, so it also takes in what the next has to find transparent.
        disposal = 2 if erased.any() else 1
        flags = disposal << 2 | (skips or clear is not None)
        blocks.append(b"\x21\xf9\x04" + struct.pack("<BHBB", flags, ticks, skip or 0, 0))
        corner, size = (place[1].start, place[0].start), frame[place].shape[::-1]
        blocks.append(b"," + struct.pack("<HHHHB", *corner, *size, 0) + drawn)
        shown = frame
        if clear is not None and disposal == 2:
            shown = frame.copy()
            shown[place] = clear
    return b"".join([*blocks, b";"])


def _gif_colors(colors: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Colors and indices of which one index at most is transparent, and that one."""
    alpha = colors[:, 3]
    if ((alpha > 0) & (alpha < 255)).any():
        raise ImageError("has half-transparent colors, which a GIF cannot have; use .png")
    transparent = np.flatnonzero(alpha == 0)
    if not transparent.size:
        return colors, indices, None
    clear = int(transparent[0])
    one = np.arange(256, dtype=np.uint8)
    one[transparent] = clear
    return colors, one[indices], clear


def _gif_ticks(durations: tuple[float, ...]) -> list[int]:
    """Durations in 1/100 s, at least 1 where not 0.

    What rounding takes from a frame the next gets, by half a tick at most. But it does not take a frame from 2 ticks to
    1: many players show 1 as 10.
    """
    ticks, owed = [], 0.0
    for duration in durations:
        least = min(2, max(1, round(duration / 10))) if duration else 0
        tick = max(least, round((duration + owed) / 10)) if duration else 0
        if tick > 65535:
            raise ImageError("shows a frame for more than 655 s, which a GIF cannot; use .png")
        owed = min(5.0, max(-5.0, duration + owed - 10 * tick))
        ticks.append(tick)
    return ticks


def _rectangle(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns around all that is true; one pixel if nothing is, for a frame has no less."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _smaller_part(
    part: np.ndarray, changed: np.ndarray, skip: int | None, encode: Callable[[np.ndarray], bytes]
) -> tuple[bytes, bool]:
    """The pixels of a rectangle, compressed, and whether those that do not change are skipped, which may be smaller."""
    plain = encode(part)
    if skip is None or changed.all():
        return plain, False
    skipping = encode(np.where(changed, part, np.uint8(skip)))
    return (skipping, True) if len(skipping) < len(plain) else (plain, False)


def _gif_data(part: np.ndarray, bits: int) -> bytes:
    # Pillow's writer of whole files merges like frames and arranges palettes anew; its compressor alone does neither.
    return bytes([bits]) + Image.fromarray(np.ascontiguousarray(part)).tobytes("gif", "L", bits, 0) + b"\0"


def _sub_blocks(data: bytes) -> bytes:
    pieces = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"


def _apng(colors: np.ndarray, indices: np.ndarray, animation: Animation) -> bytes:
    height, width = indices.shape[1:]
    bits = png.depth_for(len(colors))
    spare = len(colors) < 1 << bits
    if spare:
        colors = np.concatenate([colors, np.zeros((1, 4), dtype=np.uint8)])
    # The opaque ones last, for tRNS ends before them.
    order = np.argsort(colors[:, 3], kind="stable")
    places = np.argsort(order).astype(np.uint8)
    colors, indices = colors[order], places[indices]
    skip = int(places[-1]) if spare else 0 if colors[0, 3] == 0 else None
    n_seen_through = np.count_nonzero(colors[:, 3] < 255)
    chunks = [
        png.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 3, 0, 0, 0)),
        *png.before_palette(animation.metadata),
        *png.before_pixels(animation.metadata),
        png.chunk(b"acTL", struct.pack(">II", len(indices), 1 if animation.loop is None else animation.loop)),
        png.chunk(b"PLTE", colors[:, :3].tobytes()),
    ]
    if n_seen_through:
        chunks.append(png.chunk(b"tRNS", colors[:n_seen_through, 3].tobytes()))
    opaque = colors[:, 3] == 255
    shown, number = None, 0
    for frame, duration in zip(indices, animation.durations, strict=True):
        changed = np.ones(frame.shape, dtype=bool) if shown is None else frame != shown
        place = _rectangle(changed)
        # What is laid over mixes where it is half-transparent, and cannot make anything transparent.
        may_skip = skip is not None and bool(opaque[frame[changed]].all())
        part, over = frame[place], skip if may_skip else None
        data, skips = _smaller_part(part, changed[place], over, partial(_idat, bits=bits))
        delay, delay_unit = _delay(duration)
        control = _Control(
            number=number,
            width=place[1].stop - place[1].start,
            height=place[0].stop - place[0].start,
            left=place[1].start,
            top=place[0].start,
            delay=delay,
            delay_unit=delay_unit,
            disposal=_KEEP,
            blending=_OVER if skips else _REPLACE,  # over those before, with those alike left out, or in their place
        )
        chunks.append(png.chunk(b"fcTL", _CONTROL.pack(*control)))
        if shown is None:
            chunks.append(png.chunk(b"IDAT", data))
        else:
            chunks.append(png.chunk(b"fdAT", struct.pack(">I", number + 1) + data))
        number += 1 if shown is None else 2
        shown = frame
    return png.assembled(*chunks)


def _idat(part: np.ndarray, bits: int) -> bytes:
    return zlib.compress(png.rows_of(png.packed(part, bits), 0), 9)


def _delay(duration: float) -> tuple[int, int]:
    """Milliseconds as the closest fraction of a second whose parts fit 16 bits, not 0 where it was not."""
    if duration > 65_535_000:
        raise ImageError("shows a frame for more than 65535 s, which a PNG cannot")
    seconds = Fraction(duration) / 1000
    largest = min(65535, int(65535 / seconds)) if seconds else 1
    delay = seconds.limit_denominator(max(1, largest))
    if seconds and not delay:
        return 1, 65535
    return delay.numerator, delay.denominator


_ENCODERS: Mapping[str, Callable[[np.ndarray, np.ndarray, Animation], bytes]] = {".gif": _gif, ".png": _apng}
