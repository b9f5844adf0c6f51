"""A palette with its indices becomes the bytes of a picture file: PNG, GIF or WebP, small and quick to find."""

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
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.reading import as_rgba
from gpukmeans_cli.system.atomic_files import ImageError, publish

# How hard to look for repeats. Level 4 takes a third of the time of level 8 and is up to 17 % larger, so the longer
# search is made only if the shorter is the smallest so far, or near that in a picture that is full of repeats: a photo
# without flat parts keeps more than this share of its bytes.
LEVEL, QUICK_LEVEL = 8, 4
NEAR, FULL_OF_REPEATS = 1.15, 0.3

_GREY, _PALETTE = 0, 3  # color types of PNG

_LONGEST_SIDE = {"GIF": 65535, "WEBP": 16383}


def encode_still(
    palette: np.ndarray,
    indices: np.ndarray,
    suffix: str,
    *,
    metadata: Metadata = Metadata(),  # noqa: B008, it is frozen
    optimize: bool = False,
    whole_palette: bool = False,
) -> bytes:
    """The file of the colors `palette` (K, C) placed by `indices` (height, width), in the format of `suffix`.

    Both are uint8, K is 1..256 and C is 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. The pixels read from the file are
    those of `palette[indices]`. Only colors that a pixel wears are stored, each once, in an order of our own; invisible
    ones are all the first of them. Equal pixels give equal bytes. `whole_palette` stores all colors in a palette, if
    there is one, but not with `optimize`.

    PNG has a palette, or is grey where that is smaller; GIF keeps no partial alpha; WebP is lossless. Of the metadata
    each format keeps what it has a place for: PNG all, WebP profile, EXIF and XMP, GIF the text "Comment".
    Left out is what PNG cannot say: a keyword that is not 1..79 characters of Latin-1, a resolution that is not
    positive, a profile above 1 MiB, for which Pillow would refuse the whole file.
    `optimize` spends a second on a few percent of a PNG, by the package `pyoxipng`; the others stay as they are.

    Raises ImageError for a suffix not in `system.atomic_files.SUFFIXES`, a picture that the format cannot hold, and
    `optimize` without `pyoxipng`; ValueError if palette and indices do not fit.
    """
    encode = _ENCODERS.get(suffix.lower())
    if encode is None:
        raise ImageError(f"cannot be written as {suffix or 'a file without suffix'}; use one of {', '.join(_ENCODERS)}")
    check_fit(palette, indices, "height, width")
    return encode(*_colors_in_use(palette, indices, whole_palette), metadata, optimize)


def encode_pixels(pixels: np.ndarray, metadata: Metadata) -> tuple[bytes, str]:
    """A file of just these pixels (height, width, C), as browsers show it, and its suffix.

    uint8, C as in `encode_still`. Lossless WebP, or PNG where a side is longer than WebP can hold. Of the metadata only
    the color profile is kept, without which they would look different.
    """
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    suffix = ".png" if max(image.size) > _LONGEST_SIDE["WEBP"] else ".webp"
    options: dict[str, Any] = {} if metadata.icc_profile is None else {"icc_profile": metadata.icc_profile}
    data = io.BytesIO()
    if suffix == ".png":
        image.save(data, "PNG", **options)
    else:
        image.save(data, "WEBP", lossless=True, exact=True, **options)
    return data.getvalue(), suffix


def write_png(path: Path, image: Image.Image, *, overwrite: bool) -> None:
    """Make `path` the image as a PNG, whole or not at all; with `overwrite` in place of a file that was there.

    ImageError if it cannot be.
    """
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    publish(path, data.getvalue(), overwrite=overwrite)


def check_fit(palette: np.ndarray, indices: np.ndarray, axes: str) -> None:
    """ValueError unless these are a palette (1..256, 1..4) and indices of its colors along these axes, all uint8."""
    if palette.dtype != np.uint8 or palette.ndim != 2 or not 1 <= len(palette) <= 256 or not 1 <= palette.shape[1] <= 4:
        raise ValueError(f"palette must be uint8 (1..256, 1..4), got {palette.dtype} {palette.shape}")
    if indices.dtype != np.uint8 or indices.ndim != len(axes.split(", ")) or indices.size == 0:
        raise ValueError(f"indices must be uint8 ({axes}), not empty, got {indices.dtype} {indices.shape}")
    if indices.max() >= len(palette):
        raise ValueError(f"indices must be below {len(palette)}, the colors of the palette, got {indices.max()}")


