"""APNG decoding: the frames of a file are parsed as the specification requires, and decompressed as PNGs of their own.

Pillow 13 blends palette indices, and makes opaque pixels transparent, where a frame is blended over another.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import gpukmeans_cli.formats.png_chunks as png
from gpukmeans_cli.formats.composition import Disposal, FramePart

DISPOSE_NONE, DISPOSE_BACKGROUND, DISPOSE_PREVIOUS = 0, 1, 2
BLEND_SOURCE, BLEND_OVER = 0, 1
FRAME_CONTROL = struct.Struct(">IIIIIHHBB")

_DISPOSALS: dict[int, Disposal] = {DISPOSE_BACKGROUND: "clear", DISPOSE_PREVIOUS: "restore"}


class FrameControl(NamedTuple):
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

    def duration(self) -> float:
        """Milliseconds; a denominator of 0 means 100."""
        return 1000 * self.delay_num / (self.delay_den or 100)


@dataclass(frozen=True, kw_only=True)
class ApngFile:
    """The frames of an APNG and its canvas."""

    height: int
    width: int
    plays: int
    """How often the animation is shown; 0 is forever."""
    frames: list[tuple[FrameControl, bytes]]
    """Control and compressed pixels of each frame."""
    chunks: list[tuple[bytes, bytes]]
    """Kind and body of each chunk of the file."""


def parse_apng(data: bytes) -> ApngFile:
    """The parsed chunks of an APNG. SyntaxError, struct.error or KeyError for a broken file, or one without frames."""
    chunks = list(png.parse_chunks(data))
    bodies = dict(reversed(chunks))  # the first of each kind
    width, height = struct.unpack_from(">II", bodies[b"IHDR"])
    n_frames, plays = struct.unpack_from(">II", bodies[b"acTL"])
    frames = _stored_frames(chunks, n_frames)
    for control, _ in frames:
        right, bottom = control.x_offset + control.width, control.y_offset + control.height
        if not control.width * control.height or right > width or bottom > height:
            raise SyntaxError("a frame lies outside the image")
    return ApngFile(height=height, width=width, plays=plays, frames=frames, chunks=chunks)


def _stored_frames(chunks: list[tuple[bytes, bytes]], n_frames: int) -> list[tuple[FrameControl, bytes]]:
    stored: list[tuple[FrameControl, list[bytes]]] = []
    sequence_number = 0
    for kind, body in chunks:
        if kind in (b"fcTL", b"fdAT"):
            if int.from_bytes(body[:4], "big") != sequence_number:
                raise SyntaxError("frames are missing or out of order")
            sequence_number += 1
        if kind == b"fcTL":
            stored.append((FrameControl(*FRAME_CONTROL.unpack(body)), []))
        elif kind == b"fdAT":
            stored[-1][1].append(body[4:])
        elif kind == b"IDAT" and stored:  # before the first fcTL it is the default image, not a frame
            stored[-1][1].append(body)
    if len(stored) < n_frames:
        raise SyntaxError(f"{len(stored)} of {n_frames} frames are present")
    return [(control, b"".join(data)) for control, data in stored[:n_frames]]


def apng_parts(apng: ApngFile, decode: Callable[[bytes], np.ndarray]) -> Iterator[FramePart]:
    """The parts of an APNG; `decode` gives the RGBA pixels of a PNG file. For use inside `decoder_errors`."""
    bodies = dict(reversed(apng.chunks))
    colors = [png.chunk(kind, bodies[kind]) for kind in (b"PLTE", b"tRNS") if kind in bodies]
    for control, compressed in apng.frames:
        header = struct.pack(">II", control.width, control.height) + bodies[b"IHDR"][8:]
        file = png.png_file(png.chunk(b"IHDR", header), *colors, png.chunk(b"IDAT", compressed))
        yield FramePart(
            top=control.y_offset,
            left=control.x_offset,
            pixels=decode(file),
            blend="over" if control.blend_op == BLEND_OVER else "source",
            disposal=_DISPOSALS.get(control.dispose_op, "keep"),
            duration=control.duration(),
        )


def default_image(apng: ApngFile) -> bytes:
    """The PNG file of the default image of an APNG, with all metadata."""
    chunks = [chunk for chunk in apng.chunks if chunk[0] not in {*png.ANIMATION, b"IEND"}]
    return png.png_file(*itertools.starmap(png.chunk, chunks))
