import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_points import points_of, seeded

from gpukmeans.lloyd import lloyd, next_centers


def run(x, centers, weights=None, *, max_iter=100, tol=0.0):
    return lloyd(points_of(x, weights), centers, max_iter=max_iter, tol=tol)


def measured(points, centers):
    return points.measure(centers, points.farthest(centers))


def test_a_toy_by_hand():
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    fit = run(x, torch.tensor([[0.0], [1.0]]))
    # Round 1: {0} {1, 10, 12} -> 0, 7.67. Round 2: {0, 1} {10, 12} -> 0.5, 11. Round 3 moves nothing.
    assert fit.centers.tolist() == [[0.5], [11]]
    assert (fit.n_iter, fit.converged) == (3, True)
    assert fit.moments.weighted_sqdist() == 0.5 + 2


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
    expected, _, inertia = oracle.lloyd(x.tolist(), weights.tolist(), centers.tolist(), fit.n_iter)
    if (fit.moments.totals > 0).all():  # else only rounding says whether there is a point worth moving to
        torch.testing.assert_close(fit.centers, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    reached = fit.moments.weighted_sqdist()
    assert reached == pytest.approx(inertia, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("max_iter", "tol"), [(1, 0.0), (3, 0.0), (100, 0.5), (100, 1e-4), (1000, 0.0)])
def test_moments_are_measured_at_the_centers_returned_however_the_loop_ended(max_iter, tol, china):
    points = points_of(china.reshape(-1, 3)[::200])
    fit = lloyd(points, points.draw(9, seeded()), max_iter=max_iter, tol=tol)
    again = measured(points, fit.centers)
    assert torch.equal(again.sums, fit.moments.sums)
    assert again.weighted_sqdist() == pytest.approx(fit.moments.weighted_sqdist(), rel=1e-12)
    assert fit.n_iter <= max_iter
    assert fit.converged == (max_iter in (100, 1000))


def test_more_rounds_are_never_worse(china):
    points = points_of(china.reshape(-1, 3)[::200])
    start = points.draw(9, seeded())
    inertia = [lloyd(points, start, max_iter=n, tol=0.0).moments.weighted_sqdist() for n in range(1, 15)]
    assert inertia == sorted(inertia, reverse=True)
    assert inertia[0] > inertia[-1]


def test_a_larger_tolerance_stops_sooner(china):
    points = points_of(china.reshape(-1, 3)[::200])
    start = points.draw(9, seeded())
    rounds = [lloyd(points, start, max_iter=1000, tol=tol).n_iter for tol in (0.1, 1e-3, 0.0)]
    assert rounds == sorted(set(rounds))


def test_found_centers_are_a_fixed_point(china):
    points = points_of(china.reshape(-1, 3)[::200])
    found = lloyd(points, points.draw(9, seeded()), max_iter=1000, tol=0.0)
    again = lloyd(points, found.centers, max_iter=1000, tol=0.0)
    assert torch.equal(again.centers, found.centers)
    assert again.n_iter == 1


def test_an_empty_cluster_moves_to_the_worst_served_point():
    x = torch.tensor([[0.0], [2.0], [100.0]])
    centers = torch.tensor([[1.0], [-500.0]])
    assert next_centers(centers, measured(points_of(x), centers)).tolist() == [[34], [100]]


def test_of_equally_badly_served_points_the_lowest_row_is_taken():
    x = torch.tensor([[-5.0], [5.0], [-5.0]])
    centers = torch.tensor([[0.0], [900.0]])
    assert next_centers(centers, measured(points_of(x), centers))[1].item() == -5


def test_one_empty_cluster_moves_a_round_and_the_others_wait():
    x = torch.tensor([[0.0], [10.0], [30.0]])
    centers = torch.tensor([[10.0], [-500.0], [-600.0]])
    assert next_centers(centers, measured(points_of(x), centers))[1:].tolist() == [[30], [-600]]


def test_the_loop_does_not_converge_while_a_cluster_is_empty_and_a_point_is_off_its_center():
    # A tolerance of 1 would stop after the first round.
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    fit = run(x, torch.tensor([[1.5], [-100.0], [-200.0], [-300.0]]), tol=1.0)
    assert fit.n_iter == 3
    assert (fit.moments.totals > 0).all()
    assert fit.converged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e4 / 3, -1e-20])
def test_equal_points_need_one_center_and_the_loop_ends(dtype, value):
    x = torch.full((1000, 2), value, dtype=dtype)
    fit = run(x, torch.stack([x[0], x[0] + 1]), max_iter=50)
    assert fit.converged
    assert fit.n_iter <= 3
    assert torch.equal(fit.centers[0], x[0])
    assert fit.moments.totals.tolist() == [1000, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_distinct_points_than_centers_end_the_loop_though_means_are_rounded(dtype):
    # 1e-20 is less than a step of the grid for a spread of 1, and 0.1 is no multiple of one.
    x = torch.tensor([[0.0], [1e-20], [0.1], [1 / 3], [1.0]], dtype=dtype).repeat(200, 1)
    fit = run(x, torch.linspace(0, 1, 9, dtype=dtype)[:, None], max_iter=100)
    assert fit.converged
    assert fit.n_iter < 20
    assert fit.moments.weighted_sqdist() < 1e-24


def test_a_far_outlier_does_not_hide_the_distances_of_the_others():
    x = torch.cat(
        [torch.rand(1000, 1, generator=seeded()), 10 + torch.rand(1000, 1, generator=seeded()), torch.tensor([[1e10]])]
    )
    fit = run(x, torch.tensor([[0.0], [1.0], [1e10]]))
    assert fit.moments.totals.tolist() == [1000, 1000, 1]
    spread = x[:1000].double().var(unbiased=False).item() + x[1000:2000].double().var(unbiased=False).item()
    assert fit.moments.weighted_sqdist() == pytest.approx(1000 * spread, rel=1e-5)


def test_first_centers_far_outside_do_not_coarsen_what_follows():
    x = torch.rand(500, 2, generator=seeded())
    fit = run(x, torch.tensor([[1e12, 0.0], [0.0, -1e12], [0.5, 0.5]]))
    assert (fit.moments.totals > 0).all()
    sqdist = points_of(x).sqdist(fit.centers)
    assert fit.moments.weighted_sqdist() == pytest.approx(sqdist.double().sum().item(), rel=1e-12)


def test_first_centers_are_left_as_they_were():
    centers = torch.tensor([[0.0], [50.0], [60.0]])
    run(torch.tensor([[0.0], [1.0], [10.0]]), centers)
    assert centers.tolist() == [[0], [50], [60]]
