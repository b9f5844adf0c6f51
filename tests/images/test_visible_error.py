import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from gpukmeans import IndexedImage, mean_visible_error, quantize


def by_blurring(image, indexed):
    """The definition in floating point.

    208/256 of e·R·e are the square of the error blurred by [1 2 1] x [1 2 1] / 16, and the rest is the squared error.
    Weights of blocks are by their contrast.
    """
    errors = image.double().numpy() - indexed.pixels().double().numpy()
    blurred = np.pad(errors, ((2, 2), (2, 2), (0, 0)))
    for axis in (0, 1, 0, 1):  # a blur of the blurred error: R times the error
        blurred = correlate1d(blurred, [0.25, 0.5, 0.25], axis=axis, mode="constant")
    visible = (errors * (208 * blurred[2:-2, 2:-2] + 48 * errors)).sum(axis=2) / 256
    levels = image.double().numpy()
    differences = np.zeros(levels.shape[:2])
    differences[:, 1:] += np.abs(levels[:, 1:] - levels[:, :-1]).mean(axis=2) / 2
    differences[1:] += np.abs(levels[1:] - levels[:-1]).mean(axis=2) / 2
    total = 0
    for y, x in np.ndindex(-(-image.shape[0] // 8), -(-image.shape[1] // 8)):
        block = slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8)
        total += visible[block].sum() * (6 / (1 + differences[block].mean())) ** 0.75
    return total / (image.shape[0] * image.shape[1])


@pytest.mark.parametrize("n_colors", [2, 16])
def test_the_error_is_that_of_a_blurred_image_and_of_single_pixels(china, n_colors):
    photo = china[:50, :70]
    indexed = quantize(photo, n_colors)
    assert mean_visible_error(photo, indexed) == pytest.approx(by_blurring(photo, indexed), rel=1e-6)


def test_optimized_dithering_has_the_smallest_error(china):
    photo = china[:80, :90]
    errors = {
        name: mean_visible_error(photo, quantize(photo, 8, dither=name)) for name in ("none", "bayer", "optimized")
    }
    assert min(errors, key=errors.get) == "optimized"


def test_an_opaque_alpha_channel_changes_nothing(china):
    photo = china[:40, :50]
    indexed = quantize(photo, 7)
    with_alpha = torch.cat([photo, torch.full_like(photo[..., :1], 255)], dim=2)
    palette = torch.cat([indexed.palette, torch.full_like(indexed.palette[:, :1], 255)], dim=1)
    error = mean_visible_error(with_alpha, IndexedImage(palette, indexed.indices))
    assert error == mean_visible_error(photo, indexed) > 0


def test_indices_of_another_shape_are_refused(china):
    indexed = quantize(china[:10, :10], 3)
    with pytest.raises(ValueError, match=r"indexed must have indices of shape \(10, 11\), like image, got \(10, 10\)"):
        mean_visible_error(china[:10, :11], indexed)


def test_an_error_in_a_smooth_area_counts_more_than_one_in_a_busy_area(china):
    sky, roof = china[:40, :40], china[250:290, 200:240]

    def error_of(image):
        wrong = image.clone()
        wrong[20, 20] ^= 8
        colors, indices = torch.unique(wrong.flatten(0, 1), dim=0, return_inverse=True)
        return mean_visible_error(image, IndexedImage(colors, indices.view(40, 40).to(torch.uint8)))

    sky, roof = (quantize(part, 200).pixels() for part in (sky, roof))
    assert error_of(sky) > 2 * error_of(roof) > 0
