"""APNG encoding of animations: each frame is stored as the box of pixels that changed."""

from __future__ import annotations

import itertools
import struct
import zlib
from fractions import Fraction
from functools import partial

import numpy as np

import gpukmeans_cli.formats.png_chunks as png
from gpukmeans_cli.formats.apng_decoding import BLEND_OVER, BLEND_SOURCE, DISPOSE_NONE, FRAME_CONTROL, FrameControl
from gpukmeans_cli.formats.frames import Animation, Box, bounding_box, smaller_encoding
from gpukmeans_cli.system.atomic_files import ImageError


def encode_apng(colors: np.ndarray, indices: np.ndarray, animation: Animation) -> bytes:
    """The APNG file of RGBA `colors` (K, 4) at `indices` (F, height, width), as described in `encode_animation`."""
    height, width = indices.shape[1:]
    boxes = _changed_boxes(indices)
    whole = slice(0, height), slice(0, width)
    # ffmpeg misplaces parts of frames with less than a byte for each pixel.
    bits = png.index_bit_depth(len(colors)) if all(box == whole for box in boxes) else 8
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
        png.chunk(b"acTL", struct.pack(">II", len(indices), animation.plays)),
        png.chunk(b"PLTE", colors[:, :3].tobytes()),
    ]
    if n_translucent:
        chunks.append(png.chunk(b"tRNS", colors[:n_translucent, 3].tobytes()))
    opaque = colors[:, 3] == 255
    canvas, sequence_number = None, 0
    for frame, duration, box in zip(indices, animation.durations, boxes, strict=True):
        changed = np.ones(frame.shape, dtype=bool) if canvas is None else frame != canvas
        rows, columns = box
        # Blending over mixes translucent colors and cannot make a pixel transparent.
        can_skip = bool(opaque[frame[changed]].all())
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
        canvas = frame
    return png.png_file(*chunks)


def _changed_boxes(indices: np.ndarray) -> list[Box]:
    """The whole first frame, then the box of the pixels of each frame that differ from the frame before it."""
    height, width = indices.shape[1:]
    changes = (bounding_box(after != before) for before, after in itertools.pairwise(indices))
    return [(slice(0, height), slice(0, width)), *changes]


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
