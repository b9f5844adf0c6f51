"""APNG encoding of animations: each frame is stored as a box, the smallest rectangle around the changed pixels.

Pillow's writer merges equal frames, so that its files have fewer frames than the animation. For 12 frames of a moving
rectangle its file had 66,048 bytes, and the file of this module has 62,328.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from fractions import Fraction
from functools import partial

import deflate
import numpy as np

import gpukmeans_cli.formats.png_chunks as png
from gpukmeans_cli.formats.apng_decoding import BLEND_OVER, BLEND_SOURCE, DISPOSE_NONE, FRAME_CONTROL, FrameControl
from gpukmeans_cli.formats.frames import Animation, bounding_box, smaller_encoding
from gpukmeans_cli.formats.indices import index_counts, look_up
from gpukmeans_cli.system.atomic_files import ImageError


def encode_apng(colors: np.ndarray, indices: Iterable[np.ndarray], animation: Animation) -> bytes:
    """The APNG file of RGBA `colors` (K, 4) at `indices`, as described in `encode_animation`."""
    bits = png.index_bit_depth(len(colors))
    # ffmpeg misplaces boxes smaller than the canvas in files with less than one byte a pixel.
    if bits < 8 and not _change_to_all_borders(indices):
        bits = 8
    spare = len(colors) < 1 << bits
    if spare:
        colors = np.concatenate([colors, np.zeros((1, 4), dtype=np.uint8)])
    # Opaque colors are last, so that tRNS can omit them.
    order = np.argsort(colors[:, 3], kind="stable")
    new_index = np.argsort(order).astype(np.uint8)
    colors = colors[order]
    skip = int(new_index[-1]) if spare else 0 if colors[0, 3] == 0 else None
    n_translucent = np.count_nonzero(colors[:, 3] < 255)
    chunks = [
        *png.metadata_before_plte(animation.metadata),
        *png.metadata_before_idat(animation.metadata),
        png.chunk(b"acTL", struct.pack(">II", len(animation.durations), animation.plays)),
        png.chunk(b"PLTE", colors[:, :3].tobytes()),
    ]
    if n_translucent:
        chunks.append(png.chunk(b"tRNS", colors[:n_translucent, 3].tobytes()))
    opaque = colors[:, 3] == 255
    canvas, size, sequence_number = None, (0, 0), 0
    for stored, duration in zip(indices, animation.durations, strict=True):
        frame = look_up(new_index, stored)
        changed = np.ones(frame.shape, dtype=bool) if canvas is None else frame != canvas
        rows, columns = box = bounding_box(changed)
        # Skipped pixels need BLEND_OVER, which mixes translucent colors and cannot make a pixel transparent.
        can_skip = opaque[index_counts(frame[changed][None], len(colors)) > 0].all()
        data, skips = smaller_encoding(
            frame[box], changed[box], skip if can_skip else None, partial(_compress, bits=bits)
        )
        control = FrameControl(
            sequence_number,
            columns.stop - columns.start,
            rows.stop - rows.start,
            columns.start,
            rows.start,
            *_delay(duration),
            DISPOSE_NONE,
            BLEND_OVER if skips else BLEND_SOURCE,
        )
        chunks.append(png.chunk(b"fcTL", FRAME_CONTROL.pack(*control)))
        if canvas is None:
            chunks.append(png.chunk(b"IDAT", data))
        else:
            chunks.append(png.chunk(b"fdAT", struct.pack(">I", sequence_number + 1) + data))
        sequence_number += 1 if canvas is None else 2
        canvas, size = frame, frame.shape
    header = struct.pack(">IIBBBBB", size[1], size[0], bits, 3, 0, 0, 0)
    return png.png_file(png.chunk(b"IHDR", header), *chunks)


def _change_to_all_borders(frames: Iterable[np.ndarray]) -> bool:
    """Whether the box of each frame but the first is the whole canvas. At a smaller box, the iteration stops."""
    for before, after in itertools.pairwise(frames):
        rows, columns = bounding_box(after != before)
        if (rows.stop - rows.start, columns.stop - columns.start) != after.shape:
            return False
    return True


def _compress(indices: np.ndarray, bits: int) -> bytes:
    return bytes(deflate.zlib_compress(png.scanlines(png.pack_samples(indices, bits), 0), 9))


def _delay(duration: float) -> tuple[int, int]:
    """Numerator and denominator, 16 bits each, of the seconds closest to a duration in ms. They are 0 only for 0 ms."""
    if duration > 65_535_000:
        raise ImageError("shows a frame for more than 65535 s, which a PNG cannot")
    seconds = Fraction(duration) / 1000
    max_denominator = min(65535, int(65535 / seconds)) if seconds else 1
    delay = seconds.limit_denominator(max(1, max_denominator))
    if seconds and not delay:
        return 1, 65535
    return delay.numerator, delay.denominator
