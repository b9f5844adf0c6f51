"""Still images: encoding of a palette and indices as a small PNG, GIF or WebP file.

The data of a PNG are compressed several times, and the smallest result is stored. An attempt is one choice of samples
(grey levels, or indices for one order of the palette) and of filters. The scanlines of an attempt are all the bytes
that deflate compresses: for each row the filter type and the filtered samples. Deflate stores a repeat, a string of
bytes that occurred before, as a length and a distance, and encodes the lengths, distances and other bytes by Huffman
codes. First all attempts are compressed by the fast encodings of `_quick_attempts`. Then the smallest attempts are
compressed at higher levels, depending on the effort (`--effort`, 0 to 3).
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import deflate
import numpy as np
import torch
import zopfli.zlib
from PIL import Image

import gpukmeans_cli.formats.png_chunks as png
from gpukmeans import palette_orders, png_scanlines
from gpukmeans_cli.formats.color import to_srgb, without_encoding
from gpukmeans_cli.formats.indices import index_counts, look_up
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.reading import as_rgba
from gpukmeans_cli.system.atomic_files import ImageError, write_atomically

DEFAULT_EFFORT, MOST_EFFORT = 2, 3

# Levels of libdeflate. Up to level 9 it chooses the longest repeats. From level 10 on it chooses the repeats of the
# fewest bits, which takes 10 to 30 times the time of level 6. Compared with the smallest fast encoding, level 10 saves
# 7 % for photos of 16 colors, 3 % for 64 colors, 0.5 % for 256 colors and 5 % for drawings. For some drawings in which
# areas repeat exactly, level 9 makes smaller files than level 10. Levels above 6 are tried on an attempt only if its
# size in a fast encoding, with PLTE and tRNS, is at most `NEAR_BEST` times the smallest such size of all attempts.
# Below the highest effort, the fast encoding must also have at most `REPETITIVE` bytes a pixel.
FAST_LEVEL, LONGEST_LEVEL, LEVEL, HIGHEST_LEVEL = 6, 9, 10, 12
NEAR_BEST, REPETITIVE = 1.1, 0.3

# An image counts as a drawing if its size with repeats is at most this ratio of its size by Huffman codes alone.
REPEATED = 0.29

# With the default effort or more, the smallest attempt of a drawing of up to `_SMALL` pixels is also compressed at the
# highest level. For up to `_ZOPFLI_PIXELS` pixels, it is also compressed by Zopfli, which saves 3 to 5 % more and takes
# 2 to 6 seconds a megapixel. With 15 iterations instead of 3, Zopfli would save another 0.3 %.
_SMALL, _ZOPFLI_PIXELS, _ZOPFLI_ITERATIONS = 1 << 20, 1 << 19, 3

_GREY, _PALETTE = 0, 3  # color types of PNG

_MAX_SIDE = {"GIF": 65535, "WEBP": 16383}


def encode_still(
    palette: np.ndarray,
    indices: np.ndarray,
    suffix: str,
    *,
    metadata: Metadata = Metadata(),  # noqa: B008, it is frozen
    effort: int = DEFAULT_EFFORT,
    whole_palette: bool = False,
) -> bytes:
    """The file of the colors `palette` (K, C) at `indices` (height, width), in the format of `suffix`.

    Both are uint8, K is 1..256 and C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. The decoded pixels are
    `palette[indices]`. Each color in use is stored once, in an order chosen for size. All colors of alpha 0 become the
    first color of alpha 0 in use. Equal pixels give equal bytes. With `whole_palette`, a file with a palette also has
    the unused colors. A higher `effort`, 0..3, makes smaller PNG and WebP files in more time.

    A PNG has a palette, or is grey if that is smaller. A GIF has no partial alpha. A WebP is lossless. PNG stores all
    metadata, WebP stores profile, EXIF and XMP, and GIF stores the text "Comment". PNG has exceptions: blanks that it
    does not allow are removed from keywords. Texts whose keyword then does not have 1..79 characters of Latin-1,
    resolutions outside the range of the chunk pHYs, and profiles above 1 MiB, which Pillow would reject, are not
    stored.

    Raises ImageError for a suffix not in `system.atomic_files.SUFFIXES` and for an image that the format cannot store.
    Raises ValueError if palette and indices do not match.
    """
    encode = _ENCODERS.get(suffix.lower())
    if encode is None:
        raise ImageError(f"cannot be written as {suffix or 'a file without suffix'}; use one of {', '.join(_ENCODERS)}")
    check_palette(palette)
    check_indices(indices, palette)
    return encode(*_distinct_colors(palette, indices, whole_palette), metadata, effort)


def is_repetitive(indices: np.ndarray) -> bool:
    """Whether indices, uint8 (height, width), belong to a drawing: repeats make the file much smaller.

    Compared with Huffman codes alone, repeats save 71 % or more of the bytes of drawings in 4 to 256 colors. They save
    less for photos, except photos of smooth areas in 4 colors.
    """
    by_codes = _by_zlib(np.ascontiguousarray(indices), zlib.Z_HUFFMAN_ONLY)
    return len(_by_libdeflate(indices, FAST_LEVEL)) <= REPEATED * len(by_codes)


def encode_pixels(pixels: np.ndarray, metadata: Metadata) -> tuple[bytes, str]:
    """A lossless file of pixels, uint8 (height, width, C), for a browser, and its suffix.

    C is as in `encode_still`. The file is a WebP, or a PNG if a side is too long for WebP. The only metadata stored is
    the color profile, since it changes how the pixels are displayed. If chunks of a PNG (such as gAMA, cHRM or cICP)
    define the color space of the pixels, the pixels are converted to sRGB.
    """
    if metadata.color_chunks:
        pixels, metadata = to_srgb(pixels, metadata), without_encoding(metadata)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    data = io.BytesIO()
    if max(image.size) > _MAX_SIDE["WEBP"]:
        image.save(data, "PNG", icc_profile=metadata.icc_profile)
        return data.getvalue(), ".png"
    image.save(data, "WEBP", lossless=True, exact=True, icc_profile=metadata.icc_profile)
    return data.getvalue(), ".webp"


def write_png(path: Path, image: Image.Image, *, overwrite: bool) -> None:
    """Write the image as a PNG file, complete or not at all. `overwrite` and errors are as in `write_atomically`."""
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    write_atomically(path, data.getvalue(), overwrite=overwrite)


def check_palette(palette: np.ndarray) -> None:
    """ValueError unless the palette is uint8 (1..256, 1..4)."""
    if palette.dtype != np.uint8 or palette.ndim != 2 or not 1 <= len(palette) <= 256 or not 1 <= palette.shape[1] <= 4:
        raise ValueError(f"palette must be uint8 (1..256, 1..4), got {palette.dtype} {palette.shape}")


def check_indices(indices: np.ndarray, palette: np.ndarray) -> None:
    """ValueError unless the indices are uint8 (height, width), below the length of the palette."""
    if indices.dtype != np.uint8 or indices.ndim != 2 or indices.size == 0:
        raise ValueError(f"indices must be uint8 (height, width), not empty, got {indices.dtype} {indices.shape}")
    if indices.max() >= len(palette):
        raise ValueError(f"indices must be below {len(palette)}, the colors of the palette, got {indices.max()}")


def _distinct_colors(palette: np.ndarray, indices: np.ndarray, whole_palette: bool) -> tuple[np.ndarray, np.ndarray]:
    """The distinct RGBA colors (K, 4) in lexicographic order, all or only the used ones, and indices into them."""
    used = (index_counts(indices, len(palette)) > 0) | whole_palette
    rgba = as_rgba(palette)
    invisible = np.flatnonzero(used & (rgba[:, 3] == 0))
    rgba[invisible] = rgba[invisible[:1]]
    colors, inverse = np.unique(rgba[used], axis=0, return_inverse=True)
    new_index = np.zeros(len(palette), dtype=np.uint8)
    new_index[used] = inverse.ravel()
    return colors, look_up(new_index, indices)


# PNG


@dataclass(frozen=True)
class _Samples:
    """An image as samples of a PNG: grey levels or palette indices."""

    color_type: int
    bit_depth: int  # 1, 2, 4, 8
    values: np.ndarray  # uint8 (height, width), below 2**bit_depth
    color_chunks: bytes  # PLTE and tRNS


@dataclass(frozen=True)
class _Attempt:
    """Samples, their scanlines (the data of IDAT before deflate), and the smallest encoding found so far."""

    samples: _Samples
    scanlines: np.ndarray  # uint8 (height, 1 + bytes of a row)
    is_filtered: bool
    data: bytes

    @property
    def n_bytes(self) -> int:
        return len(self.data) + len(self.samples.color_chunks)

    def searched(self, level: int) -> _Attempt:
        """The attempt with its data compressed at a higher level of libdeflate, if that is smaller."""
        levels = (level,) if self.is_filtered else (LONGEST_LEVEL, level)
        return replace(self, data=min(self.data, *(_by_libdeflate(self.scanlines, n) for n in levels), key=len))


def _encode_png(colors: np.ndarray, indices: np.ndarray, metadata: Metadata, effort: int) -> bytes:
    is_small_drawing = effort >= DEFAULT_EFFORT and indices.size <= _SMALL and is_repetitive(indices)
    all_orders = effort == MOST_EFFORT or is_small_drawing
    attempts = [
        attempt
        for samples in _all_samples(colors, indices, metadata, effort, all_orders)
        for attempt in _quick_attempts(samples, effort)
    ]
    best = min(attempts, key=lambda attempt: attempt.n_bytes)
    if effort:
        level = HIGHEST_LEVEL if effort == MOST_EFFORT else LEVEL
        ratio = math.inf if effort == MOST_EFFORT else REPETITIVE
        searched = (
            attempt.searched(level)
            for attempt in attempts
            if attempt.n_bytes <= NEAR_BEST * best.n_bytes and len(attempt.data) <= ratio * attempt.samples.values.size
        )
        best = min([best, *searched], key=lambda attempt: attempt.n_bytes)
        if is_small_drawing:
            best = best.searched(HIGHEST_LEVEL)
            if indices.size <= _ZOPFLI_PIXELS:
                best = replace(best, data=min(best.data, _by_zopfli(best.scanlines), key=len))
    return _png_file(best.samples, best.data, metadata)


def _all_samples(
    colors: np.ndarray, indices: np.ndarray, metadata: Metadata, effort: int, all_orders: bool
) -> Iterator[_Samples]:
    """The samples of the image that may make the smallest file: grey levels, and indices for orders of the palette.

    With `all_orders`, the orders are all of `palette_orders` and two more: by count and by brightness. Otherwise the
    only order is the first of `palette_orders`. With effort 1 or more, indices of less than 8 bits are also tried in 8
    bits, which often makes a smaller file.
    """
    # PNG forbids an RGB profile with grey samples, and a grey profile with a palette.
    color_space = None if metadata.icc_profile is None else metadata.icc_profile[16:20]
    grey = _grey_samples(colors, indices) if color_space in (None, b"GRAY") else None
    if grey is not None:
        yield grey
    if grey is None or color_space is None:
        orders = palette_orders(torch.from_numpy(indices), len(colors))
        if all_orders:
            by_count = np.argsort(-index_counts(indices, len(colors)), kind="stable")
            by_brightness = np.argsort(colors[:, :3] @ np.array([2, 4, 1]), kind="stable")
            orders += [torch.from_numpy(by_count), torch.from_numpy(by_brightness)]
        for order in orders if all_orders else orders[:1]:
            samples = _palette_samples(colors, indices, order.numpy())
            yield samples
            if effort and samples.bit_depth < 8:
                yield replace(samples, bit_depth=8)


def _grey_samples(colors: np.ndarray, indices: np.ndarray) -> _Samples | None:
    """The image as grey levels, or None if it has colors, partial alpha, or no free level for its invisible pixels."""
    opaque = colors[:, 3] == 255
    if (colors[:, :3] != colors[:, :1]).any(where=opaque[:, None]) or (colors[~opaque, 3] != 0).any():
        return None
    levels = colors[:, 0].copy()
    used = np.isin(np.arange(256), levels[opaque])
    invisible = np.flatnonzero(~opaque)
    # The level of invisible pixels is the grey of their color, so that even this hidden color is decoded unchanged.
    if invisible.size and (used[levels[invisible[0]]] or (colors[invisible, :3] != colors[invisible, :1]).any()):
        return None
    # Below 8 bits some decoders, such as Pillow, compare the transparent level with pixels that are scaled to 8 bits.
    bit_depths = (8,) if invisible.size else (1, 2, 4, 8)
    bit_depth = next(bits for bits in bit_depths if not (levels % (255 // (2**bits - 1))).any())
    levels //= 255 // (2**bit_depth - 1)
    transparency = png.chunk(b"tRNS", struct.pack(">H", levels[invisible[0]])) if invisible.size else b""
    return _Samples(_GREY, bit_depth, look_up(levels, indices), transparency)


def _palette_samples(colors: np.ndarray, indices: np.ndarray, order: np.ndarray) -> _Samples:
    """The image as indices into the palette in this order, with opaque colors last, so that tRNS can omit them."""
    order = order[np.argsort(colors[order, 3] == 255, kind="stable")]
    new_index = np.empty(len(order), dtype=np.uint8)
    new_index[order] = np.arange(len(order))
    chunks = png.chunk(b"PLTE", colors[order, :3].tobytes())
    alpha = colors[order, 3]
    if (alpha < 255).any():
        chunks += png.chunk(b"tRNS", alpha[alpha < 255].tobytes())
    return _Samples(_PALETTE, png.index_bit_depth(len(colors)), look_up(new_index, indices), chunks)


def _png_file(samples: _Samples, data: bytes, metadata: Metadata) -> bytes:
    height, width = samples.values.shape
    header = struct.pack(">IIBBBBB", width, height, samples.bit_depth, samples.color_type, 0, 0, 0)
    return png.png_file(
        png.chunk(b"IHDR", header),
        *png.metadata_before_plte(metadata),
        samples.color_chunks,
        *png.metadata_before_idat(metadata),
        png.chunk(b"IDAT", data),
    )


def _quick_attempts(samples: _Samples, effort: int) -> Iterator[_Attempt]:
    """Attempts with filtered scanlines, which suit photos, and with unfiltered scanlines, which suit drawings.

    Filtered samples of a photo seldom repeat, and short repeats cost more bits than they save. So filtered scanlines
    are also compressed by Huffman codes alone, and with run lengths as the only repeats. `png_scanlines` chooses the
    filter of each row by the estimated code lengths of its filtered bytes. With effort 0, Pillow chooses the filters of
    8-bit samples, in 3 ms for a photo, and rows of packed samples have the filter "up", since they often equal the row
    above. With the highest effort, the filter "up" for all rows is another attempt.
    """
    rows = png.pack_samples(samples.values, samples.bit_depth)
    filtered = []
    if effort:
        filtered.append(png_scanlines(torch.from_numpy(rows)).numpy())
    elif samples.bit_depth == 8:
        filtered.append(_filtered_by_pillow(rows))
    if effort == MOST_EFFORT or not filtered:
        filtered.append(png.scanlines(np.diff(rows, axis=0, prepend=rows[:1] * 0), 2))
    for scanlines in filtered:
        data = [_by_zlib(scanlines, strategy) for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)]
        data.append(_by_libdeflate(scanlines, FAST_LEVEL))
        yield _Attempt(samples, scanlines, True, min(data, key=len))
    scanlines = png.scanlines(rows, 0)
    yield _Attempt(samples, scanlines, False, _by_libdeflate(scanlines, FAST_LEVEL))


def _filtered_by_pillow(rows: np.ndarray) -> np.ndarray:
    """Scanlines whose filters have the least sum of absolute differences. Pillow chooses them for grey images only."""
    data = io.BytesIO()
    Image.fromarray(rows).save(data, "PNG", compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
    compressed = b"".join(body for kind, body in png.parse_chunks(data.getvalue()) if kind == b"IDAT")
    return np.frombuffer(zlib.decompress(compressed), np.uint8).reshape(len(rows), -1)


def _by_libdeflate(scanlines: np.ndarray, level: int) -> bytes:
    return bytes(deflate.zlib_compress(scanlines, level))


def _by_zopfli(scanlines: np.ndarray) -> bytes:
    return zopfli.zlib.compress(scanlines.tobytes(), numiterations=_ZOPFLI_ITERATIONS)


def _by_zlib(scanlines: np.ndarray, strategy: int) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 9, strategy)
    return compressor.compress(scanlines.data) + compressor.flush()


# Other formats, by Pillow


def _encode_gif(colors: np.ndarray, indices: np.ndarray, metadata: Metadata, effort: int) -> bytes:
    if ((colors[:, 3] > 0) & (colors[:, 3] < 255)).any():
        raise ImageError("has pixels that are partly transparent, which GIF cannot keep; write .png or .webp instead")
    image = Image.fromarray(indices)
    image.putpalette(colors[:, :3].tobytes())
    options: dict[str, object] = {}
    if (colors[:, 3] == 0).any():
        options["transparency"] = int(colors[:, 3].argmin())
    if "Comment" in metadata.text:
        options["comment"] = metadata.text["Comment"].encode("utf-8", errors="replace")
    return _save_with_pillow(image, "GIF", interlace=False, **options)


def _encode_webp(colors: np.ndarray, indices: np.ndarray, metadata: Metadata, effort: int) -> bytes:
    visible = colors if (colors[:, 3] < 255).any() else colors[:, :3]
    return _save_with_pillow(
        Image.fromarray(look_up(visible, indices)),
        "WEBP",
        lossless=True,
        exact=True,
        quality=100 if effort == 3 else 75,
        method=6 if effort == 3 else 4,
        icc_profile=metadata.icc_profile or b"",
        exif=metadata.exif or b"",
        xmp=metadata.xmp or b"",
    )


def _save_with_pillow(image: Image.Image, name: str, **options: object) -> bytes:
    data = io.BytesIO()
    max_side = _MAX_SIDE[name]
    if max(image.size) > max_side:
        size = f"{image.width} x {image.height}"
        raise ImageError(f"is {size} pixels, and {name} holds at most {max_side} a side; write .png instead")
    image.save(data, name, **options)
    return data.getvalue()


_ENCODERS: dict[str, Callable[[np.ndarray, np.ndarray, Metadata, int], bytes]] = {
    ".png": _encode_png,
    ".gif": _encode_gif,
    ".webp": _encode_webp,
}
