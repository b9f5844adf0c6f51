"""Palette orders put colors of adjacent pixels next to each other."""

import pytest
import torch
from helpers.problems import random_image

from gpukmeans.images.palette_order import palette_orders


def row_of(*indices):
    return torch.tensor([indices], dtype=torch.uint8)


def entropy_of_differences(indices, order):
    """Bits of the differences of horizontal and vertical neighbors in both directions, where they are not equal."""
    places = order.argsort()[indices.long()]
    steps = torch.cat([places.diff(dim=0).flatten(), places.diff(dim=1).flatten()])
    steps = torch.cat([steps, -steps])[torch.cat([steps, steps]) != 0] % 256
    counts = torch.bincount(steps).double()
    counts = counts[counts > 0]
    return float((counts * (counts.sum() / counts).log2()).sum())


def test_the_chain_links_the_pairs_that_are_adjacent_most_often():
    orders = palette_orders(row_of(0, 3, 0, 3, 0, 3, 1, 3, 1, 2), 4)
    assert [0, 3, 1, 2] in [order.tolist() for order in orders]


def test_the_order_grows_on_the_side_closer_to_the_neighbors_of_the_color():
    orders = palette_orders(row_of(0, 1, 0, 1, 0, 1, 0, 2, 0, 2, 3), 4)
    assert [3, 2, 0, 1] in [order.tolist() for order in orders]


@pytest.mark.parametrize("n_colors", [1, 2, 3, 17, 256])
@pytest.mark.parametrize("n_used", [1, 2, 256])
def test_each_order_is_a_permutation(n_colors, n_used):
    indices = random_image(60, 60, 1, min(n_used, n_colors), n_colors)[..., 0]
    orders = palette_orders(indices, n_colors)
    assert all(order.sort().values.tolist() == list(range(n_colors)) for order in orders)


def test_a_single_pixel_has_orders():
    assert all(order.sort().values.tolist() == [0, 1, 2] for order in palette_orders(row_of(1), 3))


def test_a_row_that_visits_colors_in_turn_gives_their_order():
    order = palette_orders(row_of(2, 0, 3, 1, 3, 0, 2), 4)[0].tolist()
    assert order in ([2, 0, 3, 1], [1, 3, 0, 2])


def test_the_first_order_has_the_least_entropy_of_differences(china):
    grey = china[:150, :200, 1] // 8
    shuffled = torch.randperm(32, generator=torch.Generator().manual_seed(0))[grey.int()].to(torch.uint8)
    orders = palette_orders(shuffled, 32)
    bits = [entropy_of_differences(shuffled, order) for order in orders]
    assert bits[0] <= bits[1]
    assert bits[0] < 0.8 * entropy_of_differences(shuffled, torch.arange(32))


@pytest.mark.parametrize("n_colors", [40, 256])
def test_the_first_order_is_refined_to_shorter_codes_than_that_of_the_other_method(n_colors):
    """Indices of colors in a plane, where those of neighboring pixels are close, but numbered at random."""
    generator = torch.Generator().manual_seed(n_colors)
    points = torch.randn(90, 120, 2, generator=generator).cumsum(dim=1)
    colors = points.flatten(0, 1)[torch.randperm(90 * 120, generator=generator)[:n_colors]]
    indices = (points[:, :, None] - colors).square().sum(dim=3).argmin(dim=2).to(torch.uint8)
    first, second = (entropy_of_differences(indices, order) for order in palette_orders(indices, n_colors))
    assert first < 0.99 * second
