from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from helpers import oracle
from helpers.problems import MOMENTS, points_of, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gpukmeans import lloyd as module
from gpukmeans.distance import squared_distance
from gpukmeans.engines import Assignment
from gpukmeans.engines.plain import BoundPlainEngine, PlainEngine
from gpukmeans.lloyd import Fit, _default_window, _iterate, _start_runs, lloyd, next_centers
from gpukmeans.points.tensor import tensor_points

FIELDS = ("centers", "cluster_weights", "inertia", "n_iter", "converged")


def run_on(points, centers, **options):
    """The fit of one run from centers (K, D), without the dimension of runs except in its moments."""
    fit = lloyd(points, centers[None], **options)
    return SimpleNamespace(moments=fit.moments, **{name: getattr(fit, name)[0] for name in FIELDS})


def run(x, centers, weights=None, *, max_iter=100, tol=0.0):
    return run_on(points_of(x, weights), centers, max_iter=max_iter, tol=tol)


def measured(points, centers):
    return points.measure(centers, points.sqdist_bound(centers))


def test_a_small_example_worked_by_hand():
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    fit = run(x, torch.tensor([[0.0], [1.0]]))
    # Round 1: {0} {1, 10, 12} -> 0, 7.67. Round 2: {0, 1} {10, 12} -> 0.5, 11. Round 3 moves nothing.
    assert fit.centers.tolist() == [[0.5], [11]]
    assert (fit.n_iter.item(), fit.converged.item()) == (3, True)
    assert fit.cluster_weights.tolist() == [2, 2]
    assert fit.inertia == 0.5 + 2


@given(
    more=st.integers(0, 30),
    k=st.integers(1, 8),
    width=st.integers(1, 5),
    rounds=st.integers(1, 5),
    offset=st.sampled_from([0.0, 1e5]),
    seed=st.integers(0, 2**31),
)
def test_rounds_equal_those_of_the_oracle(more, k, width, rounds, offset, seed):
    generator, n = seeded(seed), k + more
    x = torch.randn(n, width, generator=generator, dtype=torch.float64) + offset
    weights = torch.randint(1, 5, (n,), generator=generator)
    # Points as initial centers: no cluster is empty, so no tie between badly served points is decided by rounding.
    centers = x[:k] + torch.randn(k, width, generator=generator, dtype=torch.float64) * 1e-6
    fit = run(x, centers, weights, max_iter=rounds, tol=0.0)
    expected, _, inertia = oracle.lloyd(x.tolist(), weights.tolist(), centers.tolist(), fit.n_iter.item())
    if (fit.cluster_weights > 0).all():  # else rounding decides whether a point is at its center
        torch.testing.assert_close(fit.centers, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert fit.inertia.item() == pytest.approx(inertia, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("max_iter", "tol"), [(1, 0.0), (3, 0.0), (100, 0.5), (100, 1e-4), (1000, 0.0)])
def test_moments_are_measured_at_the_returned_centers_for_any_end_of_the_loop(max_iter, tol, china):
    points = points_of(china.reshape(-1, 3)[::200])
    fit = run_on(points, points.sample(9, seeded())[0], max_iter=max_iter, tol=tol)
    again = measured(points, fit.centers[None])
    assert torch.equal(again.sums, fit.moments.sums)
    assert torch.equal(again.cluster_weights()[0], fit.cluster_weights)
    assert again.weighted_sqdist().item() == pytest.approx(fit.inertia.item(), rel=1e-12)
    assert fit.n_iter <= max_iter
    assert fit.converged == (max_iter in (100, 1000))


def test_more_rounds_never_increase_the_inertia(china):
    points = points_of(china.reshape(-1, 3)[::200])
    start = points.sample(9, seeded())[0]
    inertia = [run_on(points, start, max_iter=n, tol=0.0).inertia.item() for n in range(1, 15)]
    assert inertia == sorted(inertia, reverse=True)
    assert inertia[0] > inertia[-1]


def test_a_larger_tolerance_ends_the_loop_earlier(china):
    points = points_of(china.reshape(-1, 3)[::200])
    start = points.sample(9, seeded())[0]
    rounds = [run_on(points, start, max_iter=1000, tol=tol).n_iter.item() for tol in (0.1, 1e-3, 0.0)]
    assert rounds == sorted(set(rounds))


def test_converged_centers_do_not_move_again(china):
    points = points_of(china.reshape(-1, 3)[::200])
    found = run_on(points, points.sample(9, seeded())[0], max_iter=1000, tol=0.0)
    again = run_on(points, found.centers, max_iter=1000, tol=0.0)
    assert torch.equal(again.centers, found.centers)
    assert again.n_iter == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 / 3, -1e-20])
