import numpy as np
import pytest
import torch
from helpers import native
from helpers.problems import random_image
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans import ColorHistogram, unique_colors


@pytest.fixture(params=["by kernels", "by sorting", "by table", "in blocks"])
def way(request, monkeypatch):
    """Each way to count and look up colors, for images of any size."""
    if request.param == "by kernels":
        native.require_native()
        yield
        return
    if request.param == "by table":
        monkeypatch.setattr("gpukmeans.images.histogram._COUNT_BY_TABLE_FROM", 0)
        monkeypatch.setattr("gpukmeans.images.histogram._LOOK_UP_BY_TABLE_FROM", 0)
        monkeypatch.setattr("gpukmeans.images.histogram._MAP_BY_TABLE_FROM", 0)
    if request.param == "in blocks":
        monkeypatch.setattr("gpukmeans.images.histogram._BLOCK", 1000)
        monkeypatch.setattr("gpukmeans.images.histogram._SORTED_BLOCK", 2000)
        monkeypatch.setattr("gpukmeans.images.histogram._MIN_ADDED", 1)
    with native.without_native():
        yield


def test_a_small_image_has_the_histogram_worked_out_by_hand(way):
    image = torch.tensor([[[1, 2, 3], [0, 9, 9]], [[1, 2, 3], [0, 0, 255]]], dtype=torch.uint8)
    histogram = unique_colors(image)
    assert histogram.colors.tolist() == [[0, 0, 255], [0, 9, 9], [1, 2, 3]]
    assert histogram.counts.tolist() == [1, 1, 2]
    assert histogram.lookup(image).tolist() == [[2, 1], [2, 0]]


def test_the_histogram_of_a_photo_is_that_of_numpy(way, china):
    histogram = unique_colors(china)
    colors, counts = np.unique(china.reshape(-1, 3).numpy(), axis=0, return_counts=True)
    assert np.array_equal(histogram.colors.numpy(), colors)
    assert np.array_equal(histogram.counts.numpy(), counts)
    assert len(histogram.colors) == 96_615
    assert torch.equal(histogram.colors[histogram.lookup(china)], china)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [1, 3, 256])
def test_images_of_any_number_of_channels_are_counted_and_looked_up(way, channels, levels):
    image = random_image(40, 60, channels, levels, 0)
    histogram = unique_colors(image)
    colors, counts = np.unique(image.flatten(0, 1).numpy(), axis=0, return_counts=True)
    assert np.array_equal(histogram.colors.numpy(), colors)
    assert np.array_equal(histogram.counts.numpy(), counts)
    assert torch.equal(histogram.colors[histogram.lookup(image)], image)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(40, 60), (300, 7), (1, 1)])
def test_map_values_gives_each_pixel_the_value_of_its_color(way, channels, size):
    image = random_image(*size, channels, 256, 0)
    histogram = unique_colors(image)
    values = random_image(1, len(histogram.colors), 1, 256, 1).flatten()
    assert torch.equal(histogram.map_values(values, image), values[histogram.lookup(image)])


def test_map_values_refuses_an_image_of_another_number_of_channels(way):
    histogram = unique_colors(random_image(2, 2, 3, 9, 0))
    values = torch.zeros(len(histogram.colors), dtype=torch.uint8)
    with pytest.raises(ValueError, match="3 channels"):
        histogram.map_values(values, random_image(2, 2, 1, 9, 0))


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_the_sum_of_histograms_is_the_histogram_of_both_images(channels, first_height, second_height, levels, seed):
    first = random_image(first_height, 4, channels, levels, seed)
    second = random_image(second_height, 4, channels, levels, seed + 1)
    added = unique_colors(first) + unique_colors(second)
    whole = unique_colors(torch.cat([first, second]))
    assert torch.equal(added.colors, whole.colors)
    assert torch.equal(added.counts, whole.counts)
    assert added.counts.sum() == (first_height + second_height) * 4


def test_histograms_of_different_numbers_of_channels_do_not_add():
    with pytest.raises(ValueError, match="equally many channels, got 3 and 4"):
        unique_colors(random_image(2, 2, 3, 9, 0)) + unique_colors(random_image(2, 2, 4, 9, 0))


@pytest.mark.parametrize("other", [[0, 0, 0], [1, 2, 4], [255, 255, 255]])
def test_lookup_refuses_a_color_that_is_not_in_the_histogram(way, other):
    histogram = ColorHistogram(
        colors=torch.tensor([[1, 2, 3], [7, 7, 7]], dtype=torch.uint8), counts=torch.tensor([1, 1])
    )
    with pytest.raises(ValueError, match="no other colors than the histogram"):
        histogram.lookup(torch.tensor([[[1, 2, 3], other]], dtype=torch.uint8))


def test_lookup_refuses_an_image_of_another_number_of_channels():
    with pytest.raises(ValueError, match=r"image must have 3 channels, got shape \(2, 2, 4\)"):
        unique_colors(random_image(2, 2, 3, 9, 0)).lookup(random_image(2, 2, 4, 9, 0))


def test_a_strided_view_is_counted_and_looked_up(way, china):
    view = china.transpose(0, 1).flip(2)[::2, ::3]
    histogram = unique_colors(view)
    assert torch.equal(histogram.colors[histogram.lookup(view)], view)
    assert histogram.counts.sum() == view.shape[0] * view.shape[1]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((2, 2, 3), np.uint8), TypeError, "image must be a tensor, got ndarray"),
        (torch.zeros(2, 2, 3), TypeError, "image must be uint8, got torch.float32"),
        (torch.zeros(2, 3, dtype=torch.uint8), ValueError, r"shape \(H, W, C\), .* got \(2, 3\)"),
        (torch.zeros(2, 3, 5, dtype=torch.uint8), ValueError, r"C from 1 to 4, got \(2, 3, 5\)"),
        (torch.zeros(0, 3, 3, dtype=torch.uint8), ValueError, r"got \(0, 3, 3\)"),
    ],
)
def test_anything_but_an_image_is_refused(image, error, message, unchecked):
    with pytest.raises(error, match=message):
        unique_colors(image)


def test_histograms_can_be_summed():
    images = [random_image(9, 9, 3, 4, seed) for seed in range(3)]
    total = sum(map(unique_colors, images))
    expected = unique_colors(torch.cat(images))
    assert torch.equal(total.colors, expected.colors)
    assert torch.equal(total.counts, expected.counts)
