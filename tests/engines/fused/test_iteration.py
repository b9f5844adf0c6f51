import math

import pytest
import torch
from helpers.problems import points_of, seeded

from gpukmeans import lloyd as module
from gpukmeans.engines.fused import iteration
from gpukmeans.lloyd import lloyd, measure_at

pytest.importorskip("triton")


def fit_of(x, weights, start, window, **options):
    fit = lloyd(points_of(x, weights), start, window=window, **options)
    tensors = [fit.centers, fit.n_iter, fit.converged, fit.inertia, fit.moments.sums, fit.moments.totals]
    return [tensor.cpu() for tensor in tensors]


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e12])
@pytest.mark.parametrize("n_fixed", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loop_has_the_bits_of_the_operations_of_torch(cuda, monkeypatch, scale, n_fixed, dtype):
    generator = seeded(5)
    x = (torch.randn(3, 40, 3, generator=generator, dtype=torch.float64) ** 3 * scale).to(dtype)
    weights = torch.randint(1, 9, (3, 40), generator=generator)
    start = x[:, :6].clone()
    start[:, -1] += 50 * scale  # an empty cluster
    on_device = [tensor.to(cuda) for tensor in (x, weights, start)]
    options = {"max_iter": 9, "tol": 1e-3, "n_fixed": n_fixed}
    found = fit_of(*on_device, 4, **options)
    monkeypatch.setattr(iteration, "has_kernels", lambda tensor: False)
    expected = fit_of(*on_device, 4, **options)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_a_run_with_an_empty_cluster_is_unresolved_and_ended_runs_do_not_move(cuda):
    x = torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]], [[0.0], [1.0]]], device=cuda)
    centers = torch.tensor([[[0.0], [9.0]], [[0.0], [0.9]], [[0.0], [0.9]]], device=cuda)
    points = points_of(x)
    moments = measure_at(points, centers)
    going, none = torch.tensor([True, True, False], device=cuda), torch.zeros(3, dtype=torch.bool, device=cuda)
    n_iter = torch.tensor([4, 5, 6], device=cuda)
    state = centers, moments, going, n_iter, none
    moved = iteration.move(*state, n_fixed=0, total_weight=points.total_weight)
    assert moved.unresolved.tolist() == [True, False, False]
    assert moved.n_iter.tolist() == [5, 6, 6]
    assert moved.going.tolist() == [True, True, False]
    assert moved.target[2].tolist() == centers[2].tolist()
    assert moved.target[1].tolist() == [[0], [1]]
    assert torch.equal(moved.scale.cpu(), points.sqdist_scale(moved.bound).cpu())


def test_other_devices_have_no_kernels():
    x = torch.rand(1, 9, 2)
    points = points_of(x)
    assert iteration.bound_and_scale(x[:, :3], points.fixed_point, points.total_weight) is None
    assert module.measure_at(points, x[:, :3]).weighted_sqdist() < math.inf
