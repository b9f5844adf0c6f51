import pytest
import torch
from helpers.problems import random_image

from gpukmeans import IndexedImage, mean_squared_error, quantize


def flat(height, width, color):
    return torch.tensor(color, dtype=torch.uint8).expand(height, width, len(color))


def test_squared_errors_are_summed_over_channels_and_averaged_over_pixels():
    one = torch.tensor([[[10, 20, 30], [0, 0, 0]]], dtype=torch.uint8)
    other = torch.tensor([[[11, 18, 33], [0, 0, 2]]], dtype=torch.uint8)
    assert mean_squared_error(one, other) == (1 + 4 + 9 + 4) / 2


def test_grey_counts_as_three_equal_channels():
    assert mean_squared_error(flat(2, 3, [5]), flat(2, 3, [9])) == 3 * 16


def test_errors_are_of_premultiplied_colors_and_alpha():
    one, other = flat(1, 1, [255, 0, 100, 51]), flat(1, 1, [0, 0, 100, 51])
    assert mean_squared_error(one, other) == 51**2
    assert mean_squared_error(flat(1, 1, [255, 0, 0, 255]), flat(1, 1, [255, 0, 0, 0])) == 2 * 255**2


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_error_of_an_indexed_image_is_that_of_its_pixels(monkeypatch, channels):
    monkeypatch.setattr("gpukmeans.images.indexed._BLOCK", 37)
    image = random_image(23, 17, channels, 256, 0)
    indexed = quantize(image, 5)
    assert mean_squared_error(image, indexed) == mean_squared_error(image, indexed.pixels()) > 0


def test_the_error_of_a_batch_is_the_mean_over_its_images():
    images = torch.stack([random_image(6, 7, 3, 256, seed) for seed in (0, 1)])
    indexed = quantize(images, 4)
    assert indexed.palette.ndim == 3
    alone = [mean_squared_error(image, quantize(image, 4)) for image in images]
    assert mean_squared_error(images, indexed) == pytest.approx(sum(alone) / 2)


def test_images_of_different_shapes_are_refused(unchecked):
    image, indexed = flat(2, 3, [5, 6, 7]), IndexedImage(flat(1, 2, [5, 6, 7, 8])[0], flat(1, 2, [0])[..., 0])
    with pytest.raises(ValueError, match=r"other must have shape \(2, 3, 3\), like image, got \(3, 2, 3\)"):
        mean_squared_error(image, image.permute(1, 0, 2))
    with pytest.raises(ValueError, match=r"other must have shape \(2, 3, 3\), like image, got \(1, 2, 4\)"):
        mean_squared_error(image, indexed)


def test_the_error_of_many_pixels_is_exact():
    # The sum, 9 million times 255², is above 2**24, from where on float32 does not hold every integer.
    assert mean_squared_error(flat(1000, 3001, [255, 255, 255]), flat(1000, 3001, [0, 0, 0])) == 3 * 255**2


def test_each_image_of_a_batch_is_shown_in_its_own_palette_or_in_the_one_of_all():
    palettes = torch.tensor([[[1], [2]], [[3], [4]]], dtype=torch.uint8)
    indices = torch.tensor([[[0, 1]], [[1, 0]]], dtype=torch.uint8)
    assert IndexedImage(palettes, indices).pixels().tolist() == [[[[1], [2]]], [[[4], [3]]]]
    assert IndexedImage(palettes[0], indices).pixels().tolist() == [[[[1], [2]]], [[[2], [1]]]]
