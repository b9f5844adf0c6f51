import pytest
import torch
from helpers.problems import seeded
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans import assign, kmeans
from gpukmeans.engines.matmul import MatmulEngine, nearest_by_product
from gpukmeans.engines.plain import PlainEngine, nearest_by_cdist


def assert_equal_to_cdist(x, centers):
    for found, expected in zip(nearest_by_product(x, centers), nearest_by_cdist(x, centers), strict=True):
        assert torch.equal(found, expected)


@given(
    n=st.integers(1, 40),
    k=st.integers(1, 12),
    width=st.integers(1, 40),
    levels=st.integers(1, 4),
    offset=st.sampled_from([0.0, 1e4, -1e6]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_every_bit_is_that_of_the_plain_engine(n, k, width, levels, offset, dtype, seed):
    # Few levels, so that points tie with several centers.
    generator = seeded(seed)
    x = (torch.randint(levels, (2, n, width), generator=generator) / 3 + offset).to(dtype)
    centers = (torch.randint(levels, (2, k, width), generator=generator) / 3 + offset).to(dtype)
    assert_equal_to_cdist(x, centers)


@given(st.integers(9, 60), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 2**31))
def test_ties_are_decided_by_the_written_distance(width, dtype, seed):
    # Equally far in exact arithmetic; in another order of the channels not equally far in floating point.
    generator = seeded(seed)
    offset = torch.randn(width, generator=generator, dtype=dtype)
    centers = torch.stack([offset[torch.randperm(width, generator=generator)] for _ in range(12)])[None]
    assert_equal_to_cdist(torch.randn(1, 9, width, generator=generator, dtype=dtype) * 1e-3, centers)


@pytest.mark.parametrize("outlier", [1e3, 1e8, 1e15])
def test_a_far_outlier_changes_no_bit(outlier):
    x, centers = torch.randn(1, 500, 16, generator=seeded()), torch.randn(1, 30, 16, generator=seeded(1))
    centers[0, 7] = outlier
    assert_equal_to_cdist(x, centers)


def test_the_product_alone_decides_nearly_all_points(monkeypatch):
    def fail(*args):
        raise AssertionError("cdist was called")

    decided = []
    monkeypatch.setattr("gpukmeans.engines.matmul.nearest_by_cdist", fail)
    monkeypatch.setattr(
        "gpukmeans.engines.plain._nearest_candidate",
        lambda x, centers, first, mask: decided.append(len(x)) or mask.int().argmax(1),
    )
    nearest_by_product(torch.randn(1, 2000, 32, generator=seeded()), torch.randn(1, 100, 32, generator=seeded(1)))
    assert sum(decided) < 10


@pytest.mark.parametrize("width", [9, 64])
def test_a_clustering_has_the_bits_of_the_plain_engine(width):
    x = torch.randn(2, 400, width, generator=seeded()) + 100
    weights = torch.rand(2, 400, generator=seeded())
    results = [kmeans(x, 11, weights=weights, n_init=2, engine=engine) for engine in ("matmul", "plain")]
    for name in ("centers", "labels", "cluster_weights", "inertia", "n_iter"):
        assert torch.equal(*(getattr(result, name) for result in results)), name


@pytest.mark.parametrize("tile", [1, 50, 1000])
def test_no_bit_depends_on_the_size_of_the_tile(tile):
    x, centers = torch.randn(70, 12, generator=seeded()), torch.randn(9, 12, generator=seeded(1))
    found, expected = (assign(x, centers, engine=engine) for engine in (MatmulEngine(tile), PlainEngine()))
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.sqdist, expected.sqdist)


def test_reduced_matmul_precision_is_unsupported():
    x = torch.rand(4, 9)
    assert MatmulEngine().unsupported_reason(x) is None
    torch.set_float32_matmul_precision("medium")
    try:
        assert "set_float32_matmul_precision('highest')" in MatmulEngine().unsupported_reason(x)
        assert kmeans(x, 2).converged  # by the plain engine
    finally:
        torch.set_float32_matmul_precision("highest")


def test_autocast_does_not_round_factors():
    x, centers = torch.randn(1, 200, 16, generator=seeded()), torch.randn(1, 20, 16, generator=seeded(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal_to_cdist(x, centers)
