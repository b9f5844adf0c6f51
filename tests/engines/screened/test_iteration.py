import pytest
import torch
from helpers.cuda_devices import CUDA_DEVICES, cuda_device
from helpers.problems import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans.engines.plain import PlainEngine
from gpukmeans.lloyd import lloyd
from gpukmeans.points.tensor import tensor_points

pytest.importorskip("triton")


def results_of(x, weights, start, **options):
    """The centers, moments and numbers of iterations of a fit, and what its callback received, on the CPU."""
    calls = []
    points = tensor_points(x, weights, PlainEngine(), start.dtype)
    fit = lloyd(points, start, callback=lambda *state: bool(calls.append(state)), **options)
    tensors = [fit.centers, fit.n_iter, fit.converged, fit.inertia, fit.moments.sums, fit.moments.totals]
    return [tensor.cpu() for tensor in [*tensors, *(tensor for _, *state in calls for tensor in state)]]


@pytest.mark.parametrize("kind", CUDA_DEVICES)
@given(
    shape=st.sampled_from([(1, 50, 9), (3, 20, 12), (1, 30, 130)]),
    k=st.integers(1, 18),
    n_fixed=st.integers(0, 2),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    weighted=st.booleans(),
    scale=st.sampled_from([1.0, 1e-15, 1e12]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=6)
def test_the_loop_has_the_bits_of_the_cpu(kind, shape, k, n_fixed, dtype, weighted, scale, seed):
    generator = seeded(seed)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) ** 3 * scale).to(dtype)
    weights = torch.randint(1, 9, shape[:2], generator=generator) if weighted else None
    start = x[:, :k].clone()
    start[:, -1] += 5 * scale  # possibly an empty cluster
    options = {"max_iter": 4, "tol": 0.0, "n_fixed": min(n_fixed, k)}
    expected = results_of(x, weights, start, **options)
    with cuda_device(kind):
        found = results_of(x.cuda(), None if weights is None else weights.cuda(), start.cuda(), **options)
    assert len(found) == len(expected)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
