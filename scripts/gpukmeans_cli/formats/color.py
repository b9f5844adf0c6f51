"""Color encodings, defined by an ICC profile or by chunks of a PNG, and their conversion to sRGB.

Conversions follow Chromium. The tests compare them with its pixels.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

from gpukmeans import has_alpha
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.png_chunks import scan_chunks

# Pixels converted at a time, which bounds the memory beside the image and the result.
BLOCK_PIXELS = 1 << 18

_Chunks = tuple[tuple[bytes, bytes], ...]

# Primaries of ITU-T H.273, by the first byte of cICP: x and y of white, red, green and blue.
_D65, _C = (0.3127, 0.329), (0.31, 0.316)
_BT709 = (*_D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
_PRIMARIES = {
    1: _BT709,
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*_D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    10: (1 / 3, 1 / 3, 1, 0, 0, 1, 0, 0),
    11: (0.314, 0.351, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    22: (*_D65, 0.63, 0.34, 0.295, 0.605, 0.155, 0.077),
}

_Transfer = Callable[[np.ndarray], np.ndarray]
"""A function from encoded values, 0 to 1, to linear light, where 1 is white."""

# The luminance, in nits, that becomes white when HDR is converted to sRGB.
_WHITE_NITS = 406
_HLG_PEAK_NITS, _HLG_GAMMA = 1000, 1.2


def _srgb(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _smpte240(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 4 * 0.0228, values / 4, ((values + 0.1115) / 1.1115) ** (1 / 0.45))


def _pq(values: np.ndarray) -> np.ndarray:
    power = values ** (32 / 2523)
    light = (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (16384 / 2610)
    return light * (10_000 / _WHITE_NITS)


def _hlg(values: np.ndarray) -> np.ndarray:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(values <= 0.5, values * values / 3, (np.exp((values - c) / a) + b) / 12)


def _power(exponent: float, white: float = 1.0) -> _Transfer:
    return lambda values: values**exponent / white


# Transfer functions of ITU-T H.273, by the second byte of cICP.
_TRANSFERS: dict[int, _Transfer] = {
    **dict.fromkeys((1, 6, 11, 14, 15), _power(2.4)),
    4: _power(2.2),
    5: _power(2.8),
    7: _smpte240,
    8: _power(1),
    13: _srgb,
    16: _pq,
    17: _power(2.6, white=48 / 52.37),
    18: _hlg,
}
_HLG = 18


def with_color_chunks(metadata: Metadata, file: BinaryIO) -> Metadata:
    """The metadata of a PNG file, with the chunks that define its colors.

    Each kind overrides the kinds after it, as in the third edition of PNG: cICP, iCCP, sRGB, gAMA with cHRM. Overridden
    chunks, invalid chunks and chunks that Chromium does not support are left out.
    """
    chunks = _color_chunks(file)
    if _is_known(chunks.get(b"cICP", b"")):
        kept = {kind: body for kind, body in chunks.items() if kind in (b"cICP", b"mDCV", b"cLLI")}
        return replace(metadata, icc_profile=None, color_chunks=tuple(kept.items()))
    if metadata.icc_profile is not None:
        return metadata
    kinds = (b"sRGB",) if b"sRGB" in chunks else (b"gAMA", b"cHRM")
    return replace(metadata, color_chunks=tuple((kind, chunks[kind]) for kind in kinds if kind in chunks))


def _color_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """The first chunk of each color kind before PLTE and IDAT that has the right length and checksum."""
    lengths = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"mDCV": 24, b"cLLI": 8}
    found: dict[bytes, bytes] = {}
    for chunk in itertools.takewhile(lambda chunk: chunk.kind not in (b"PLTE", b"IDAT"), scan_chunks(file)):
        if len(chunk.body) == lengths.get(chunk.kind) and chunk.is_intact:
            found.setdefault(chunk.kind, chunk.body)
    return found


def _is_known(cicp: bytes) -> bool:
    """Whether a chunk cICP has known primaries and a known transfer function, for RGB of full range."""
    return len(cicp) == 4 and cicp[0] in _PRIMARIES and cicp[1] in _TRANSFERS and cicp[2:] == b"\0\1"


def to_srgb(pixels: np.ndarray, metadata: Metadata) -> np.ndarray:
    """Pixels, uint8 (..., C), converted from the color encoding of their metadata to sRGB.

    C is 1 grey, 2 grey and alpha, 3 RGB or 4 RGBA. Grey becomes RGB if its profile makes it colored. HDR brighter than
    white becomes white. The array itself is returned if the metadata have no encoding, sRGB or an unusable profile.
    """
    convert = _converter(metadata)
    if convert is None:
        return pixels
    n_colors = 3 if pixels.shape[-1] >= 3 else 1
    rows = pixels.reshape(-1, pixels.shape[-1])
    levels = np.arange(256, dtype=np.uint8)[:, None]
    table = convert(np.repeat(levels, 3, axis=1)) if n_colors == 1 else levels
    if n_colors == 1 and np.ptp(table.astype(int), axis=1).max() <= 1:
        table = table[:, 1:2]
    converted = np.empty((len(rows), table.shape[1] if n_colors == 1 else 3), dtype=np.uint8)
    for start in range(0, len(rows), BLOCK_PIXELS):
        block = rows[start : start + BLOCK_PIXELS, :n_colors]
        converted[start : start + BLOCK_PIXELS] = table[block[:, 0]] if n_colors == 1 else convert(block)
    if has_alpha(pixels.shape[-1]):
        converted = np.concatenate([converted, rows[:, -1:]], axis=1)
    return converted.reshape(*pixels.shape[:-1], -1)


def is_srgb(metadata: Metadata) -> bool:
    """Whether `to_srgb` returns its argument, since the colors are sRGB or their encoding is unknown."""
    return _converter(metadata) is None


def without_encoding(metadata: Metadata) -> Metadata:
    """The metadata without the color encoding, for pixels in sRGB."""
    return replace(metadata, icc_profile=None, color_chunks=())


_Converter = Callable[[np.ndarray], np.ndarray]
"""A function from RGB values, uint8 (N, 3), to sRGB."""


def _converter(metadata: Metadata) -> _Converter | None:
    if metadata.icc_profile is not None:
        return _profile_converter(metadata.icc_profile)
    return _chunk_converter(metadata.color_chunks)


@cache
def _srgb_profile() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def profile_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform of images with this profile and Pillow mode to sRGB; None if the profile cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, _srgb_profile(), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _profile_converter(profile: bytes) -> _Converter | None:
    mode = "L" if profile[16:20] == b"GRAY" else "RGB"
    transform = profile_transform(profile, mode)
    if transform is None:
        return None

    def convert(rgb: np.ndarray) -> np.ndarray:
        values = rgb[None, :, 0] if mode == "L" else rgb[None]
        converted = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(values)), transform)
        assert converted is not None  # applyTransform returns None only for a conversion in place
        return np.asarray(converted)[0]

    steps = np.arange(0, 256, 15, dtype=np.uint8)
    samples = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    if mode == "L":
        samples = np.repeat(steps[:, None], 3, axis=1)
    is_same = abs(convert(samples).astype(int) - samples).max() <= 1
    return None if is_same else convert


def _chunk_converter(color_chunks: _Chunks) -> _Converter | None:
    chunks = dict(color_chunks)
    is_hlg = False
    if cicp := chunks.get(b"cICP"):
        if cicp[:2] == b"\1\x0d":
            return None
        primaries, transfer, is_hlg = _PRIMARIES[cicp[0]], _TRANSFERS[cicp[1]], cicp[1] == _HLG
    elif gamma := int.from_bytes(chunks.get(b"gAMA", b""), "big"):
        primaries = tuple(value / 100_000 for value in struct.unpack(">8I", chunks.get(b"cHRM", bytes(32))))
        if not any(primaries):
            primaries = _BT709
            if abs(gamma / 45455 - 1) < 0.05:
                return None  # an approximation of sRGB
        transfer = _power(100_000 / gamma)
    else:
        return None
    matrix = _to_bt709(primaries)
    if matrix is None:
        return None
    light_of = transfer(np.arange(256) / 255).astype(np.float32)
    luminance = _to_xyz(primaries)[1].astype(np.float32)
    steps = np.arange(1 << 16) / 65535
    encoded = np.where(steps <= 0.0031308, 12.92 * steps, 1.055 * steps ** (1 / 2.4) - 0.055)
    level_of = np.rint(255 * encoded).astype(np.uint8)

    def convert(rgb: np.ndarray) -> np.ndarray:
        light = light_of[rgb]
        if is_hlg:
            light *= (light @ luminance)[:, None] ** np.float32(_HLG_GAMMA - 1) * (_HLG_PEAK_NITS / _WHITE_NITS)
        light = np.clip(light @ matrix.T, 0, 1)
        return level_of[np.rint(light * 65535).astype(np.uint16)]

    return convert


def _to_xyz(primaries: tuple[float, ...]) -> np.ndarray:
    """The matrix (3, 3) from linear RGB to XYZ. White has luminance 1. LinAlgError or NaN for invalid primaries."""
    white, *rgb = (np.array([x, y, 1 - x - y]) for x, y in zip(primaries[::2], primaries[1::2], strict=True))
    columns = np.stack(rgb, axis=1)
    return columns * np.linalg.solve(columns, white / np.float64(primaries[1]))


def _to_bt709(primaries: tuple[float, ...]) -> np.ndarray | None:
    """The matrix (3, 3) from linear RGB of these primaries to linear sRGB; None for impossible primaries.

    The Bradford adaptation maps white to white.
    """
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    with np.errstate(all="ignore"):  # a matrix that is not finite becomes None below
        try:
            to_xyz, from_srgb = _to_xyz(primaries), _to_xyz(_BT709)
        except np.linalg.LinAlgError:
            return None
        cones = (bradford @ from_srgb.sum(axis=1)) / (bradford @ to_xyz.sum(axis=1))
        matrix = np.linalg.inv(bradford @ from_srgb) @ np.diag(cones) @ bradford @ to_xyz
    if abs(np.linalg.det(matrix)) > 1e6:  # the primaries are nearly on a line
        return None
    return matrix.astype(np.float32) if np.isfinite(matrix).all() else None
