"""Blocks of color for terminals that can show them."""

from collections.abc import Mapping, Sequence
from typing import TextIO

_WIDTH = 4

# The 256 colors of terminals: 16 that everyone sets anew, a cube of these levels, then 24 greys.
_LEVELS = (0, 95, 135, 175, 215, 255)
_GREYS = tuple(range(8, 239, 10))


def color_bits(stream: TextIO | None, environ: Mapping[str, str]) -> int:
    """How many bits of color the stream can show: 24, 8 (the 256 colors) or 0.

    0 where it is no terminal, where TERM is "dumb", and where NO_COLOR is set and not empty (https://no-color.org).
    24 where COLORTERM says truecolor or 24bit.
    """
    if stream is None or not stream.isatty() or environ.get("TERM") == "dumb" or environ.get("NO_COLOR"):
        return 0
    return 24 if environ.get("COLORTERM", "").lower() in ("truecolor", "24bit") else 8


def swatch(color: Sequence[int], bits: int) -> str:
    """Four cells in the color (R, G, B, and alpha perhaps) and a blank; nothing for 0 bits.

    Alpha is not shown, as no one knows what is behind it; only a color of alpha 0 leaves the cells as they are.
    """
    if bits == 0:
        return ""
    red, green, blue, *alpha = color
    if alpha == [0]:
        return " " * (_WIDTH + 1)
    code = f"2;{red};{green};{blue}" if bits == 24 else f"5;{nearest_of_256(red, green, blue)}"
    return f"\x1b[48;{code}m{' ' * _WIDTH}\x1b[0m "


def nearest_of_256(red: int, green: int, blue: int) -> int:
    """The number of the nearest of the 256 colors, less the first 16; of equally near ones the cube's."""
    rgb = (red, green, blue)
    places = [min(range(6), key=lambda place, value=value: abs(_LEVELS[place] - value)) for value in rgb]
    grey = min(range(24), key=lambda place: abs(3 * _GREYS[place] - sum(rgb)))
    cube = 16 + 36 * places[0] + 6 * places[1] + places[2]
    of_cube = sum((_LEVELS[place] - value) ** 2 for place, value in zip(places, rgb, strict=True))
    of_grey = sum((_GREYS[grey] - value) ** 2 for value in rgb)
    return cube if of_cube <= of_grey else 232 + grey
