"""Palettes as text and as files: colors in hex digits, GIMP palettes, pictures of few colors."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gpukmeans_cli.formats.reading import as_rgba, read_picture
from gpukmeans_cli.system.atomic_files import ImageError

# What an index of 8 bits can name.
_MOST_COLORS = 256

_MOST_BYTES = 1 << 20
_TEXT_SUFFIXES = (".gpl", ".hex", ".txt")
_GIMP = "GIMP Palette"
_HEX = "[0-9a-fA-F]"
_COLOR = re.compile(f"#?({_HEX}{{3,4}}|{_HEX}{{6}}|{_HEX}{{8}})")

# How text begins whatever the file is called, perhaps after a byte order mark. "#define" of an XBM picture is none of
# these.
_TEXT = re.compile(rf"(?:\xef\xbb\xbf)?\s*(?:{_GIMP}|;|//|#\s|{_COLOR.pattern}(?=[\s,]|$))".encode("latin-1"))

# "#" begins a comment only before a blank: else it begins a color.
_COMMENT = re.compile(r"(?:;|//|#(?=\s|$)).*")


class PaletteError(ImageError):
    """Colors that cannot be taken as a palette: a sentence to put after the path or the option they came from."""


def parse_colors(text: str) -> np.ndarray:
    """The colors of a text such as "#ff0000, fff, 00ff0080", uint8 (F, 3), or (F, 4) if any of them is not opaque.

    Between commas stand 3, 4, 6 or 8 hex digits: R, G, B and perhaps alpha, of one digit (doubled: "f" is "ff") or two.
    Blanks around them and one "#" before them do not count. The order stays; of equal colors only the first is kept. A
    color of alpha 0 is 0 in all channels, so all of them are equal.

    PaletteError for anything else, for no color at all, and for more than 256.
    """
    if not text.strip():
        raise PaletteError("no color is given; write one like #ff8000, several with commas between them")
    return _palette([_color(part, f"color {place}") for place, part in enumerate(text.split(","), start=1)])


def read_palette(path: Path, *, max_pixels: int | None = None) -> np.ndarray:
    """The colors of a palette file, uint8 (K, 3), or (K, 4) if any of them is not opaque, in the order of the file.

    - A picture, whatever Pillow reads: the colors that its first frame shows, row by row from the top left. Entries of
      its own palette that no pixel wears are not among them.
    - A GIMP palette: it begins with the line "GIMP Palette"; "Channels: RGBA", which others write, adds alpha.
    - Text of colors as in `parse_colors`, one a line or with blanks or commas between them. From ";", "//" or a "#"
      before a blank to the end of the line is comment. With "paint.net" in the first line, that program wrote it, and
      the first of four channels is alpha.

    What is called .gpl, .hex or .txt is taken as text, also from a pipe; anything else as a picture unless it is a
    regular file that begins with a color or a comment. Of equal colors only the first is kept; a color of alpha 0 is 0
    in all channels.

    PaletteError for no color at all and for more than 256, ImageError for a file that cannot be read; `max_pixels` is
    that of `read_picture`.
    """
    text = _text(path)
    if text is None:
        return _palette(_shown(read_picture(path, max_pixels=max_pixels).pixels))
    if text.lstrip().startswith(_GIMP):
        return _palette(list(_gimp_colors(text)))
    if path.suffix.lower() == ".gpl":
        raise PaletteError(
            f'does not begin with the line "{_GIMP}"; export it again, or call it .hex if it is hex digits'
        )
    return _palette(list(_hex_colors(text)))


def format_hex(colors: np.ndarray) -> str:
    """The colors, uint8 (K, 3 or 4), as a text that `read_palette` reads: a line like "#ff8000" for each."""
    return "".join(f"{hex_of(color)}\n" for color in colors.tolist())


def format_gpl(colors: np.ndarray, name: str) -> str:
    """The colors, uint8 (K, 3 or 4), as a GIMP palette of this name.

    GIMP's palettes have no alpha: a color is written as if it were opaque, with all its hex digits as its name, and one
    of alpha 0 is left out.
    """
    lines = [_GIMP, f"Name: {' '.join(name.split())}", "#"]
    for color in colors.tolist():
        if color[3:] != [0]:
            red, green, blue = color[:3]
            lines.append(f"{red:3} {green:3} {blue:3} {hex_of(color)}")
    return "".join(f"{line}\n" for line in lines)


def hex_of(color: Sequence[int]) -> str:
    """A color of 3 or 4 channels like "#ff8000", or with alpha like "#ff800080" if it is not opaque."""
    opaque = len(color) == 3 or color[3] == 255
    return "#" + bytes(color[:3] if opaque else color).hex()


def _color(text: str, where: str) -> tuple[int, ...]:
    """R, G, B and alpha."""
    text = text.strip()
    found = _COLOR.fullmatch(text)
    if not found:
        shown = text if len(text) <= 40 else f"{text[:37]}..."
        raise PaletteError(f"{where}: {shown!r} is no color; write 3, 4, 6 or 8 hex digits, like #ff8000")
    digits = found[1]
    if len(digits) < 6:
        digits = "".join(2 * digit for digit in digits)
    return tuple(bytes.fromhex(digits.ljust(8, "f")))


def _palette(colors: Sequence[tuple[int, ...]]) -> np.ndarray:
    distinct = list(dict.fromkeys(color if color[3] else (0, 0, 0, 0) for color in colors))
    if not distinct:
        raise PaletteError("holds no color; give at least one")
    _check_number(len(distinct))
    palette = np.array(distinct, dtype=np.uint8)
    return palette if palette[:, 3].min() < 255 else palette[:, :3].copy()


def _check_number(n_colors: int) -> None:
    if n_colors > _MOST_COLORS:
        raise PaletteError(f"{n_colors:,} colors are too many, a palette has at most {_MOST_COLORS}; choose among them")


def _text(path: Path) -> str | None:
    """What is in the file if it is text, else None: then it is a picture, or `read_picture` says what is wrong."""
    named = path.suffix.lower() in _TEXT_SUFFIXES
    try:
        if not named and not path.is_file():
            return None  # a pipe could not be read again
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError:
        return None
    if not named and not _TEXT.match(data):
        return None
    if len(data) > _MOST_BYTES:
        raise PaletteError("is too large for a palette, more than 1 MiB; keep only its colors")
    if b"\0" in data:
        raise PaletteError("is called text but is none; give a picture its own suffix, or save text as UTF-8")
    return data.decode("utf-8-sig", "replace")


def _hex_colors(text: str) -> Iterator[tuple[int, ...]]:
    lines = text.splitlines()
    alpha_first = bool(lines) and "paint.net" in lines[0].lower()
    for number, line in enumerate(lines, start=1):
        for part in re.split(r"[\s,]+", _COMMENT.sub("", line)):
            if part:
                color = _color(part, f"line {number}")
                yield (*color[1:], color[0]) if alpha_first and len(part.lstrip("#")) in (4, 8) else color


def _gimp_colors(text: str) -> Iterator[tuple[int, ...]]:
    channels = 3
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if re.match(r"Channels:\s*RGBA$", line):
            channels = 4
        elif line and line != _GIMP and not re.match(r"#|(Name|Columns|Channels):", line):
            values = line.split(maxsplit=channels)[:channels]  # the rest is a name
            if len(values) < channels or not all(re.fullmatch("[0-9]{1,3}", v) and int(v) < 256 for v in values):
                wanted = "red, green and blue" if channels == 3 else "red, green, blue and alpha"
                raise PaletteError(f"line {number}: {line[:40]!r} does not begin with {wanted} of 0 to 255; correct it")
            yield (*map(int, values), 255)[:4]


def _shown(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """R, G, B and alpha of the distinct colors of a picture, those of alpha 0 as one, in order of first appearance."""
    rgba = as_rgba(pixels.reshape(-1, pixels.shape[2]))
    rgba[rgba[:, 3] == 0] = 0
    _, first = np.unique(rgba.view(np.uint32), return_index=True)
    _check_number(len(first))
    return [tuple(color) for color in rgba[np.sort(first)].tolist()]
