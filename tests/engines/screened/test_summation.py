import pytest
import torch
from helpers.problems import seeded

from gpukmeans.distance import squared_distance
from gpukmeans.engines.screened.summation import summation


@pytest.mark.parametrize("width", [*range(9, 140), 192, 255, 256, 257, 768, 1000, 1025, 2047, 2048])
def test_the_sum_has_the_bits_of_the_reference_distance(width):
    x = torch.randn(width, 20, generator=seeded(width)) * 100
    order = summation(width)
    leaves = order.coordinates.long()[..., None]
    sums = torch.where(leaves >= 0, x.square()[leaves.squeeze(2).clamp(min=0)], 0)
    for _ in range(order.depth):
        sums = sums[:, 0::2] + sums[:, 1::2]
    total = sums[0, 0]
    for term in range(1, order.n_terms):
        total = total + sums[term, 0]
    assert torch.equal(total, squared_distance(x, torch.zeros(width, 1)))


@pytest.mark.parametrize("width", [9, 16, 17, 100, 2048])
def test_each_coordinate_is_one_leaf(width):
    coordinates = summation(width).coordinates.flatten()
    assert coordinates[coordinates >= 0].sort().values.tolist() == list(range(width))
    assert coordinates.min() >= -1


def test_the_order_of_11_coordinates_is_worked_out_by_hand():
    # 11 squares: 6 to 10 are added to 0 to 4, and 6 terms remain.
    order = summation(11)
    assert (order.n_terms, order.depth) == (6, 1)
    assert order.coordinates.tolist() == [[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, -1], [-1, -1], [-1, -1]]
