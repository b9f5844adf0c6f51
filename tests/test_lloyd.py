from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from helpers import oracle
from helpers.problems import points_of, seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gpukmeans import lloyd as module
from gpukmeans.distance import squared_distance
from gpukmeans.engines.base import Assignment
from gpukmeans.engines.plain import BoundTorchEngine, TorchEngine
from gpukmeans.lloyd import Fit, _aimed, _begin, _rounds, _rounds_between_looks, lloyd, next_centers
from gpukmeans.points.tensor import tensor_points

FIELDS = ("centers", "totals", "inertia", "n_iter", "converged")


def run_on(points, centers, **options):
    """The fit of one run from centers (K, D), without the dimension of runs; its moments have it."""
    fit = lloyd(points, centers[None], **options)
    return SimpleNamespace(moments=fit.moments, **{name: getattr(fit, name)[0] for name in FIELDS})


def run(x, centers, weights=None, *, max_iter=100, tol=0.0):
    return run_on(points_of(x, weights), centers, max_iter=max_iter, tol=tol)


def measured(points, centers):
    return points.measure(centers, points.farthest(centers))


def moved(x, centers):
    """Where the centers (K, D) of one run go next."""
    return next_centers(centers[None], measured(points_of(x), centers[None]))[0]


def test_a_toy_by_hand():
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    fit = run(x, torch.tensor([[0.0], [1.0]]))
    # Round 1: {0} {1, 10, 12} -> 0, 7.67. Round 2: {0, 1} {10, 12} -> 0.5, 11. Round 3 moves nothing.
    assert fit.centers.tolist() == [[0.5], [11]]
    assert (fit.n_iter.item(), fit.converged.item()) == (3, True)
    assert fit.totals.tolist() == [2, 2]
    assert fit.inertia == 0.5 + 2


@given(
    more=st.integers(0, 30),
    k=st.integers(1, 8),
    width=st.integers(1, 5),
    rounds=st.integers(1, 5),
    offset=st.sampled_from([0.0, 1e5]),
    seed=st.integers(0, 2**31),
)
def test_rounds_are_those_of_the_oracle(more, k, width, rounds, offset, seed):
    generator, n = seeded(seed), k + more
    x = torch.randn(n, width, generator=generator, dtype=torch.float64) + offset
    weights = torch.randint(1, 5, (n,), generator=generator)
    # Points as first centers: no cluster is empty, so no tie between badly served points is decided by rounding.
    centers = x[:k] + torch.randn(k, width, generator=generator, dtype=torch.float64) * 1e-6
    fit = run(x, centers, weights, max_iter=rounds, tol=0.0)
    expected, _, inertia = oracle.lloyd(x.tolist(), weights.tolist(), centers.tolist(), fit.n_iter.item())
    if (fit.totals > 0).all():  # else only rounding says whether there is a point worth moving to
        torch.testing.assert_close(fit.centers, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert fit.inertia.item() == pytest.approx(inertia, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("max_iter", "tol"), [(1, 0.0), (3, 0.0), (100, 0.5), (100, 1e-4), (1000, 0.0)])
def test_moments_are_measured_at_the_centers_returned_however_the_loop_ended(max_iter, tol, china):
    points = points_of(china.reshape(-1, 3)[::200])
    fit = run_on(points, points.draw(9, seeded())[0], max_iter=max_iter, tol=tol)
    again = measured(points, fit.centers[None])
    assert torch.equal(again.sums, fit.moments.sums)
    assert torch.equal(again.weight_of_clusters()[0], fit.totals)
    assert again.weighted_sqdist().item() == pytest.approx(fit.inertia.item(), rel=1e-12)
    assert fit.n_iter <= max_iter
    assert fit.converged == (max_iter in (100, 1000))


def test_more_rounds_are_never_worse(china):
    points = points_of(china.reshape(-1, 3)[::200])
    start = points.draw(9, seeded())[0]
    inertia = [run_on(points, start, max_iter=n, tol=0.0).inertia.item() for n in range(1, 15)]
    assert inertia == sorted(inertia, reverse=True)
    assert inertia[0] > inertia[-1]


def test_a_larger_tolerance_stops_sooner(china):
    points = points_of(china.reshape(-1, 3)[::200])
    start = points.draw(9, seeded())[0]
    rounds = [run_on(points, start, max_iter=1000, tol=tol).n_iter.item() for tol in (0.1, 1e-3, 0.0)]
    assert rounds == sorted(set(rounds))


def test_found_centers_are_a_fixed_point(china):
    points = points_of(china.reshape(-1, 3)[::200])
    found = run_on(points, points.draw(9, seeded())[0], max_iter=1000, tol=0.0)
    again = run_on(points, found.centers, max_iter=1000, tol=0.0)
    assert torch.equal(again.centers, found.centers)
    assert again.n_iter == 1


def test_an_empty_cluster_moves_to_the_worst_served_point():
    x = torch.tensor([[0.0], [2.0], [100.0]])
    centers = torch.tensor([[1.0], [-500.0]])
    assert moved(x, centers).tolist() == [[34], [100]]


def test_of_equally_badly_served_points_the_lowest_row_is_taken():
    x = torch.tensor([[-5.0], [5.0], [-5.0]])
    centers = torch.tensor([[0.0], [900.0]])
    assert moved(x, centers)[1].item() == -5


def test_one_empty_cluster_moves_a_round_and_the_others_wait():
    x = torch.tensor([[0.0], [10.0], [30.0]])
    centers = torch.tensor([[10.0], [-500.0], [-600.0]])
    assert moved(x, centers)[1:].tolist() == [[30], [-600]]


def test_the_loop_does_not_converge_while_a_cluster_is_empty_and_a_point_is_off_its_center():
    # A tolerance of 1 would stop after the first round.
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    fit = run(x, torch.tensor([[1.5], [-100.0], [-200.0], [-300.0]]), tol=1.0)
    assert fit.n_iter == 3
    assert (fit.totals > 0).all()
    assert fit.converged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 / 3, -1e-20])
