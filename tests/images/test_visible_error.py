import pytest
import torch
from scipy.ndimage import correlate1d

from gpukmeans import IndexedImage, mean_squared_error, mean_visible_error, quantize


def by_blurring(image, indexed):
    """208/256 of the square of the error blurred by [1 2 1] x [1 2 1] / 16, and the rest of the squared error."""
    errors = image.double().numpy() - indexed.pixels().double().numpy()
    padded = torch.nn.functional.pad(torch.from_numpy(errors), (0, 0, 2, 2, 2, 2)).numpy()
    for axis in (0, 1):
        padded = correlate1d(padded, [0.25, 0.5, 0.25], axis=axis, mode="constant")
    n_pixels = image.shape[0] * image.shape[1]
    return (208 * (padded**2).sum() + 48 * (errors**2).sum()) / 256 / n_pixels


@pytest.mark.parametrize("n_colors", [2, 16])
def test_the_error_is_that_of_a_blurred_image_and_of_single_pixels(china, n_colors):
    photo = china[:50, :70]
    indexed = quantize(photo, n_colors)
    assert mean_visible_error(photo, indexed) == pytest.approx(by_blurring(photo, indexed), rel=1e-12)


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
    assert error == mean_visible_error(photo, indexed) < mean_squared_error(photo, indexed)


def test_indices_of_another_shape_are_refused(china):
    indexed = quantize(china[:10, :10], 3)
    with pytest.raises(ValueError, match=r"indexed must have indices of shape \(10, 11\), like image, got \(10, 10\)"):
        mean_visible_error(china[:10, :11], indexed)