def test_the_loop_ends_for_equal_points_with_an_empty_cluster(dtype, value):
    x = torch.full((1000, 2), value, dtype=dtype)
    fit = run(x, torch.stack([x[0], x[0] + 1]), max_iter=50)
    assert fit.converged
    assert fit.n_iter <= 3
    assert torch.equal(fit.centers[0], x[0])
    assert fit.cluster_weights.tolist() == [1000, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loop_ends_for_fewer_distinct_points_than_centers_despite_rounded_means(dtype):
    # For a range of 1, 1e-20 is less than a fixed-point unit, and 0.1 is not a multiple of one.
    x = torch.tensor([[0.0], [1e-20], [0.1], [1 / 3], [1.0]], dtype=dtype).repeat(200, 1)
    fit = run(x, torch.linspace(0, 1, 9, dtype=dtype)[:, None], max_iter=100)
    assert fit.converged
    assert fit.n_iter < 20
    assert fit.inertia < 1e-24


def test_a_far_outlier_does_not_reduce_the_precision_of_the_inertia():
    x = torch.cat(
        [torch.rand(1000, 1, generator=seeded()), 10 + torch.rand(1000, 1, generator=seeded()), torch.tensor([[1e10]])]
    )
    fit = run(x, torch.tensor([[0.0], [1.0], [1e10]]))
    assert fit.cluster_weights.tolist() == [1000, 1000, 1]
    variance = x[:1000].double().var(unbiased=False).item() + x[1000:2000].double().var(unbiased=False).item()
    assert fit.inertia.item() == pytest.approx(1000 * variance, rel=1e-5)


def test_first_centers_far_outside_do_not_reduce_the_precision_of_later_rounds():
    x = torch.rand(500, 2, generator=seeded())
    fit = run(x, torch.tensor([[1e12, 0.0], [0.0, -1e12], [0.5, 0.5]]))
    assert (fit.cluster_weights > 0).all()
    sqdist = points_of(x).assign(fit.centers[None]).sqdist
    assert fit.inertia.item() == pytest.approx(sqdist.double().sum().item(), rel=1e-12)


def test_first_centers_are_not_modified():
    centers = torch.tensor([[0.0], [50.0], [60.0]])
    run(torch.tensor([[0.0], [1.0], [10.0]]), centers)
    assert centers.tolist() == [[0], [50], [60]]


def problems():
    """Three problems: the second has three distinct points, the third mostly rows of weight 0."""
    x = torch.randn(3, 60, 2, generator=seeded())
    x[1] = x[1, :3].repeat(20, 1)
    weights = torch.rand(3, 60, generator=seeded(1)) + 0.1
    weights[2, 15:] = 0
    x[2, 15:] *= 1e5
    return x, weights


def starts(x, problem_numbers, k, seed=2):
    """First centers (B, K, D): points with weight of the problem of each run."""
    return torch.stack(
        [x[p, torch.randperm(15, generator=seeded(seed + run))[:k]] for run, p in enumerate(problem_numbers)]
    )


@pytest.mark.parametrize("max_iter", [1, 4, 100])
@pytest.mark.parametrize("tol", [0.0, 1e-2])
@pytest.mark.parametrize("problem_numbers", [[0, 0, 1], [1, 0, 2, 0, 2, 1, 0], [2]])
def test_each_run_of_a_batch_has_the_result_it_has_alone(problem_numbers, tol, max_iter):
    x, weights = problems()
    centers = starts(x, problem_numbers, 5)
    fits = lloyd(points_of(x, weights).select(torch.tensor(problem_numbers)), centers, max_iter=max_iter, tol=tol)
    for i, problem in enumerate(problem_numbers):
        alone = run_on(points_of(x[problem], weights[problem]), centers[i], max_iter=max_iter, tol=tol)
        for name in FIELDS:
            assert torch.equal(getattr(fits, name)[i], getattr(alone, name)), name


@given(k=st.integers(1, 6), offset=st.sampled_from([0.0, 1e4]), weighted=st.booleans(), seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_each_of_three_runs_has_the_result_it_has_alone_for_any_points(k, offset, weighted, seed):
    # Integers, and initial centers anywhere: some clusters are empty, and some points equally badly served.
    x = torch.randint(5, (2, 12, 2), generator=seeded(seed)) + offset
    weights = torch.randint(1, 4, (2, 12), generator=seeded(seed + 1)) if weighted else None
    centers = torch.randint(-20, 20, (3, k, 2), generator=seeded(seed + 2)) + offset
    fits = lloyd(points_of(x, weights).select(torch.tensor([0, 0, 1])), centers, max_iter=8, tol=0.0)
    for i, problem in enumerate([0, 0, 1]):
        alone = run(x[problem], centers[i], None if weights is None else weights[problem], max_iter=8)
        for name in FIELDS:
            assert torch.equal(getattr(fits, name)[i], getattr(alone, name)), name


@pytest.mark.parametrize("k", [1, 4])
def test_rows_of_weight_0_change_no_bit(k):
    x, weights = problems()
    centers = starts(x, [2], k)[0]
    padded, alone = run(x[2], centers, weights[2]), run(x[2, :15], centers, weights[2, :15])
    for name in FIELDS:
        assert torch.equal(getattr(padded, name), getattr(alone, name)), name


def test_an_empty_cluster_does_not_move_to_a_row_of_weight_0():
    x = torch.tensor([[0.0], [2.0], [50.0], [100.0]])
    fit = run(x, torch.tensor([[1.0], [-500.0]]), torch.tensor([1, 1, 1, 0]))
    assert fit.centers.tolist() == [[1], [50]]


def test_each_run_ends_by_itself_and_the_fits_are_in_the_order_of_the_runs():
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    # The example above in three rounds, a run at its optimum, one of two rounds, and the example again.
    centers = torch.tensor([[[0.0], [1.0]], [[0.5], [11.0]], [[1.0], [12.0]], [[0.0], [1.0]]])
    points = points_of(x).select(torch.zeros(4, dtype=torch.int64))
    fits = lloyd(points, centers, max_iter=100, tol=0.0)
    assert fits.n_iter.tolist() == [3, 1, 2, 3]
    assert fits.converged.tolist() == [True] * 4
    assert fits.centers.tolist() == [[[0.5], [11]]] * 4
    shorter = lloyd(points, centers, max_iter=2, tol=0.0)
    assert shorter.n_iter.tolist() == [2, 1, 2, 2]
    assert shorter.converged.tolist() == [False, True, True, False]


def count_measurements(monkeypatch, kind):
    """A list that receives the number of runs of each call of `measure` of this class."""
    measured_runs, plain = [], kind.measure

    def counting(self, centers, *bounds):
        measured_runs.append(len(centers))
        return plain(self, centers, *bounds)

    monkeypatch.setattr(kind, "measure", counting)
    return measured_runs


def test_only_the_runs_that_have_not_ended_are_measured(monkeypatch):
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    points = points_of(x).select(torch.tensor([0, 0, 0]))
    measured_runs = count_measurements(monkeypatch, type(points))
    lloyd(points, torch.tensor([[[0.0], [1.0]], [[0.5], [11.0]], [[1.0], [12.0]]]), max_iter=100, tol=0.0)
    assert measured_runs == [3, 2, 1]


@pytest.mark.parametrize("runs", [torch.tensor([2, 0]), torch.tensor([False, True, False])], ids=str)
def test_selected_fits_are_those_of_the_selected_runs(runs):
    x, weights = problems()
    fits = lloyd(points_of(x, weights), starts(x, [0, 1, 2], 4), max_iter=3, tol=0.0)
    selected = fits.select(runs)
    assert isinstance(selected, Fit)
    for name in FIELDS:
        assert torch.equal(getattr(selected, name), getattr(fits, name)[runs]), name
    assert torch.equal(selected.moments.sums, fits.moments.sums[runs])
    assert torch.equal(selected.moments.worst_sqdist, fits.moments.worst_sqdist[runs])


def test_joined_fits_are_in_order():
    x, weights = problems()
    fits = lloyd(points_of(x, weights), starts(x, [0, 1, 2], 4), max_iter=3, tol=0.0)
    order = torch.tensor([2, 0, 1])
    joined, expected = Fit.concatenated([fits.select(order[:1]), fits.select(order[1:])]), fits.select(order)
    for name in FIELDS:
        assert torch.equal(getattr(joined, name), getattr(expected, name)), name
    assert torch.equal(joined.moments.sums, expected.moments.sums)
    assert torch.equal(joined.moments.worst_sqdist, expected.moments.worst_sqdist)
    assert torch.equal(joined.moments.fixed_point.sum, expected.moments.fixed_point.sum)


class Recorder:
    """A callback that records its calls, and ends the loop after `rounds` rounds."""

    def __init__(self, rounds=None):
        self.calls, self.rounds = [], rounds

    def __call__(self, n_iter, inertia, shifts):
        self.calls.append((n_iter, inertia.clone(), shifts.clone()))
        return n_iter == self.rounds


def test_the_callback_receives_the_inertia_and_the_largest_shift_of_all_runs_each_round():
    x, weights = problems()
    problem_numbers = [0, 1, 2, 0]
    points, centers = points_of(x, weights).select(torch.tensor(problem_numbers)), starts(x, problem_numbers, 5)
    callback = Recorder()
    fits = lloyd(points, centers, max_iter=100, tol=0.0, callback=callback)
    assert [n_iter for n_iter, _, _ in callback.calls] == [*range(1, int(fits.n_iter.max()) + 1)]
    assert len(fits.n_iter.unique()) > 2
    before = centers
    for n_iter, inertia, shifts in callback.calls:
        after = lloyd(points, centers, max_iter=n_iter, tol=0.0)
        assert torch.equal(inertia, after.inertia)
        largest = (after.centers.double() - before.double()).square().sum(dim=2).amax(dim=1).sqrt()
        torch.testing.assert_close(shifts, largest, rtol=1e-12, atol=0)
        assert (shifts[after.n_iter < n_iter] == 0).all()  # those that have ended
        before = after.centers


@pytest.mark.parametrize("max_iter", [3, 100])
def test_a_callback_that_returns_none_changes_no_bit(max_iter):
    x, weights = problems()
    points, centers = points_of(x, weights), starts(x, [0, 1, 2], 5)
    expected, found = (
        lloyd(points, centers, max_iter=max_iter, tol=0.0, callback=callback) for callback in (None, Recorder())
    )
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_a_callback_that_returns_true_ends_the_loop_like_max_iter():
    x, weights = problems()
    points, centers = points_of(x, weights), starts(x, [0, 1, 2], 5)
    callback = Recorder(rounds=3)
    stopped = lloyd(points, centers, max_iter=100, tol=0.0, callback=callback)
    expected = lloyd(points, centers, max_iter=3, tol=0.0)
    assert len(callback.calls) == 3
    assert not stopped.converged.all()
    for name in FIELDS:
        assert torch.equal(getattr(stopped, name), getattr(expected, name)), name


def test_a_projection_receives_means_and_previous_centers_and_returns_the_next_ones():
    calls = []

    def rounded(means, centers):
        calls.append((means, centers))
        return means.round()

    x = torch.tensor([[[0.0], [0.5], [1.0], [10.0], [11.9]], [[3.0], [4.0], [7.0], [7.0], [7.0]]])
    centers = torch.tensor([[[0.0], [10.0]], [[3.0], [-90.0]]])
    moments = measured(points_of(x), centers)
    found = next_centers(centers, moments, rounded)
    # An empty cluster has no mean to project: it keeps its center.
    assert found.tolist() == [[[0], [11]], [[6], [-90]]]
    assert torch.equal(calls[0][0].nan_to_num(), moments.means().nan_to_num())
    assert calls[0][0].dtype == torch.float64
    assert torch.equal(calls[0][1], centers)


def test_each_round_ends_with_the_projection():
    x, weights = problems()
    problem_numbers = [0, 2, 0]  # without empty clusters
    points, centers = points_of(x, weights).select(torch.tensor(problem_numbers)), starts(x, problem_numbers, 3)

    def halfway(means, centers):
        return (means + centers) / 2

    fits = lloyd(points, centers, max_iter=2, tol=0.0, project=halfway)
    for _ in range(2):
        centers = next_centers(centers, measured(points, centers), halfway)
    moving = fits.n_iter == 2
    assert moving[0]
    assert torch.equal(fits.centers[moving], centers[moving])
    torch.testing.assert_close(fits.inertia, measured(points, fits.centers).weighted_sqdist(), rtol=1e-12, atol=0)
    for i, problem in enumerate(problem_numbers):
        own, first = points_of(x[problem], weights[problem]), starts(x, problem_numbers, 3)[i]
        alone = run_on(own, first, max_iter=2, tol=0.0, project=halfway)
        for name in FIELDS:
            assert torch.equal(getattr(fits, name)[i], getattr(alone, name)), name


def assert_same_bits(found, expected):
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in MOMENTS:
        assert torch.equal(getattr(found.moments, name), getattr(expected.moments, name)), name
    assert found.moments.fixed_point.equals(expected.moments.fixed_point)


def halved(means, centers):
    return (means + centers) / 2


@pytest.mark.parametrize("window", [2, 3, 8])
@pytest.mark.parametrize("max_iter", [2, 5, 100])
@pytest.mark.parametrize("tol", [0.0, 1e-2])
@pytest.mark.parametrize("project", [None, halved])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_window_changes_no_bit(dtype, project, tol, max_iter, window):
    x, weights = problems()
    x = x.to(dtype).sin()  # float64 values that no fixed-point scale represents exactly
    problem_numbers = [1, 0, 2, 0, 2, 1, 0, 2]
    centers = starts(x, problem_numbers, 5)
    centers[0, 2:] = 1e3  # three empty clusters
    centers[3] = run(x[0], centers[3], weights[0], max_iter=1000).centers  # at its optimum from the beginning
    points, options = points_of(x, weights).select(torch.tensor(problem_numbers)), {"max_iter": max_iter, "tol": tol}
    expected = lloyd(points, centers, **options, project=project, window=1)
    assert max_iter < 100 or len(expected.n_iter.unique()) > 3
    assert_same_bits(lloyd(points, centers, **options, project=project, window=window), expected)


@given(
    k=st.integers(1, 6),
    offset=st.sampled_from([0.0, 1e4]),
    weighted=st.booleans(),
    max_iter=st.integers(1, 20),
    window=st.integers(2, 9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40)
def test_the_window_changes_no_bit_for_any_points(k, offset, weighted, max_iter, window, seed):
    x = torch.randint(9, (2, 30, 2), generator=seeded(seed)) + offset
    weights = torch.randint(1, 4, (2, 30), generator=seeded(seed + 1)) if weighted else None
    centers = torch.randint(-20, 20, (4, k, 2), generator=seeded(seed + 2)) + offset
    points = points_of(x, weights).select(torch.tensor([0, 0, 1, 1]))
    fits = [lloyd(points, centers, max_iter=max_iter, tol=0.0, window=n) for n in (window, 1)]
    assert_same_bits(*fits)


@pytest.mark.parametrize("window", [2, 8])
def test_a_run_whose_changes_are_rounding_errors_ends_inside_a_window_as_without_it(window, monkeypatch):
    x = torch.tensor([[0.0], [1e-20], [0.1], [1 / 3], [1.0]]).repeat(200, 1)
    points = points_of(x).select(torch.tensor([0, 0]))
    centers = torch.stack([torch.linspace(0, 1, 9), torch.linspace(-1, 3, 9)])[..., None]
    expected, found = (lloyd(points, centers, max_iter=60, tol=0.0, window=n) for n in (1, window))
    assert_same_bits(found, expected)
    monkeypatch.setattr(module, "_PATIENCE", 1000)
    assert (lloyd(points, centers, max_iter=60, tol=0.0).n_iter > expected.n_iter).any()


def far_outliers():
    """A run with a fixed-point scale that is too coarse in each of the first rounds, beside one without."""
    inner, outliers = torch.rand(60, 1, generator=seeded()), torch.tensor([[1e6], [1e11], [1e16]])
    x = torch.stack([torch.cat([inner, outliers]), torch.cat([inner, inner[:3]])]).double()
    centers = torch.tensor([[0.0, 0.3, -1e17, -1e17, -1e17], [0.0, 0.1, 0.4, 0.8, 0.9]], dtype=torch.float64)
    return points_of(x), centers[..., None]


def test_the_rounds_of_a_window_are_repeated_if_a_scale_was_too_coarse(monkeypatch):
    calls, plain = [], _iterate

    def recording(moved, rounds, *args, careful, **options):
        calls.append((rounds, careful))
        return plain(moved, rounds, *args, careful=careful, **options)

    monkeypatch.setattr(module, "_iterate", recording)
    points, centers = far_outliers()
    fits = lloyd(points, centers, max_iter=100, tol=0.0, window=8)
    # The first iteration moves the empty clusters to the outliers, so that all distances become much smaller.
    assert calls[:2] == [(4, False), (4, True)]
    assert not any(careful for _, careful in calls[2:])
    assert (fits.moments.totals > 0).all()
    assert_same_bits(fits, lloyd(points, centers, max_iter=100, tol=0.0, window=1))


@pytest.mark.parametrize("max_iter", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("window", [2, 3, 8])
def test_the_window_changes_no_bit_for_far_outliers(window, max_iter):
    points, centers = far_outliers()
    expected, found = (lloyd(points, centers, max_iter=max_iter, tol=0.0, window=n) for n in (1, window))
    assert_same_bits(found, expected)


@pytest.mark.parametrize("max_iter", [0, 1, 4])
def test_the_window_changes_no_bit_if_an_initial_center_is_far_from_all_points(max_iter):
    x = torch.rand(60, 1, generator=seeded()).double()
    centers = torch.tensor([[0.0, 0.3, 1e12], [0.0, 0.3, 0.6]], dtype=torch.float64)[..., None]
    points = points_of(x.expand(2, -1, -1).contiguous())
    expected, found = (lloyd(points, centers, max_iter=max_iter, tol=0.0, window=n) for n in (1, 8))
    assert_same_bits(found, expected)


def test_runs_that_end_in_the_first_window_are_measured_until_its_end(monkeypatch):
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    points = points_of(x).select(torch.tensor([0, 0, 0]))
    measured_runs = count_measurements(monkeypatch, type(points))
    centers = torch.tensor([[[0.0], [1.0]], [[0.5], [11.0]], [[1.0], [12.0]]])
    lloyd(points, centers, max_iter=100, tol=0.0, window=8)
    assert measured_runs == [3, 3, 3, 3, 3]  # the initial centers, and a window of 4 iterations


def test_a_callback_is_called_each_round_for_any_window():
    x, weights = problems()
    points, centers = points_of(x, weights), starts(x, [0, 1, 2], 5)
    callback = Recorder()
    fits = lloyd(points, centers, max_iter=100, tol=0.0, callback=callback, window=8)
    assert [n_iter for n_iter, _, _ in callback.calls] == [*range(1, int(fits.n_iter.max()) + 1)]


def test_a_gpu_is_checked_less_often_than_a_cpu():
    assert _default_window(torch.device("cpu")) == 1
    assert _default_window(torch.device("cuda", 0)) > 1


class WaitError(Exception):
    """The host would wait for a GPU."""


class _Operations(TorchDispatchMode):
    """Raises on operations problem_numbers results or shapes the host needs, and on copies from the host."""

    forbidden = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique", "lift_fresh")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        if masked or name.startswith(self.forbidden):
            raise WaitError(name)
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    """Raises on methods that read a CPU tensor without an operation."""

    forbidden = ("tolist", "numpy", "cpu", "__array__", "tensor", "as_tensor")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in self.forbidden:
            raise WaitError(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting():
    with _Operations(), _Methods():
        yield


@pytest.mark.parametrize(
    "read",
    [
        lambda x: bool((x > 0).any()),
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.clone().index_put_((x > 0,), x[0]),
        lambda x: x.masked_select(x > 0),
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: torch.equal(x, x),
        lambda x: x.unique(),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: x[[0, 1]],
    ],
)
def test_operations_that_wait_for_a_gpu_are_detected(read):
    with pytest.raises(WaitError), no_waiting():
        read(torch.ones(3))


class EngineWithoutWaits(PlainEngine):
    """The plain engine without its search for near ties, the number of which the host needs."""

    def bind(self, x, weights):
        return BoundPlainEngine(x, weights, self.tile or 1 << 20, self._nearest)

    @staticmethod
    def _nearest(x, centers):
        table = squared_distance(x.permute(2, 0, 1)[..., None], centers.permute(2, 0, 1)[:, :, None])
        sqdist, labels = table.min(dim=2)
        return Assignment(labels, sqdist)


@pytest.mark.parametrize("tile", [1 << 20, 40])
@pytest.mark.parametrize("project", [None, halved])
@pytest.mark.parametrize("weighted", [False, True])
def test_inside_a_window_the_host_never_waits_for_a_gpu(weighted, project, tile):
    x, weights = problems()
    problem_numbers = [0, 1, 2, 0]
    points = tensor_points(x, weights if weighted else None, EngineWithoutWaits(tile), torch.float32).select(
        torch.tensor(problem_numbers)
    )
    active = _start_runs(points, starts(x, problem_numbers, 5))
    with no_waiting():
        after = _iterate(active, 8, 0.0, project, careful=False)
    assert after.n_iter.max() == 8 or not after.going.any()
    assert after.n_iter.min() < after.n_iter.max()


def on_meta(value):
    """The value with all tensors on the meta device, which has shapes only."""
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if not is_dataclass(value) or isinstance(value, PlainEngine):
        return value
    return replace(value, **{field.name: on_meta(getattr(value, field.name)) for field in fields(value)})


def test_all_tensors_of_a_window_are_on_the_device_of_the_points():
    x, weights = problems()
    problem_numbers = [0, 1, 2, 0]
    points = tensor_points(x, weights, EngineWithoutWaits(), torch.float32).select(torch.tensor(problem_numbers))
    active = on_meta(_start_runs(points, starts(x, problem_numbers, 5)))
    after = _iterate(active, 8, 0.0, None, careful=False)
    tensors = [*vars(after).values(), *vars(after.moments).values(), *vars(after.moments.fixed_point).values()]
    assert {tensor.device.type for tensor in tensors if isinstance(tensor, torch.Tensor)} == {"meta"}
    assert after.moments.sums.shape == (4, 5, 2)


def test_eight_more_iterations_need_one_more_check(monkeypatch):
    checks, plain = [], module._iterated_and_checked

    def counting(moved, rounds, *args, **options):
        checks.append(rounds)
        return plain(moved, rounds, *args, **options)

    monkeypatch.setattr(module, "_iterated_and_checked", counting)
    x = torch.rand(3000, 2, generator=seeded())
    for max_iter in (17, 25):
        assert run_on(points_of(x), x[:30], max_iter=max_iter, tol=0.0, window=8).n_iter == max_iter
    # At first few, because runs that end soon are measured until the end of a window.
    assert checks == [4, 5, 8, 4, 5, 8, 8]


def test_a_fixed_center_does_not_move_and_the_others_do():
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    fit = run_on(points_of(x), torch.tensor([[0.0], [1.0]]), max_iter=100, tol=0.0, n_fixed=1)
    # Round 1: {0} {1, 10, 12} -> 0, 7.67. Round 2: {0, 1} {10, 12} -> 0, 11. Round 3 moves nothing.
    assert fit.centers.tolist() == [[0], [11]]
    assert (fit.n_iter.item(), fit.converged.item()) == (3, True)
    assert fit.cluster_weights.tolist() == [2, 2]
    assert fit.inertia == 1 + 2


@pytest.mark.parametrize("window", [None, 8])
def test_the_loop_converges_with_an_empty_fixed_center(window):
    x = torch.rand(200, 2, generator=seeded())
    centers = torch.cat([torch.tensor([[9.0, 9.0]]), x[:7]])
    fit = run_on(points_of(x), centers, max_iter=100, tol=1e-3, window=window, n_fixed=1)
    without = run_on(points_of(x), x[:7], max_iter=100, tol=1e-3, window=window)
    assert torch.equal(fit.centers, torch.cat([centers[:1], without.centers]))
    assert fit.cluster_weights[0] == 0
    assert fit.n_iter == without.n_iter > 1
    assert fit.converged


def test_a_loop_with_only_fixed_centers_measures_once(monkeypatch):
    calls, plain = [], BoundPlainEngine.measure
    monkeypatch.setattr(BoundPlainEngine, "measure", lambda *args: calls.append(0) or plain(*args))
    x = torch.rand(50, 2, generator=seeded())
    shifts = []
    fit = run_on(
        points_of(x),
        x[:3],
        max_iter=9,
        tol=0.0,
        n_fixed=3,
        callback=lambda *state: bool(shifts.append(state[2].tolist())),
    )
    assert torch.equal(fit.centers, x[:3])
    assert (fit.n_iter.item(), fit.converged.item(), len(calls)) == (1, True, 1)
    assert shifts == [[0]]


@given(
    k=st.integers(2, 8),
    n_fixed=st.integers(1, 8),
    rounds=st.integers(1, 5),
    weighted=st.booleans(),
    project=st.sampled_from([None, halved]),
    seed=st.integers(0, 2**31),
)
def test_rounds_with_fixed_centers_equal_a_direct_computation(k, n_fixed, rounds, weighted, project, seed):
    x = torch.randint(20, (40, 2), generator=seeded(seed)).double()
    weights = torch.randint(1, 4, (40,), generator=seeded(seed)) if weighted else torch.ones(40, dtype=torch.int64)
    n_fixed = min(n_fixed, k)
    start = x[:k] + torch.rand(k, 2, generator=seeded(seed), dtype=torch.float64)
    fit = run_on(points_of(x, weights), start, max_iter=rounds, tol=0.0, project=project, n_fixed=n_fixed)
    centers = start.clone()
    for _ in range(fit.n_iter.item()):
        labels = (x[:, None] - centers).square().sum(dim=2).argmin(dim=1)
        relocated = torch.tensor(oracle.relocated(x.tolist(), weights.tolist(), centers.tolist(), n_fixed))
        previous = centers.clone()
        for j in range(n_fixed, k):
            own = weights * (relocated == j)
            if own.sum() > 0:
                centers[j] = (own[:, None] * x).sum(dim=0) / own.sum()
                if project is not None and (labels == j).any():  # a point is not projected
                    centers[j] = project(centers[j], previous[j])
    assert torch.equal(fit.centers[:n_fixed], start[:n_fixed])
    torch.testing.assert_close(fit.centers, centers)
