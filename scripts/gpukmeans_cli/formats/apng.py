"""Animated PNG: frames are decoded by the specification of APNG, and encoded from a palette and frames of indices."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

import gpukmeans_cli.formats.png_chunks as png
from gpukmeans_cli.formats.frames import Animation, Box, DecodedFrames, blank_frames, bounding_box, smaller_encoding
from gpukmeans_cli.formats.reading import as_rgba, decode_frame, pixels_of
from gpukmeans_cli.system.atomic_files import ImageError

_DISPOSE_NONE, _DISPOSE_BACKGROUND, _DISPOSE_PREVIOUS = 0, 1, 2
_BLEND_SOURCE, _BLEND_OVER = 0, 1


class _FrameControl(NamedTuple):
    """The fields of the chunk fcTL."""

    sequence_number: int
    width: int
    height: int
    x_offset: int
    y_offset: int
    delay_num: int
    delay_den: int
    dispose_op: int
    blend_op: int

    def box(self) -> Box:
        return slice(self.y_offset, self.y_offset + self.height), slice(self.x_offset, self.x_offset + self.width)

    def duration(self) -> float:
        """Milliseconds; a denominator of 0 means 100."""
        return 1000 * self.delay_num / (self.delay_den or 100)


_FRAME_CONTROL = struct.Struct(">IIIIIHHBB")


def decode_apng(data: bytes) -> DecodedFrames | None:
    """The whole frames of an APNG file; None if it has fewer than two. For use inside `decoder_errors`.

    Pillow 13 blends palette indices, and makes opaque pixels transparent, where a frame is blended over another.
    """
    chunks = list(png.parse_chunks(data))
    bodies = dict(reversed(chunks))  # the first of each kind
    width, height = struct.unpack_from(">II", bodies[b"IHDR"])
    n_frames, loop = struct.unpack_from(">II", bodies[b"acTL"])
    if n_frames < 2:
        return None
    stored = _stored_frames(chunks, n_frames)
    frames = blank_frames(n_frames, height, width)
    canvas = np.zeros_like(frames[0])
    for frame, (control, compressed) in zip(frames, stored, strict=True):
        box = control.box()
        before = canvas[box].copy()
        if before.shape[:2] != (control.height, control.width) or not before.size:
            raise SyntaxError("a frame lies outside the image")
        pixels = as_rgba(pixels_of(_decode_png(_frame_as_png(bodies, control, compressed))))
        canvas[box] = _blend_over(pixels, before) if control.blend_op == _BLEND_OVER else pixels
        frame[...] = canvas
        if control.dispose_op == _DISPOSE_PREVIOUS:
            canvas[box] = before
        elif control.dispose_op == _DISPOSE_BACKGROUND:
            canvas[box] = 0
    still_chunks = [chunk for chunk in chunks if chunk[0] not in (b"acTL", b"fcTL", b"fdAT", b"IEND")]
    still = _decode_png(png.png_file(*itertools.starmap(png.chunk, still_chunks)))
    return DecodedFrames(frames, [control.duration() for control, _ in stored], loop, still)


def _stored_frames(chunks: list[tuple[bytes, bytes]], n_frames: int) -> list[tuple[_FrameControl, bytes]]:
    """Control and compressed pixels of each frame."""
    stored: list[tuple[_FrameControl, list[bytes]]] = []
    sequence_number = 0
    for kind, body in chunks:
        if kind in (b"fcTL", b"fdAT"):
            if int.from_bytes(body[:4], "big") != sequence_number:
                raise SyntaxError("frames are missing or out of order")
            sequence_number += 1
        if kind == b"fcTL":
            stored.append((_FrameControl(*_FRAME_CONTROL.unpack(body)), []))
        elif kind == b"fdAT":
            stored[-1][1].append(body[4:])
        elif kind == b"IDAT" and stored:  # before the first fcTL it is the default image, not a frame
            stored[-1][1].append(body)
    if len(stored) < n_frames:
        raise SyntaxError(f"{len(stored)} of {n_frames} frames are present")
    return [(control, b"".join(data)) for control, data in stored[:n_frames]]


def _frame_as_png(bodies: Mapping[bytes, bytes], control: _FrameControl, compressed: bytes) -> bytes:
    header = struct.pack(">II", control.width, control.height) + bodies[b"IHDR"][8:]
    colors = [png.chunk(kind, bodies[kind]) for kind in (b"PLTE", b"tRNS") if kind in bodies]
    return png.png_file(png.chunk(b"IHDR", header), *colors, png.chunk(b"IDAT", compressed))


def _decode_png(data: bytes) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(data))
    decode_frame(image)
    return image


def _blend_over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Alpha compositing of RGBA over RGBA, both (H, W, 4) with straight alpha, rounded once."""
    a, b = above[..., 3:].astype(np.float64) / 255, below[..., 3:].astype(np.float64) / 255
    alpha = a + b * (1 - a)
    colors = (above[..., :3] * a + below[..., :3] * (b * (1 - a))) / np.where(alpha == 0, 1, alpha)
    blended = np.rint(np.concatenate([colors, 255 * alpha], axis=-1)).astype(np.uint8)
    return np.where(a == 0, below, np.where((a == 1) | (b == 0), above, blended))


