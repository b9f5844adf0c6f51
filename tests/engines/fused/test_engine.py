import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from helpers.problems import seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans import assign, kmeans
from gpukmeans.engines.fused.engine import TritonEngine
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.points.tensor import tensor_points

pytest.importorskip("triton")

# With a GPU kernels are compiled, without one they are interpreted.
CUDA = torch.cuda.is_available()
GPU = [pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="there is no CUDA device")]
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(CUDA, reason="kernels are compiled, not interpreted")),
    pytest.param("cuda", marks=GPU),
]
NEVER = 1 << 30


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


def engine_on(device, **options):
    """An engine with few programs, so that each has several blocks."""
    return TritonEngine(**({"device": device, "programs": 3, "sorts_from": 1, "sorts_at": 1} | options))


def as_dict(nearest):
    return {"labels": nearest.labels, "sqdist": nearest.sqdist}


def passes(engine, device, x, centers, weights, problems):
    """Results of `assign`, `measure` and again `assign`, on the CPU."""
    points = tensor_points(x.to(device), None if weights is None else weights.to(device), engine, centers.dtype)
    points, centers = points.select(torch.tensor(problems)), centers.to(device)
    before, moments = points.assign(centers), points.measure(centers, points.sqdist_bound(centers))
    found = {f"{name} before": value for name, value in as_dict(before).items()}
    found |= {field.name: getattr(moments, field.name) for field in fields(moments) if field.name != "fixed_point"}
    found |= as_dict(points.assign(centers))
    return {name: value.cpu() for name, value in found.items()}


def assert_same(device, x, centers, weights=None, problems=None, **options):
    """Every bit of all passes is that of the plain engine."""
    problems = list(range(len(x))) if problems is None else problems
    found = passes(engine_on(device, **options), device, x, centers, weights, problems)
    for name, expected in passes(PlainEngine(), "cpu", x, centers, weights, problems).items():
        assert found[name].dtype == expected.dtype, name
        assert torch.equal(found[name], expected), name


def cloud(*shape, seed=0, dtype=torch.float32):
    return (torch.rand(*shape, generator=seeded(seed), dtype=torch.float64) * 200).to(dtype)


class TestSizes:
    # Blocks are of 128 points for totals and of 256 for labels.
    @pytest.mark.parametrize("n", [1, 2, 127, 128, 129, 255, 256, 257, 301, 1025])
    def test_any_number_of_points_gives_the_moments_of_the_plain_engine(self, device, n):
        assert_same(device, cloud(1, n, 3), cloud(1, 3, 3, seed=1), cloud(1, n, seed=2))

    # Tiles are of 64 centers, and the totals of up to 16 are added on chip.
    @pytest.mark.parametrize(
        ("k", "sorts_from"),
        [*((k, 1) for k in (1, 16, 17, 18, 64, 65, 130)), *((k, NEVER) for k in (16, 17, 65))],
    )
    def test_any_number_of_centers_gives_the_moments_of_the_plain_engine(self, device, k, sorts_from):
        assert_same(device, cloud(1, 60, 3), cloud(1, k, 3, seed=1), sorts_from=sorts_from)

    @pytest.mark.parametrize("n", [1, 7, 100])
    def test_there_may_be_as_many_centers_as_points(self, device, n):
        x = cloud(1, n, 3)
        assert_same(device, x, x.clone())

    def test_more_than_a_thousand_centers_give_the_moments_of_the_plain_engine(self, device):
        # Six clusters, so that most of the centers are in no candidate list.
        means = torch.tensor([[1.0], [5e3], [9e4], [3e5], [7e5], [9e6]])
        x = means[torch.arange(300) % 6].expand(300, 2) + cloud(300, 2) / 200
        centers = torch.cat([means.expand(6, 2), cloud(1100, 2, seed=1) * -1e6])
        assert_same(device, x[None], centers[None])

    @pytest.mark.parametrize(
        ("width", "dtype"),
        [*((width, torch.float32) for width in range(1, 9)), *((width, torch.float64) for width in (1, 3, 8))],
    )
    def test_points_of_every_width_give_the_moments_of_the_plain_engine(self, device, width, dtype):
        x, centers = cloud(1, 150, width, dtype=dtype), cloud(1, 5, width, seed=1, dtype=dtype)
        assert_same(device, x, centers, cloud(1, 150, seed=2))


class TestTies:
    @pytest.mark.parametrize("sorts_from", [1, NEVER])
    def test_points_of_a_lattice_go_to_the_centers_that_the_plain_engine_chooses(self, device, sorts_from):
        x = torch.cartesian_prod(*[torch.arange(7.0)] * 3)
        centers = torch.cartesian_prod(*[torch.arange(1.0, 7.0, 2.0)] * 3)
        assert_same(device, x[None], centers.flip(0)[None], sorts_from=sorts_from)

    @pytest.mark.parametrize("k", [3, 70])
    def test_of_equal_centers_the_lowest_index_has_all_points(self, device, k):
        x = cloud(1, 140, 3)
        engine = engine_on(device)
        found = engine.bind(x.to(device), None).assign(torch.ones(1, k, 3, device=device), [0])
        assert not found.labels.any()
        assert_same(device, x, torch.ones(1, k, 3))


