"""Points and images to cluster, and assertions that two results are equal bit by bit."""

import dataclasses

import torch

from gpukmeans.engines.plain import PlainEngine
from gpukmeans.points.tensor import tensor_points

MOMENTS = ("sums", "totals", "inertia", "worst_sqdist")
RESULTS = ("centers", "labels", "cluster_weights", "inertia", "n_iter", "converged")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def points_of(x, weights=None):
    """`Points` of one problem (N, D) or several (P, N, D), in float64 if `x` is float64, else in float32."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.ndim == 2:
        x, weights = x[None], None if weights is None else weights[None]
    return tensor_points(x, weights, PlainEngine(), dtype)


def fixed_point_of(x, weights=None):
    """The fixed-point scales of problems (P, N, D)."""
    return tensor_points(x, weights, PlainEngine(), torch.float64).fixed_point


def blobs(n=300, width=3, seed=0, dtype=torch.float32):
    generator = seeded(seed)
    means = torch.randn(5, width, generator=generator, dtype=dtype) * 10
    return means.repeat(n // 5, 1) + torch.randn(n, width, generator=generator, dtype=dtype)


BATCH = torch.stack(
    [blobs(60, seed=seed) * scale + offset for seed, scale, offset in [(1, 1, 0), (2, 1e3, 9), (3, 1, 1e4)]]
)


def problem_of(result, index):
    return dataclasses.replace(result, **{name: getattr(result, name)[index] for name in RESULTS})


def random_image(height, width, channels, levels, seed):
    return torch.randint(levels, (height, width, channels), generator=seeded(seed)).to(torch.uint8)


def assert_same_moments(moments, expected):
    for name in MOMENTS:
        assert torch.equal(getattr(moments, name), getattr(expected, name)), name


def assert_same_results(first, second):
    for name in RESULTS:
        assert torch.equal(getattr(first, name), getattr(second, name)), name
