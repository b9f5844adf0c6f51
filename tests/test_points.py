import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.engine_torch import TorchEngine
from gpukmeans.points import TensorPoints, _integer_below, survey, weight_scale


def points_of(x, weights=None):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return TensorPoints(x, weights, TorchEngine().bind(x, weights), dtype, survey(x, weights))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_survey_tells_the_range_of_each_coordinate_and_the_weight():
    found = survey(torch.tensor([[3.0, -2.0], [0.5, 1.0]]), torch.tensor([0.5, 0.25]))
    assert found.lowest.tolist() == [0.5, -2]
    assert found.highest.tolist() == [3, 1]
    assert found.total_weight == 0.75


def test_points_without_weights_weigh_one_each():
    assert survey(torch.rand(7, 2), None).total_weight == 7


def test_integer_weights_are_counted_in_ones():
    assert weight_scale(torch.tensor([3, 2**40])) == 1
    assert weight_scale(None) == 1
    assert weight_scale(torch.tensor([3.0, 2**40])) > 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.tensor([2**60, 2**60]), r"less than 2\*\*61, got 2.31e\+18"),
        (torch.full((3,), 1e308, dtype=torch.float64), r"a finite float64, got 3 of up to 1e\+308"),
    ],
)
def test_weights_whose_total_would_overflow_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        weight_scale(weights)
    assert weight_scale(weights[:1] / 2) > 0


@given(
    st.integers(1, 50),
    st.sampled_from([torch.float32, torch.float64]),
    st.floats(-1e9, 1e9),
    st.floats(1e-9, 1e9),
    st.integers(0, 2**31),
)
def test_no_total_overflows_at_the_limits_of_the_grid(n, dtype, offset, spread, seed):
    x = torch.rand(n, 2, generator=seeded(seed), dtype=dtype) * spread + offset
    weights = torch.rand(n, generator=seeded(seed + 1), dtype=dtype) + 1e-3
    points = points_of(x, weights)
    # The worst case: every point as far from its center as the range allows.
    low, high = torch.aminmax(x, dim=0)
    far = torch.where(x > (low + high) / 2, low, high)[:1]
    moments = points.measure(far, points.farthest(far))
    total = weights.double().sum()
    expected = (weights.double()[:, None] * x.double()).sum(dim=0) / total
    torch.testing.assert_close(moments.means()[0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moments.weight_of_clusters()[0], total, rtol=1e-9, atol=0)
    inertia = (points.sqdist(far).double() * weights).sum().item()
    assert moments.weighted_sqdist() == pytest.approx(inertia, rel=1e-9)


def test_the_farthest_is_the_diagonal_of_the_box_around_points_and_centers():
    points = points_of(torch.tensor([[0.0, 5.0], [1.0, 5.0]]))
    assert points.farthest(torch.tensor([[0.5, 5.0]])) == 1
    assert points.farthest(torch.tensor([[-3.0, 9.0]])) == 16 + 16


def test_points_are_drawn_by_weight():
    x = torch.arange(4.0)[:, None]
    drawn = points_of(x, torch.tensor([1.0, 2.0, 0.5, 6.5])).draw(20_000, seeded())
    shares = torch.bincount(drawn.squeeze(1).long(), minlength=4) / 20_000
    # Four standard deviations of a share of 20,000 draws are less than 0.0142.
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.05, 0.65]), rtol=0, atol=0.0142)


def test_far_points_are_drawn_by_weight_times_squared_distance():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    points = points_of(x, torch.tensor([100, 4, 1, 1]))
    sqdist = points.sqdist(torch.tensor([[0.0]]))
    assert sqdist.tolist() == [0, 1, 4, 9]
    drawn = points.draw_far(20_000, seeded(), sqdist)
    shares = torch.bincount(drawn.squeeze(1).long(), minlength=4) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0, 4, 4, 9]) / 17, rtol=0, atol=0.0142)


def test_new_points_are_drawn_by_weight_among_those_off_the_centers():
    points = points_of(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([100, 3, 1]))
    drawn = points.draw_new(20_000, seeded(), points.sqdist(torch.tensor([[0.0]])))
    shares = torch.bincount(drawn.squeeze(1).long(), minlength=6) / 20_000
    torch.testing.assert_close(shares[[0, 1, 5]], torch.tensor([0, 0.75, 0.25]), rtol=0, atol=0.0142)


def test_where_all_points_are_centers_there_is_nothing_far_or_new():
    points = points_of(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    sqdist = points.sqdist(torch.tensor([[1.0, 2.0]]))
    assert points.draw_far(3, seeded(), sqdist).shape == (0, 2)
    assert points.draw_new(3, seeded(), sqdist).shape == (0, 2)


def test_a_draw_reaches_rows_past_the_limit_of_multinomial():
    rows = 2**24 + 3
    weights = torch.ones(rows, dtype=torch.uint8)
    x = torch.zeros(rows, 1)
    x[-1] = 7
    points = points_of(x, weights)
    assert points.draw_new(1, seeded(), x.squeeze(1)).item() == 7


def test_potentials_are_the_inertia_with_one_more_center():
    x = torch.tensor([[0.0], [1.0], [4.0]])
    points = points_of(x, torch.tensor([1, 2, 3]))
    sqdist = points.sqdist(torch.tensor([[0.0]]))
    potentials = points.potentials(sqdist, torch.tensor([[4.0], [1.0], [9.0]]))
    assert (potentials / potentials[0] * 2).tolist() == [2, 27, 2 + 48]


@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 2**31))
def test_one_more_center_gives_the_distances_of_all_of_them(k, width, seed):
    x = torch.randn(40, width, generator=seeded(seed))
    centers = torch.randn(k + 1, width, generator=seeded(seed + 1))
    points = points_of(x)
    assert torch.equal(points.closer(points.sqdist(centers[:k]), centers[k]), points.sqdist(centers))


def test_blocks_of_rows_change_no_draw_and_no_potential(monkeypatch, china):
    points = points_of(china.reshape(-1, 3)[:5000])
    candidates = points.draw(4, seeded())
    sqdist = points.sqdist(candidates[:1])
    whole = points.potentials(sqdist, candidates), points.closer(sqdist, candidates[1])
    monkeypatch.setattr("gpukmeans.points._BLOCK", 60)
    assert torch.equal(points.potentials(sqdist, candidates), whole[0])
    assert torch.equal(points.closer(sqdist, candidates[1]), whole[1])


@given(st.integers(1, 2**62 - 1), st.integers(0, 2**31))
def test_a_random_integer_is_below_its_bound(total, seed):
    assert 0 <= _integer_below(total, seeded(seed)) < total


def test_random_integers_are_uniform_for_a_bound_that_no_power_of_two_divides():
    # The remainder of 64 random bits would be below 2**60 with odds of 6 in 16 instead of 1 in 3.
    generator = seeded()
    low = sum(_integer_below(3 * 2**60, generator) < 2**60 for _ in range(9000))
    assert abs(low - 3000) < 4 * (9000 * 2 / 9) ** 0.5
