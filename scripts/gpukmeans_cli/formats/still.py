"""Still images: a palette and indices become a small PNG, GIF or WebP file."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import gpukmeans_cli.formats.png_chunks as png
from gpukmeans_cli.formats.color import to_srgb, without_encoding
from gpukmeans_cli.formats.indices import index_counts, look_up
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.palette_order import palette_orders
from gpukmeans_cli.formats.reading import as_rgba
from gpukmeans_cli.system.atomic_files import ImageError, write_atomically

# Levels of deflate. Level 4 takes a tenth to a third of the time of level 8 and is up to 17 % larger. Level 8 is tried
# only if level 4 beats the other encodings, or is within `NEAR_BEST` of them in a repetitive image. Deflate leaves more
# than the ratio `REPETITIVE` of a photo without flat areas.
LEVEL, FAST_LEVEL = 8, 4
NEAR_BEST, REPETITIVE = 1.15, 0.3
# Both levels are compared for a part of `SAMPLE` bytes of every four, in long data. The ratio of their sizes is within
# `SAMPLE_ERROR` of that for all data: in 13 tries on photos in 4 to 128 colors it differed by at most 3 %, if it was
# above 0.85.
SAMPLE, SAMPLE_ERROR = 1 << 14, 1.04

_GREY, _PALETTE = 0, 3  # color types of PNG

_MAX_SIDE = {"GIF": 65535, "WEBP": 16383}


def encode_still(
    palette: np.ndarray,
    indices: np.ndarray,
    suffix: str,
    *,
    metadata: Metadata = Metadata(),  # noqa: B008, it is frozen
    optimize: bool = False,
    whole_palette: bool = False,
) -> bytes:
    """The file of the colors `palette` (K, C) at `indices` (height, width), in the format of `suffix`.

    Both are uint8, K is 1..256 and C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. The decoded pixels are
    `palette[indices]`. Each color in use is stored once, in an order chosen for size; all invisible colors become the
    first of them. Equal pixels give equal bytes. `whole_palette` also stores unused colors, if the file has a palette;
    not with `optimize`.

    PNG has a palette, or is grey where that is smaller; GIF has no partial alpha; WebP is lossless. PNG stores all
    metadata, WebP profile, EXIF and XMP, GIF the text "Comment". A keyword loses blanks that PNG does not allow. Not
    stored: a keyword that is then not 1..79 characters of Latin-1, a resolution that is not positive, and in a PNG a
    profile above 1 MiB, for which Pillow would reject the file. `optimize` makes a PNG a few percent smaller in about a
    second, by the package `pyoxipng`, and compresses WebP more slowly.

    Raises ImageError for a suffix not in `system.atomic_files.SUFFIXES`, an image that the format cannot store, and
    `optimize` without `pyoxipng`; ValueError if palette and indices do not match.
    """
    encode = _ENCODERS.get(suffix.lower())
    if encode is None:
        raise ImageError(f"cannot be written as {suffix or 'a file without suffix'}; use one of {', '.join(_ENCODERS)}")
    check_palette(palette)
    check_indices(indices, palette)
    return encode(*_distinct_colors(palette, indices, whole_palette), metadata, optimize)


def encode_pixels(pixels: np.ndarray, metadata: Metadata) -> tuple[bytes, str]:
    """A lossless file of pixels, uint8 (height, width, C), for a browser, and its suffix.

    C as in `encode_still`. WebP, or PNG where a side is too long for WebP. The only metadata stored is the color
    profile, since it changes how the pixels are displayed; colors that chunks of a PNG define become sRGB.
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
    """Write the image as a PNG file, whole or not at all; `overwrite` replaces an existing file. ImageError if not."""
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
    """The distinct RGBA colors (K, 4) in use, or all, in lexicographic order, and indices into them."""
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


def _encode_png(colors: np.ndarray, indices: np.ndarray, metadata: Metadata, optimize: bool) -> bytes:
    candidates = []
    # An RGB profile is invalid with grey samples, and a grey profile with a palette.
    color_space = None if metadata.icc_profile is None else metadata.icc_profile[16:20]
    if color_space in (None, b"GRAY") and (grey := _grey_samples(colors, indices)):
        candidates.append(grey)
    if not candidates or color_space is None:
        orders = palette_orders(indices, len(colors))
        candidates += [_palette_samples(colors, indices, order) for order in (orders if optimize else orders[:1])]
    files = [_png_file(samples, metadata) for samples in candidates]
    return _optimized(files) if optimize else min(files, key=len)


