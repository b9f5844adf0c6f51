import pytest
import torch
from helpers.problems import seeded

from gpukmeans.engines.spatial_order import _curve, order


@pytest.mark.parametrize("width", range(1, 9))
def test_the_curve_visits_each_grid_cell_once_and_moves_by_one_coordinate_at_a_time(width):
    bits = max(1, 15 // width)
    indices = _curve(width, bits)
    codes = indices.argsort()
    assert torch.equal(indices[codes], torch.arange(1 << bits * width, dtype=torch.int32))
    mask = (1 << bits) - 1
    coordinates = torch.stack([codes >> bits * channel & mask for channel in range(width)])
    assert (coordinates.diff().abs().sum(dim=0) == 1).all()


def test_the_order_has_each_row_of_each_problem_once():
    rows = order(torch.rand(3, 1000, 3, generator=seeded()))
    assert torch.equal(rows.sort(dim=1).values, torch.arange(1000).expand(3, -1))


def test_the_order_of_a_problem_does_not_depend_on_the_other_problems():
    x = torch.rand(3, 500, 2, generator=seeded()) * torch.tensor([1.0, 100.0, 1e-3])[:, None, None]
    for problem in range(3):
        assert torch.equal(order(x)[problem], order(x[problem, None])[0])


def mean_sqdist_in_order(x):
    """The mean squared distance from each point to the next one in the order."""
    return x[0, order(x)[0]].diff(dim=0).square().sum(dim=1).mean()


def test_consecutive_points_are_near():
    x = torch.rand(1, 10_000, 3, generator=seeded())
    assert mean_sqdist_in_order(x) < 0.01 * x.diff(dim=1).square().sum(dim=2).mean()


def test_the_other_points_stay_in_order_beside_an_outlier():
    x = torch.rand(1, 10_000, 3, generator=seeded())
    near = x[0, order(x)[0]].diff(dim=0).square().sum(dim=1).median()
    x[0, 77] = 1e9
    assert x[0, order(x)[0]].diff(dim=0).square().sum(dim=1).median() < 2 * near
