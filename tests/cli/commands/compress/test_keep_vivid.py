"""Small vivid areas at few colors, on real files."""

import numpy as np
import pytest
from helpers.image_files import assert_one_line, rgba
from helpers.photos import FLOWER
from PIL import Image, ImageDraw

BADGES = {(34, 197, 94): (30, 40), (59, 130, 246): (80, 60)}


@pytest.fixture(scope="module")
def picture():
    """A small photo with badges."""
    with Image.open(FLOWER) as image:
        photo = image.reduce(4)
    for color, (x, y) in BADGES.items():
        ImageDraw.Draw(photo).rectangle((x, y, x + 11, y + 7), color)
    return photo


@pytest.fixture
def badges(picture, tmp_path):
    picture.save(tmp_path / "badges.png")
    return tmp_path / "badges.png"


@pytest.fixture
def written(command, tmp_path):
    """Writes the file in few colors, and gives the path of the output."""

    def written(source, *args, suffix=".png"):
        target = tmp_path / f"out{suffix}"
        options = ["-o", target, "-q", "-f", "--allow-larger", "--dither", "none", "--effort", 0]
        assert command("compress", source, *options, *args) == (0, "", "")
        return target

    return written


def largest_distance(path):
    """The largest distance, in levels, from a badge to the nearest color of the first frame."""
    colors = rgba(path)[..., :3].reshape(-1, 3).astype(int)
    return max(np.sqrt(((colors - color) ** 2).sum(axis=1).min()) for color in BADGES)


def test_badges_keep_a_color_by_default(written, badges):
    assert largest_distance(written(badges, "-k", 8)) < 10
    assert largest_distance(written(badges, "-k", 8, "--no-keep-vivid")) > 60


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_badges_of_an_animation_keep_a_color(written, picture, tmp_path, suffix):
    frames = [picture, picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    kept, plain = (
        largest_distance(written(tmp_path / "moving.webp", "-k", 8, option, suffix=suffix))
        for option in ("--keep-vivid", "--no-keep-vivid")
    )
    assert kept < plain - 40


@pytest.mark.parametrize("given", [("--palette", "white,black"), ("--shared-palette",)])
def test_given_and_shared_palettes_have_no_flat_areas_to_keep(command, badges, given):
    code, out, err = command("compress", badges, *given, "--keep-vivid")
    assert (code, out) == (2, "")
    assert_one_line(err, f"{given[0]} and --keep-vivid cannot be used together")
