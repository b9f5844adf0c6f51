import struct

import numpy as np
import pytest
from helpers.animations import GIF_COLORS, gif_frame, gif_image, gif_loop, gif_of, read
from PIL import Image

from gpukmeans_cli.formats.reading import as_rgba, read_image
from gpukmeans_cli.system.atomic_files import ImageError

NAMES = {
    (255, 0, 0, 255): "R",
    (0, 255, 0, 255): "G",
    (0, 0, 255, 255): "B",
    (9, 9, 9, 255): "D",
    (0, 0, 0, 255): "K",
    (0, 0, 0, 0): ".",
}
RED, GREEN, BLUE = range(3)


def area(color, height=3, width=3):
    return np.full((height, width), color, dtype=np.uint8)


def letters(pixels):
    return " ".join("".join(NAMES[tuple(color)] for color in row) for row in as_rgba(pixels).tolist())


@pytest.fixture
def shown(tmp_path):
    """The frames of a GIF, each as rows of letters. A still image has one."""

    def shown(data):
        path = tmp_path / "a.gif"
        path.write_bytes(data)
        still = letters(read_image(path).pixels)
        if read_image(path).frames == 1:
            return [still]
        frames = [letters(frame) for frame in read(path).frames]
        assert frames[0] == still
        return frames

    return shown


# The expected frames are those that Chromium 156 shows.
WHOLE = gif_frame(0, 0, area(GREEN))
DOT = gif_frame(1, 1, area(BLUE, 1, 1))
CORNER = gif_frame(0, 0, area(BLUE, 1, 1))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        pytest.param([gif_frame(1, 1, area(GREEN, 2, 1))], ["... .G. .G."], id="uncovered in a still"),
        pytest.param([DOT, CORNER], ["... .B. ...", "B.. .B. ..."], id="uncovered"),
        pytest.param([gif_frame(0, 0, area(GREEN), disposal=2), DOT], ["GGG GGG GGG", "... .B. ..."], id="cleared"),
        pytest.param(
            [WHOLE, gif_frame(1, 1, area(BLUE, 2, 2), disposal=2), CORNER],
            ["GGG GGG GGG", "GGG GBB GBB", "BGG G.. G.."],
            id="cleared later",
        ),
        pytest.param(
            [gif_frame(0, 0, area(GREEN, transparent := 1), disposal=2, transparent=transparent), DOT],
            ["... ... ...", "... .B. ..."],
            id="transparent",
        ),
        pytest.param(
            [gif_frame(0, 0, area(GREEN), disposal=2), gif_frame(0, 0, area(RED, 2, 2), transparent=0), DOT],
            ["GGG GGG GGG", "... ... ...", "... .B. ..."],
            id="cleared, then transparent",
        ),
        pytest.param(
            [gif_frame(0, 0, area(GREEN), disposal=3), DOT], ["GGG GGG GGG", "... .B. ..."], id="restored to nothing"
        ),
        pytest.param(
            [WHOLE, gif_frame(1, 0, area(BLUE, 3, 1), disposal=3), CORNER],
            ["GGG GGG GGG", "GBG GBG GBG", "BGG GGG GGG"],
            id="restored",
        ),
        pytest.param(
            [WHOLE, gif_frame(1, 1, area(BLUE, 1, 1), disposal=4), CORNER],
            ["GGG GGG GGG", "GGG GBG GGG", "BGG GGG GGG"],
            id="method 4 restores",
        ),
        pytest.param(
            [WHOLE, gif_frame(1, 1, area(BLUE, 1, 1), disposal=5), CORNER],
            ["GGG GGG GGG", "GGG GBG GGG", "BGG GBG GGG"],
            id="unknown methods keep",
        ),
        pytest.param(
            [
                gif_frame(0, 0, area(GREEN), disposal=2),
                gif_image(1, 1, area(BLUE, 1, 1)),
                gif_image(2, 2, area(0, 1, 1)),
            ],
            ["GGG GGG GGG", "... .B. ...", "... .B. ..R"],
            id="a control is for one frame",
        ),
        pytest.param(
            [WHOLE, gif_frame(2, 2, area(BLUE)), gif_frame(9, 9, area(BLUE)), gif_frame(1, 1, area(BLUE, 0, 0))],
            ["GGG GGG GGG", "GGG GGG GGB", "GGG GGG GGB", "GGG GGG GGB"],
            id="outside and empty",
        ),
        pytest.param(
            [gif_frame(0, 0, area(GREEN, 2, 5)), gif_frame(1, 1, area(BLUE, 2, 2))],
            ["GGGGG GGGGG .....", "GGGGG GBBGG .BB.."],
            id="the first exceeds the logical screen",
        ),
        pytest.param([gif_frame(3, 2, area(GREEN, 2, 1))], ["....", "....", "...G", "...G"], id="and its offset"),
    ],
)
def test_frames_are_shown_as_in_a_browser(shown, frames, expected):
    expected = expected if len(frames) == len(expected) else [" ".join(expected)]
    assert shown(gif_of(3, 3, *frames)) == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(gif_image(0, 0, np.arange(4, dtype=np.uint8)[None]), "RGBD", id="global table"),
        pytest.param(gif_image(0, 0, np.arange(4, dtype=np.uint8)[None], colors=GIF_COLORS[::-1]), "DRGB", id="local"),
        pytest.param(gif_image(0, 0, np.array([[3, 4, 5, 1]], dtype=np.uint8)), "DKKG", id="index outside the table"),
        pytest.param(
            gif_frame(0, 0, np.array([[3, 4, 5, 1]], dtype=np.uint8), transparent=5),
            "DK.G",
            id="transparent outside it",
        ),
    ],
)
def test_indices_are_colors_of_the_table(shown, image, expected):
    assert shown(gif_of(4, 1, image)) == [expected]