def _colors_in_use(palette: np.ndarray, indices: np.ndarray, whole_palette: bool) -> tuple[np.ndarray, np.ndarray]:
    """The distinct RGBA that pixels wear, or all, (K, 4) in lexicographic order, and the indices that place them."""
    used = (np.bincount(indices.ravel(), minlength=len(palette)) > 0) | whole_palette
    rgba = as_rgba(palette)
    invisible = np.flatnonzero(used & (rgba[:, 3] == 0))
    rgba[invisible] = rgba[invisible[:1]]
    colors, places = np.unique(rgba[used], axis=0, return_inverse=True)
    moved = np.zeros(len(palette), dtype=np.uint8)
    moved[used] = places.ravel()
    return colors, moved[indices]


# PNG


@dataclass(frozen=True)
class _Layout:
    """One of the ways in which a PNG can say the same picture."""

    color_type: int
    depth: int  # bits of a sample: 1, 2, 4, 8
    samples: np.ndarray  # uint8 (height, width), below 2**depth
    chunks: bytes  # PLTE and tRNS


def _encode_png(colors: np.ndarray, indices: np.ndarray, metadata: Metadata, optimize: bool) -> bytes:
    layouts = []
    # A profile for RGB has no meaning for grey samples, nor one for grey with a palette.
    space = None if metadata.icc_profile is None else metadata.icc_profile[16:20]
    if space in (None, b"GRAY") and (grey := _grey_layout(colors, indices)):
        layouts.append(grey)
    if not layouts or space is None:
        orders = _orders(colors, indices)
        layouts += [_palette_layout(colors, indices, order) for order in (orders if optimize else orders[:1])]
    files = [_assembled(layout, _stream(layout), metadata) for layout in layouts]
    return _optimized(files) if optimize else min(files, key=len)


