"""Palettes as text and as files: hex colors, palettes of GIMP, Paint Shop Pro and Photoshop, images of few colors."""

import re
import struct
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ImageColor

from gpukmeans_cli.formats.color import to_srgb
from gpukmeans_cli.formats.reading import as_rgba, read_image
from gpukmeans_cli.system.atomic_files import ImageError

_MAX_COLORS = 256  # of 8-bit indices

_MAX_BYTES = 1 << 20
_TEXT_SUFFIXES = (".gpl", ".hex", ".pal", ".txt")
_GIMP = "GIMP Palette"
_JASC = "JASC-PAL"
_HEX = "[0-9a-fA-F]"
_COLOR = re.compile(f"#?({_HEX}{{3,4}}|{_HEX}{{6}}|{_HEX}{{8}})")

# The beginning of a text file of any name, with or without a byte order mark. "#define" begins an XBM image instead.
_TEXT = re.compile(rf"(?:\xef\xbb\xbf)?\s*(?:{_GIMP}|{_JASC}|;|//|#\s|{_COLOR.pattern}(?=[\s,]|$))".encode("latin-1"))

# "#" begins a comment only before a space or at the end of a line. Otherwise it begins a color.
_COMMENT = re.compile(r"(?:;|//|#(?=\s|$)).*")


class PaletteError(ImageError):
    """An error about a palette. Its text is the end of a sentence that begins with the path or the option."""


def parse_colors(text: str) -> np.ndarray:
    """The colors of a text such as "#ff0000, fff, 00ff0080, red", uint8 (F, 3), or (F, 4) if any color is not opaque.

    Colors are separated by commas. A color has 3, 4, 6 or 8 hex digits: R, G, B and optional alpha, of one digit each
    ("f" stands for "ff") or of two. Spaces around a color and one leading "#" are ignored. A color may also be a CSS
    name in upper or lower case. The order is kept, and repeated colors are dropped. Colors of alpha 0 are one color, 0
    in all channels.

    PaletteError for any other text, for no color, and for more than 256 colors.
    """
    if not text.strip():
        raise PaletteError("no color is given; write one like #ff8000, several with commas between them")
    return _palette([_named_color(item, f"color {number}") for number, item in enumerate(text.split(","), start=1)])


def read_palette(path: Path, *, max_pixels: int | None = None) -> np.ndarray:
    """The colors of a palette file, uint8 (K, 3), or (K, 4) if any color is not opaque, in the order of the file.

    - An image that Pillow reads: the colors, in sRGB, of the pixels of the first frame, row by row from the top left.
      Unused entries of the palette of the image are left out.
    - A GIMP palette, which begins with the line "GIMP Palette". A line "Channels: RGBA", an extension of the format,
      adds alpha.
    - A palette of Paint Shop Pro, which begins with the line "JASC-PAL".
    - A color table of Photoshop, of suffix .act: 256 colors, with or without the number of colors and the index of a
      transparent color.
    - Text: colors in hex as in `parse_colors`, separated by line ends, spaces or commas. A comment begins with ";",
      "//" or a "#" before a space, and ends with the line. If the first line contains "paint.net", as in files of that
      program, the first of four channels is alpha.

    Files and pipes of suffix .gpl, .hex, .pal or .txt are text. So are regular files that begin with the first line of
    a GIMP or Paint Shop Pro palette, a color or a comment. Any other file is an image. Repeated colors are dropped.
    Colors of alpha 0 become 0 in all channels.

    PaletteError for no color and for more than 256 colors, ImageError for a file that cannot be read. `max_pixels` is
    as in `read_image`.
    """
    if path.suffix.lower() == ".act" and (table := _read(path)) is not None:
        return _palette(list(_act_colors(table)))
    text = _read_text(path)
    if text is None:
        image = read_image(path, max_pixels=max_pixels)
        return _palette(_distinct_colors(to_srgb(image.pixels, image.metadata)))
    if text.lstrip().startswith(_GIMP):
        return _palette(list(_gimp_colors(text)))
    if text.lstrip().startswith(_JASC):
        return _palette(list(_jasc_colors(text)))
    if path.suffix.lower() == ".pal":
        raise PaletteError(f'does not begin with the line "{_JASC}"; save it as a palette of Paint Shop Pro')
    if path.suffix.lower() == ".gpl":
        raise PaletteError(
            f'does not begin with the line "{_GIMP}"; export it again, or call it .hex if it is hex digits'
        )
    return _palette(list(_hex_colors(text)))


def format_hex(colors: np.ndarray) -> str:
    """The text of a palette file for colors, uint8 (K, 3 or 4), with a line like "#ff8000" for each color."""
    return "".join(f"{hex_of(color)}\n" for color in colors.tolist())


def format_gpl(colors: np.ndarray, name: str) -> str:
    """The text of a GIMP palette with this name for colors, uint8 (K, 3 or 4).

    GIMP palettes have no alpha. So all colors are written as opaque, and the name of each color is its hex digits with
    alpha. Colors of alpha 0 are left out.
    """
    lines = [_GIMP, f"Name: {' '.join(name.split())}", "#"]
    for color in colors.tolist():
        if color[3:] != [0]:
            red, green, blue = color[:3]
            lines.append(f"{red:3} {green:3} {blue:3} {hex_of(color)}")
    return "".join(f"{line}\n" for line in lines)


