"""GIF encoding of animations: each frame is stored as a box, the smallest rectangle around the changed pixels.

Pillow's writer merges equal frames, so that its files have fewer frames than the animation. For 12 frames of a moving
rectangle its file had 72,336 bytes, and the file of this module has 69,052.
"""

import itertools
import struct
from collections.abc import Iterable
from functools import partial

import numpy as np
from PIL import Image

from gpukmeans_cli.formats.frames import Animation, bounding_box, smaller_encoding
from gpukmeans_cli.formats.indices import look_up
from gpukmeans_cli.system.atomic_files import ImageError

_KEEP, _CLEAR = 1, 2  # disposal methods


def encode_gif(colors: np.ndarray, indices: Iterable[np.ndarray], animation: Animation) -> bytes:
    """The GIF file of RGBA `colors` (K, 4) at `indices`, as described in `encode_animation`."""
    new_index, transparent = _one_transparent_index(colors)
    # If no color is transparent, an unused index becomes transparent, to skip unchanged pixels.
    skip = transparent if transparent is not None else len(colors) if len(colors) < 256 else None
    bits = max(1, (max(len(colors) - 1, skip or 0)).bit_length())
    blocks = []
    if animation.plays != 1:
        repetitions = min(max(0, animation.plays - 1), 65535)
        blocks.append(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", repetitions, 0))
    if comment := animation.metadata.text.get("Comment"):
        blocks.append(b"\x21\xfe" + _sub_blocks(comment.encode()))
    frames = (frame if transparent is None else look_up(new_index, frame) for frame in indices)
    canvas, height, width = None, 0, 0
    for (frame, after), delay in zip(
        itertools.pairwise(itertools.chain(frames, [None])), _delays(animation.durations), strict=True
    ):
        assert frame is not None  # only the last element is None
        height, width = frame.shape
        if max(height, width) > 65535:
            raise ImageError("has a side above 65535 pixels, which a GIF cannot have; use .png")
        cleared = np.zeros(1, dtype=bool)
        if transparent is not None and after is not None:
            cleared = (frame != transparent) & (after == transparent)
        changed = np.ones(frame.shape, dtype=bool) if canvas is None else frame != canvas
        # Only disposal makes pixels transparent, and it clears only the box. So the box includes pixels that are
        # transparent in the next frame.
        rows, columns = box = bounding_box(changed | cleared)
        data, skips = smaller_encoding(frame[box], changed[box], skip, partial(_image_data, bits=max(2, bits)))
        disposal = _CLEAR if cleared.any() else _KEEP
        flags = disposal << 2 | (skips or transparent is not None)
        blocks.append(b"\x21\xf9\x04" + struct.pack("<BHBB", flags, delay, skip or 0, 0))
        size = frame[box].shape[::-1]
        blocks.append(b"," + struct.pack("<HHHHB", columns.start, rows.start, *size, 0) + data)
        canvas = frame
        if transparent is not None and disposal == _CLEAR:
            canvas = frame.copy()
            canvas[box] = transparent
    color_table = colors[:, :3].tobytes().ljust(3 << bits, b"\0")
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80 | 0x70 | bits - 1, 0, 0)
    return b"".join([header, color_table, *blocks, b";"])


def _one_transparent_index(colors: np.ndarray) -> tuple[np.ndarray, int | None]:
    """A table of new indices that merges all transparent colors, and the index of the merged color; None without one.

    ImageError for partial alpha.
    """
    alpha = colors[:, 3]
    if ((alpha > 0) & (alpha < 255)).any():
        raise ImageError("has half-transparent colors, which a GIF cannot have; use .png")
    new_index, transparent = np.arange(len(colors), dtype=np.uint8), np.flatnonzero(alpha == 0)
    if not transparent.size:
        return new_index, None
    new_index[transparent] = transparent[0]
    return new_index, int(transparent[0])


def _delays(durations: tuple[float, ...]) -> list[int]:
    """Durations in 1/100 s. A positive duration is at least 1.

    The rounding error, at most half a unit, is added to the next duration. It never shortens a frame to 1 unit,
    since many players show a frame of 1 unit for 10 units.
    """
    delays, error = [], 0.0
    for duration in durations:
        least = min(2, max(1, round(duration / 10))) if duration else 0
        delay = max(least, round((duration + error) / 10)) if duration else 0
        if delay > 65535:
            raise ImageError("shows a frame for more than 655 s, which a GIF cannot; use .png")
        error = min(5.0, max(-5.0, duration + error - 10 * delay))
        delays.append(delay)
    return delays


def _image_data(indices: np.ndarray, bits: int) -> bytes:
    # Pillow compresses by LZW, but its GIF writer is not used, since it merges equal frames and reorders palettes.
    return bytes([bits]) + Image.fromarray(np.ascontiguousarray(indices)).tobytes("gif", "L", bits, 0) + b"\0"


def _sub_blocks(data: bytes) -> bytes:
    blocks = [data[start : start + 255] for start in range(0, len(data), 255)]
    return b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