def test_without_a_color_table_all_is_black(shown):
    assert shown(gif_of(3, 1, gif_image(0, 0, np.arange(3, dtype=np.uint8)[None]), colors=b"")) == ["KKK"]


def test_an_interlaced_frame_is_decoded(shown, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4, (21, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.putpalette(GIF_COLORS)
    image.save(tmp_path / "b.gif", interlace=True)
    data = (tmp_path / "b.gif").read_bytes()
    assert shown(data) == [" ".join("".join("RGBD"[index] for index in row) for row in pixels)]


def test_a_grey_gif_stays_grey(tmp_path):
    path = tmp_path / "grey.gif"
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    Image.fromarray(pixels[..., 0]).save(path)
    np.testing.assert_array_equal(read_image(path).pixels, pixels)


@pytest.mark.parametrize("end", [b";", b"", b"\0\0" + DOT, b"x"])
def test_a_file_ends_at_the_first_byte_that_begins_no_block(shown, end):
    assert shown(gif_of(3, 3, WHOLE, DOT)[:-1] + end) == ["GGG GGG GGG", "GGG GBG GGG"]


def test_extensions_between_frames_are_skipped(shown):
    comment, unknown = b"\x21\xfe\x04text\x01;\0", b"\x21\x77\x03,!;\0"
    assert shown(gif_of(3, 3, comment, WHOLE, unknown, comment, DOT, comment)) == ["GGG GGG GGG", "GGG GBG GGG"]


@pytest.mark.parametrize(
    ("blocks", "plays"),
    [
        pytest.param([WHOLE, DOT], 1, id="no number"),
        pytest.param([gif_loop(0), WHOLE, DOT], 0, id="forever"),
        pytest.param([gif_loop(1), WHOLE, DOT], 2, id="one repetition"),
        pytest.param([gif_loop(65_535), WHOLE, DOT], 65_536, id="most"),
        pytest.param([gif_loop(4, name=b"ANIMEXTS1.0"), WHOLE, DOT], 5, id="other name"),
        pytest.param([gif_loop(4, name=b"NETSCAPE1.0"), WHOLE, DOT], 1, id="unknown name"),
        pytest.param([WHOLE, gif_loop(5), DOT], 6, id="after the first frame"),
        pytest.param([WHOLE, DOT, gif_loop(5)], 6, id="after the last frame"),
        pytest.param([gif_loop(2), WHOLE, gif_loop(0), DOT], 0, id="the last of two"),
        pytest.param([b"\x21\xff\x0bNETSCAPE2.0\x03\x02\7\0\0", WHOLE, DOT], 1, id="another sub-block"),
        pytest.param([WHOLE, b"\x21\xff\x0bNETSCAPE2.0\0", DOT], 1, id="no sub-block"),
    ],
)
def test_plays_are_those_of_a_browser(tmp_path, blocks, plays):
    (tmp_path / "a.gif").write_bytes(gif_of(3, 3, *blocks))
    assert read(tmp_path / "a.gif").plays == plays


def test_the_color_of_a_pixel_that_is_cleared_and_drawn_again_is_the_last(tmp_path):
    frames = [Image.new("RGBA", (8, 8), color) for color in ("red", (0, 0, 0, 0), (0, 0, 0, 0))]
    for number in (1, 2):
        frames[number].paste("blue", (number, number, number + 3, number + 3))
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], disposal=2, duration=99)
    found = read(path).frames
    assert found[:, 7, 7, 3].tolist() == [255, 0, 0]
    assert found[:, 3, 3].tolist() == [[255, 0, 0, 255], [0, 0, 255, 255], [0, 0, 255, 255]]
    np.testing.assert_array_equal((found[..., 3] == 0).sum(axis=(1, 2)), [0, 55, 55])


def test_a_header_without_a_frame_is_an_error(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 3, 3, 0, 0, 0) + b";")
    with pytest.raises(ImageError, match="is not an image that Pillow can read"):
        read_image(tmp_path / "a.gif")