def _grey_layout(colors: np.ndarray, indices: np.ndarray) -> _Layout | None:
    """The picture in grey samples, or None where they cannot say it: with color, or with partial alpha.

    An invisible color becomes a level that no other wears, named by tRNS.
    """
    opaque = colors[:, 3] == 255
    if (colors[:, :3] != colors[:, :1]).any(where=opaque[:, None]) or (colors[~opaque, 3] != 0).any():
        return None
    levels = colors[:, 0].copy()
    worn = np.isin(np.arange(256), levels[opaque])
    hidden = np.flatnonzero(~opaque)
    # Its own grey if that is free, for then even the invisible pixels read as they were.
    if hidden.size and (worn[levels[hidden[0]]] or (colors[hidden, :3] != colors[hidden, :1]).any()):
        return None
    # Readers, Pillow among them, look for the invisible level after they scaled the others to 8 bits.
    depths = (8,) if hidden.size else (1, 2, 4, 8)
    depth = next(bits for bits in depths if not (levels % (255 // (2**bits - 1))).any())
    levels //= 255 // (2**depth - 1)
    key = png.chunk(b"tRNS", struct.pack(">H", levels[hidden[0]])) if hidden.size else b""
    return _Layout(_GREY, depth, levels[indices], key)


def _palette_layout(colors: np.ndarray, indices: np.ndarray, order: np.ndarray) -> _Layout:
    """The picture with a palette in this order, but what is not opaque first, for tRNS may end with the last of it."""
    order = order[np.argsort(colors[order, 3] == 255, kind="stable")]
    ranks = np.empty(len(order), dtype=np.uint8)
    ranks[order] = np.arange(len(order))
    chunks = png.chunk(b"PLTE", colors[order, :3].tobytes())
    alpha = colors[order, 3]
    if (alpha < 255).any():
        chunks += png.chunk(b"tRNS", alpha[alpha < 255].tobytes())
    return _Layout(_PALETTE, png.depth_for(len(colors)), ranks[indices], chunks)


def _stream(layout: _Layout) -> bytes:
    """The data of IDAT: with filters, which photos want, or runs, or a search for repeats, which drawings want.

    Eight Kodak photos in 16, 64 and 256 colors are 633, 1,113 and 1,736 kB so; Pillow's default makes 706, 1,203 and
    1,883 kB of them.
    """
    rows = png.rows_of(png.packed(layout.samples, layout.depth), 0)
    found = [_filtered_stream(layout), _deflated(rows, 1, zlib.Z_RLE), _deflated(rows, QUICK_LEVEL)]
    near = NEAR if len(found[-1]) <= FULL_OF_REPEATS * len(rows) else 1
    if len(found[-1]) <= near * min(map(len, found)):
        found.append(_deflated(rows, LEVEL))
    return min(found, key=len)


def _filtered_stream(layout: _Layout) -> bytes:
    """The data where rows or samples are replaced by what they differ from their neighbors.

    What is left of a photo repeats so seldom that the search for it is in vain, and short matches cost more bits than
    they save: at 8 bits Huffman codes alone are smaller, in a third of the time. Bytes of several samples meet their
    like only in the row above, and often: of them runs alone are looked for.
    """
    if layout.depth < 8:
        packed = png.packed(layout.samples, layout.depth)
        above = np.zeros_like(packed)
        above[1:] = packed[:-1]
        return _deflated(png.rows_of(packed - above, 2), 1, zlib.Z_RLE)
    # Pillow picks the filter of each row, for grey pictures only, in 3 ms where numpy takes 20.
    data = io.BytesIO()
    image = Image.fromarray(layout.samples)
    image.save(data, "PNG", compress_level=QUICK_LEVEL, compress_type=zlib.Z_HUFFMAN_ONLY)
    return b"".join(content for kind, content in png.chunks(data.getvalue()) if kind == b"IDAT")


def _deflated(rows: bytes, level: int, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, 15, 9, strategy)
    return packer.compress(rows) + packer.flush()


def _assembled(layout: _Layout, stream: bytes, metadata: Metadata) -> bytes:
    height, width = layout.samples.shape
    header = struct.pack(">IIBBBBB", width, height, layout.depth, layout.color_type, 0, 0, 0)
    before = [png.chunk(b"IHDR", header), *png.before_palette(metadata), layout.chunks, *png.before_pixels(metadata)]
    return png.assembled(*before, png.chunk(b"IDAT", stream))


def _optimized(files: list[bytes]) -> bytes:
    """The smallest of what oxipng makes of PNGs that show the same: of each as it is laid out, of the last as it likes.

    Its own order of the palette was smaller than ours by 2 % on Kodak photos of 64 colors, and larger at 16.
    """
    try:
        import oxipng  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise ImageError(
            "cannot be optimized without oxipng; run pip install 'gpukmeans[optimize]' or leave out --optimize"
        ) from None
    same: dict[str, Any] = {"bit_depth_reduction": False, "color_type_reduction": False, "grayscale_reduction": False}
    found = [oxipng.optimize_from_memory(png, level=4, palette_reduction=False, **same) for png in files]
    found.append(oxipng.optimize_from_memory(files[-1], level=4, **same))
    return min(found, key=len)


# The order of a palette, for the filters of PNG: the closer the indices of neighbors, the smaller the file


def _orders(colors: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
    """Orders that lay neighbors close; first the one of the least entropy of the steps from index to index."""
    if len(colors) == 1:
        return [np.arange(1)]
    meetings = _meetings(indices, len(colors))
    orders = [_chained_order(meetings), _grown_order(meetings)]
    return sorted(orders, key=lambda order: _entropy_of_steps(meetings, order))


def _meetings(indices: np.ndarray, n_colors: int) -> np.ndarray:
    """How often two colors are neighbors, beside or above each other: int64 (K, K), symmetric, 0 on the diagonal."""
    rows = indices.astype(np.int32) * n_colors
    pairs = np.bincount((rows[:, :-1] + indices[:, 1:]).ravel(), minlength=n_colors**2)
    pairs = pairs + np.bincount((rows[:-1] + indices[1:]).ravel(), minlength=n_colors**2)
    pairs = pairs.reshape(n_colors, n_colors)
    meetings = pairs + pairs.T
    np.fill_diagonal(meetings, 0)
    return meetings


def _chained_order(meetings: np.ndarray) -> np.ndarray:
    """Colors in a chain: pairs are linked, the most frequent first, unless a color has two links or a ring would close.

    Battiato, Gallo, Impoco and Stanco, "An efficient re-indexing algorithm for color-mapped images" (2004). Of equally
    frequent pairs the first by row, then by column.
    """
    n_colors = len(meetings)
    first, second = np.triu_indices(n_colors, 1)
    by_frequency = np.argsort(-meetings[first, second], kind="stable")
    links: list[list[int]] = [[] for _ in range(n_colors)]
    other_end = list(range(n_colors))  # of the chain that a color ends; of the others it means nothing
    for a, b in zip(first[by_frequency].tolist(), second[by_frequency].tolist(), strict=True):
        if len(links[a]) < 2 and len(links[b]) < 2 and other_end[a] != b:
            links[a].append(b)
            links[b].append(a)
            end_a, end_b = other_end[a], other_end[b]
            other_end[end_a], other_end[end_b] = end_b, end_a
    chain = [next(color for color in range(n_colors) if len(links[color]) < 2)]
    while len(chain) < n_colors:
        chain.append(next(color for color in links[chain[-1]] if color not in chain[-2:-1]))
    return np.array(chain)


def _grown_order(meetings: np.ndarray) -> np.ndarray:
    """Colors put one by one to the nearer end of a row: next is always the one that meets those in it most often.

    Pinho and Neves, "A note on Zeng's technique for color re-indexing of palette-based images" (2004). The lowest color
    wins a tie, and the right end.
    """
    n_colors = len(meetings)
    row = list(divmod(int(meetings.argmax()), n_colors))
    left = np.ones(n_colors, dtype=bool)
    left[row] = False
    drawn = meetings[row].sum(axis=0)
    while left.any():
        color = int(np.where(left, drawn, -1).argmax())
        left[color] = False
        drawn = drawn + meetings[color]
        to_the_left = np.arange(len(row) - 1, -len(row), -2)
        row.insert(0 if to_the_left @ meetings[color, row] > 0 else len(row), color)
    return np.array(row)


def _entropy_of_steps(meetings: np.ndarray, order: np.ndarray) -> float:
    """Bits of all steps from one neighbor's index to the other's, if each were coded by how often it occurs."""
    ranked = meetings[np.ix_(order, order)]
    steps = np.subtract.outer(np.arange(len(order)), np.arange(len(order))) & 255
    counts = np.bincount(steps.ravel(), weights=ranked.ravel())
    counts = counts[counts > 0]
    return float(counts @ np.log2(counts.sum() / counts))


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
    return _saved(image, "GIF", interlace=False, **options)


def _encode_webp(colors: np.ndarray, indices: np.ndarray, metadata: Metadata, optimize: bool) -> bytes:
    shown = colors if (colors[:, 3] < 255).any() else colors[:, :3]
    options: dict[str, object] = {}
    if metadata.icc_profile is not None:
        options["icc_profile"] = metadata.icc_profile
    if metadata.exif is not None:
        options["exif"] = metadata.exif
    if metadata.xmp is not None:
        options["xmp"] = metadata.xmp
    options |= {"quality": 100, "method": 6} if optimize else {"quality": 75, "method": 4}
    return _saved(Image.fromarray(shown[indices]), "WEBP", lossless=True, exact=True, **options)


def _saved(image: Image.Image, name: str, **options: object) -> bytes:
    data = io.BytesIO()
    most = _LONGEST_SIDE[name]
    if max(image.size) > most:
        size = f"{image.width} x {image.height}"
        raise ImageError(f"is {size} pixels, and {name} holds at most {most} a side; write .png instead")
    image.save(data, name, **options)
    return data.getvalue()


_ENCODERS: dict[str, Callable[[np.ndarray, np.ndarray, Metadata, bool], bytes]] = {
    ".png": _encode_png,
    ".gif": _encode_gif,
    ".webp": _encode_webp,
}
"""The suffixes of the files that `encode_still` writes, and how."""
