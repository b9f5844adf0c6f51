import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.engines.plain import TorchEngine
from gpukmeans.fixed_point import finest_scale, from_grid, to_grid
from gpukmeans.moments import Moments
from gpukmeans.points.tensor import tensor_points

TOTALS = ("sums", "totals", "inertia", "worst_sqdist", "worst_row", "worst_x")
SCALES = ("weight", "sum", "sqdist", "lowest", "highest")


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def scale_for(total):
    return finest_scale(float64(total)).item()


@given(st.floats(1e-280, 1e300))
def test_a_total_at_the_limit_fits_an_int64_with_room_to_add_another(total):
    steps = total * scale_for(total)
    assert steps < 2**62
    assert 2 * steps < 2**63


@given(st.floats(1e-280, 1e300))
def test_the_grid_is_the_finest_that_fits_and_a_power_of_two(total):
    assert total * scale_for(total) >= 2**60
    assert math.frexp(scale_for(total))[0] == 0.5


def test_nothing_to_add_up_still_has_a_grid():
    assert scale_for(0.0) == 1


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (3, 1, 2), (2, 0)])
def test_totals_of_any_shape_have_a_scale_each(shape):
    totals = float64([0.0, 5e-324, 1e-9, 1.0, 3.0, 1e300])[: math.prod(shape)].reshape(shape)
    scales = finest_scale(totals)
    assert scales.shape == shape
    assert scales.dtype == torch.float64
    assert scales.flatten().tolist() == [scale_for(total) for total in totals.flatten().tolist()]


@given(st.floats(0, 1.7976931348623157e308))
def test_however_extreme_a_total_is_the_scale_is_a_finite_power_of_two(total):
    assert math.frexp(scale_for(total))[0] == 0.5
    assert 2.0**-1000 <= scale_for(total) <= 2.0**1000


def test_the_scale_is_exact_at_the_extremes():
    smallest, largest = 5e-324, 1.7976931348623157e308
    assert scale_for(smallest) == 2.0**1000  # finer ones are not a finite float64
    assert scale_for(largest) == 2.0 ** (61 - 1024)
    assert scale_for(1.0) == 2.0**60


def test_terms_round_to_the_nearest_step_and_ties_to_even():
    assert to_grid(float64([0.25, 0.375, 0.625, -0.3]), float64(4.0)).tolist() == [1, 2, 2, -1]
    assert from_grid(torch.tensor([3]), float64(4.0)).tolist() == [0.75]


def test_terms_are_left_as_they_were():
    terms = float64([0.3])
    to_grid(terms, float64(1024.0))
    assert terms.item() == 0.3


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.randoms())
def test_the_order_of_terms_changes_no_bit(values, random):
    scale = finest_scale(float64(len(values) * 1e6))
    shuffled = random.sample(values, len(values))
    totals = [to_grid(float64(row), scale).sum() for row in (values, shuffled)]
    assert torch.equal(*totals)


def grid_of(x, weights=None):
    """The grid of one problem (N, D), or of several (P, N, D)."""
    if x.ndim == 2:
        x, weights = x[None], None if weights is None else weights[None]
    return tensor_points(x, weights, TorchEngine(), torch.float64).grid


def measure(x, weights, centers):
    """The moments of one run, which have a leading dimension of 1."""
    bound = TorchEngine().bind(x[None], None if weights is None else weights[None])
    return bound.measure(centers[None], grid_of(x, weights), [0])


def test_moments_of_a_toy_by_hand():
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0]])
    moments = measure(x, torch.tensor([1, 3, 2]), torch.tensor([[0.0, 1.0], [9.0, 0.0]]))
    assert from_grid(moments.sums, moments.grid.sum[:, None]).tolist() == [[[0, 6], [20, 0]]]
    assert moments.weight_of_clusters().tolist() == [[4, 2]]
    assert moments.weighted_sqdist().tolist() == [1 + 3 + 2]
    assert (moments.worst_sqdist.tolist(), moments.worst_row.tolist()) == ([1], [0])
    assert moments.worst_x.tolist() == [[0, 0]]
    assert moments.means().tolist() == [[[0, 1.5], [10, 0]]]


