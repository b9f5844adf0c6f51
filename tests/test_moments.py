import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.engines.plain import PlainEngine
from gpukmeans.fixed_point import from_fixed
from gpukmeans.moments import Moments
from gpukmeans.points.tensor import tensor_points

TOTALS = ("sums", "totals", "inertia", "worst_sqdist")
SCALES = ("weight", "sum", "sqdist", "lowest", "highest")


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def fixed_point_of(x, weights=None):
    """The fixed-point scales of one problem (N, D), or of several (P, N, D)."""
    if x.ndim == 2:
        x, weights = x[None], None if weights is None else weights[None]
    return tensor_points(x, weights, PlainEngine(), torch.float64).fixed_point


def measure(x, weights, centers):
    """The moments of one run, which have a leading dimension of 1."""
    bound = PlainEngine().bind(x[None], None if weights is None else weights[None])
    return bound.measure(centers[None], fixed_point_of(x, weights), [0])


def test_moments_of_a_toy_are_those_worked_out_by_hand():
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0]])
    moments = measure(x, torch.tensor([1, 3, 2]), torch.tensor([[0.0, 1.0], [9.0, 0.0]]))
    assert from_fixed(moments.sums, moments.fixed_point.sum[:, None]).tolist() == [[[0, 6], [20, 0]]]
    assert moments.cluster_weights().tolist() == [[4, 2]]
    assert moments.weighted_sqdist().tolist() == [1 + 3 + 2]
    assert moments.worst_sqdist.tolist() == [1]
    assert moments.means().tolist() == [[[0, 1.5], [10, 0]]]


def test_moments_of_two_runs_by_hand():
    x = torch.tensor([[[0.0], [1.0], [4.0]], [[10.0], [20.0], [20.0]]])
    weights = torch.tensor([[1, 1, 2], [4, 1, 0]])
    centers = torch.tensor([[[0.0], [4.0]], [[10.0], [0.0]]])
    moments = PlainEngine().bind(x, weights).measure(centers, fixed_point_of(x, weights), [0, 1])
    assert moments.cluster_weights().tolist() == [[2, 2], [5, 0]]
    assert moments.weighted_sqdist().tolist() == [1, 100]
    assert moments.worst_sqdist.tolist() == [1, 100]
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
    fixed_point = fixed_point_of(torch.cat([x, centers], dim=1), torch.ones(2, 34))
    whole = PlainEngine().bind(x, weights).measure(centers, fixed_point, [0, 1])
    first = PlainEngine().bind(x[:, :cut], weights[:, :cut]).measure(centers, fixed_point, [0, 1])
    second = PlainEngine().bind(x[:, cut:], weights[:, cut:]).measure(centers, fixed_point, [0, 1])
    for added in (first + second, second + first):
        for name in TOTALS:
            assert torch.equal(getattr(added, name), getattr(whole, name)), name


def test_in_each_run_the_largest_distance_of_a_sum_is_that_of_the_worse_summand():
    # The first run has its worst-served point in the first summand, the second run in the second.
    x = torch.tensor([[[5.0], [1.0]], [[1.0], [4.0]]])
    fixed_point = fixed_point_of(torch.tensor([[[-5.0], [5.0]]] * 2))
    first, second = (
        PlainEngine().bind(x[:, i, None], None).measure(torch.zeros(2, 1, 1), fixed_point, [0, 1]) for i in (0, 1)
    )
    assert (first + second).worst_sqdist.tolist() == [25, 16]


@pytest.mark.parametrize(
    "change",
    [{"weight": [2.0]}, {"sqdist": [2.0]}, {"sum": [[2.0]]}, {"lowest": [[0.0]]}],
    ids="".join,
)
def test_moments_of_different_scales_do_not_add(change):
    moments = measure(torch.tensor([[1.0]]), None, torch.tensor([[1.0]]))
    change = {name: float64(value) for name, value in change.items()}
    other = dataclasses.replace(moments, fixed_point=dataclasses.replace(moments.fixed_point, **change))
    with pytest.raises(ValueError, match="moments add when"):
        moments + other


def test_moments_with_one_run_of_a_different_scale_do_not_add():
    x = torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]]])
    moments = PlainEngine().bind(x, None).measure(x, fixed_point_of(x), [0, 1])
    sqdist = moments.fixed_point.sqdist * float64([1.0, 2.0])
    other = dataclasses.replace(moments, fixed_point=dataclasses.replace(moments.fixed_point, sqdist=sqdist))
    with pytest.raises(ValueError, match="moments add when"):
        moments + other


