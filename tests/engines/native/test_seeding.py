"""Greedy k-means++ in native kernels: the centers and the random numbers of the generic loop."""

import pytest
import torch
from helpers.problems import points_of, seeded
from helpers.threads import threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukmeans import kmeans, seeding
from gpukmeans.engines.native import seeding as native_seeding
from gpukmeans.points import tensor
from gpukmeans.points.base import SampleBy

KINDS = {
    "normal": lambda shape, generator: torch.randn(shape, generator=generator),
    "ties": lambda shape, generator: torch.randint(4, shape, generator=generator).float(),
    "far from the origin": lambda shape, generator: 1e5 + torch.randn(shape, generator=generator) / 8,
    "underflowing squares": lambda shape, generator: torch.randn(shape, generator=generator) * 3e-23,
    "huge": lambda shape, generator: torch.randn(shape, generator=generator) * 1e16,
    "flat": lambda shape, generator: torch.randn(shape, generator=generator) * torch.eye(shape[2])[0],
    # Points halfway between others up to a few units in the last place.
    "halfway": lambda shape, generator: (
        (torch.randint(3, shape, generator=generator) / 3)
        * (1 + torch.randint(-3, 4, shape, generator=generator) * 2.0**-23)
    ),
    "clusters": lambda shape, generator: (
        torch.randn(shape, generator=generator) / 50 + torch.randint(6, (*shape[:2], 1), generator=generator)
    ),
}


def steps_of(points, n_clusters, seed, fixed, *, native):
    """The totals of w·d² before each step, the centers, and the next random number. None without native kernels."""
    generator, totals = seeded(seed), list[int]()
    totals_of_runs = list[torch.Tensor]()
    extended, sampler = tensor.extended, tensor.TensorNearest.sampler
    found = []

    def natively_extended(*args):
        draw = args[-1]
        found.append(extended(*args[:-1], draw=lambda step, total: totals.append(total) or draw(step, total)))
        return found[-1]

    def recorded_sampler(nearest, by, scale):
        sampled = sampler(nearest, by, scale)
        if by is SampleBy.D2:
            totals_of_runs.append(sampled.totals[:, 0])
        return sampled

    with pytest.MonkeyPatch.context() as patch:
        if native:
            patch.setattr(tensor, "extended", natively_extended)
        else:
            patch.setattr(seeding, "extended_by_kernels", lambda *args: None)
            patch.setattr(tensor.TensorNearest, "sampler", recorded_sampler)
        centers = seeding.kmeans_plus_plus(points, n_clusters, generator, fixed=fixed)
    next_number = torch.randint(1 << 40, (1,), generator=generator)
    if native:
        is_complete = found and all(each is not None for each in found)
        return torch.tensor(totals).view(len(centers), -1).T if is_complete else None, centers, next_number
    return torch.stack(totals_of_runs) if totals_of_runs else None, centers, next_number


def assert_same_as_generic(points, n_clusters, seed, fixed=None):
    totals, *found = steps_of(points, n_clusters, seed, fixed, native=True)
    expected_totals, *expected = steps_of(points, n_clusters, seed, fixed, native=False)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    if totals is not None:  # else kernels have left the rest to the generic loop
        assert expected_totals is not None
        assert torch.equal(totals, expected_totals)


@pytest.mark.usefixtures("each_library")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.sampled_from([1, 2, 3, 8, 9, 31, 33]),
    n=st.sampled_from([1, 5, 63, 255, 256, 257, 700, 1025]),
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


@pytest.mark.usefixtures("each_library")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("middle", [0, 3])
def test_a_box_at_the_distance_that_excludes_it_is_compared(middle, width, dtype):
    # The first box is a point halfway between a center and others, up to few units in the last place. Most of its
    # copies have no weight, so that the others are chosen before it.
    generator = seeded(width)
    ends = torch.randint(-2, 3, (50, 20, width), generator=generator).to(dtype) * torch.finfo(dtype).eps
    ends = middle + (1.42 + ends) * torch.tensor([-1, 1], dtype=dtype).repeat(10)[:, None]
    x = torch.cat([torch.full((50, 64, width), middle, dtype=dtype), ends], dim=1)
    weights = torch.tensor([1.0] * 4 + [0.0] * 60 + [1.0] * 20).expand(50, -1)
    assert_same_as_generic(points_of(x, weights), 3, 0, fixed=ends[:, :1])


@pytest.mark.parametrize("weighted", [False, True])
def test_many_boxes_have_the_centers_of_the_generic_loop(weighted):
    x = KINDS["clusters"]((1, 40_000, 3), seeded())
    weights = torch.randint(5, (1, 40_000), generator=seeded(1)) if weighted else None
    assert_same_as_generic(points_of(x, weights), 30, 0)


@pytest.mark.parametrize(("n", "width"), [(40_000, 3), (3000, 9)])
def test_threads_change_no_bit(n, width, monkeypatch):
    monkeypatch.setattr(native_seeding, "_CHUNK_PRODUCTS", 1)
    points = points_of(KINDS["clusters"]((1, n, width), seeded()))
    one = steps_of(points, 30, 0, None, native=True)
    with threads(3):
        several = steps_of(points, 30, 0, None, native=True)
    for a, b in zip(one, several, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


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
