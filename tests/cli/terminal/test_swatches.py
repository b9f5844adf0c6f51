import io

import pytest

from gpukmeans_cli.terminal.swatches import color_bits, nearest_256_color, swatch


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("environ", "bits"),
    [
        ({}, 8),
        ({"TERM": "xterm-256color"}, 8),
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, 24),
        ({"COLORTERM": "24bit"}, 24),
        ({"COLORTERM": "TrueColor"}, 24),
        ({"COLORTERM": "yes"}, 8),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, 0),
        ({"NO_COLOR": "1", "COLORTERM": "truecolor"}, 0),
        ({"NO_COLOR": "", "COLORTERM": "truecolor"}, 24),
    ],
)
def test_the_color_depth_of_a_terminal_depends_on_its_environment(environ, bits):
    assert color_bits(Terminal(), environ) == bits


def test_a_stream_that_is_not_a_terminal_has_no_colors():
    assert color_bits(io.StringIO(), {"COLORTERM": "truecolor"}) == 0
    assert color_bits(None, {"COLORTERM": "truecolor"}) == 0


def test_a_swatch_is_a_block_of_the_color():
    assert swatch([1, 2, 3], 24) == "\x1b[48;2;1;2;3m    \x1b[0m "
    assert swatch([1, 2, 3, 128], 24) == "\x1b[48;2;1;2;3m    \x1b[0m "
    assert swatch([255, 0, 0], 8) == "\x1b[48;5;196m    \x1b[0m "
    assert swatch([255, 0, 0], 0) == ""


def test_an_invisible_color_is_as_many_spaces():
    assert swatch([0, 0, 0, 0], 24) == swatch([0, 0, 0, 0], 8) == "     "
    assert swatch([0, 0, 0, 0], 0) == ""


def color_256(number):
    """The color of that number, 16 or more."""
    if number >= 232:
        return (10 * (number - 232) + 8,) * 3
    number -= 16
    return tuple((0, 95, 135, 175, 215, 255)[level] for level in (number // 36, number // 6 % 6, number % 6))


def test_each_of_the_256_colors_is_its_own_nearest():
    for number in range(16, 256):
        assert color_256(nearest_256_color(*color_256(number))) == color_256(number)


def test_no_other_of_the_256_colors_is_closer():
    for color in [(r, g, b) for r in range(0, 256, 37) for g in range(3, 256, 41) for b in range(7, 256, 43)]:
        distances = [sum((a - b) ** 2 for a, b in zip(color, color_256(n), strict=True)) for n in range(16, 256)]
        assert distances[nearest_256_color(*color) - 16] == min(distances)
    for grey in range(256):
        found = color_256(nearest_256_color(grey, grey, grey))
        assert min((grey - color_256(n)[0]) ** 2 for n in range(232, 256)) >= (found[0] - grey) ** 2
