"""Errors, colors and transparency of the images that `gpukmeans compress` writes."""

import json
import math

import numpy as np
import pytest
from helpers.image_files import chunks, noise, rgba, save
from helpers.photos import CHINA, FLOWER
from PIL import Image


def premultiplied(path):
    pixels = rgba(path).astype(float)
    return np.concatenate([pixels[..., :3] * pixels[..., 3:] / 255, pixels[..., 3:]], axis=2)


@pytest.mark.parametrize("source", [CHINA, FLOWER], ids=lambda path: path.stem)
def test_a_photo_gets_smaller_and_the_report_has_its_error(run, tmp_path, source):
    code, out, err = run(source, "-k", 20, "-o", tmp_path / "few.png", "--max-iter", 20, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert (report["width"], report["height"], report["colors_out"]) == (640, 427, 20)
    assert report["bytes_out"] == (tmp_path / "few.png").stat().st_size < report["bytes_in"] == source.stat().st_size
    before, after = rgba(source), rgba(tmp_path / "few.png")
    assert report["colors_in"] == len(np.unique(before.reshape(-1, 4), axis=0))
    assert report["mse"] == pytest.approx(np.square(before.astype(float) - after).sum(axis=2).mean(), rel=1e-12)
    assert 25 < report["psnr"] < 40


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("L", ".png", 3),
        ("L", ".jpg", 3),
        ("RGB", ".webp", 3),
        ("RGB", ".bmp", 3),
        ("RGB", ".tif", 3),
        ("CMYK", ".tif", 3),
        ("P", ".png", 3),
        ("LA", ".png", 4),
        ("RGBA", ".png", 4),
        ("RGBA", ".tif", 4),
    ],
)
def test_the_error_is_the_difference_between_the_files(run, tmp_path, mode, suffix, channels):
    image = Image.fromarray(noise(21, 31, channels)).convert(mode)
    image.save(tmp_path / f"photo{suffix}")
    code, out, _ = run(tmp_path / f"photo{suffix}", "-k", 7, "--json", "-o", tmp_path / "few.png")
    report = json.loads(out)
    assert (code, report["mode"], report["colors_out"]) == (0, mode, 7)
    sqerror = np.square(premultiplied(tmp_path / f"photo{suffix}") - premultiplied(tmp_path / "few.png"))
    mse = sqerror.sum(axis=2).mean()
    assert mse > 0
    assert report["mse"] == pytest.approx(mse, rel=1e-12)
    assert report["psnr"] == pytest.approx(10 * math.log10(255**2 / (mse / channels)), rel=1e-12)


def test_each_pixel_has_the_nearest_color_of_the_palette(run, photo, tmp_path):
    run(photo, "-k", 5, "--max-iter", 2)
    before, after = (rgba(path).reshape(-1, 4).astype(int) for path in (photo, tmp_path / "photo-5.png"))
    palette = np.unique(after, axis=0)
    nearest = np.square(before[:, None] - palette).sum(axis=2).min(axis=1)
    assert np.array_equal(np.square(before - after).sum(axis=1), nearest)


@pytest.mark.parametrize(
    ("pixels", "distinct"),
    [
        pytest.param(noise(1, 1, 3), 1, id="one pixel"),
        pytest.param(np.full((9, 13, 3), (200, 30, 7), dtype=np.uint8), 1, id="one color"),
        pytest.param(np.full((9, 13), 77, dtype=np.uint8), 1, id="one grey"),
        pytest.param(np.repeat(np.arange(20, dtype=np.uint8)[:, None] * 13, 3, axis=1), 20, id="as many greys as k"),
        pytest.param(np.repeat(noise(6, 1, 3), 5, axis=1), 6, id="fewer colors than k"),
        pytest.param(np.repeat(noise(6, 1, 4) | 1, 5, axis=1), 6, id="fewer colors with alpha"),
        pytest.param(np.repeat(noise(6, 1, 2) | 1, 5, axis=1), 6, id="fewer greys with alpha"),
    ],
)
def test_an_image_of_few_colors_is_lossless(run, tmp_path, pixels, distinct):
    photo = save(pixels, tmp_path / "photo.png")
    code, out, err = run(photo, "-k", 20, "--allow-larger")
    assert (code, err) == (0, "")
    assert f" {distinct} -> {distinct} color{'s' * (distinct > 1)}, " in out
    assert ", lossless, 0 iterations, " in out
    assert np.array_equal(rgba(tmp_path / "photo-20.png"), rgba(photo))
    report = json.loads(run(photo, "-k", 20, "-f", "--json", "--allow-larger")[1])
    assert (report["psnr"], report["mse"], report["iterations"], report["converged"]) == (None, 0, 0, True)


def test_a_fully_transparent_image_stays_transparent(run, tmp_path):
    pixels = noise(9, 13, 4)
    pixels[..., 3] = 0
    report = json.loads(run(save(pixels, tmp_path / "photo.png"), "-k", 20, "--json", "--allow-larger")[1])
    assert (report["colors_in"], report["colors_out"], report["psnr"]) == (1, 1, None)
    assert not rgba(tmp_path / "photo-20.png").any()


def test_alpha_is_kept_in_the_palette(run, tmp_path):
    pixels = np.concatenate([np.full((8, 5, 4), color) for color in ((9, 8, 7, 0), (250, 0, 0, 128), (0, 0, 90, 255))])
    photo = save(pixels.astype(np.uint8), tmp_path / "photo.png")
    assert run(photo, "-k", 20, "--allow-larger")[0] == 0
    found = chunks(tmp_path / "photo-20.png")
    colors = np.frombuffer(found["PLTE"], dtype=np.uint8).reshape(3, 3)
    alpha = np.frombuffer(found["tRNS"].ljust(3, b"\xff"), dtype=np.uint8)
    assert {(*color, a) for color, a in zip(colors.tolist(), alpha.tolist(), strict=True)} == {
        (0, 0, 0, 0),  # transparent pixels become black
        (250, 0, 0, 128),
        (0, 0, 90, 255),
    }


def test_a_transparent_index_of_a_gif_is_kept(run, tmp_path):
    image = Image.fromarray(np.repeat(np.arange(4, dtype=np.uint8)[:, None], 5, axis=1))
    image.putpalette([1, 2, 3, 40, 50, 60, 200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "a.gif", transparency=2)
    report = json.loads(run(tmp_path / "a.gif", "--json", "--allow-larger")[1])
    assert (report["mode"], report["colors_out"]) == ("P", 4)
    assert rgba(report["output"])[:, 0, 3].tolist() == [255, 255, 0, 255]
