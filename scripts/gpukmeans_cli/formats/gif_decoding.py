"""GIF decoding: `gif_scan` parses the frames, Pillow decompresses their pixels, and `composition` composes them.

The frames that Pillow composes itself differ from the frames of browsers in 11 of the 14 cases of
`test_frames_are_shown_as_in_a_browser`: in the canvas, in disposal and in transparency.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from gpukmeans_cli.formats.composition import FramePart
from gpukmeans_cli.formats.gif_scan import GifFile, GifFrame
from gpukmeans_cli.formats.indices import look_up


def gif_parts(gif: GifFile, file: BinaryIO) -> Iterator[FramePart]:
    """The frames of a GIF as stored. Each is decoded when it is needed. For use inside `decoder_errors`."""
    for frame in gif.frames:
        colors = np.zeros((256, 4), dtype=np.uint8)
        colors[:, 3] = 255  # browsers show an index outside the table as black
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
