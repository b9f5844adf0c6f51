import pytest
import torch
from helpers.problems import points_of, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans import kmeans
from gpukmeans import lloyd as module
from gpukmeans.engines.native import iteration
from gpukmeans.lloyd import lloyd, measure_at, next_centers


def results_of(points, start, **options):
    """The centers, moments and numbers of iterations of a fit, and what its callback received."""
    calls = []
    fit = lloyd(points, start, callback=lambda *state: bool(calls.append(state)), **options)
    tensors = [fit.centers, fit.n_iter, fit.converged, fit.inertia, fit.moments.sums, fit.moments.totals]
    return [*tensors, *(tensor for _, *state in calls for tensor in state)]


@given(
    shape=st.sampled_from([(1, 50, 1), (3, 40, 3), (2, 30, 9), (1, 60, 70)]),
    k=st.integers(1, 12),
    n_fixed=st.integers(0, 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    weighted=st.booleans(),
    tol=st.sampled_from([0.0, 1e-2]),
    scale=st.sampled_from([1.0, 1e-15, 1e12]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40)
def test_the_loop_has_the_bits_of_the_operations_of_torch(shape, k, n_fixed, dtype, weighted, tol, scale, seed):
    generator = seeded(seed)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) ** 3 * scale).to(dtype)
    weights = torch.randint(1, 9, shape[:2], generator=generator) if weighted else None
    start = x[:, :k].clone()
    start[:, -1] += 5 * scale  # possibly an empty cluster
    options = {"max_iter": 12, "tol": tol, "n_fixed": min(n_fixed, k)}
    native = results_of(points_of(x, weights), start, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iteration, "unavailable_reason", lambda: "it is turned off")
        expected = results_of(points_of(x, weights), start, **options)
    assert len(native) == len(expected)
    assert all(torch.equal(*pair) for pair in zip(native, expected, strict=True))


def test_centers_move_to_means_in_one_call():
    x = torch.rand(2, 100, 3, generator=seeded())
    points, centers = points_of(x), x[:, :5].clone()
    moments = measure_at(points, centers)
    going, n_iter, unresolved = torch.tensor([True, False]), torch.tensor([4, 7]), torch.tensor([False, False])
    moved = iteration.move(centers, moments, going, n_iter, unresolved, n_fixed=1, total_weight=points.total_weight)
    assert torch.equal(moved.target[0], next_centers(centers, moments, n_fixed=1)[0])
    assert torch.equal(moved.target[1], centers[1])
    assert torch.equal(moved.target[0, 0], centers[0, 0])
    assert (moved.going.tolist(), moved.n_iter.tolist()) == ([True, False], [5, 7])
    assert moved.sqshift[1] == 0 < moved.sqshift[0]
    assert torch.equal(moved.scale, points.sqdist_scale(moved.bound))


def test_a_run_that_misses_a_cluster_is_not_moved_here():
    x = torch.tensor([[0.0], [1.0]])
    points, centers = points_of(x), torch.tensor([[[0.0], [9.0]]])
    state = centers, measure_at(points, centers), torch.tensor([True]), torch.tensor([0]), torch.tensor([False])
    assert iteration.move(*state, n_fixed=0, total_weight=points.total_weight) is None


def test_the_loop_uses_the_native_steps(monkeypatch):
    calls = []
    for name in ("move", "decide"):
        step = getattr(iteration, name)
        monkeypatch.setattr(iteration, name, lambda *a, _s=step, _n=name, **o: calls.append(_n) or _s(*a, **o))
    x = torch.rand(200, 2, generator=seeded())
    result = kmeans(x, 5, init=x[:5], max_iter=3, tol=0)
    assert module.native_steps is iteration
    assert calls == ["move", "decide"] * int(result.n_iter)
