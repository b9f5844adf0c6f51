import pytest
import torch
from helpers.problems import seeded

from gpukmeans.engines.spatial_order import _curve, cells, order


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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 100])
def test_cells_contain_the_points_and_boxes_contain_the_cells(dtype, n):
    x = (torch.rand(2, n, 3, generator=seeded(), dtype=torch.float64) * 200).to(dtype)
    layout = cells(x, torch.float64, 8, 4)
    count = -(-n // 8)
    assert layout.x.shape == (3, 2 * count, 8)
    assert (layout.small.count, layout.small.size, layout.large.count, layout.large.size) == (
        count,
        8,
        -(-count // 4),
        4,
    )
    points = layout.x.view(3, 2, -1)
    for problem in range(2):
        rows = layout.rows[problem]
        assert torch.equal(points[:, problem].T, x[problem, rows].double())
        assert rows[:n].sort().values.tolist() == list(range(n))
        assert (rows[n:] == rows[n - 1]).all()
    for boxes, members in ((layout.small, 8), (layout.large, 32)):
        box = torch.arange(points.shape[2]) // members
        for problem in range(2):
            index = box + problem * boxes.count
            assert ((points[:, problem] - boxes.midpoint[:, index]).abs() <= boxes.half_width[:, index]).all()


def test_boxes_contain_their_points_also_where_differences_are_rounded():
    x = 1e7 + torch.rand(1, 500, 3, generator=seeded()) * 50
    layout = cells(x, torch.float32, 8, 4)
    distance = (layout.x.double() - layout.small.midpoint.double()[..., None]).abs()
    assert (distance <= layout.small.half_width.double()[..., None]).all()
