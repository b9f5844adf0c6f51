"""APNG decoding: frames are parsed as the specification requires, and Pillow decodes each as a PNG of its own.

Pillow 13 makes errors when it blends a frame over another: it blends palette indices, and it makes opaque pixels
transparent.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

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
        """The duration in milliseconds. A denominator of 0 stands for 100."""
        return 1000 * self.delay_num / (self.delay_den or 100)


class ApngFrame(NamedTuple):
    """One frame of an APNG. Its compressed pixels stay in the file."""

    control: FrameControl
    data: list[tuple[int, int]]
    """Position in the file and length of each piece of the compressed pixels."""


@dataclass(frozen=True, kw_only=True)
class ApngFile:
    """The frames of an APNG and its canvas."""

    height: int
    width: int
    plays: int
    """The number of times that the animation is shown; 0 is forever."""
    frames: list[ApngFrame]
    header: bytes
    """The body of IHDR."""
    colors: list[bytes]
    """The chunks PLTE and tRNS, if the file has them."""


def parse_apng(file: BinaryIO) -> ApngFile:
    """The parsed chunks of an APNG. SyntaxError, struct.error or KeyError for a broken file or a file without acTL."""
    bodies: dict[bytes, bytes] = {}
    stored: list[ApngFrame] = []
    sequence_number = 0
    for kind, body, start in png.read_chunks(file):
        if kind in (b"fcTL", b"fdAT"):
            if int.from_bytes(body[:4], "big") != sequence_number:
                raise SyntaxError("frames are missing or out of order")
            sequence_number += 1
        if kind == b"fcTL":
            stored.append(ApngFrame(FrameControl(*FRAME_CONTROL.unpack(body)), []))
        elif kind == b"fdAT":
            stored[-1].data.append((start + 4, len(body) - 4))
        elif kind != b"IDAT":
            bodies.setdefault(kind, body)
        elif stored:  # IDAT before the first fcTL is the default image, not a frame
            stored[-1].data.append((start, len(body)))
    width, height = struct.unpack_from(">II", bodies[b"IHDR"])
    n_frames, plays = struct.unpack_from(">II", bodies[b"acTL"])
    if len(stored) < n_frames:
        raise SyntaxError(f"{len(stored)} of {n_frames} frames are present")
    for control, _ in stored[:n_frames]:
        right, bottom = control.x_offset + control.width, control.y_offset + control.height
        if not control.width * control.height or right > width or bottom > height:
            raise SyntaxError("a frame lies outside the image")
    return ApngFile(
        height=height,
        width=width,
        plays=plays,
        frames=stored[:n_frames],
        header=bodies[b"IHDR"],
        colors=[png.chunk(kind, bodies[kind]) for kind in (b"PLTE", b"tRNS") if kind in bodies],
    )


def apng_parts(apng: ApngFile, file: BinaryIO, decode: Callable[[bytes], np.ndarray]) -> Iterator[FramePart]:
    """The frames of an APNG as stored. Each is decoded when it is needed. For use inside `decoder_errors`.

    `decode` returns the RGBA pixels of a PNG file.
    """
    for control, data in apng.frames:
        header = struct.pack(">II", control.width, control.height) + apng.header[8:]
        compressed = b"".join(_read(file, *piece) for piece in data)
        yield FramePart(
            top=control.y_offset,
            left=control.x_offset,
            pixels=decode(
                png.png_file(png.chunk(b"IHDR", header), *apng.colors, png.chunk(b"IDAT", compressed)),
            ),
            blend="over" if control.blend_op == BLEND_OVER else "source",
            disposal=_DISPOSALS.get(control.dispose_op, "keep"),
            duration=control.duration(),
        )


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def default_image(file: BinaryIO) -> bytes:
    """The PNG file of the default image of an APNG file, with all metadata."""
    chunks = (png.chunk(kind, body) for kind, body, _ in png.read_chunks(file) if kind not in {*png.ANIMATION, b"IEND"})
    return png.png_file(*chunks)
