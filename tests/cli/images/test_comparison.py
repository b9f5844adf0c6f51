import dataclasses

import numpy as np
import pytest
import torch
from helpers.color_profiles import save_linear
from helpers.image_files import noise, save
from PIL import Image

from gpukmeans_cli.images.comparison import Comparison, compare_files
from gpukmeans_cli.images.quality import compare_pixels
from gpukmeans_cli.system.atomic_files import ImageError

FOUND = Comparison(
    a="a.png",
    b="b.png",
    width=4,
    height=3,
    mse=1.5,
    psnr=46.37,
    ssim=0.98766,
    ssimulacra2=None,
    bytes_a=2000,
    bytes_b=1000,
    output=None,
)


def test_the_line_has_both_names_the_quality_and_the_sizes():
    assert FOUND.line() == "a.png, b.png: PSNR 46.37 dB, SSIM 0.9877, 2.0 kB -> 1.0 kB (50%)"
    measured = dataclasses.replace(FOUND, ssimulacra2=82.587)
    assert measured.line() == "a.png, b.png: PSNR 46.37 dB, SSIM 0.9877, SSIMULACRA2 82.59, 2.0 kB -> 1.0 kB (50%)"


def test_images_without_difference_have_no_psnr_and_are_identical():
    assert dataclasses.replace(FOUND, psnr=None, ssim=1.0).quality() == ["identical", "SSIM 1.0000"]


def test_the_numbers_are_those_of_the_pixels_and_the_files(tmp_path):
    before, after = noise(9, 8, 3), noise(9, 8, 3, seed=1)
    a, b = save(before, tmp_path / "a.png"), save(after, tmp_path / "b.png")
    found = compare_files(a, b, None, force=False, max_pixels=None)
    mse, psnr, ssim = compare_pixels(torch.from_numpy(before), torch.from_numpy(after))
    assert (found.mse, found.psnr, found.ssim) == (mse, psnr, ssim)
    assert (found.a, found.b, found.width, found.height, found.output) == (str(a), str(b), 8, 9, None)
    assert (found.bytes_a, found.bytes_b) == (a.stat().st_size, b.stat().st_size)
    assert set(tmp_path.iterdir()) == {a, b}


def test_images_are_compared_as_they_are_shown(tmp_path):
    linear = save_linear(np.full((4, 5, 3), 128, np.uint8), tmp_path / "linear.png")
    srgb = save(np.full((4, 5, 3), 188, np.uint8), tmp_path / "srgb.png")
    assert compare_files(linear, srgb, tmp_path / "sheet.png", force=False, max_pixels=None).psnr is None
    with Image.open(tmp_path / "sheet.png") as sheet:
        counts = {color: count for count, color in sheet.convert("RGB").getcolors(1 << 16)}
    assert counts[188, 188, 188] >= 2 * 20


def test_the_sheet_is_overwritten_only_with_force(tmp_path):
    a = save(noise(9, 8, 3), tmp_path / "a.png")
    sheet = tmp_path / "sheet.png"
    sheet.write_text("mine")
    with pytest.raises(ImageError, match=r"sheet\.png already exists"):
        compare_files(a, a, sheet, force=False, max_pixels=None)
    assert sheet.read_text() == "mine"
    assert compare_files(a, a, sheet, force=True, max_pixels=None).output == str(sheet)
    assert np.asarray(Image.open(sheet)).ndim == 3


def test_an_error_names_the_file_or_both_sizes(tmp_path):
    a, b = save(noise(9, 8, 3), tmp_path / "a.png"), save(noise(8, 9, 3), tmp_path / "b.png")
    with pytest.raises(ImageError, match=r"missing\.png: does not exist"):
        compare_files(a, tmp_path / "missing.png", None, force=False, max_pixels=None)
    with pytest.raises(ImageError, match=r"a\.png is 8 x 9 and .*b\.png 9 x 8, but only images of one size"):
        compare_files(a, b, None, force=False, max_pixels=None)
    with pytest.raises(ImageError, match=r"a\.png: .*72 pixels"):
        compare_files(a, a, None, force=False, max_pixels=71)
