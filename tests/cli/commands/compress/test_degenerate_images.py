"""Tiny, uniform and nearly transparent images, in every dithering and color space."""

import numpy as np
import pytest
from helpers.image_files import rgba, save

from gpukmeans.images.dithering import DITHERINGS


def degenerate(name):
    rows = np.arange(257)
    return {
        "one pixel": np.full((1, 1, 3), 7, np.uint8),
        "one color": np.full((9, 9, 3), 200, np.uint8),
        "white": np.full((5, 7), 255, np.uint8),
        "transparent": np.zeros((5, 7, 4), np.uint8),
        "two colors": np.repeat(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8), 6, axis=0),
        "257 colors": np.stack([rows % 256, rows // 256 * 90, rows % 7], axis=-1)[None].astype(np.uint8),
        "long": np.repeat((np.arange(10_000) % 251).astype(np.uint8)[None, :, None], 3, axis=2),
    }[name]


@pytest.mark.parametrize("name", ["one pixel", "one color", "white", "transparent", "two colors", "257 colors", "long"])
@pytest.mark.parametrize("dither", list(DITHERINGS))
def test_degenerate_images_work_with_every_dithering(report, tmp_path, name, dither):
    pixels = degenerate(name)
    source = save(pixels, tmp_path / "in.png")
    options = ("-k", 256, "--refine", 0, "--dither", dither, "--allow-larger")
    found = report(source, *options, "-o", tmp_path / "out.png")
    assert found["colors_out"] == min(256, found["colors_in"])
    if found["colors_in"] <= 256:
        assert np.array_equal(rgba(tmp_path / "out.png"), rgba(source))


@pytest.mark.parametrize("name", ["one pixel", "one color", "white", "transparent", "two colors", "257 colors", "long"])
@pytest.mark.parametrize("space", ["linear", "oklab"])
def test_degenerate_images_work_in_every_color_space(report, tmp_path, name, space):
    source = save(degenerate(name), tmp_path / "in.png")
    for n_colors in (1, 2, 256):
        out = tmp_path / f"{n_colors}.png"
        found = report(source, "-k", n_colors, "--space", space, "-o", out, "--allow-larger")
        assert found["colors_out"] == min(n_colors, found["colors_in"])


def test_dark_colors_of_nearly_transparent_pixels_do_not_enter_the_palette(report, tmp_path):
    """Colors are premultiplied, so colors below a soft edge count less the less visible they are."""
    row, column = np.mgrid[:64, :64]
    distance = np.hypot(row - 31.5, column - 31.5)
    alpha = np.clip((28 - distance) * 32, 0, 255)
    pixels = np.full((64, 64, 4), 255, dtype=np.uint8)
    pixels[..., 3] = alpha
    report(save(pixels, tmp_path / "in.png"), "-k", 8, "-o", tmp_path / "out.png")
    after = rgba(tmp_path / "out.png")
    visible = after[..., 3] > 0
    assert not visible[pixels[..., 3] == 0].any()
    assert (after[visible][:, :3] >= 250).all()
    assert np.abs(after[..., 3].astype(int) - pixels[..., 3]).max() < 24
