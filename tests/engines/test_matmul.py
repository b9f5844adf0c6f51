from typing import NamedTuple

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_rounding_errors_of_a_product_that_add_up_decide_nothing(width, dtype):
    # The point is the second center. Its product with itself is 1 and many small terms, each of which is lost when it
    # is added to 1. In the product with the first center, which is a little less than 1, each of them is rounded up.
    eps = torch.finfo(dtype).eps
    for share in (0.26, 0.3, 0.45):
        x = torch.full((width,), (share * eps) ** 0.5, dtype=dtype)
        x[0] = 1
        other = x.clone()
        other[0] -= width * eps
        centers = torch.stack([other, x, -other, -x])[None]  # whose mean is 0, so that nothing is shifted
        for n in (1, 8):
            assert_equal_to_cdist(x.expand(1, n, width), centers)


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


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Points(NamedTuple):
    """The properties of points that the reason depends on, for a device that need not be present."""

    device: torch.device
    dtype: torch.dtype = torch.float32


@pytest.fixture
def settings():
    yield torch.backends
    torch.set_float32_matmul_precision("highest")  # which sets both devices to "ieee"
    for backend in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends):
        backend.fp32_precision = "none"


@pytest.mark.parametrize(
    ("precision", "on_cpu", "on_cuda"),
    [("highest", None, None), ("high", "'tf32'", "'tf32'"), ("medium", "'bf16'", "'tf32'")],
)
def test_reduced_precision_of_float32_products_is_unsupported(precision, on_cpu, on_cuda, settings, unchecked):
    torch.set_float32_matmul_precision(precision)
    for device, expected in ((CPU, on_cpu), (CUDA, on_cuda)):
        reason = MatmulEngine().unsupported_reason(Points(device))
        assert reason is None if expected is None else f"torch is set to {expected} on {device}" in reason
        assert MatmulEngine().unsupported_reason(Points(device, torch.float64)) is None
        assert MatmulEngine().unsupported_reason(Points(device, torch.int32)) is None


def test_a_setting_of_one_device_does_not_count_for_another(settings, unchecked):
    settings.cuda.matmul.fp32_precision = "tf32"
    assert MatmulEngine().unsupported_reason(Points(CPU)) is None
    assert "'tf32' on cuda" in MatmulEngine().unsupported_reason(Points(CUDA))
    settings.cuda.matmul.fp32_precision, settings.mkldnn.matmul.fp32_precision = "ieee", "bf16"
    assert "'bf16' on cpu" in MatmulEngine().unsupported_reason(Points(CPU))
    assert MatmulEngine().unsupported_reason(Points(CUDA)) is None


def test_a_setting_of_all_devices_counts_unless_that_of_the_device_is_full_precision(settings, unchecked):
    settings.fp32_precision = "tf32"
    assert "'tf32' on cpu" in MatmulEngine().unsupported_reason(Points(CPU))
    assert "'tf32' on cuda" in MatmulEngine().unsupported_reason(Points(CUDA))
    settings.mkldnn.matmul.fp32_precision = "ieee"
    assert MatmulEngine().unsupported_reason(Points(CPU)) is None


def test_torch_without_settings_of_devices_has_one_for_all(settings, monkeypatch):
    monkeypatch.delattr(type(torch.backends.mkldnn), "matmul")
    assert MatmulEngine().unsupported_reason(torch.ones(2, 2)) is None
    torch.set_float32_matmul_precision("medium")
    assert "'medium' on cpu" in MatmulEngine().unsupported_reason(torch.ones(2, 2))


def test_an_explicit_engine_raises_with_the_setting(settings):
    settings.mkldnn.matmul.fp32_precision = "bf16"
    x = torch.rand(30, 12, generator=seeded())
    with pytest.raises(ValueError, match=r"'matmul' cannot take these points: its error bound needs .* 'bf16' on cpu"):
        kmeans(x, 3, engine="matmul")


def test_autocast_does_not_round_factors():
    x, centers = torch.randn(1, 200, 16, generator=seeded()), torch.randn(1, 20, 16, generator=seeded(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal_to_cdist(x, centers)