def test_moments_of_two_runs_by_hand():
    x = torch.tensor([[[0.0], [1.0], [4.0]], [[10.0], [20.0], [20.0]]])
    weights = torch.tensor([[1, 1, 2], [4, 1, 0]])
    centers = torch.tensor([[[0.0], [4.0]], [[10.0], [0.0]]])
    moments = TorchEngine().bind(x, weights).measure(centers, grid_of(x, weights), [0, 1])
    assert moments.weight_of_clusters().tolist() == [[2, 2], [5, 0]]
    assert moments.weighted_sqdist().tolist() == [1, 100]
    assert moments.worst_row.tolist() == [1, 1]
    assert moments.worst_x.tolist() == [[1], [20]]
    assert moments.means()[0].tolist() == [[0.5], [4]]
    assert moments.means()[1, 0].tolist() == [12]


def test_the_mean_of_no_points_is_nan():
    moments = measure(torch.tensor([[1.0]]), None, torch.tensor([[1.0], [5.0]]))
    assert moments.means().isnan().tolist() == [[[False], [True]]]


@given(st.integers(1, 29), st.integers(0, 2**31))
def test_moments_of_two_halves_add_to_those_of_the_whole(cut, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 30, 3, generator=generator)
    weights = torch.rand(2, 30, generator=generator) + 0.1
    centers = torch.randn(2, 4, 3, generator=generator)
    grid = grid_of(torch.cat([x, centers], dim=1), torch.ones(2, 34))
    whole = TorchEngine().bind(x, weights).measure(centers, grid, [0, 1])
    first = TorchEngine().bind(x[:, :cut], weights[:, :cut]).measure(centers, grid, [0, 1])
    second = TorchEngine().bind(x[:, cut:], weights[:, cut:]).measure(centers, grid, [0, 1])
    second = dataclasses.replace(second, worst_row=second.worst_row + cut)
    for added in (first + second, second + first):
        for name in TOTALS:
            assert torch.equal(getattr(added, name), getattr(whole, name)), name


def test_of_two_equally_served_points_the_lower_row_is_the_worst():
    x = torch.tensor([[1.0], [-1.0]])
    moments = measure(x, None, torch.tensor([[0.0]]))
    other = dataclasses.replace(moments, worst_row=torch.tensor([7]), worst_x=torch.tensor([[5.0]]))
    assert (other + moments).worst_row.item() == 0
    assert (moments + other).worst_x.item() == 1


def test_in_each_run_the_worst_of_either_part_is_the_worst_of_the_sum():
    # The first run is worse served in the first part, the second one in the second.
    x = torch.tensor([[[5.0], [1.0]], [[1.0], [5.0]]])
    grid = grid_of(torch.tensor([[[-5.0], [5.0]]] * 2))
    first, second = (
        TorchEngine().bind(x[:, i, None], None).measure(torch.zeros(2, 1, 1), grid, [0, 1]) for i in (0, 1)
    )
    added = first + dataclasses.replace(second, worst_row=second.worst_row + 1)
    assert added.worst_sqdist.tolist() == [25, 25]
    assert added.worst_row.tolist() == [0, 1]
    assert added.worst_x.tolist() == [[5], [5]]


@pytest.mark.parametrize(
    "change",
    [{"weight": [2.0]}, {"sqdist": [2.0]}, {"sum": [[2.0]]}, {"lowest": [[0.0]]}],
    ids="".join,
)
def test_moments_on_different_grids_do_not_add(change):
    moments = measure(torch.tensor([[1.0]]), None, torch.tensor([[1.0]]))
    change = {name: float64(value) for name, value in change.items()}
    other = dataclasses.replace(moments, grid=dataclasses.replace(moments.grid, **change))
    with pytest.raises(ValueError, match="different grids"):
        moments + other


def test_moments_of_which_one_run_is_on_another_grid_do_not_add():
    x = torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]]])
    moments = TorchEngine().bind(x, None).measure(x, grid_of(x), [0, 1])
    sqdist = moments.grid.sqdist * float64([1.0, 2.0])
    other = dataclasses.replace(moments, grid=dataclasses.replace(moments.grid, sqdist=sqdist))
    with pytest.raises(ValueError, match="different grids"):
        moments + other


