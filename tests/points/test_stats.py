import functools
import operator

import pytest
import torch
from helpers.problems import points_of

from gpukmeans.engines.plain import PlainEngine
from gpukmeans.points.stats import InputStats
from gpukmeans.points.tensor import TensorSource


def source_of(x, weights=None):
    return TensorSource(x, weights, PlainEngine(), torch.float64)


def weight_scale(weights, x):
    """The fixed-point scale of the weights of points (P, N, D)."""
    return source_of(x, weights).input_stats().weight_scale(None if weights is None else weights.dtype)


def test_statistics_are_the_range_of_each_coordinate_the_weight_and_the_number():
    found = points_of(torch.tensor([[3.0, -2.0], [0.5, 1.0]]), torch.tensor([0.5, 0.25])).stats
    assert found.lowest.tolist() == [[0.5, -2]]
    assert found.highest.tolist() == [[3, 1]]
    assert found.total_weight.tolist() == [0.75]
    assert found.n_present.tolist() == [2]


def test_rows_of_weight_0_are_in_the_range_of_values_but_not_of_points():
    found = points_of(torch.tensor([[3.0], [9.0], [4.0]]), torch.tensor([1, 0, 1])).stats
    assert found.highest.tolist() == [[4]]
    assert found.values.highest.tolist() == [[9]]
    assert found.n_present.tolist() == [2]


def test_missing_weights_are_1():
    assert points_of(torch.rand(2, 7, 2)).stats.total_weight.tolist() == [7, 7]


def test_the_scale_of_integer_weights_is_1():
    x = torch.rand(1, 2, 1)
    assert weight_scale(torch.tensor([[3, 2**40]]), x).tolist() == [1]
    assert weight_scale(None, x).tolist() == [1]
    assert weight_scale(torch.tensor([[3.0, 2**40]]), x) > 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.tensor([2**60, 2**60]), r"less than 2\*\*61, got 2.31e\+18"),
        (torch.full((3,), 1e308, dtype=torch.float64), r"a finite float64, got 3 of up to 1e\+308"),
    ],
)
def test_weights_with_a_total_that_overflows_are_an_error(weights, message):
    x = torch.rand(2, len(weights), 1)
    with pytest.raises(ValueError, match=message):
        weight_scale(weights[None], x[:1])
    with pytest.raises(ValueError, match=message):  # also if those of another problem do not overflow
        weight_scale(torch.stack([torch.ones_like(weights), weights]), x)
    assert weight_scale(weights[None, :1] / 2, x[:1, :1]) > 0
    assert weight_scale((weights / 2)[None].where(torch.arange(len(weights)) == 0, 0), x[:1]) > 0


def weights_like(kind, n):
    weights = torch.rand(n, generator=torch.Generator().manual_seed(1)).mul_(torch.arange(n) % 3 > 0)
    return {"none": None, "integers": weights.mul(9).ceil().long(), "floats": weights}[kind]


@pytest.mark.parametrize("kind", ["none", "integers", "floats"])
@pytest.mark.parametrize("size", [1, 4, 11])
def test_statistics_of_disjoint_rows_add_up(kind, size):
    x, weights = torch.rand(2, 11, 3, generator=torch.Generator().manual_seed(0)), weights_like(kind, 22)
    weights = None if weights is None else weights.view(2, 11)
    whole = source_of(x, weights)
    sources = [
        source_of(x[:, rows], None if weights is None else weights[:, rows])
        for rows in (slice(start, start + size) for start in range(0, 11, size))
    ]
    input_stats = sum_of([source.input_stats() for source in sources])
    expected = whole.input_stats()
    for name in ("lightest", "heaviest", "n_weighted"):
        assert torch.equal(getattr(input_stats, name), getattr(expected, name)), name
    torch.testing.assert_close(input_stats.total, expected.total)
    assert all(map(torch.equal, input_stats.values, expected.values))
    scale = expected.weight_scale(whole.weights_dtype)
    assert torch.equal(input_stats.weight_scale(whole.weights_dtype), scale)
    weighted_stats, expected = (
        sum_of([source.with_fixed_point_weights(scale).weighted_stats(scale) for source in sources]),
        whole.with_fixed_point_weights(scale).weighted_stats(scale),
    )
    for name in ("lowest", "highest", "total", "n_present"):
        assert torch.equal(getattr(weighted_stats, name), getattr(expected, name)), name


def sum_of(stats):
    return functools.reduce(operator.add, stats)


def test_a_weight_that_is_not_finite_is_an_error_after_the_sum():
    x = torch.rand(1, 1, 1)
    stats = [source_of(x, torch.tensor([[weight]])).input_stats() for weight in (1.0, torch.nan, 2.0)]
    assert isinstance(stats[0] + stats[1], InputStats)
    with pytest.raises(
        ValueError, match="weights must be finite, at least 0 and not all zero, got values from nan to nan"
    ):
        (stats[0] + stats[1] + stats[2]).weight_scale(torch.float32)
