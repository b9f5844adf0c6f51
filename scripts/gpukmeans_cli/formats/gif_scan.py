"""The blocks of GIF files: frames, their positions in the file, and repetitions.

This module imports neither torch, NumPy nor Pillow, since the outputs of a run are planned before those imports.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from gpukmeans_cli.formats.composition import Disposal

# Method 4 is not in the specification, but some programs write it. Browsers restore the pixels then, as for method 3.
_DISPOSALS: dict[int, Disposal] = {2: "clear", 3: "restore", 4: "restore"}


@dataclass(frozen=True, kw_only=True)
class GifFrame:
    """One frame of a GIF. Its compressed pixels stay in the file."""

    top: int
    left: int
    height: int
    width: int
    interlaced: bool
    color_table: bytes
    """RGB values; empty if the file has no table for the frame."""
    transparent: int | None
    """The index of the pixels that are not drawn."""
    disposal: Disposal
    duration: float
    """Milliseconds."""
    start: int
    """The position in the file of the code size of LZW, which the sub-blocks of compressed pixels follow."""
    n_bytes: int
    """The length of the code size and the sub-blocks."""


@dataclass(frozen=True, kw_only=True)
class GifFile:
    """The frames of a GIF, at least one, and its canvas."""

    height: int
    width: int
    plays: int
    """The number of times that the animation is shown; 0 is forever."""
    frames: list[GifFrame]


def is_animated_gif(path: Path) -> bool:
    """Whether the path is a file of suffix .gif with at least two frames. False if it cannot be read or is damaged."""
    try:
        if path.suffix.lower() != ".gif" or not path.is_file():  # a pipe cannot be read twice
            return False
        with path.open("rb") as file:
            frames = (block for block in _blocks(file) if isinstance(block, GifFrame))
            return len(list(itertools.islice(frames, 2))) == 2
    except (OSError, ValueError, SyntaxError, struct.error):  # reported when the file is decoded
        return False


def parse_gif(file: BinaryIO) -> GifFile:
    """The parsed blocks of a GIF file. SyntaxError or struct.error for a broken file.

    The canvas is the logical screen, which only the first frame can enlarge, as in browsers. If several blocks set the
    number of repetitions, the last one counts. The first byte that begins no block ends the file.
    """
    plays, frames = 1, list[GifFrame]()
    for block in _blocks(file):
        if isinstance(block, GifFrame):
            frames.append(block)
        else:
            plays = block
    if not frames:
        raise SyntaxError("it has no frame")
    file.seek(6)
    width, height = struct.unpack("<HH", file.read(4))
    first = frames[0]
    return GifFile(
        height=max(height, first.top + first.height),
        width=max(width, first.left + first.width),
        plays=plays,
        frames=frames,
    )


def _blocks(file: BinaryIO) -> Iterator[GifFrame | int]:
    """The frames of a GIF file and, for each extension that sets it, the number of plays, in the order of the file."""
    file.seek(0)
    signature, flags = struct.unpack("<6s4xBxx", file.read(13))
    if signature not in (b"GIF87a", b"GIF89a"):
        raise SyntaxError("it is not a GIF")
    global_table = _color_table(file, flags)
    control = (0, 0, 0)
    while (kind := file.read(1)) in (b"!", b","):
        if kind == b",":
            yield _frame(file, global_table, *control)
            control = (0, 0, 0)
            continue
        label, blocks = file.read(1), list(_sub_blocks(file))
        if label == b"\xf9" and blocks and len(blocks[0]) >= 4:
            control = struct.unpack_from("<BHB", blocks[0])
        elif label == b"\xff" and len(blocks) > 1 and blocks[0] in (b"NETSCAPE2.0", b"ANIMEXTS1.0"):
            number = blocks[1]
            if len(number) == 3 and number[0] == 1:
                repetitions = int.from_bytes(number[1:], "little")
                yield repetitions + 1 if repetitions else 0


def _color_table(file: BinaryIO, flags: int) -> bytes:
    return file.read(6 << (flags & 7)) if flags & 0x80 else b""


def _frame(file: BinaryIO, global_table: bytes, control: int, delay: int, transparent: int) -> GifFrame:
    """The frame whose image descriptor begins at the position of the file.

    `control` holds the flags of its graphic control extension, `delay` is in 1/100 s.
    """
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
    """The sub-blocks from the position of the file to the empty sub-block, which is read, or to the end."""
    while size := file.read(1):
        if size == b"\0":
            return
        yield file.read(size[0])
