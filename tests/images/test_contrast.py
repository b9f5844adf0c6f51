"""Weights of bits by contrast are lower in smooth areas, which then have less visible errors."""

import numpy as np
import pytest
import torch
from helpers.problems import random_image
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.images.contrast import contrast_weights
from gpukmeans.images.indexed import IndexedImage
from gpukmeans.images.mapping import check_mapping
from gpukmeans.images.quantization import quantize
from gpukmeans.images.rate_distortion import Objective, none_free, optimized, price_of_bit
from gpukmeans.images.visible_error import mean_visible_error


def weights_of(image):
    """The definition in floating point, pixel by pixel."""
    levels, (height, width) = image.numpy().astype(int), image.shape[:2]
    differences = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        left, above = levels[y, max(x - 1, 0)], levels[max(y - 1, 0), x]
        differences[y, x] = np.abs(levels[y, x] - left).sum() + np.abs(levels[y, x] - above).sum()
    blocks = [[differences[y : y + 8, x : x + 8].mean() for x in range(0, width, 8)] for y in range(0, height, 8)]
    return np.clip(np.floor(16 * np.sqrt(np.array(blocks) / differences.mean()) + 1e-9), 4, 32)


@given(
    size=st.sampled_from([(1, 2), (8, 8), (9, 17), (20, 15), (33, 40)]),
    channels=st.integers(1, 4),
    levels=st.sampled_from([2, 256]),
    seed=st.integers(0, 2**31),
)
def test_weights_are_roots_of_the_relative_contrast_of_blocks(size, channels, levels, seed):
    image = random_image(*size, channels, levels, seed)
    image[:8, :8] //= 4
    if (image == image[0, 0]).all():
        image[0, 0] ^= 1
    assert contrast_weights(image).numpy().tolist() == weights_of(image).tolist()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (20, 30)])
def test_an_image_of_one_color_has_weights_of_one(size):
    weights = contrast_weights(torch.full((*size, 3), 77, dtype=torch.uint8))
    assert weights.dtype == torch.uint8
    assert (weights == 16).all()


def test_a_smooth_sky_has_less_weight_than_buildings(china):
    weights = contrast_weights(china).float()
    assert weights[:12].mean() < 8  # sky
    assert weights[40:].mean() > 16  # roofs and trees


def test_visible_errors_are_lower_in_the_sky_than_by_equal_weights_and_higher_in_trees(china):
    nearest = quantize(china, 64)
    squared_error = int((china.int() - nearest.pixels().int()).square().sum())
    objective = Objective(share=208, price=price_of_bit(15.0, squared_error, nearest.indices.numel()))
    equal = optimized(china, *nearest, objective)
    mapping, all_free = check_mapping("optimized", 1.0, 15.0, 4, "png"), ~none_free(nearest.palette)
    weighted = mapping.optimized(china, nearest, all_free, lambda: squared_error)

    def error(indexed, rows):
        return mean_visible_error(china[rows], IndexedImage(indexed.palette, indexed.indices[rows]))

    sky, trees = slice(0, 100), slice(330, None)
    assert error(weighted, sky) < 0.9 * error(equal, sky)
    assert error(weighted, trees) > error(equal, trees)
