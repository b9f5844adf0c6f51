"""GIF decoding: the blocks of a file are parsed here, the pixels of each frame are decompressed by Pillow."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from gpukmeans_cli.formats.composition import Disposal, FramePart
from gpukmeans_cli.formats.indices import look_up

# Method 4 is not in the specification, but some programs write it, and browsers restore.
_DISPOSALS: dict[int, Disposal] = {2: "clear", 3: "restore", 4: "restore"}


@dataclass(frozen=True, kw_only=True)
class GifFrame:
    """One frame of a GIF, whose compressed pixels stay in the file."""

    top: int
    left: int
    height: int
    width: int
    interlaced: bool
    color_table: bytes
    """RGB; empty where the file has none."""
    transparent: int | None
    """The index that is not drawn."""
    disposal: Disposal
    duration: float
    """Milliseconds."""
    start: int
    """The position of the compressed pixels in the file: the code size of LZW, and sub-blocks."""
    n_bytes: int


@dataclass(frozen=True, kw_only=True)
class GifFile:
    """The frames of a GIF, at least one, and its canvas."""

    height: int
    width: int
    plays: int
    """How often the animation is shown; 0 is forever."""
    frames: list[GifFrame]


def parse_gif(file: BinaryIO) -> GifFile:
    """The parsed blocks of a GIF file. SyntaxError or struct.error for a broken file.

    As in browsers, a first frame that exceeds the logical screen enlarges the canvas, later ones do not, the last
    number of repetitions counts, and the first byte that begins no block ends the file.
    """
    file.seek(0)
    width, height, flags = struct.unpack("<6xHHBxx", file.read(13))
    global_table = _color_table(file, flags)
    control, plays, frames = (0, 0, 0), 1, []
    while (kind := file.read(1)) in (b"!", b","):
        if kind == b",":
            frames.append(_frame(file, global_table, *control))
            control = (0, 0, 0)
            continue
        label, blocks = file.read(1), list(_sub_blocks(file))
        if label == b"\xf9" and blocks and len(blocks[0]) >= 4:
            control = struct.unpack_from("<BHB", blocks[0])
        elif label == b"\xff" and len(blocks) > 1 and blocks[0] in (b"NETSCAPE2.0", b"ANIMEXTS1.0"):
            plays = _plays(blocks[1], plays)
    if not frames:
        raise SyntaxError("it has no frame")
    first = frames[0]
    return GifFile(
        height=max(height, first.top + first.height),
        width=max(width, first.left + first.width),
        plays=plays,
        frames=frames,
    )


def _color_table(file: BinaryIO, flags: int) -> bytes:
    return file.read(6 << (flags & 7)) if flags & 0x80 else b""


def _frame(file: BinaryIO, global_table: bytes, control: int, delay: int, transparent: int) -> GifFrame:
    """The frame whose image descriptor begins here. `control` has the flags of its graphic control extension."""
    left, top, width, height, flags = struct.unpack("<HHHHB", file.read(9))
    color_table = _color_table(file, flags) or global_table
    start = file.tell()
    file.seek(1, io.SEEK_CUR)
    for _ in _sub_blocks(file):
        pass
    return GifFrame(
        top=top,
        left=left,
        height=height,
        width=width,
        interlaced=bool(flags & 0x40),
        color_table=color_table,
        transparent=transparent if control & 1 else None,
        disposal=_DISPOSALS.get(control >> 2 & 7, "keep"),
        duration=10.0 * delay,
        start=start,
        n_bytes=file.tell() - start,
    )


def _sub_blocks(file: BinaryIO) -> Iterator[bytes]:
    """The sub-blocks that begin here, to the empty one, which is read too, or the end of the file."""
    while size := file.read(1):
        if size == b"\0":
            return
        yield file.read(size[0])


def _plays(block: bytes, before: int) -> int:
    """The number of plays that the sub-block requests: its number is of repetitions; `before` if it has none."""
    if len(block) != 3 or block[0] != 1:
        return before
    repetitions = int.from_bytes(block[1:], "little")
    return repetitions + 1 if repetitions else 0


def gif_parts(gif: GifFile, file: BinaryIO) -> Iterator[FramePart]:
    """The parts of a GIF file, each decompressed when it is needed. For use inside `decoder_errors`."""
    for frame in gif.frames:
        colors = np.zeros((256, 4), dtype=np.uint8)
        colors[:, 3] = 255  # an index outside the table is black, as in browsers
        table = np.frombuffer(frame.color_table, dtype=np.uint8).reshape(-1, 3)
        colors[: len(table), :3] = table
        if frame.transparent is not None:
            colors[frame.transparent] = 0
        yield FramePart(
            top=frame.top,
            left=frame.left,
            pixels=look_up(colors, _indices(frame, file)),
            blend="over",
            disposal=frame.disposal,
            duration=frame.duration,
        )


def _indices(frame: GifFrame, file: BinaryIO) -> np.ndarray:
    """The color indices of a frame, uint8 (height, width), decompressed as a grey GIF of its own."""
    if not frame.height * frame.width:
        return np.zeros((frame.height, frame.width), dtype=np.uint8)
    size = struct.pack("<HH", frame.width, frame.height)
    flags = bytes([0x40 * frame.interlaced])
    file.seek(frame.start)
    data = b"".join([b"GIF89a", size, b"\0\0\0,\0\0\0\0", size, flags, file.read(frame.n_bytes), b";"])
    image = Image.open(io.BytesIO(data), formats=["GIF"])
    image.load()
    return np.asarray(image)
