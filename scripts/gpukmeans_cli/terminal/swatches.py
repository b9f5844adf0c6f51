"""Color swatches: blocks of color in terminals that support colors."""

from collections.abc import Mapping, Sequence
from typing import TextIO

_WIDTH = 4

# The 256 colors of xterm: 0 to 15 depend on the user's settings, 16 to 231 are all triples of these levels, and 232 to
# 255 are these greys.
_LEVELS = (0, 95, 135, 175, 215, 255)
_GREYS = tuple(range(8, 239, 10))


def color_bits(stream: TextIO | None, environ: Mapping[str, str]) -> int:
    """The color depth of a stream in bits: 24, 8 (the 256 colors of xterm) or 0.

    It is 0 if the stream is not a terminal, if TERM is "dumb", or if NO_COLOR is set and not empty
    (https://no-color.org). Otherwise it is 24 if COLORTERM is "truecolor" or "24bit", else 8.
    """
    if stream is None or not stream.isatty() or environ.get("TERM") == "dumb" or environ.get("NO_COLOR"):
        return 0
    return 24 if environ.get("COLORTERM", "").lower() in ("truecolor", "24bit") else 8


def swatch(color: Sequence[int], bits: int) -> str:
    """A block of color as text: four character cells with the color as background, then a space.

    The color is (R, G, B) or (R, G, B, A), from 0 to 255. Alpha 0 gives five spaces. Other alphas are ignored, since
    the color of the terminal is unknown. A color depth of 0 bits gives an empty text.
    """
    if bits == 0:
        return ""
    red, green, blue, *alpha = color
    if alpha == [0]:
        return " " * (_WIDTH + 1)
    code = f"2;{red};{green};{blue}" if bits == 24 else f"5;{nearest_256_color(red, green, blue)}"
    return f"\x1b[48;{code}m{' ' * _WIDTH}\x1b[0m "


def nearest_256_color(red: int, green: int, blue: int) -> int:
    """The number of the xterm color, 16 to 255, with the smallest squared distance in RGB.

    If a grey has the same distance as a color of the cube, the color of the cube is returned. Rich's conversion returns
    a color that is not the nearest for 7 % of random colors, and the import of Rich takes 31 ms.
    """
    rgb = (red, green, blue)
    levels = [min(range(6), key=lambda level, value=value: abs(_LEVELS[level] - value)) for value in rgb]
    grey = min(range(24), key=lambda number: abs(3 * _GREYS[number] - sum(rgb)))
    cube_distance = sum((_LEVELS[level] - value) ** 2 for level, value in zip(levels, rgb, strict=True))
    grey_distance = sum((_GREYS[grey] - value) ** 2 for value in rgb)
    return 16 + 36 * levels[0] + 6 * levels[1] + levels[2] if cube_distance <= grey_distance else 232 + grey
