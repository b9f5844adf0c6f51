"""Optimized dithering and the price of bits, which are the default for stills, on real files."""

import colorsys
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.image_files import assert_one_line, noise, rgba, save
from helpers.photos import save_crop
from helpers.png_decoding import decode_png
from PIL import Image, ImageDraw

from gpukmeans import quantize

NEAREST, OPTIMIZED = ("--dither", "none"), ("--dither", "optimized")


@pytest.fixture
def run(command):
    """Runs `gpukmeans compress` with its defaults, also on files that get larger."""
    return functools.partial(command, "compress", "-f", "--allow-larger")


@pytest.fixture(scope="module")
def crop(tmp_path_factory):
    """A small crop of a photo, as a PNG."""
    return save_crop(tmp_path_factory.mktemp("crop") / "crop.png", (200, 100, 264, 148))


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """Antialiased discs in 30 colors on white, as a PNG of 421 colors."""
    image = Image.new("RGB", (1920, 1600), "white")
    for number in range(30):
        color = tuple(round(255 * level) for level in colorsys.hsv_to_rgb(number / 30, 0.8, 0.8))
        x, y = 320 * (number % 6) + 160, 320 * (number // 6) + 160
        ImageDraw.Draw(image).ellipse([x - 61, y - 61, x + 61, y + 61], color)
    return save(np.array(image.reduce(4)), tmp_path_factory.mktemp("discs") / "discs.png")


@pytest.fixture
def animation(tmp_path):
    """A GIF of two frames."""
    frames = [Image.fromarray(noise(9, 13, 3, seed=seed)) for seed in range(2)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    return tmp_path / "moving.gif"


def written(crop, report, tmp_path, *args, suffix=".png"):
    """The bytes of the output."""
    report(crop, "-k", 16, "-o", tmp_path / f"out{suffix}", *args)
    return (tmp_path / f"out{suffix}").read_bytes()


# Defaults


@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp"])
def test_a_still_is_optimized_at_a_price_of_15_by_default(report, crop, tmp_path, suffix):
    default = written(crop, report, tmp_path, suffix=suffix)
    assert default == written(crop, report, tmp_path, *OPTIMIZED, suffix=suffix)
    assert default == written(crop, report, tmp_path, "--lossy", 15, suffix=suffix)
    assert default != written(crop, report, tmp_path, *NEAREST, suffix=suffix)


@pytest.mark.parametrize(("suffix", "rate"), [(".png", "png"), (".gif", "gif"), (".webp", "gif")])
def test_the_bits_are_those_of_the_format_of_the_output(report, crop, tmp_path, suffix, rate):
    image = torch.from_numpy(rgba(crop)[..., :3].copy())
    expected = quantize(image, 64, dither="optimized", lossy=15.0, rate=rate).pixels()
    report(crop, "-k", 64, "-o", tmp_path / f"out{suffix}")
    assert np.array_equal(rgba(tmp_path / f"out{suffix}")[..., :3], expected.numpy())


def test_a_drawing_that_optimized_colors_would_make_larger_takes_the_nearest(report, tmp_path):
    icon = np.array(Image.new("RGB", (80, 80), "white").resize((80, 80)))
    y, x = np.mgrid[:80, :80]
    icon[(y - 40) ** 2 + (x - 40) ** 2 < 900] = 0
    shade = (np.arange(80) * 3).astype(np.uint8)
    icon[:20] = np.stack([shade, 255 - shade, shade // 2], axis=1)
    drawing = save(np.tile(icon, (3, 3, 1)), tmp_path / "drawing.png")
    options = ("-k", 40, "-o", tmp_path / "few.png", "-f", "--allow-larger")
    default, nearest, optimized = (report(drawing, *options, *more) for more in ((), NEAREST, OPTIMIZED))
    assert (default["dither"], default["lossy"]) == ("none", 0)
    assert default["bytes_out"] == nearest["bytes_out"] < optimized["bytes_out"]


def test_a_gradient_is_dithered_although_its_bands_would_make_a_smaller_file(report, tmp_path):
    y, x = np.mgrid[:160, :200]
    gradient = save(np.stack([x, y, 255 - x], axis=2).astype(np.uint8), tmp_path / "gradient.png")
    options = ("-k", 64, "-o", tmp_path / "few.png", "-f", "--allow-larger")
    default, nearest = (report(gradient, *options, *more) for more in ((), NEAREST))
    assert (default["dither"], default["lossy"]) == ("optimized", 15)
    assert default["bytes_out"] > nearest["bytes_out"]


@pytest.mark.parametrize(("suffix", "most"), [(".png", 0.9), (".gif", 1.0)])
def test_a_drawing_has_fewer_colors_in_a_smaller_file_where_that_hardly_shows(report, discs, tmp_path, suffix, most):
    default = report(discs, "-o", tmp_path / f"default{suffix}")
    nearest = report(discs, "-o", tmp_path / f"nearest{suffix}", *NEAREST)
    assert (default["dither"], default["lossy"]) == ("none", 0)
    assert 128 <= default["colors_out"] < nearest["colors_out"] == 256
    assert default["bytes_out"] < most * nearest["bytes_out"]
    with Image.open(discs) as before, Image.open(tmp_path / f"default{suffix}") as after:
        pixels = np.array(after.convert("RGB"))
        errors = (np.array(before).astype(int) - pixels) ** 2
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == default["colors_out"]
    assert errors.sum(axis=2).mean() == pytest.approx(default["mse"], rel=1e-12)
    assert np.percentile(np.sqrt(errors.max(axis=2)), 99.9) < 16


def test_a_drawing_in_128_colors_keeps_all_of_them(report, discs, tmp_path):
    default, nearest = (report(discs, "-o", tmp_path / "few.png", "-f", "-k", 128, *more) for more in ((), NEAREST))
    assert default["colors_out"] == 128
    assert (default["mse"], default["bytes_out"]) == (nearest["mse"], nearest["bytes_out"])


def test_a_drawing_keeps_the_fixed_colors(report, discs, tmp_path):
    found = report(discs, "-o", tmp_path / "fixed.png", "--fixed", "#010203,#040506")
    with Image.open(tmp_path / "fixed.png") as image:
        palette = set(zip(*[iter(image.getpalette())] * 3, strict=True))
    assert {(1, 2, 3), (4, 5, 6)} <= palette
    assert found["colors_out"] < 200


def test_there_are_up_to_256_colors_by_default(report, tmp_path):
    found = report(save(noise(17, 19, 3), tmp_path / "photo.png"), *NEAREST)
    assert (found["output"], found["colors_out"]) == (str(tmp_path / "photo-256.png"), 256)


def test_an_animation_takes_the_nearest_colors_by_default(report, animation, tmp_path):
    default = written(animation, report, tmp_path, suffix=".gif")
    assert default == written(animation, report, tmp_path, *NEAREST, suffix=".gif")


@pytest.mark.parametrize(
    "options", [OPTIMIZED, ("--lossy", 5), (*NEAREST, "--lossy", 5)], ids=lambda args: " ".join(map(str, args))
)
def test_an_animation_cannot_be_optimized(command, animation, crop, tmp_path, options):
    code, out, err = command("compress", animation, "-o", tmp_path / "out.gif", *options)
    assert (code, out) == (1, "")
    reason = "is an animation, whose still areas would flicker with --dither optimized or --lossy"
    assert err == f"gpukmeans: {animation}: {reason}\n"
    assert not (tmp_path / "out.gif").exists()


# The report


@pytest.mark.parametrize(
    ("args", "suffix", "dither", "lossy"),
    [
        ((), ".png", "optimized", 15),
        ((), ".gif", "optimized", 15),
        (("--lossy", "2.5"), ".png", "optimized", 2.5),
        (OPTIMIZED, ".webp", "optimized", 15),
        (NEAREST, ".png", "none", 0),
        ((*NEAREST, "--lossy", 25), ".png", "none", 25),
        (("--dither", "bayer"), ".png", "bayer", 0),
        (("--dither", "bayer", "--lossy", 0), ".png", "bayer", 0),
        (("--dither", "bayer", "--dither-strength", 0), ".png", "none", 0),
        (("--dither-strength", 0), ".png", "none", 15),
    ],
)
def test_the_report_names_dithering_and_price(report, crop, tmp_path, args, suffix, dither, lossy):
    found = report(crop, "-k", 4, "-o", tmp_path / f"out{suffix}", *args)
    assert (found["dither"], found["lossy"]) == (dither, lossy)


@pytest.mark.parametrize("args", [(), ("--lossy", 0), (*NEAREST, "--lossy", 25)], ids=["default", "free", "none"])
@pytest.mark.parametrize("channels", [3, 4])
def test_the_report_has_the_error_of_the_file(report, tmp_path, args, channels):
    photo = save(noise(13, 17, channels), tmp_path / "photo.png")
    found = report(photo, "-k", 9, *args)
    before, after = (rgba(path).astype(float) for path in (photo, found["output"]))
    for pixels in (before, after):
        pixels[..., :3] *= pixels[..., 3:] / 255
    assert found["mse"] == pytest.approx(np.square(before - after).sum(axis=2).mean(), rel=1e-12)
    assert found["colors_out"] == len(np.unique(rgba(found["output"]).reshape(-1, 4), axis=0)) <= 9


# What is written


def test_a_higher_price_makes_smaller_files_of_more_error(report, crop, tmp_path):
    found = [report(crop, "-k", 32, *NEAREST, "--lossy", lossy, "-o", tmp_path / "a.png") for lossy in (0, 25, 400)]
    assert found[0]["bytes_out"] > found[1]["bytes_out"] > found[2]["bytes_out"]
    assert found[0]["mse"] < found[1]["mse"] < found[2]["mse"]


def test_optimized_dithering_keeps_the_mean_colors_of_areas(report, crop, tmp_path):
    def blurred_error(*args):
        report(crop, "-k", 8, *args, "-o", tmp_path / "out.png")
        error = rgba(crop).astype(float) - rgba(tmp_path / "out.png")
        blurred = error[:-1, :-1] + error[1:, :-1] + error[:-1, 1:] + error[1:, 1:]
        return np.square(blurred).mean()

    assert blurred_error("--lossy", 0) < 0.7 * blurred_error(*NEAREST)


@pytest.mark.parametrize("args", [(), ("--lossy", 400), ("--dither", "bayer"), ("--quality", 100)])
def test_an_image_of_at_most_256_colors_is_lossless_in_its_own_colors(report, tmp_path, args):
    colors = noise(256, 3)
    photo = save(colors[noise(20, 30)], tmp_path / "photo.png")
    found = report(photo, *args, "-o", tmp_path / "photo-256.png")
    assert (found["psnr"], found["mse"], found["iterations"]) == (None, 0, 0)
    assert (found["dither"], found["lossy"]) == ("none", 0)
    assert np.array_equal(rgba(tmp_path / "photo-256.png"), rgba(photo))


def test_given_and_fixed_colors_stay(report, crop, tmp_path):
    (tmp_path / "colors.hex").write_text("#102030\n#ff8000\n#ffffff\n#808080\n")
    report(crop, "--palette", tmp_path / "colors.hex", "-o", tmp_path / "given.png")
    given = {(16, 32, 48, 255), (255, 128, 0, 255), (255, 255, 255, 255), (128, 128, 128, 255)}
    assert {tuple(color) for color in rgba(tmp_path / "given.png").reshape(-1, 4).tolist()} <= given
    report(crop, "-k", 6, "--fixed", "#102030", "-o", tmp_path / "fixed.png")
    assert (16, 32, 48, 255) in {tuple(color) for color in rgba(tmp_path / "fixed.png").reshape(-1, 4).tolist()}


def pixels_of_colors(n_colors, channels=3):
    colors = np.arange(n_colors)
    pixels = np.stack([colors % 256, colors // 256 * 9, 255 - colors % 256, np.full_like(colors, 200)], axis=1)
    return np.repeat(pixels[None, :, :channels], 2, axis=0).astype(np.uint8)


DEGENERATE = {
    "1 x 1": noise(1, 1, 3),
    "one row": noise(1, 9, 3),
    "one column": noise(9, 1, 4) | 1,
    "one color": np.full((5, 9, 3), (200, 30, 7), dtype=np.uint8),
    "all transparent": noise(5, 9, 4) * np.array([1, 1, 1, 0], np.uint8),
    "two colors": pixels_of_colors(2),
    "256 colors": pixels_of_colors(256),
    "257 colors": pixels_of_colors(257),
    "257 translucent colors": pixels_of_colors(257, 4),
}


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--lossy", 0),
        ("--lossy", 100_000),
        ("--dither-strength", 0),
        NEAREST,
        (*NEAREST, "--lossy", 25),
        ("--dither", "floyd-steinberg"),
        ("--dither", "bayer"),
        ("--dither", "blue-noise"),
    ],
    ids=lambda args: " ".join(map(str, args)) or "default",
)
def test_degenerate_pictures_are_written_in_every_mode(command, tmp_path, args):
    photos = [save(pixels, tmp_path / f"{name}.png") for name, pixels in DEGENERATE.items()]
    code, out, err = command("compress", *photos, *args, "--json", "-q", "-j", 1, "--allow-larger")
    assert (code, err) == (0, "")
    for photo, line in zip(photos, out.splitlines(), strict=True):
        report = json.loads(line)
        before, after = rgba(photo).copy(), rgba(report["output"])
        assert np.array_equal(after, decode_png(Path(report["output"]).read_bytes())), photo
        before[before[..., 3] == 0] = 0
        if photo.name.startswith("257"):
            assert len(np.unique(after.reshape(-1, 4), axis=0)) <= 256
            assert report["psnr"] is not None
        else:
            assert np.array_equal(after, before), photo
            assert report["psnr"] is None


# Wrong options: exit code 2


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--dither", "bayer", "--lossy", 5), "--lossy needs --dither optimized or none, got --dither bayer"),
        (
            ("--dither", "blue-noise", "--lossy", ".1"),
            "--lossy needs --dither optimized or none, got --dither blue-noise",
        ),
        (("--lossy", "nan"), "--lossy must be a number, at least 0, got nan"),
        (("--lossy", -1), "Invalid value for '--lossy': must be a number from 0 to 100000, got '-1'"),
        (("--lossy", "100001"), "Invalid value for '--lossy': must be a number from 0 to 100000, got '100001'"),
        (("--lossy", "much"), "Invalid value for '--lossy': must be a number from 0 to 100000, got 'much'"),
        ((*NEAREST, "--dither-strength", 1), "--dither-strength needs --dither"),
    ],
)
def test_wrong_options_are_one_sentence(command, crop, tmp_path, args, sentence):
    code, out, err = command("compress", crop, "-o", tmp_path / "out.png", *args)
    assert (code, out) == (2, "")
    assert_one_line(err, sentence)
    assert not (tmp_path / "out.png").exists()