class TestWeights:
    @pytest.mark.parametrize("kind", ["integers", "floats", "doubles", "mostly zero", "one"])
    @pytest.mark.parametrize("k", [4, 24])
    def test_weights_of_every_kind_give_the_moments_of_the_plain_engine(self, device, kind, k):
        weights = torch.randint(0, 3, (1, 301), generator=seeded(3))
        if kind == "floats":
            weights = weights * torch.rand(1, 301, generator=seeded(4))
        elif kind == "doubles":
            weights = torch.rand(1, 301, generator=seeded(4), dtype=torch.float64) * 1e-9
        elif kind == "mostly zero":
            weights[:, 20:] = 0
        elif kind == "one":
            weights = torch.zeros(1, 301)
            weights[0, 290] = 0.3
        # For 24 centers and unsorted points all totals are added point by point.
        assert_same(device, cloud(1, 301, 3), cloud(1, k, 3, seed=1), weights, sorts_from=NEVER if k == 24 else 1)

    def test_the_farthest_point_has_weight_0(self, device):
        x, weights = cloud(1, 301, 3), torch.ones(1, 301)
        x[0, 7], weights[0, 7] = 1e6, 0
        for sorts_from in (1, NEVER):
            assert_same(device, x, cloud(1, 4, 3, seed=1), weights, sorts_from=sorts_from)


class TestPoints:
    SMALL = (torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float32)
    LARGE = (*SMALL, torch.int32, torch.int64, torch.float64)

    @pytest.mark.parametrize("dtype", SMALL)
    def test_points_of_every_dtype_are_measured_at_float32_centers(self, device, dtype):
        assert_same(device, cloud(1, 201, 3, dtype=dtype), cloud(1, 9, 3, seed=1))

    @pytest.mark.parametrize("dtype", LARGE)
    def test_points_of_every_dtype_are_measured_at_float64_centers(self, device, dtype):
        assert_same(device, cloud(1, 201, 3, dtype=dtype), cloud(1, 9, 3, seed=1, dtype=torch.float64))

    @pytest.mark.parametrize("offset", [1e4, -1e6])
    @pytest.mark.parametrize("sorts_from", [1, NEVER])
    def test_points_far_from_the_origin_give_the_moments_of_the_plain_engine(self, device, offset, sorts_from):
        x, centers = torch.randn(1, 301, 3, generator=seeded()), torch.randn(1, 40, 3, generator=seeded(1))
        assert_same(device, x + offset, centers + offset, sorts_from=sorts_from)

    @pytest.mark.parametrize("sorts_from", [1, NEVER])
    def test_points_of_any_strides_give_the_moments_of_the_plain_engine(self, device, sorts_from):
        base = cloud(4, 310, 7)
        views = {
            "every second": base[:2, :301, :6:2],
            "channel-major": base[:2, :6, :300].mT,
            "other problems": base.transpose(0, 1)[:2, :, :3],
            "one point everywhere": base[:2, :1, :3].expand(2, 301, 3),
            "one problem everywhere": base[:1, :301, :3].expand(2, 301, 3),
        }
        for x in views.values():
            weights = cloud(2 * x.shape[1], 2, seed=2)[::2].mT
            assert_same(device, x, cloud(2, 3, x.shape[2], seed=1), weights, sorts_from=sorts_from)

    def test_terms_that_need_float64(self, device):
        # Terms around 2**51, where a float64 still has halves.
        x = torch.tensor([[[0.0], [1.0], [1.5], [2.0**52 + 1], [2.0**51 - 0.5]]], dtype=torch.float64) / 2**9
        assert_same(device, x, x[:, :1].clone(), torch.tensor([[1.0, 3.0, 0.7, 1e-3, 0.9]]))


class TestProblems:
    @pytest.mark.parametrize("problems", [[0], [1, 0], [2, 2, 0, 2], [2, 1, 0]])
    def test_runs_may_be_over_any_problems(self, device, problems):
        x = cloud(3, 140, 3) * torch.tensor([1.0, 0.1, 3.0])[:, None, None]
        assert_same(device, x, cloud(len(problems), 5, 3, seed=1), cloud(3, 140, seed=2), problems)

    def test_the_next_call_may_have_other_problems(self, device):
        x, centers = cloud(2, 50, 3).to(device), cloud(2, 5, 3, seed=1).to(device)
        bound = engine_on(device).bind(x, None)
        forth, back = bound.assign(centers, [0, 1]), bound.assign(centers.flip(0), [1, 0])
        assert torch.equal(forth.labels, back.labels.flip(0))

    def test_there_may_be_more_runs_than_programs(self, device):
        assert_same(device, cloud(7, 9, 2), cloud(7, 3, 2, seed=1), cloud(7, 9, seed=2))


