"""Fixed colors, palette files and shared palettes."""

import numpy as np
import pytest
from helpers.image_files import assert_one_line, chunks, files, noise, rgba, save
from helpers.photos import CHINA
from PIL import Image


def colors_of(path):
    return {tuple(color) for color in rgba(path).reshape(-1, 4).tolist()}


# Given colors


def test_the_palette_contains_the_fixed_colors_exactly(report, crop, tmp_path):
    found = report(crop, "-k", 8, "--fixed", "#ff0000, #0f8", "-o", tmp_path / "out.png")
    palette = chunks(tmp_path / "out.png")["PLTE"]
    entries = {tuple(palette[i : i + 3]) for i in range(0, len(palette), 3)}
    assert {(255, 0, 0), (0, 255, 136)} <= entries
    assert len(entries) == 8
    assert found["colors_out"] == len(colors_of(tmp_path / "out.png"))


def test_the_palette_of_a_grey_image_contains_a_fixed_color(report, tmp_path):
    grey = save(noise(20, 20), tmp_path / "grey.png")
    report(grey, "-k", 4, "--fixed", "#ff0000", "-o", tmp_path / "out.png", "--allow-larger")
    palette = chunks(tmp_path / "out.png")["PLTE"]
    assert b"\xff\x00\x00" in {palette[i : i + 3] for i in range(0, len(palette), 3)}


def test_a_palette_file_is_the_whole_palette(report, crop, tmp_path):
    listed = tmp_path / "list.hex"
    listed.write_text("#000000\n#808080\n#ffffff\n#4060a0\n")
    report(crop, "--palette", listed, "-o", tmp_path / "out.png")
    pixels, given = rgba(crop)[..., :3].astype(int), np.array([[0] * 3, [128] * 3, [255] * 3, [64, 96, 160]])
    nearest = given[((pixels[..., None, :] - given) ** 2).sum(-1).argmin(-1)]
    assert np.array_equal(rgba(tmp_path / "out.png")[..., :3], nearest)


def test_an_image_can_be_the_palette_file(report, crop, tmp_path):
    report(crop, "-k", 5, "-o", tmp_path / "few.png")
    report(CHINA, "--palette", tmp_path / "few.png", "-o", tmp_path / "out.png")
    assert colors_of(tmp_path / "out.png") <= colors_of(tmp_path / "few.png")


def test_transparent_pixels_stay_transparent_with_a_palette_without_alpha(report, tmp_path):
    pixels = noise(12, 12, 4)
    pixels[..., 3] = 255
    pixels[:6, :, 3] = 0
    source = save(pixels, tmp_path / "in.png")
    (tmp_path / "two.hex").write_text("#000000\n#ffffff\n")
    found = report(source, "--palette", tmp_path / "two.hex", "-o", tmp_path / "out.png")
    after = rgba(tmp_path / "out.png")
    assert not after[:6, :, 3].any()
    assert (after[6:, :, 3] == 255).all()
    assert found["colors_out"] == 3


def test_unused_palette_colors_are_not_counted(report, crop, tmp_path):
    (tmp_path / "four.hex").write_text("#000000\n#808080\n#ffffff\n#ff00ff\n")
    assert report(crop, "--palette", tmp_path / "four.hex", "-o", tmp_path / "out.png")["colors_out"] == 3
    assert len(colors_of(tmp_path / "out.png")) == 3


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--fixed", "#12"], "--fixed"),
        (["--fixed", "#fff,#000,#111", "-k", 2], "more than the 2"),
        (["--palette", "missing.gpl"], "missing.gpl"),
        (["--palette", "x", "-k", 3], "cannot be used together"),
        (["--min-psnr", 30, "-k", 3], "cannot be used together"),
        (["--min-psnr", 30, "--max-bytes", "3k"], "cannot be used together"),
        (["--max-bytes", "3 apples"], "--max-bytes"),
        (["--min-psnr", "nan"], "--min-psnr"),
        (["--shared-palette", "--max-bytes", "3k"], "cannot be used together"),
        (["--dither-strength", 2], "--dither-strength"),
        (["--dither-strength", 0.5], "--dither-strength needs --dither"),
        (["--dither", "bayer", "--dither-strength", "nan"], "--dither-strength must be a number from 0 to 1, got nan"),
        (["--palette", "two.hex", "--space", "oklab"], "remove --space oklab"),
        (["--palette", "two.hex", "--best"], "cannot be used together"),
        (["--dither", "riemersma"], "--dither"),
        (["--space", "lab"], "--space"),
        (["-o", "out.jpg"], ".webp"),
    ],
)
def test_a_wrong_argument_gives_one_line_before_any_work(run, crop, tmp_path, monkeypatch, args, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.hex").write_text("#000000\n#ffffff\n")
    code, out, err = run(crop, *args)
    assert (code, out) == (2, "")
    assert_one_line(err, part)
    assert files(tmp_path).keys() == {tmp_path / "two.hex"}


# One palette over many images


def test_a_shared_palette_of_grey_images_contains_the_fixed_colors(run, tmp_path):
    sources = [save(noise(9, 9, seed=seed), tmp_path / f"{seed}.png") for seed in (0, 1)]
    code, _, err = run(*sources, "--shared-palette", "-k", 4, "--fixed", "#ff0000", "--allow-larger", "-q")
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "0-4.png") as one, Image.open(tmp_path / "1-4.png") as other:
        assert (255, 0, 0) in one.palette.colors
        assert (255, 0, 0) in other.palette.colors


def test_all_images_are_mapped_to_the_shared_palette(run, crop, tmp_path):
    red, grey = np.zeros((9, 9, 3), dtype=np.uint8), np.full((9, 9), 77, dtype=np.uint8)
    red[..., 0] = 250
    sources = [save(red, tmp_path / "red.png"), save(grey, tmp_path / "grey.png"), tmp_path / "crop.png"]
    sources[2].write_bytes(crop.read_bytes())
    code, _, err = run(*sources, "--shared-palette", "-k", 16, "--json", "-q")
    assert (code, err) == (0, "")
    palettes = [colors_of(tmp_path / f"{path.stem}-16.png") for path in sources]
    assert len(set.union(*palettes)) <= 16
    assert (250, 0, 0, 255) in palettes[0]


def test_an_unreadable_image_is_left_out_of_the_shared_palette(run, crop, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(crop.read_bytes()[:200])
    good = tmp_path / "good.png"
    good.write_bytes(crop.read_bytes())
    code, _, err = run(broken, good, "--shared-palette", "-k", 4, "-q")
    assert code == 1
    assert_one_line(err, "broken.png")
    assert len(colors_of(tmp_path / "good-4.png")) == 4


def test_standard_input_cannot_have_a_shared_palette(run):
    code, out, err = run("-", "--shared-palette")
    assert (code, out) == (2, "")
    assert_one_line(err, "--shared-palette reads images twice")