def encode_apng(colors: np.ndarray, indices: np.ndarray, animation: Animation) -> bytes:
    """The APNG file of RGBA `colors` (K, 4) at `indices` (F, height, width), as described in `encode_animation`."""
    height, width = indices.shape[1:]
    bits = png.index_bit_depth(len(colors))
    spare = len(colors) < 1 << bits
    if spare:
        colors = np.concatenate([colors, np.zeros((1, 4), dtype=np.uint8)])
    # Opaque colors come last, so that tRNS can omit them.
    order = np.argsort(colors[:, 3], kind="stable")
    new_index = np.argsort(order).astype(np.uint8)
    colors, indices = colors[order], new_index[indices]
    skip = int(new_index[-1]) if spare else 0 if colors[0, 3] == 0 else None
    n_translucent = np.count_nonzero(colors[:, 3] < 255)
    chunks = [
        png.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 3, 0, 0, 0)),
        *png.metadata_before_plte(animation.metadata),
        *png.metadata_before_idat(animation.metadata),
        png.chunk(b"acTL", struct.pack(">II", len(indices), 1 if animation.loop is None else animation.loop)),
        png.chunk(b"PLTE", colors[:, :3].tobytes()),
    ]
    if n_translucent:
        chunks.append(png.chunk(b"tRNS", colors[:n_translucent, 3].tobytes()))
    opaque = colors[:, 3] == 255
    canvas, sequence_number = None, 0
    for frame, duration in zip(indices, animation.durations, strict=True):
        changed = np.ones(frame.shape, dtype=bool) if canvas is None else frame != canvas
        rows, columns = box = bounding_box(changed)
        # Blending over mixes translucent colors and cannot make a pixel transparent.
        can_skip = bool(opaque[frame[changed]].all())
        data, skips = smaller_encoding(
            frame[box], changed[box], skip if can_skip else None, partial(_compress, bits=bits)
        )
        control = _FrameControl(
            sequence_number,
            columns.stop - columns.start,
            rows.stop - rows.start,
            columns.start,
            rows.start,
            *_delay(duration),
            _DISPOSE_NONE,
            _BLEND_OVER if skips else _BLEND_SOURCE,
        )
        chunks.append(png.chunk(b"fcTL", _FRAME_CONTROL.pack(*control)))
        if canvas is None:
            chunks.append(png.chunk(b"IDAT", data))
        else:
            chunks.append(png.chunk(b"fdAT", struct.pack(">I", sequence_number + 1) + data))
        sequence_number += 1 if canvas is None else 2
        canvas = frame
    return png.png_file(*chunks)


def _compress(indices: np.ndarray, bits: int) -> bytes:
    return zlib.compress(png.scanlines(png.pack_samples(indices, bits), 0), 9)


def _delay(duration: float) -> tuple[int, int]:
    """Milliseconds as the closest fraction of a second of two 16-bit integers, not 0 unless the duration is 0."""
    if duration > 65_535_000:
        raise ImageError("shows a frame for more than 65535 s, which a PNG cannot")
    seconds = Fraction(duration) / 1000
    max_denominator = min(65535, int(65535 / seconds)) if seconds else 1
    delay = seconds.limit_denominator(max(1, max_denominator))
    if seconds and not delay:
        return 1, 65535
    return delay.numerator, delay.denominator
