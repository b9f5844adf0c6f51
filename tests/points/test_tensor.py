import pytest
import torch
from helpers.problems import seeded

from gpukmeans.engines.plain import PlainEngine
from gpukmeans.points.base import NearestState, PointSource, SampleBy, WeightedSampler
from gpukmeans.points.tensor import TensorSource


def source_of(x, weights=None, **options):
    return TensorSource(x, weights, PlainEngine(), torch.float32, **options)


def sampler(source, by, scale, centers):
    nearest = source.assign(centers, range(len(source.x)))
    return nearest.sampler(by, torch.tensor([scale] * len(source.x)).double())


def test_the_classes_follow_the_protocols():
    source = source_of(torch.rand(1, 3, 1))
    assert isinstance(source, PointSource)
    assert isinstance(source.assign(torch.zeros(1, 1, 1), range(1)), NearestState)
    assert isinstance(sampler(source, SampleBy.WEIGHT, 1.0, torch.zeros(1, 1, 1)), WeightedSampler)


def test_without_centers_points_are_sampled_by_weight_only():
    nearest = source_of(X, torch.tensor([[1, 0, 2, 0]])).assign(None, range(1))
    assert nearest.sampler(SampleBy.WEIGHT, torch.ones(1).double()).totals.tolist() == [[3]]
    assert nearest.update(CENTER).sqdist.tolist() == [[1, 0, 1, 9]]


X = torch.tensor([[[0.0], [1.0], [2.0], [4.0]]])
CENTER = torch.tensor([[[1.0]]])


@pytest.mark.parametrize(
    ("by", "weights", "scale", "rows"),
    [
        (SampleBy.WEIGHT, None, 1.0, [0, 1, 2, 3]),
        (SampleBy.WEIGHT, [2, 0, 1, 1], 1.0, [0, 0, 2, 3]),
        (SampleBy.WEIGHT, [0.5, 0.0, 1.0, 0.25], 4.0, [0, 0, 2, 2, 2, 2, 3]),
        (SampleBy.UNCOVERED, None, 1.0, [0, 2, 3]),
        (SampleBy.UNCOVERED, [2, 5, 1, 0], 1.0, [0, 0, 2]),
        (SampleBy.D2, None, 1.0, [0, 2, *[3] * 9]),
        (SampleBy.D2, [1, 7, 2, 1], 2.0, [0] * 2 + [2] * 4 + [3] * 18),
    ],
)
def test_a_point_fills_as_many_positions_as_its_sampling_weight_has_units(by, weights, scale, rows):
    weights = None if weights is None else torch.tensor([weights])
    found = sampler(source_of(X, weights), by, scale, CENTER)
    assert found.totals.tolist() == [[len(rows)]]
    assert torch.equal(found.rows_at(torch.arange(len(rows))[None]), X[:, rows])


def test_totals_of_a_sampler_do_not_hold_the_rows_in_memory():
    found = sampler(source_of(torch.rand(1, 5000, 1)), SampleBy.UNCOVERED, 1.0, CENTER).totals
    assert found.untyped_storage().nbytes() == 8


def test_a_sampler_with_total_0_returns_some_point():
    found = sampler(source_of(X[:, 1:2]), SampleBy.D2, 1.0, CENTER)
    assert found.totals.tolist() == [[0]]
    assert found.rows_at(torch.tensor([[0, 0]])).tolist() == [[[1], [1]]]


def test_errors_contain_the_name_of_the_points_and_the_shape_of_a_single_problem():
    x = torch.rand(1, 5, 2, generator=seeded())
    x[0, 3] = 0
    with pytest.raises(ValueError, match=r"batch 2 of x must have no zero row .* got row 3$"):
        source_of(x, nonzero=True, name="batch 2 of x").weighted_stats(torch.ones(1).double())
    x[0, 3] = torch.nan
    with pytest.raises(ValueError, match=r"batch 2 of x must be finite, .* its \(5, 2\) values"):
        source_of(x, name="batch 2 of x").input_stats()


def test_weights_are_rounded_to_fixed_point_and_tiny_ones_become_0():
    source = source_of(X, torch.tensor([[0.75, 0.3, 0.1, 1e-9]])).with_fixed_point_weights(torch.tensor([4.0]).double())
    assert source.weights.tolist() == [[0.75, 0.25, 0, 0]]
    stats = source.weighted_stats(torch.tensor([4.0]).double())
    assert (stats.total.tolist(), stats.n_present.tolist()) == ([4], [2])
    assert (stats.lowest.tolist(), stats.highest.tolist()) == ([[0]], [[1]])