def _grey_samples(colors: np.ndarray, indices: np.ndarray) -> _Samples | None:
    """The image as grey levels, or None if it has colors, partial alpha, or no free level for its invisible pixels."""
    opaque = colors[:, 3] == 255
    if (colors[:, :3] != colors[:, :1]).any(where=opaque[:, None]) or (colors[~opaque, 3] != 0).any():
        return None
    levels = colors[:, 0].copy()
    used = np.isin(np.arange(256), levels[opaque])
    invisible = np.flatnonzero(~opaque)
    # The level of invisible pixels is their own grey, so that even their hidden values are decoded unchanged.
    if invisible.size and (used[levels[invisible[0]]] or (colors[invisible, :3] != colors[invisible, :1]).any()):
        return None
    # Below 8 bits decoders, Pillow among them, compare the transparent level with levels already scaled to 8 bits.
    bit_depths = (8,) if invisible.size else (1, 2, 4, 8)
    bit_depth = next(bits for bits in bit_depths if not (levels % (255 // (2**bits - 1))).any())
    levels //= 255 // (2**bit_depth - 1)
    transparency = png.chunk(b"tRNS", struct.pack(">H", levels[invisible[0]])) if invisible.size else b""
    return _Samples(_GREY, bit_depth, look_up(levels, indices), transparency)


def _palette_samples(colors: np.ndarray, indices: np.ndarray, order: np.ndarray) -> _Samples:
    """The image as indices into the palette in this order, but opaque colors last, so that tRNS can omit them."""
    order = order[np.argsort(colors[order, 3] == 255, kind="stable")]
    new_index = np.empty(len(order), dtype=np.uint8)
    new_index[order] = np.arange(len(order))
    chunks = png.chunk(b"PLTE", colors[order, :3].tobytes())
    alpha = colors[order, 3]
    if (alpha < 255).any():
        chunks += png.chunk(b"tRNS", alpha[alpha < 255].tobytes())
    return _Samples(_PALETTE, png.index_bit_depth(len(colors)), look_up(new_index, indices), chunks)


def _png_file(samples: _Samples, metadata: Metadata) -> bytes:
    height, width = samples.values.shape
    header = struct.pack(">IIBBBBB", width, height, samples.bit_depth, samples.color_type, 0, 0, 0)
    return png.png_file(
        png.chunk(b"IHDR", header),
        *png.metadata_before_plte(metadata),
        samples.color_chunks,
        *png.metadata_before_idat(metadata),
        png.chunk(b"IDAT", _compressed(samples)),
    )


def _compressed(samples: _Samples) -> bytes:
    """The data of IDAT: the smallest of filtered (best for photos), run-length and LZ77 coded (best for drawings).

    Eight Kodak photos in 16, 64 and 256 colors take 633, 1,113 and 1,736 kB; by Pillow's default 706, 1,203 and
    1,883 kB.
    """
    scanlines = png.scanlines(png.pack_samples(samples.values, samples.bit_depth), 0)
    candidates = [_filtered(samples), _deflate(scanlines, 1, zlib.Z_RLE), _deflate(scanlines, FAST_LEVEL)]
    fast, best = len(candidates[-1]), min(map(len, candidates))
    is_near = fast <= NEAR_BEST * best and fast <= REPETITIVE * len(scanlines)
    if fast == best or (is_near and _level_gains(scanlines, best / fast)):
        candidates.append(_deflate(scanlines, LEVEL))
    return min(candidates, key=len)


def _level_gains(data: bytes, ratio: float) -> bool:
    """Whether level 8 may be as small as this ratio of level 4, by a sample of long data."""
    if len(data) < 8 * SAMPLE:
        return True
    sample = b"".join(data[start : start + SAMPLE] for start in range(3 * SAMPLE // 2, len(data), 4 * SAMPLE))
    return len(_deflate(sample, LEVEL)) <= SAMPLE_ERROR * ratio * len(_deflate(sample, FAST_LEVEL))


def _filtered(samples: _Samples) -> bytes:
    """The data of IDAT with differences of neighbors in place of samples.

    Differences in a photo seldom repeat, and short LZ77 matches cost more bits than they save: at 8 bits Huffman codes
    alone are smaller, in a third of the time. Packed samples often equal those of the row above: the filter is "up",
    with run-length coding.
    """
    if samples.bit_depth < 8:
        rows = png.pack_samples(samples.values, samples.bit_depth)
        above = np.zeros_like(rows)
        above[1:] = rows[:-1]
        return _deflate(png.scanlines(rows - above, 2), 1, zlib.Z_RLE)
    # Pillow selects a filter for each row, in grey images only, in 3 ms; numpy takes 20.
    data = io.BytesIO()
    image = Image.fromarray(samples.values)
    image.save(data, "PNG", compress_level=FAST_LEVEL, compress_type=zlib.Z_HUFFMAN_ONLY)
    return b"".join(body for kind, body in png.parse_chunks(data.getvalue()) if kind == b"IDAT")


def _deflate(data: bytes, level: int, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, 15, 9, strategy)
    return compressor.compress(data) + compressor.flush()


def _optimized(files: list[bytes]) -> bytes:
    """The smallest result of oxipng on PNG files of one image: each with its palette kept, the last also reordered.

    The palette order of oxipng was smaller than ours by 2 % on Kodak photos of 64 colors, and larger at 16.
    """
    try:
        import oxipng  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise ImageError(
            "cannot be optimized without oxipng; run pip install pyoxipng or leave out --optimize"
        ) from None
    fixed_type: dict[str, Any] = {
        "bit_depth_reduction": False,
        "color_type_reduction": False,
        "grayscale_reduction": False,
    }
    results = [oxipng.optimize_from_memory(file, level=4, palette_reduction=False, **fixed_type) for file in files]
    results.append(oxipng.optimize_from_memory(files[-1], level=4, **fixed_type))
    return min(results, key=len)


# Other formats, by Pillow


def _encode_gif(colors: np.ndarray, indices: np.ndarray, metadata: Metadata, optimize: bool) -> bytes:
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


def _encode_webp(colors: np.ndarray, indices: np.ndarray, metadata: Metadata, optimize: bool) -> bytes:
    visible = colors if (colors[:, 3] < 255).any() else colors[:, :3]
    return _save_with_pillow(
        Image.fromarray(look_up(visible, indices)),
        "WEBP",
        lossless=True,
        exact=True,
        quality=100 if optimize else 75,
        method=6 if optimize else 4,
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


_ENCODERS: dict[str, Callable[[np.ndarray, np.ndarray, Metadata, bool], bytes]] = {
    ".png": _encode_png,
    ".gif": _encode_gif,
    ".webp": _encode_webp,
}
