import pytest
import torch
from helpers.problems import points_of

from gpukmeans.engines.plain import TorchEngine
from gpukmeans.points.stats import Census
from gpukmeans.points.tensor import TensorPart


def part_of(x, weights=None):
    return TensorPart(x, weights, TorchEngine(), torch.float64)


def weight_scale(weights, x):
    """That of points (P, N, D) of these weights, which may be None."""
    return part_of(x, weights).census().weight_scale(None if weights is None else weights.dtype)


def test_a_survey_tells_the_range_of_each_coordinate_and_the_weight():
    found = points_of(torch.tensor([[3.0, -2.0], [0.5, 1.0]]), torch.tensor([0.5, 0.25])).survey
    assert found.lowest.tolist() == [[0.5, -2]]
    assert found.highest.tolist() == [[3, 1]]
    assert found.total_weight.tolist() == [0.75]
    assert found.n_present.tolist() == [2]


def test_rows_of_weight_0_are_in_the_range_of_values_and_not_in_that_of_points():
    found = points_of(torch.tensor([[3.0], [9.0], [4.0]]), torch.tensor([1, 0, 1])).survey
    assert found.highest.tolist() == [[4]]
    assert found.values.highest.tolist() == [[9]]
    assert found.n_present.tolist() == [2]


def test_points_without_weights_weigh_one_each():
    assert points_of(torch.rand(2, 7, 2)).survey.total_weight.tolist() == [7, 7]


def test_integer_weights_are_counted_in_ones():
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
def test_weights_whose_total_would_overflow_are_refused(weights, message):
    x = torch.rand(2, len(weights), 1)
    with pytest.raises(ValueError, match=message):
        weight_scale(weights[None], x[:1])
    with pytest.raises(ValueError, match=message):  # though those of the other problem would not
        weight_scale(torch.stack([torch.ones_like(weights), weights]), x)
    assert weight_scale(weights[None, :1] / 2, x[:1, :1]) > 0
    assert weight_scale((weights / 2)[None].where(torch.arange(len(weights)) == 0, 0), x[:1]) > 0


def weights_like(kind, n):
    weights = torch.rand(n, generator=torch.Generator().manual_seed(1)).mul_(torch.arange(n) % 3 > 0)
    return {"none": None, "integers": weights.mul(9).ceil().long(), "floats": weights}[kind]


@pytest.mark.parametrize("kind", ["none", "integers", "floats"])
@pytest.mark.parametrize("size", [1, 4, 11])
def test_looks_at_parts_add_up_to_the_look_at_all(kind, size):
    x, weights = torch.rand(2, 11, 3, generator=torch.Generator().manual_seed(0)), weights_like(kind, 22)
    weights = None if weights is None else weights.view(2, 11)
    whole = part_of(x, weights)
    parts = [
        part_of(x[:, rows], None if weights is None else weights[:, rows])
        for rows in (slice(start, start + size) for start in range(0, 11, size))
    ]
    census = sum_of([part.census() for part in parts])
    expected = whole.census()
    for name in ("lightest", "heaviest", "n_weighted"):
        assert torch.equal(getattr(census, name), getattr(expected, name)), name
    torch.testing.assert_close(census.total, expected.total)
    assert all(map(torch.equal, census.values, expected.values))
    scale = expected.weight_scale(whole.weights_dtype)
    assert torch.equal(census.weight_scale(whole.weights_dtype), scale)
    spread, expected = sum_of([part.weighed(scale).spread(scale) for part in parts]), whole.weighed(scale).spread(scale)
    for name in ("lowest", "highest", "total", "n_present"):
        assert torch.equal(getattr(spread, name), getattr(expected, name)), name


def sum_of(looks):
    total = looks[0]
    for look in looks[1:]:
        total = total + look
    return total


def test_a_weight_that_is_not_finite_survives_the_sum_and_is_refused():
    x = torch.rand(1, 1, 1)
    parts = [part_of(x, torch.tensor([[weight]])).census() for weight in (1.0, torch.nan, 2.0)]
    assert isinstance(parts[0] + parts[1], Census)
    with pytest.raises(
        ValueError, match="weights must be finite, at least 0 and not all 0, got values from nan to nan"
    ):
        (parts[0] + parts[1] + parts[2]).weight_scale(torch.float32)
