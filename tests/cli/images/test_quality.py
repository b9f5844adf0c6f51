import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gpukmeans import quantize
from gpukmeans_cli.images import quality
from gpukmeans_cli.images.quality import compare_pixels, peak_signal_to_noise, structural_similarity

C1, C2 = 2.55**2, 7.65**2


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def flat(height, width, color):
    return torch.tensor(color, dtype=torch.uint8).expand(height, width, len(color))


def ssim_by_definition(one, other, size):
    """SSIM of two images of one channel, window by window, in two passes: means, then deviations from them."""
    x, y = one[..., 0].double().numpy(), other[..., 0].double().numpy()
    offsets = np.arange(size) - size // 2
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for row in range(x.shape[0] - size + 1):
        for column in range(x.shape[1] - size + 1):
            a, b = (part[row : row + size, column : column + size] for part in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
            values.append(luminance * (2 * covariance + C2) / (var_a + var_b + C2))
    return np.mean(values)


# PSNR


def test_psnr_is_per_channel():
    assert peak_signal_to_noise(3 * 255**2, 3) == 0
    assert peak_signal_to_noise(3.0, 1) == peak_signal_to_noise(3.0, 3) == 20 * math.log10(255)
    assert peak_signal_to_noise(4.0, 2) == peak_signal_to_noise(4.0, 4) == 20 * math.log10(255)
    assert peak_signal_to_noise(0, 3) is None


def test_an_alpha_channel_that_is_opaque_in_both_images_changes_no_figure():
    one, other = noise(13, 17, 3, seed=1), noise(13, 17, 3, seed=2)
    opaque = torch.full((13, 17, 1), 255, dtype=torch.uint8)
    expected = compare_pixels(one, other)
    assert compare_pixels(torch.cat([one, opaque], 2), other) == expected
    assert compare_pixels(torch.cat([one, opaque], 2), torch.cat([other, opaque], 2)) == expected
    opaque[3, 5] = 254
    assert compare_pixels(torch.cat([one, opaque], 2), other).psnr > expected.psnr + 1


# SSIM


def test_ssim_of_one_pixel_is_the_luminance_term():
    assert structural_similarity(flat(1, 1, [0]), flat(1, 1, [255])) == pytest.approx(C1 / (255**2 + C1), rel=1e-12)
    expected = (2 * 30 * 50 + C1) / (30**2 + 50**2 + C1)
    assert structural_similarity(flat(1, 1, [30]), flat(1, 1, [50])) == pytest.approx(expected, rel=1e-12)


def test_ssim_of_flat_images_is_the_mean_over_channels():
    one, other = flat(20, 31, [0, 7, 255]), flat(20, 31, [255, 7, 255])
    assert structural_similarity(one, other) == pytest.approx((C1 / (255**2 + C1) + 2) / 3, rel=1e-9)


def test_ssim_with_alpha_composites_over_black_and_adds_alpha_as_a_channel():
    # R and alpha go from 255 to 0, G and B stay 0.
    one, other = flat(12, 12, [255, 0, 0, 255]), flat(12, 12, [255, 0, 0, 0])
    assert structural_similarity(one, other) == pytest.approx((2 * C1 / (255**2 + C1) + 2) / 4, rel=1e-9)


def test_ssim_with_alpha_is_that_of_the_premultiplied_colors():
    alpha = torch.full((15, 14, 1), 51, dtype=torch.uint8)
    one, other = (noise(15, 14, 3, seed=seed) // 5 * 5 for seed in (1, 2))
    fifths = structural_similarity(one // 5, other // 5)
    found = structural_similarity(torch.cat([one, alpha], 2), torch.cat([other, alpha], 2))
    assert found == pytest.approx((3 * fifths + 1) / 4, rel=1e-9)


def test_ssim_of_an_image_and_its_negative_is_negative():
    picture = noise(30, 30, 3)
    assert structural_similarity(picture, 255 - picture) < -0.5


def test_ssim_is_lower_for_noise_than_for_a_brighter_image_of_the_same_error(china):
    china = china[:200, :200]
    shift = torch.where(noise(200, 200, 3) < 128, -12, 12)
    noisy = (china.int() + shift).clamp(0, 255).to(torch.uint8)
    lighter = (china.int() + 12).clamp(0, 255).to(torch.uint8)
    assert structural_similarity(china, lighter) > structural_similarity(china, noisy) + 0.1


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [(1, 1, 1), (1, 40, 1), (2, 9, 1), (3, 3, 3), (4, 20, 3), (10, 10, 9), (30, 8, 7), (11, 11, 11), (12, 15, 11)],
)
def test_the_window_is_the_largest_odd_square_that_fits_up_to_11(height, width, window):
    one, other = noise(height, width, 1, seed=1), noise(height, width, 1, seed=2)
    expected = ssim_by_definition(one, other, window)
    assert structural_similarity(one, other) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("tile", [(1, 1), (3, 5), (7, 100), (100, 2)])
def test_the_size_of_tiles_does_not_change_ssim(monkeypatch, tile):
    one, other = noise(23, 29, 4, seed=1), noise(23, 29, 4, seed=2)
    whole = structural_similarity(one, other)
    monkeypatch.setattr(quality, "_TILE", tile)
    assert structural_similarity(one, other) == pytest.approx(whole, abs=1e-13)


def test_a_tile_is_small_enough_for_one_thread_of_torch():
    rows, columns = (side + quality._WINDOW - 1 for side in quality._TILE)
    assert rows * columns < 32768


@pytest.mark.parametrize("photo", ["china", "flower"])
@pytest.mark.parametrize("n_colors", [2, 16, 256])
def test_ssim_equals_that_of_scikit_image(request, photo, n_colors):
    from skimage import metrics

    image = request.getfixturevalue(photo)
    few = quantize(image, n_colors, refine=0, max_iter=1).pixels()
    expected = metrics.structural_similarity(
        image.numpy(),
        few.numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1,
    )
    assert structural_similarity(image, few) == pytest.approx(expected, abs=1e-12)


# Both


def pictures(channels):
    sides = st.tuples(st.integers(1, 14), st.integers(1, 14))
    return sides.flatmap(lambda side: st.tuples(*[arrays.arrays(np.uint8, (*side, n)) for n in channels]))


@given(pictures((3, 3)) | pictures((4, 4)) | pictures((1, 4)) | pictures((2, 3)))
def test_the_quality_of_two_images_does_not_depend_on_their_order(pair):
    one, other = map(torch.from_numpy, pair)
    found = compare_pixels(one, other)
    assert found == compare_pixels(other, one)
    assert -1 <= found.ssim <= 1 + 1e-12


@given(pictures((1,)) | pictures((2,)) | pictures((3,)) | pictures((4,)))
def test_an_image_is_identical_to_itself(pair):
    picture = torch.from_numpy(pair[0])
    assert compare_pixels(picture, picture.clone()) == (0, None, 1)


def test_a_photo_is_identical_to_itself(china):
    assert compare_pixels(china, china.clone()) == (0, None, 1)


def test_grey_equals_the_same_grey_in_rgb():
    grey = noise(13, 12, 1)
    assert compare_pixels(grey, grey.expand(-1, -1, 3)) == (0, None, 1)
    other = noise(13, 12, 3, seed=1)
    assert compare_pixels(grey, other) == compare_pixels(grey.expand(-1, -1, 3), other)


def test_an_image_without_alpha_is_opaque():
    color, alpha = noise(13, 12, 3), noise(13, 12, 1, seed=1)
    translucent = torch.cat([color, alpha], 2)
    assert compare_pixels(color, torch.cat([color, torch.full_like(alpha, 255)], 2)) == (0, None, 1)
    assert compare_pixels(color, translucent) == compare_pixels(
        torch.cat([color, torch.full_like(alpha, 255)], 2), translucent
    )
    assert compare_pixels(color, translucent).ssim < 1


def test_the_color_of_transparent_pixels_is_ignored():
    one, other = noise(13, 12, 4, seed=1), noise(13, 12, 4, seed=2)
    one[..., 3] = other[..., 3] = 0
    assert compare_pixels(one, other) == (0, None, 1)


def test_the_images_are_not_modified():
    one, other = noise(13, 12, 1), noise(13, 12, 4)
    before = one.clone(), other.clone()
    compare_pixels(one, other)
    assert torch.equal(one, before[0])
    assert torch.equal(other, before[1])