def hex_of(color: Sequence[int]) -> str:
    """The hex digits of a color of 3 or 4 channels: "#ff8000", or with alpha "#ff800080" if it is not opaque."""
    opaque = len(color) == 3 or color[3] == 255
    return "#" + bytes(color[:3] if opaque else color).hex()


def _named_color(text: str, where: str) -> tuple[int, ...]:
    """R, G, B and alpha of a CSS name or of hex digits."""
    name = text.strip().lower()
    if name in ImageColor.colormap:
        return (*ImageColor.getrgb(name)[:3], 255)
    return _color(text, where, "a name, like red, or ")


def _color(text: str, where: str, or_name: str = "") -> tuple[int, ...]:
    """R, G, B and alpha of hex digits."""
    text = text.strip()
    match = _COLOR.fullmatch(text)
    if not match:
        excerpt = text if len(text) <= 40 else f"{text[:37]}..."
        raise PaletteError(f"{where}: {excerpt!r} is not a color; write {or_name}3, 4, 6 or 8 hex digits, like #ff8000")
    digits = match[1]
    if len(digits) < 6:
        digits = "".join(2 * digit for digit in digits)
    return tuple(bytes.fromhex(digits.ljust(8, "f")))


def _palette(colors: Sequence[tuple[int, ...]]) -> np.ndarray:
    distinct = list(dict.fromkeys(color if color[3] else (0, 0, 0, 0) for color in colors))
    if not distinct:
        raise PaletteError("holds no color; give at least one")
    _check_count(len(distinct))
    palette = np.array(distinct, dtype=np.uint8)
    return palette if palette[:, 3].min() < 255 else palette[:, :3].copy()


def _check_count(n_colors: int) -> None:
    if n_colors > _MAX_COLORS:
        raise PaletteError(f"{n_colors:,} colors are too many, a palette has at most {_MAX_COLORS}; choose among them")


def _read_text(path: Path) -> str | None:
    """The content of a text file; None for any other file, which `read_image` reads or reports."""
    has_text_suffix = path.suffix.lower() in _TEXT_SUFFIXES
    data = _read(path) if has_text_suffix or path.is_file() else None  # a pipe cannot be read twice
    if data is None:
        return None
    if not has_text_suffix and not _TEXT.match(data):
        return None
    if len(data) > _MAX_BYTES:
        raise PaletteError("is too large for a palette, more than 1 MiB; keep only its colors")
    if b"\0" in data:
        raise PaletteError(
            "has the suffix of text but is not text; give an image its own suffix, or save text as UTF-8"
        )
    return data.decode("utf-8-sig", "replace")


def _read(path: Path) -> bytes | None:
    """The content of a file, at most one byte more than 1 MiB; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)
    except OSError:
        return None


def _act_colors(table: bytes) -> Iterator[tuple[int, ...]]:
    """The colors of 256 x 3 bytes. A number of colors and a transparent index, 16 bits each, may follow."""
    if len(table) not in (768, 772):
        raise PaletteError(f"must have 768 or 772 bytes, as a color table of Photoshop has, got {len(table):,}")
    count, transparent = struct.unpack(">HH", table[768:] or b"\1\0\xff\xff")
    for index in range(min(count, 256)):
        yield (*table[3 * index : 3 * index + 3], 0 if index == transparent else 255)


def _jasc_colors(text: str) -> Iterator[tuple[int, ...]]:
    """The colors, one a line, after three lines: the name of the format, its version and the number of colors."""
    for number, line in enumerate(text.splitlines(), start=1):
        values = line.split()
        if number > 3 and values:
            yield _decimal_color(values, (3, 4), f"line {number}: {line.strip()[:40]!r} must be red, green and blue")


def _decimal_color(values: Sequence[str], lengths: Container[int], problem: str) -> tuple[int, ...]:
    """R, G, B and alpha of 3 or 4 decimal numbers. PaletteError, with the `problem`, for other values or lengths."""
    if len(values) not in lengths or not all(re.fullmatch("[0-9]{1,3}", v) and int(v) < 256 for v in values):
        raise PaletteError(f"{problem} of 0 to 255; correct it")
    return (*map(int, values), 255)[:4]


def _hex_colors(text: str) -> Iterator[tuple[int, ...]]:
    lines = text.splitlines()
    alpha_first = bool(lines) and "paint.net" in lines[0].lower()
    for number, line in enumerate(lines, start=1):
        for item in re.split(r"[\s,]+", _COMMENT.sub("", line)):
            if item:
                color = _color(item, f"line {number}")
                yield (*color[1:], color[0]) if alpha_first and len(item.lstrip("#")) in (4, 8) else color


def _gimp_colors(text: str) -> Iterator[tuple[int, ...]]:
    channels = 3
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if re.match(r"Channels:\s*RGBA$", line):
            channels = 4
        elif line and line != _GIMP and not re.match(r"#|(Name|Columns|Channels):", line):
            values = line.split(maxsplit=channels)[:channels]  # the rest is a name
            names = "red, green and blue" if channels == 3 else "red, green, blue and alpha"
            yield _decimal_color(values, (channels,), f"line {number}: {line[:40]!r} does not begin with {names}")


def _distinct_colors(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """R, G, B and alpha of the distinct colors in order of first occurrence. Colors of alpha 0 count as one."""
    rgba = as_rgba(pixels.reshape(-1, pixels.shape[2]))
    rgba[rgba[:, 3] == 0] = 0
    _, first = np.unique(rgba.view(np.uint32), return_index=True)
    _check_count(len(first))
    return [tuple(color) for color in rgba[np.sort(first)].tolist()]
