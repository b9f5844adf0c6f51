"""The error of a quantized image, and a note on slow optimizing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gpukmeans.engines.native.engine import NativeEngine
from gpukmeans_cli.compression import quantized_image
from gpukmeans_cli.compression.pipeline import compress_image
from gpukmeans_cli.compression.settings import Settings

CPU = torch.device("cpu")


@pytest.mark.parametrize("dither", ["none", "bayer"])
@pytest.mark.parametrize("name", ["fixed", "palette"])
def test_the_alpha_of_a_color_that_no_pixel_uses_does_not_change_the_error(photo, tmp_path, name, dither):
    colors = np.array([[9, 90, 99], [200, 99, 3]], np.uint8)
    with_unused = np.concatenate([np.insert(colors, 3, 255, axis=1), np.zeros((1, 4), np.uint8)])
    expected, found = (
        compress_image(
            photo,
            tmp_path / f"{len(given)}.png",
            Settings(n_colors=len(given), device=CPU, dither=dither, **{name: given}),
        ).report
        for given in (colors, with_unused)
    )
    assert found.colors_out == 2
    assert (found.mse, found.psnr) == (expected.mse, expected.psnr)


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        ({"dither": "optimized"}, True),
        ({"dither": None, "lossy": None}, True),
        ({"lossy": 5.0}, True),
        ({"dither": "bayer"}, False),
        ({}, False),
        ({"dither": "optimized", "n_colors": 256}, False),  # lossless
    ],
)
def test_optimizing_many_pixels_without_native_kernels_is_noted(photo, tmp_path, monkeypatch, changes, lacks):
    settings = replace(Settings(n_colors=4, device=CPU, force=True), **changes)
    monkeypatch.setattr(NativeEngine, "unsupported_reason", lambda self, x: "there are none")
    assert not compress_image(photo, tmp_path / "few.png", settings).lacks_kernels
    monkeypatch.setattr(quantized_image, "MANY_PIXELS", 100)
    assert compress_image(photo, tmp_path / "few.png", settings).lacks_kernels == lacks