@pytest.mark.parametrize(
    "runs", [torch.tensor([2]), torch.tensor([2, 0, 0]), torch.tensor([True, False, True]), slice(1, 3)], ids=str
)
def test_selected_runs_keep_their_moments(runs):
    x = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))
    moments = PlainEngine().bind(x, None).measure(x[:, :4], fixed_point_of(x), [0, 1, 2])
    selected = moments.select(runs)
    for name in TOTALS:
        assert torch.equal(getattr(selected, name), getattr(moments, name)[runs]), name
    for name in SCALES:
        assert torch.equal(getattr(selected.fixed_point, name), getattr(moments.fixed_point, name)[runs]), name
        assert torch.equal(getattr(moments.fixed_point.select(runs), name), getattr(moments.fixed_point, name)[runs]), (
            name
        )
    assert torch.equal(selected.means(), moments.means()[runs])
    assert torch.equal(selected.cluster_weights(), moments.cluster_weights()[runs])
    assert torch.equal(selected.weighted_sqdist(), moments.weighted_sqdist()[runs])


def test_concatenated_moments_have_the_runs_of_all_parts_in_order():
    x = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))
    moments = PlainEngine().bind(x, None).measure(x[:, :4], fixed_point_of(x), [0, 1, 2])
    concatenated = Moments.concatenated(
        [moments.select(slice(1)), moments.select(slice(1, 1)), moments.select(slice(1, 3))]
    )
    for name in TOTALS:
        assert torch.equal(getattr(concatenated, name), getattr(moments, name)), name
    for name in SCALES:
        assert torch.equal(getattr(concatenated.fixed_point, name), getattr(moments.fixed_point, name)), name


def test_means_far_from_the_origin_have_the_precision_of_the_extent():
    # Timestamps: with a scale for |x| a fixed-point unit would be a millisecond.
    x = (1.7e9 + (torch.arange(2**16) % 4).double() * 1e-4)[:, None]
    moments = measure(x, None, x[:4])
    torch.testing.assert_close(moments.means()[0], x[:4], rtol=0, atol=2.4e-7)  # one unit in the last place at 1.7e9
    assert moments.worst_sqdist == 0


def test_a_coordinate_of_small_extent_keeps_its_precision_beside_one_of_large_extent():
    x = float64([[0.0, 1e-6], [1e12, 3e-6]])
    assert measure(x, None, torch.zeros(1, 2).double()).means()[0, 0, 1].item() == pytest.approx(2e-6, rel=1e-12)


def test_a_run_of_small_extent_keeps_its_precision_beside_one_of_large_extent():
    x = float64([[[1e-6], [3e-6]], [[0.0], [1e12]]])
    moments = PlainEngine().bind(x, None).measure(torch.zeros(2, 1, 1).double(), fixed_point_of(x), [0, 1])
    assert moments.means()[0].item() == pytest.approx(2e-6, rel=1e-12)
    assert moments.means()[1].item() == 5e11


def test_means_are_within_the_range_for_any_small_cluster_weight():
    x = float64([[0.0], [1.0]])
    moments = measure(x, float64([1.0, 2.5e-18]), x)
    assert (moments.means() <= 1).all()


def test_where_takes_the_runs_of_a_mask_and_the_remaining_ones_of_the_other_moments():
    x = torch.randint(20, (3, 9, 2), generator=torch.Generator().manual_seed(0)).float()
    bound, centers = PlainEngine().bind(x, None), x[:, :4]
    first = bound.measure(centers, fixed_point_of(x), [0, 1, 2])
    second = bound.measure(
        centers + 1, dataclasses.replace(fixed_point_of(x), sqdist=float64([2.0, 4.0, 8.0])), [0, 1, 2]
    )
    mixed = first.where(torch.tensor([True, False, True]), second)
    for run, expected in enumerate([first, second, first]):
        this = slice(run, run + 1)
        for name in TOTALS:
            assert torch.equal(getattr(mixed, name)[this], getattr(expected, name)[this]), name
        assert mixed.fixed_point.select(this).equals(expected.fixed_point.select(this))
    assert not torch.equal(first.inertia, second.inertia)
