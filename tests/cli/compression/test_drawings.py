from types import SimpleNamespace

import pytest
import torch

from gpukmeans import unique_colors
from gpukmeans_cli.compression.drawings import FEWEST, HIDDEN_ERROR, drawing_weights, fewest_colors


def fitted(n_needed, tried):
    """A function `fit` whose error is hidden with `n_needed` colors or more."""

    def fit(n_colors):
        tried.append(n_colors)
        return SimpleNamespace(n=n_colors, mse=HIDDEN_ERROR * n_needed / n_colors)

    return fit


@pytest.mark.parametrize("n_colors", [129, 136, 137, 200, 255, 256])
@pytest.mark.parametrize("n_needed", [1, 128, 129, 135, 136, 190, 248, 249, 256])
def test_the_fewest_colors_are_those_of_a_search_through_all(n_colors, n_needed):
    tried, numbers = [], range(FEWEST, n_colors, 8)
    found = fewest_colors(fitted(n_needed, tried), n_colors)
    assert (found and found.n) == next((n for n in numbers if n >= n_needed), None)
    assert len(tried) == len(set(tried)) <= 6
    assert set(tried) <= set(numbers)


@pytest.mark.parametrize("n_colors", [1, 20, 127, 128])
def test_few_colors_are_not_made_fewer(n_colors):
    tried = []
    assert fewest_colors(fitted(1, tried), n_colors) is None
    assert tried == []


def test_a_flat_pixel_has_the_weight_of_four():
    image = torch.tensor([[[0], [0], [0], [99], [200]]], dtype=torch.uint8)
    histogram = unique_colors(image)
    assert dict(zip(histogram.colors.flatten().tolist(), drawing_weights(image, histogram).tolist(), strict=True)) == {
        0: 9,  # two are flat
        99: 1,
        200: 1,
    }
