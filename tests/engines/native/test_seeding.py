"""Greedy k-means++ in native kernels: the centers and the random numbers of the generic loop."""

import pytest
import torch
from helpers.problems import points_of, seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukmeans import kmeans, seeding
from gpukmeans.points import tensor

KINDS = {
    "normal": lambda shape, generator: torch.randn(shape, generator=generator),
    "ties": lambda shape, generator: torch.randint(4, shape, generator=generator).float(),
    "far from the origin": lambda shape, generator: 1e5 + torch.randn(shape, generator=generator) / 8,
    "underflowing squares": lambda shape, generator: torch.randn(shape, generator=generator) * 3e-23,
    "huge": lambda shape, generator: torch.randn(shape, generator=generator) * 1e16,
    "clusters": lambda shape, generator: (
        torch.randn(shape, generator=generator) / 50 + torch.randint(6, (*shape[:2], 1), generator=generator)
    ),
}


def centers_and_next_number(points, n_clusters, seed, fixed=None):
    generator = seeded(seed)
    centers = seeding.kmeans_plus_plus(points, n_clusters, generator, fixed=fixed)
    return centers, torch.randint(1 << 40, (1,), generator=generator)


def assert_same_as_generic(points, n_clusters, seed, fixed=None):
    found = centers_and_next_number(points, n_clusters, seed, fixed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeding, "natively_extended", lambda *args: None)
        expected = centers_and_next_number(points, n_clusters, seed, fixed)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("each_library")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.sampled_from([1, 2, 3, 8, 9, 31, 33]),
    n=st.sampled_from([1, 5, 255, 256, 257, 700]),
    n_clusters=st.integers(2, 40),
    kind=st.sampled_from(list(KINDS)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    weighted=st.booleans(),
    n_fixed=st.integers(0, 3),
    seed=st.integers(0, 2**31),
)
def test_centers_and_random_numbers_are_those_of_the_generic_loop(
    width, n, n_clusters, kind, dtype, weighted, n_fixed, seed
):
    generator = seeded(seed)
    x = KINDS[kind]((2, n, width), generator).to(dtype)
    weights = None
    if weighted:
        weights = torch.randint(3, (2, n), generator=generator) / 3
        weights[:, 0] = 1  # not all of them 0
    fixed = x[:, :1].expand(-1, n_fixed, -1) + 0.5 if n_fixed else None
    assert_same_as_generic(points_of(x, weights), min(n_clusters, n), seed, fixed)


def test_kernels_are_used_for_plain_points(monkeypatch):
    calls = []
    extended = tensor.extended
    monkeypatch.setattr(tensor, "extended", lambda *args: calls.append(1) or extended(*args))
    kmeans(torch.randn(200, 5, generator=seeded()), 8, init="k-means++", max_iter=1)
    assert calls


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8, torch.int64])
def test_points_that_are_converted_take_the_generic_loop(dtype, monkeypatch):
    monkeypatch.setattr(tensor, "extended", None)
    points = points_of((torch.rand(200, 5, generator=seeded()) * 100).to(dtype))
    assert seeding.kmeans_plus_plus(points, 8, seeded()).shape == (1, 8, 5)
