import pytest
import torch
from helpers.problems import fixed_point_of, seeded

from gpukmeans.engines.cells import incremental_totals as module
from gpukmeans.engines.cells.incremental_totals import IncrementalTotals
from gpukmeans.engines.spatial_order import cells

PROBLEMS = [1, 0, 1]
X = torch.rand(2, 100, 3, generator=seeded())


def labels(seed, k=5):
    return torch.randint(k, (3, 100), generator=seeded(seed), dtype=torch.int32)


def totals_for(found, weights=None, k=5):
    layout = cells(X, torch.float32, 8, 4)
    fixed_point = fixed_point_of(X, weights).select(torch.tensor(PROBLEMS))
    if weights is not None:
        weights = weights.gather(1, layout.rows[:, :100].long())
    return IncrementalTotals.of(layout, weights, PROBLEMS, fixed_point, found, k)


@pytest.mark.parametrize("weights", [None, torch.rand(2, 100, generator=seeded(3)), torch.arange(200).view(2, 100)])
def test_totals_are_the_sums_of_the_clusters(weights):
    found = totals_for(labels(0), weights)
    for run, problem in enumerate(PROBLEMS):
        rows = found.cells.rows[problem, :100]
        x = X[problem, rows].double()
        w = torch.ones(100).double() if weights is None else weights[problem, rows].double()
        for cluster in range(5):
            members = labels(0)[run] == cluster
            w_sum = w[members].sum().item()
            totals = found.totals[:, run, cluster].double()
            assert (totals[3] / found.fixed_point.weight[run]).item() == pytest.approx(w_sum, rel=1e-12)
            sums = (w[members, None] * (x[members] - found.fixed_point.lowest[run])).sum(dim=0)
            torch.testing.assert_close(totals[:3] / found.fixed_point.sum[run], sums)


@pytest.mark.parametrize("n_moved", [0, 1, 40, 300])
@pytest.mark.parametrize("points", [1, 64, 1 << 16])
def test_updated_totals_are_those_of_all_points(n_moved, points, monkeypatch):
    monkeypatch.setattr(module, "_POINTS", points)
    after = labels(0)
    after.view(-1)[torch.randperm(300, generator=seeded(2))[:n_moved]] = 3
    weights = torch.rand(2, 100, generator=seeded(3))
    before = totals_for(labels(0), weights)
    copy = before.totals.clone()
    assert torch.equal(before.update(after).totals, totals_for(after, weights).totals)
    assert torch.equal(before.update(after).labels, after)
    assert torch.equal(before.totals, copy)


def test_totals_fit_only_the_same_cells_problems_scales_and_clusters():
    found = totals_for(labels(0))
    layout, fixed_point = found.cells, found.fixed_point
    assert found.fits(layout, PROBLEMS, fixed_point, 5)
    assert not found.fits(layout, PROBLEMS, fixed_point, 6)
    assert not found.fits(layout, [0, 0, 1], fixed_point, 5)
    assert not found.fits(cells(X, torch.float32, 8, 4), PROBLEMS, fixed_point, 5)
    assert not found.fits(layout, PROBLEMS, fixed_point_of(X * 2).select(torch.tensor(PROBLEMS)), 5)