@given(
    # Blocks are of 64 points or more, tiles of 32 centers, and the totals of up to 16 are added on chip.
    n=st.sampled_from([1, 5, 64, 65, 129]),
    k=st.integers(1, 34),
    width=st.integers(1, 8),
    levels=st.integers(1, 6),
    offset=st.sampled_from([0.0, 1e4, -1e6]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    weighted=st.booleans(),
    sorts_from=st.sampled_from([1, NEVER]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=10)
def test_every_bit_is_that_of_the_plain_engine(device, n, k, width, levels, offset, dtype, weighted, sorts_from, seed):
    # Few levels, so that points tie with several centers.
    generator = seeded(seed)
    x = (torch.randint(levels, (1, n, width), generator=generator) / 3 + offset).to(dtype)
    centers = (torch.randint(levels, (1, k, width), generator=generator) / 3 + offset).to(dtype)
    weights = torch.randint(3, (1, n), generator=generator) / 7 if weighted else None
    if weighted:
        weights[0, 0] = 1
    assert_same(device, x, centers, weights, sorts_from=sorts_from)


@pytest.mark.parametrize("n_clusters", [5, 36])
def test_a_clustering_has_the_bits_of_the_plain_engine(device, n_clusters):
    x, weights = cloud(2, 100, 3, dtype=torch.uint8), torch.randint(1, 4, (2, 100), generator=seeded(1))
    engine = TritonEngine(device=device)
    init = x[:, :n_clusters]
    plain = kmeans(x, n_clusters, weights=weights, init=init, max_iter=2, engine="plain")
    fused = kmeans(x.to(device), n_clusters, weights=weights.to(device), init=init, max_iter=2, engine=engine)
    for field in fields(plain):
        assert torch.equal(getattr(fused, field.name).cpu(), getattr(plain, field.name)), field.name


def test_assign_has_the_bits_of_the_plain_engine(device):
    x, centers = cloud(100, 3), cloud(6, 3, seed=1)
    found = assign(x.to(device), centers.to(device), engine=TritonEngine(device=device))
    for value, expected in zip(found, assign(x, centers, engine="plain"), strict=True):
        assert torch.equal(value.cpu(), expected)


class TestOnTheGpu:
    """Races: enough programs that thousands run at a time."""

    pytestmark = GPU

    @pytest.mark.parametrize("sorts_from", [1, NEVER])
    @pytest.mark.parametrize("k", [3, 256, 2000])
    def test_twenty_passes_have_the_same_bits(self, sorts_from, k):
        x, centers, weights = cloud(1, 200_001, 3), cloud(1, k, 3, seed=1), cloud(1, 200_001, seed=2)
        points = tensor_points(x.cuda(), weights.cuda(), TritonEngine(sorts_from=sorts_from), torch.float32)
        on_gpu = centers.cuda()
        expected = passes(PlainEngine(), "cpu", x, centers, weights, [0])
        for _ in range(20):
            moments, found = points.measure(on_gpu, points.sqdist_bound(on_gpu)), points.assign(on_gpu)
            for name, value in expected.items():
                if "before" not in name:
                    assert torch.equal(getattr(found if hasattr(found, name) else moments, name).cpu(), value), name

    def test_measure_does_not_wait_for_the_device(self):
        x, centers = cloud(1, 5000, 3).cuda(), cloud(1, 40, 3, seed=1).cuda()
        points = tensor_points(x, None, TritonEngine(), torch.float32)
        fixed_point = points.fixed_point
        bound = TritonEngine().bind(x, None)
        bound.measure(centers, fixed_point, [0])
        torch.cuda.set_sync_debug_mode("error")
        try:
            moments = bound.measure(centers, fixed_point, [0])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert moments.totals.sum() == 5000


class TestUnsupportedReason:
    def test_points_on_another_device_are_refused(self):
        assert "for cuda, and these points are on cpu" in TritonEngine().unsupported_reason(torch.rand(3, 2))
        with pytest.raises(ValueError, match="engine 'triton' cannot take these points: its kernels are for cuda"):
            kmeans(torch.rand(9, 2), 2, engine="triton")

    def test_points_of_more_than_8_coordinates_are_refused(self):
        assert TritonEngine(device="cpu").unsupported_reason(torch.rand(3, 8)) is None
        assert "up to 8 coordinates, got 9" in TritonEngine(device="cpu").unsupported_reason(torch.rand(3, 9))


CHECK_IMPORTS = """
import sys, torch
from gpukmeans import ENGINES, kmeans
x = torch.rand(50, 3)
ENGINES["triton"].unsupported_reason(x)
kmeans(x, 3)
assert "triton" not in sys.modules
from gpukmeans.engines.fused.engine import TritonEngine
kmeans(x, 3, max_iter=1, engine=TritonEngine(device="cpu"))
assert "triton" in sys.modules
assert not {"torch._dynamo", "torch._inductor"} & set(sys.modules)
"""


@pytest.mark.skipif(CUDA, reason="kernels are compiled, not interpreted")
def test_triton_is_imported_by_its_first_pass_and_the_compiler_of_torch_never():
    run = subprocess.run([sys.executable, "-c", CHECK_IMPORTS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
