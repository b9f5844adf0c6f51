import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.engine_torch import TorchEngine
from gpukmeans.moments import finest_scale, from_grid, to_grid
from gpukmeans.points import survey


@given(st.floats(1e-280, 1e300))
def test_a_total_at_the_limit_fits_an_int64_with_room_to_add_another(total):
    steps = total * finest_scale(total)
    assert steps < 2**62
    assert 2 * steps < 2**63


@given(st.floats(1e-280, 1e300))
def test_the_grid_is_the_finest_that_fits_and_a_power_of_two(total):
    assert total * finest_scale(total) >= 2**60
    assert math.frexp(finest_scale(total))[0] == 0.5


def test_nothing_to_add_up_still_has_a_grid():
    assert finest_scale(0.0) == 1


def test_terms_round_to_the_nearest_step_and_ties_to_even():
    assert to_grid(torch.tensor([0.25, 0.375, 0.625, -0.3], dtype=torch.float64), 4.0).tolist() == [1, 2, 2, -1]
    assert from_grid(torch.tensor([3]), 4.0).tolist() == [0.75]


def test_terms_are_left_as_they_were():
    terms = torch.tensor([0.3], dtype=torch.float64)
    to_grid(terms, 1024.0)
    assert terms.item() == 0.3


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.randoms())
def test_the_order_of_terms_changes_no_bit(values, random):
    scale = finest_scale(len(values) * 1e6)
    shuffled = random.sample(values, len(values))
    totals = [to_grid(torch.tensor(row, dtype=torch.float64), scale).sum() for row in (values, shuffled)]
    assert torch.equal(*totals)


def measure(x, weights, centers):
    return TorchEngine().bind(x, weights).measure(centers, survey(x, weights).grid())


def test_moments_of_a_toy_by_hand():
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0]])
    moments = measure(x, torch.tensor([1, 3, 2]), torch.tensor([[0.0, 1.0], [9.0, 0.0]]))
    assert from_grid(moments.sums, moments.grid.sum).tolist() == [[0, 6], [20, 0]]
    assert moments.weight_of_clusters().tolist() == [4, 2]
    assert moments.weighted_sqdist() == 1 + 3 + 2
    assert (moments.worst_sqdist.item(), moments.worst_row.item()) == (1, 0)
    assert moments.worst_x.tolist() == [0, 0]
    assert moments.means().tolist() == [[0, 1.5], [10, 0]]


def test_the_mean_of_no_points_is_nan():
    moments = measure(torch.tensor([[1.0]]), None, torch.tensor([[1.0], [5.0]]))
    assert moments.means().isnan().tolist() == [[False], [True]]


@given(st.integers(1, 29), st.integers(0, 2**31))
def test_moments_of_two_halves_add_to_those_of_the_whole(cut, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(30, 3, generator=generator)
    weights = torch.rand(30, generator=generator) + 0.1
    centers = torch.randn(4, 3, generator=generator)
    grid = survey(torch.cat([x, centers]), torch.ones(34)).grid()
    whole = TorchEngine().bind(x, weights).measure(centers, grid)
    first = TorchEngine().bind(x[:cut], weights[:cut]).measure(centers, grid)
    second = TorchEngine().bind(x[cut:], weights[cut:]).measure(centers, grid)
    second = dataclasses.replace(second, worst_row=second.worst_row + cut)
    for added in (first + second, second + first):
        for name in ("sums", "totals", "inertia", "worst_sqdist", "worst_row", "worst_x"):
            assert torch.equal(getattr(added, name), getattr(whole, name)), name


def test_of_two_equally_served_points_the_lower_row_is_the_worst():
    x = torch.tensor([[1.0], [-1.0]])
    moments = measure(x, None, torch.tensor([[0.0]]))
    other = dataclasses.replace(moments, worst_row=torch.tensor(7), worst_x=torch.tensor([5.0]))
    assert (other + moments).worst_row.item() == 0
    assert (moments + other).worst_x.item() == 1


@pytest.mark.parametrize(
    "change", [{"weight": 2.0}, {"sqdist": 2.0}, {"sum": torch.full((1,), 2.0)}, {"lowest": torch.zeros(1)}]
)
def test_moments_on_different_grids_do_not_add(change):
    moments = measure(torch.tensor([[1.0]]), None, torch.tensor([[1.0]]))
    change = {name: value.double() if isinstance(value, torch.Tensor) else value for name, value in change.items()}
    other = dataclasses.replace(moments, grid=dataclasses.replace(moments.grid, **change))
    with pytest.raises(ValueError, match="different grids"):
        moments + other


def test_means_far_from_the_origin_keep_the_digits_of_the_spread():
    # Timestamps: on a grid for |x| a step would be a millisecond.
    x = (1.7e9 + (torch.arange(2**16) % 4).double() * 1e-4)[:, None]
    moments = measure(x, None, x[:4])
    torch.testing.assert_close(moments.means(), x[:4], rtol=0, atol=2.4e-7)  # one unit in the last place at 1.7e9
    assert moments.worst_sqdist == 0


def test_a_coordinate_of_small_spread_keeps_its_digits_beside_one_of_large_spread():
    x = torch.tensor([[0.0, 1e-6], [1e12, 3e-6]], dtype=torch.float64)
    assert measure(x, None, torch.zeros(1, 2, dtype=torch.float64)).means()[0, 1] == pytest.approx(2e-6, rel=1e-12)


def test_means_stay_within_the_range_however_little_a_cluster_weighs():
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    moments = measure(x, torch.tensor([1.0, 2.5e-18], dtype=torch.float64), x)
    assert (moments.means() <= 1).all()