@pytest.mark.parametrize(
    "runs", [torch.tensor([2]), torch.tensor([2, 0, 0]), torch.tensor([True, False, True]), slice(1, 3)], ids=str
)
def test_the_moments_of_some_runs_are_what_they_were(runs):
    x = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))
    moments = TorchEngine().bind(x, None).measure(x[:, :4], grid_of(x), [0, 1, 2])
    selected = moments.select(runs)
    for name in TOTALS:
        assert torch.equal(getattr(selected, name), getattr(moments, name)[runs]), name
    for name in SCALES:
        assert torch.equal(getattr(selected.grid, name), getattr(moments.grid, name)[runs]), name
        assert torch.equal(getattr(moments.grid.select(runs), name), getattr(moments.grid, name)[runs]), name
    assert torch.equal(selected.means(), moments.means()[runs])
    assert torch.equal(selected.weight_of_clusters(), moments.weight_of_clusters()[runs])
    assert torch.equal(selected.weighted_sqdist(), moments.weighted_sqdist()[runs])


def test_moments_of_the_runs_of_several_parts_are_joined_one_part_after_the_other():
    x = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))
    moments = TorchEngine().bind(x, None).measure(x[:, :4], grid_of(x), [0, 1, 2])
    joined = Moments.joined([moments.select(slice(1)), moments.select(slice(1, 1)), moments.select(slice(1, 3))])
    for name in TOTALS:
        assert torch.equal(getattr(joined, name), getattr(moments, name)), name
    for name in SCALES:
        assert torch.equal(getattr(joined.grid, name), getattr(moments.grid, name)), name


def test_means_far_from_the_origin_keep_the_digits_of_the_spread():
    # Timestamps: on a grid for |x| a step would be a millisecond.
    x = (1.7e9 + (torch.arange(2**16) % 4).double() * 1e-4)[:, None]
    moments = measure(x, None, x[:4])
    torch.testing.assert_close(moments.means()[0], x[:4], rtol=0, atol=2.4e-7)  # one unit in the last place at 1.7e9
    assert moments.worst_sqdist == 0


def test_a_coordinate_of_small_spread_keeps_its_digits_beside_one_of_large_spread():
    x = float64([[0.0, 1e-6], [1e12, 3e-6]])
    assert measure(x, None, torch.zeros(1, 2).double()).means()[0, 0, 1].item() == pytest.approx(2e-6, rel=1e-12)


def test_a_run_of_small_spread_keeps_its_digits_beside_one_of_large_spread():
    x = float64([[[1e-6], [3e-6]], [[0.0], [1e12]]])
    moments = TorchEngine().bind(x, None).measure(torch.zeros(2, 1, 1).double(), grid_of(x), [0, 1])
    assert moments.means()[0].item() == pytest.approx(2e-6, rel=1e-12)
    assert moments.means()[1].item() == 5e11


def test_means_stay_within_the_range_however_little_a_cluster_weighs():
    x = float64([[0.0], [1.0]])
    moments = measure(x, float64([1.0, 2.5e-18]), x)
    assert (moments.means() <= 1).all()


def test_moments_of_some_runs_stand_beside_others_of_those_left():
    x = torch.randint(20, (3, 9, 2), generator=torch.Generator().manual_seed(0)).float()
    bound, centers = TorchEngine().bind(x, None), x[:, :4]
    first = bound.measure(centers, grid_of(x), [0, 1, 2])
    second = bound.measure(centers + 1, dataclasses.replace(grid_of(x), sqdist=float64([2.0, 4.0, 8.0])), [0, 1, 2])
    chosen = first.where(torch.tensor([True, False, True]), second)
    for run, expected in enumerate([first, second, first]):
        this = slice(run, run + 1)
        for name in TOTALS:
            assert torch.equal(getattr(chosen, name)[this], getattr(expected, name)[this]), name
        assert chosen.grid.select(this).equals(expected.grid.select(this))
    assert not torch.equal(first.inertia, second.inertia)