def test_equal_points_need_one_center_and_the_loop_ends(dtype, value):
    x = torch.full((1000, 2), value, dtype=dtype)
    fit = run(x, torch.stack([x[0], x[0] + 1]), max_iter=50)
    assert fit.converged
    assert fit.n_iter <= 3
    assert torch.equal(fit.centers[0], x[0])
    assert fit.totals.tolist() == [1000, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_distinct_points_than_centers_end_the_loop_though_means_are_rounded(dtype):
    # 1e-20 is less than a step of the grid for a spread of 1, and 0.1 is no multiple of one.
    x = torch.tensor([[0.0], [1e-20], [0.1], [1 / 3], [1.0]], dtype=dtype).repeat(200, 1)
    fit = run(x, torch.linspace(0, 1, 9, dtype=dtype)[:, None], max_iter=100)
    assert fit.converged
    assert fit.n_iter < 20
    assert fit.inertia < 1e-24


def test_a_far_outlier_does_not_hide_the_distances_of_the_others():
    x = torch.cat(
        [torch.rand(1000, 1, generator=seeded()), 10 + torch.rand(1000, 1, generator=seeded()), torch.tensor([[1e10]])]
    )
    fit = run(x, torch.tensor([[0.0], [1.0], [1e10]]))
    assert fit.totals.tolist() == [1000, 1000, 1]
    spread = x[:1000].double().var(unbiased=False).item() + x[1000:2000].double().var(unbiased=False).item()
    assert fit.inertia.item() == pytest.approx(1000 * spread, rel=1e-5)


def test_first_centers_far_outside_do_not_coarsen_what_follows():
    x = torch.rand(500, 2, generator=seeded())
    fit = run(x, torch.tensor([[1e12, 0.0], [0.0, -1e12], [0.5, 0.5]]))
    assert (fit.totals > 0).all()
    sqdist = points_of(x).assign(fit.centers[None]).sqdist
    assert fit.inertia.item() == pytest.approx(sqdist.double().sum().item(), rel=1e-12)


def test_first_centers_are_left_as_they_were():
    centers = torch.tensor([[0.0], [50.0], [60.0]])
    run(torch.tensor([[0.0], [1.0], [10.0]]), centers)
    assert centers.tolist() == [[0], [50], [60]]


def problems():
    """Three problems, of which the second has but three points that differ and the third is mostly of weight 0."""
    x = torch.randn(3, 60, 2, generator=seeded())
    x[1] = x[1, :3].repeat(20, 1)
    weights = torch.rand(3, 60, generator=seeded(1)) + 0.1
    weights[2, 15:] = 0
    x[2, 15:] *= 1e5
    return x, weights


def starts(x, whose, k, seed=2):
    """First centers (B, K, D): points with weight of the problems of these runs."""
    return torch.stack([x[p, torch.randperm(15, generator=seeded(seed + run))[:k]] for run, p in enumerate(whose)])


@pytest.mark.parametrize("max_iter", [1, 4, 100])
@pytest.mark.parametrize("tol", [0.0, 1e-2])
@pytest.mark.parametrize("whose", [[0, 0, 1], [1, 0, 2, 0, 2, 1, 0], [2]])
def test_each_run_of_a_batch_gets_what_it_gets_alone(whose, tol, max_iter):
    x, weights = problems()
    centers = starts(x, whose, 5)
    fits = lloyd(points_of(x, weights).select(torch.tensor(whose)), centers, max_iter=max_iter, tol=tol)
    for i, problem in enumerate(whose):
        alone = run_on(points_of(x[problem], weights[problem]), centers[i], max_iter=max_iter, tol=tol)
        for name in FIELDS:
            assert torch.equal(getattr(fits, name)[i], getattr(alone, name)), name


@given(k=st.integers(1, 6), offset=st.sampled_from([0.0, 1e4]), weighted=st.booleans(), seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_each_of_three_runs_gets_what_it_gets_alone_whatever_the_points(k, offset, weighted, seed):
    # Integers and first centers anywhere, so that clusters are empty and points equally badly served.
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


def test_runs_end_each_by_itself_and_the_fits_are_in_the_order_of_the_runs():
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    # The toy above in three rounds, one that is there already, one of two rounds and the toy again.
    centers = torch.tensor([[[0.0], [1.0]], [[0.5], [11.0]], [[1.0], [12.0]], [[0.0], [1.0]]])
    points = points_of(x).select(torch.zeros(4, dtype=torch.int64))
    fits = lloyd(points, centers, max_iter=100, tol=0.0)
    assert fits.n_iter.tolist() == [3, 1, 2, 3]
    assert fits.converged.tolist() == [True] * 4
    assert fits.centers.tolist() == [[[0.5], [11]]] * 4
    cut = lloyd(points, centers, max_iter=2, tol=0.0)
    assert cut.n_iter.tolist() == [2, 1, 2, 2]
    assert cut.converged.tolist() == [False, True, True, False]


def counted(monkeypatch, kind):
    """A list that grows by the number of runs each time that points of this kind are measured."""
    measured_runs, plain = [], kind.measure

    def counting(self, centers, farthest):
        measured_runs.append(len(centers))
        return plain(self, centers, farthest)

    monkeypatch.setattr(kind, "measure", counting)
    return measured_runs


def test_only_the_runs_that_have_not_ended_are_measured(monkeypatch):
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    points = points_of(x).select(torch.tensor([0, 0, 0]))
    measured_runs = counted(monkeypatch, type(points))
    lloyd(points, torch.tensor([[[0.0], [1.0]], [[0.5], [11.0]], [[1.0], [12.0]]]), max_iter=100, tol=0.0)
    assert measured_runs == [3, 2, 1]


@pytest.mark.parametrize("runs", [torch.tensor([2, 0]), torch.tensor([False, True, False])], ids=str)
def test_the_fits_of_some_of_the_runs_are_what_they_were(runs):
    x, weights = problems()
    fits = lloyd(points_of(x, weights), starts(x, [0, 1, 2], 4), max_iter=3, tol=0.0)
    selected = fits.select(runs)
    assert isinstance(selected, Fit)
    for name in FIELDS:
        assert torch.equal(getattr(selected, name), getattr(fits, name)[runs]), name
    assert torch.equal(selected.moments.sums, fits.moments.sums[runs])
    assert torch.equal(selected.moments.worst_x, fits.moments.worst_x[runs])


def test_fits_of_several_parts_are_joined_one_part_after_the_other():
    x, weights = problems()
    fits = lloyd(points_of(x, weights), starts(x, [0, 1, 2], 4), max_iter=3, tol=0.0)
    order = torch.tensor([2, 0, 1])
    joined, expected = Fit.joined([fits.select(order[:1]), fits.select(order[1:])]), fits.select(order)
    for name in FIELDS:
        assert torch.equal(getattr(joined, name), getattr(expected, name)), name
    assert torch.equal(joined.moments.sums, expected.moments.sums)
    assert torch.equal(joined.moments.worst_x, expected.moments.worst_x)
    assert torch.equal(joined.moments.grid.sum, expected.moments.grid.sum)


def test_in_each_run_the_first_empty_cluster_moves_to_the_worst_served_point_of_that_run():
    x = torch.tensor([[[0.0], [2.0], [100.0]], [[0.0], [4.0], [5.0]], [[1.0], [1.0], [1.0]]])
    centers = torch.tensor([[[1.0], [-500.0], [-600.0]], [[0.0], [4.0], [5.0]], [[1.0], [-7.0], [8.0]]])
    found = next_centers(centers, measured(points_of(x), centers))
    # No cluster of the second run is empty, and no point of the third is off its center.
    assert found.tolist() == [[[34], [100], [-600]], [[0], [4], [5]], [[1], [-7], [8]]]


class Recorder:
    """A watch that keeps what it was told, and ends the loop after so many rounds."""

    def __init__(self, rounds=None):
        self.told, self.rounds = [], rounds

    def __call__(self, n_iter, inertia, shifts):
        self.told.append((n_iter, inertia.clone(), shifts.clone()))
        return n_iter == self.rounds


def test_the_watch_is_told_of_every_round_the_inertia_and_the_farthest_shift_of_all_runs():
    x, weights = problems()
    whose = [0, 1, 2, 0]
    points, centers = points_of(x, weights).select(torch.tensor(whose)), starts(x, whose, 5)
    watch = Recorder()
    fits = lloyd(points, centers, max_iter=100, tol=0.0, watch=watch)
    assert [n_iter for n_iter, _, _ in watch.told] == [*range(1, int(fits.n_iter.max()) + 1)]
    assert len(fits.n_iter.unique()) > 2
    before = centers
    for n_iter, inertia, shifts in watch.told:
        after = lloyd(points, centers, max_iter=n_iter, tol=0.0)
        assert torch.equal(inertia, after.inertia)
        farthest = (after.centers.double() - before.double()).square().sum(dim=2).amax(dim=1).sqrt()
        torch.testing.assert_close(shifts, farthest, rtol=1e-12, atol=0)
        assert (shifts[after.n_iter < n_iter] == 0).all()  # those that have ended
        before = after.centers


@pytest.mark.parametrize("max_iter", [3, 100])
def test_the_watch_changes_nothing_unless_it_ends_the_loop_by_returning_true(max_iter):
    x, weights = problems()
    points, centers = points_of(x, weights), starts(x, [0, 1, 2], 5)
    expected, watched = (
        lloyd(points, centers, max_iter=max_iter, tol=0.0, watch=watch) for watch in (None, Recorder())
    )
    for name in FIELDS:
        assert torch.equal(getattr(watched, name), getattr(expected, name)), name


def test_a_watch_that_returns_true_ends_the_loop_as_max_iter_does():
    x, weights = problems()
    points, centers = points_of(x, weights), starts(x, [0, 1, 2], 5)
    watch = Recorder(rounds=3)
    stopped = lloyd(points, centers, max_iter=100, tol=0.0, watch=watch)
    expected = lloyd(points, centers, max_iter=3, tol=0.0)
    assert len(watch.told) == 3
    assert not stopped.converged.all()
    for name in FIELDS:
        assert torch.equal(getattr(stopped, name), getattr(expected, name)), name


def test_a_projection_says_what_means_and_centers_before_are_moved_to():
    asked = []

    def rounded(means, centers):
        asked.append((means, centers))
        return means.round()

    x = torch.tensor([[[0.0], [0.5], [1.0], [10.0], [11.9]], [[3.0], [4.0], [7.0], [7.0], [7.0]]])
    centers = torch.tensor([[[0.0], [10.0]], [[3.0], [-90.0]]])
    moments = measured(points_of(x), centers)
    found = next_centers(centers, moments, rounded)
    # An empty cluster has no mean to project: it moves to the worst-served point.
    assert found.tolist() == [[[0], [11]], [[6], [7]]]
    assert torch.equal(asked[0][0].nan_to_num(), moments.means().nan_to_num())
    assert asked[0][0].dtype == torch.float64
    assert torch.equal(asked[0][1], centers)


def test_each_round_ends_with_the_projection():
    x, weights = problems()
    whose = [0, 1, 0, 2]
    points, centers = points_of(x, weights).select(torch.tensor(whose)), starts(x, whose, 3)

    def halfway(means, centers):
        return (means + centers) / 2

    fits = lloyd(points, centers, max_iter=2, tol=0.0, project=halfway)
    for _ in range(2):
        centers = next_centers(centers, measured(points, centers), halfway)
    moving = fits.n_iter == 2
    assert moving[0]
    assert torch.equal(fits.centers[moving], centers[moving])
    torch.testing.assert_close(fits.inertia, measured(points, fits.centers).weighted_sqdist(), rtol=1e-12, atol=0)
    for i, problem in enumerate(whose):
        own, first = points_of(x[problem], weights[problem]), starts(x, whose, 3)[i]
        alone = run_on(own, first, max_iter=2, tol=0.0, project=halfway)
        for name in FIELDS:
            assert torch.equal(getattr(fits, name)[i], getattr(alone, name)), name


MOMENTS = ("sums", "totals", "inertia", "worst_sqdist", "worst_row", "worst_x")


def assert_same_bits(found, expected):
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in MOMENTS:
        assert torch.equal(getattr(found.moments, name), getattr(expected.moments, name)), name
    assert found.moments.grid.equals(expected.moments.grid)


def halved(means, centers):
    return (means + centers) / 2


@pytest.mark.parametrize("window", [2, 3, 8])
@pytest.mark.parametrize("max_iter", [2, 5, 100])
@pytest.mark.parametrize("tol", [0.0, 1e-2])
@pytest.mark.parametrize("project", [None, halved])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_how_often_the_host_looks_changes_no_bit(dtype, project, tol, max_iter, window):
    x, weights = problems()
    x = x.to(dtype).sin()  # so that of float64 each grid loses other digits
    whose = [1, 0, 2, 0, 2, 1, 0, 2]
    centers = starts(x, whose, 5)
    centers[0, 2:] = 1e3  # three empty clusters
    centers[3] = run(x[0], centers[3], weights[0], max_iter=1000).centers  # stands from the beginning
    points, options = points_of(x, weights).select(torch.tensor(whose)), {"max_iter": max_iter, "tol": tol}
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
def test_how_often_the_host_looks_changes_no_bit_whatever_the_points(k, offset, weighted, max_iter, window, seed):
    x = torch.randint(9, (2, 30, 2), generator=seeded(seed)) + offset
    weights = torch.randint(1, 4, (2, 30), generator=seeded(seed + 1)) if weighted else None
    centers = torch.randint(-20, 20, (4, k, 2), generator=seeded(seed + 2)) + offset
    points = points_of(x, weights).select(torch.tensor([0, 0, 1, 1]))
    fits = [lloyd(points, centers, max_iter=max_iter, tol=0.0, window=n) for n in (window, 1)]
    assert_same_bits(*fits)


@pytest.mark.parametrize("window", [2, 8])
def test_runs_that_only_rounding_keeps_going_end_inside_a_window_as_they_would_alone(window, monkeypatch):
    x = torch.tensor([[0.0], [1e-20], [0.1], [1 / 3], [1.0]]).repeat(200, 1)
    points = points_of(x).select(torch.tensor([0, 0]))
    centers = torch.stack([torch.linspace(0, 1, 9), torch.linspace(-1, 3, 9)])[..., None]
    expected, found = (lloyd(points, centers, max_iter=60, tol=0.0, window=n) for n in (1, window))
    assert_same_bits(found, expected)
    monkeypatch.setattr(module, "_PATIENCE", 1000)
    assert (lloyd(points, centers, max_iter=60, tol=0.0).n_iter > expected.n_iter).any()


def far_outliers():
    """A run in which each of the first rounds finds its grid too coarse, beside one that has a fine one always."""
    near = torch.rand(60, 1, generator=seeded())
    x = torch.stack([torch.cat([near, torch.tensor([[1e6], [1e11], [1e16]])]), torch.cat([near, near[:3]])]).double()
    centers = torch.tensor([[0.0, 0.3, -1e17, -1e17, -1e17], [0.0, 0.1, 0.4, 0.8, 0.9]], dtype=torch.float64)
    return points_of(x), centers[..., None]


def test_where_a_grid_was_too_coarse_the_rounds_of_that_window_are_measured_twice(monkeypatch):
    asked, plain = [], _rounds

    def recording(aimed, rounds, *args, twice):
        asked.append((rounds, twice))
        return plain(aimed, rounds, *args, twice=twice)

    monkeypatch.setattr(module, "_rounds", recording)
    points, centers = far_outliers()
    fits = lloyd(points, centers, max_iter=100, tol=0.0, window=8)
    # In each of the first three rounds one of the far points gets a center, and in the fourth another leaves it.
    assert asked[:6] == [(1, False), (1, True), (2, False), (2, True), (4, False), (4, True)]
    assert not any(twice for _, twice in asked[6:])
    assert (fits.moments.totals > 0).all()
    assert_same_bits(fits, lloyd(points, centers, max_iter=100, tol=0.0, window=1))


@pytest.mark.parametrize("max_iter", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("window", [2, 3, 8])
def test_far_outliers_are_served_alike_however_often_the_host_looks(window, max_iter):
    points, centers = far_outliers()
    expected, found = (lloyd(points, centers, max_iter=max_iter, tol=0.0, window=n) for n in (1, window))
    assert_same_bits(found, expected)


def test_a_window_is_no_longer_than_all_rounds_before_it_and_one(monkeypatch):
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    points = points_of(x).select(torch.tensor([0, 0, 0]))
    measured_runs = counted(monkeypatch, type(points))
    centers = torch.tensor([[[0.0], [1.0]], [[0.5], [11.0]], [[1.0], [12.0]]])
    lloyd(points, centers, max_iter=100, tol=0.0, window=8)
    # The first centers, a round, two rounds for the runs that did not end in it.
    assert measured_runs == [3, 3, 2, 2]


def test_a_watch_is_told_of_every_round_whatever_the_window():
    x, weights = problems()
    points, centers = points_of(x, weights), starts(x, [0, 1, 2], 5)
    watch = Recorder()
    fits = lloyd(points, centers, max_iter=100, tol=0.0, watch=watch, window=8)
    assert [n_iter for n_iter, _, _ in watch.told] == [*range(1, int(fits.n_iter.max()) + 1)]


def test_the_host_looks_less_often_at_what_it_has_to_wait_for():
    assert _rounds_between_looks(torch.device("cpu")) == 1
    assert _rounds_between_looks(torch.device("cuda", 0)) > 1


class WaitedError(Exception):
    """The host would have waited for a GPU."""


class _Operations(TorchDispatchMode):
    """Refuses the operations whose results or shapes the host must know, and copies from it."""

    refused = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique", "lift_fresh")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        if masked or name.startswith(self.refused):
            raise WaitedError(name)
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    """Refuses what reads a tensor of a CPU without any operation."""

    refused = ("tolist", "numpy", "cpu", "__array__", "tensor", "as_tensor")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in self.refused:
            raise WaitedError(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting():
    with _Operations(), _Methods():
        yield


@pytest.mark.parametrize(
    "look",
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
def test_what_waits_for_a_gpu_is_noticed(look):
    with pytest.raises(WaitedError), no_waiting():
        look(torch.ones(3))


class Unasked(TorchEngine):
    """The plain engine without its search for near ties, for which the host must know how many there are."""

    def bind(self, x, weights):
        return BoundTorchEngine(x, weights, self.tile, self._nearest)

    @staticmethod
    def _nearest(x, centers):
        table = squared_distance(x.permute(2, 0, 1)[..., None], centers.permute(2, 0, 1)[:, :, None])
        sqdist, labels = table.min(dim=2)
        return Assignment(labels, sqdist)


@pytest.mark.parametrize("tile", [1 << 20, 40])
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("project", [None, halved])
@pytest.mark.parametrize("weighted", [False, True])
def test_inside_a_window_the_host_never_waits_for_a_gpu(weighted, project, twice, tile):
    x, weights = problems()
    whose = [0, 1, 2, 0]
    points = tensor_points(x, weights if weighted else None, Unasked(tile), torch.float32).select(torch.tensor(whose))
    begun = _begin(points, starts(x, whose, 5))
    with no_waiting():
        after = _rounds(_aimed(begun, project), 8, 0.0, project, twice=twice)
    assert after.n_iter.max() == 8 or not after.going.any()
    assert after.n_iter.min() < after.n_iter.max()


def without_values(thing):
    """The same tensors on the device that holds shapes alone."""
    if isinstance(thing, torch.Tensor):
        return thing.to("meta")
    if not is_dataclass(thing) or isinstance(thing, TorchEngine):
        return thing
    return replace(thing, **{field.name: without_values(getattr(thing, field.name)) for field in fields(thing)})


def test_all_that_a_window_needs_is_on_the_device_of_the_points():
    x, weights = problems()
    whose = [0, 1, 2, 0]
    points = tensor_points(x, weights, Unasked(), torch.float32).select(torch.tensor(whose))
    begun = without_values(_begin(points, starts(x, whose, 5)))
    after = _rounds(_aimed(begun, None), 8, 0.0, None, twice=True)
    tensors = [*vars(after).values(), *vars(after.moments).values(), *vars(after.moments.grid).values()]
    assert {tensor.device.type for tensor in tensors if isinstance(tensor, torch.Tensor)} == {"meta"}
    assert after.moments.sums.shape == (4, 5, 2)


def test_eight_more_rounds_are_one_more_look(monkeypatch):
    looks, plain = [], module._through

    def counting(aimed, rounds, *args):
        looks.append(rounds)
        return plain(aimed, rounds, *args)

    monkeypatch.setattr(module, "_through", counting)
    x = torch.rand(3000, 2, generator=seeded())
    for max_iter in (15, 23):
        assert run_on(points_of(x), x[:30], max_iter=max_iter, tol=0.0, window=8).n_iter == max_iter
    assert looks == [1, 2, 4, 8, 1, 2, 4, 8, 8]


def test_a_fixed_center_stays_and_the_others_move():
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    fit = run_on(points_of(x), torch.tensor([[0.0], [1.0]]), max_iter=100, tol=0.0, n_fixed=1)
    # Round 1: {0} {1, 10, 12} -> 0, 7.67. Round 2: {0, 1} {10, 12} -> 0, 11. Round 3 moves nothing.
    assert fit.centers.tolist() == [[0], [11]]
    assert (fit.n_iter.item(), fit.converged.item()) == (3, True)
    assert fit.totals.tolist() == [2, 2]
    assert fit.inertia == 1 + 2


def test_an_empty_fixed_center_neither_moves_nor_takes_the_turn_of_another():
    x = torch.tensor([[0.0], [2.0], [100.0]])
    centers = torch.tensor([[[-500.0], [1.0], [-600.0]]])
    found = next_centers(centers, measured(points_of(x), centers), n_fixed=1)
    assert found[0].tolist() == [[-500], [34], [100]]


@pytest.mark.parametrize("window", [None, 8])
def test_an_empty_fixed_center_does_not_keep_the_loop_from_its_end(window):
    x = torch.rand(200, 2, generator=seeded())
    centers = torch.cat([torch.tensor([[9.0, 9.0]]), x[:7]])
    fit = run_on(points_of(x), centers, max_iter=100, tol=1e-3, window=window, n_fixed=1)
    without = run_on(points_of(x), x[:7], max_iter=100, tol=1e-3, window=window)
    assert torch.equal(fit.centers, torch.cat([centers[:1], without.centers]))
    assert fit.totals[0] == 0
    assert fit.n_iter == without.n_iter > 1
    assert fit.converged


def test_a_loop_of_fixed_centers_alone_measures_once(monkeypatch):
    calls, plain = [], BoundTorchEngine.measure
    monkeypatch.setattr(BoundTorchEngine, "measure", lambda *args: calls.append(0) or plain(*args))
    x = torch.rand(50, 2, generator=seeded())
    seen = []
    fit = run_on(
        points_of(x), x[:3], max_iter=9, tol=0.0, n_fixed=3, watch=lambda *state: bool(seen.append(state[2].tolist()))
    )
    assert torch.equal(fit.centers, x[:3])
    assert (fit.n_iter.item(), fit.converged.item(), len(calls)) == (1, True, 1)
    assert seen == [[0]]


@given(
    k=st.integers(2, 8),
    n_fixed=st.integers(1, 8),
    rounds=st.integers(1, 5),
    weighted=st.booleans(),
    project=st.sampled_from([None, halved]),
    seed=st.integers(0, 2**31),
)
def test_rounds_with_fixed_centers_are_those_written_out(k, n_fixed, rounds, weighted, project, seed):
    x = torch.randint(20, (40, 2), generator=seeded(seed)).double()
    weights = torch.randint(1, 4, (40,), generator=seeded(seed)) if weighted else torch.ones(40, dtype=torch.int64)
    n_fixed = min(n_fixed, k)
    start = x[:k] + torch.rand(k, 2, generator=seeded(seed), dtype=torch.float64)
    fit = run_on(points_of(x, weights), start, max_iter=rounds, tol=0.0, project=project, n_fixed=n_fixed)
    centers = start.clone()
    for _ in range(fit.n_iter.item()):
        sqdist = (x[:, None] - centers).square().sum(dim=2)
        labels = sqdist.argmin(dim=1)
        worst = x[sqdist.min(dim=1).values.argmax()]
        before, waiting = centers.clone(), True
        for j in range(n_fixed, k):
            mine = weights * (labels == j)
            if mine.sum() > 0:
                centers[j] = (mine[:, None] * x).sum(dim=0) / mine.sum()
                if project is not None:
                    centers[j] = project(centers[j], before[j])
            elif waiting and sqdist.min(dim=1).values.max() > 0:
                centers[j], waiting = worst, False
    assert torch.equal(fit.centers[:n_fixed], start[:n_fixed])
    torch.testing.assert_close(fit.centers, centers)
