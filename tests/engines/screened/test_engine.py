from dataclasses import fields

import pytest
import torch
from helpers.problems import blobs, seeded
from helpers.screened import DEVICE, assert_same, levels, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans import assign, kmeans
from gpukmeans.engines.screened.engine import ScreenedEngine

pytest.importorskip("triton")


class TestSizes:
    # Blocks are of 64 rows for the screen and of 128 for distances.
    @pytest.mark.parametrize("n", [1, 64, 65, 257])
    def test_any_number_of_points_gives_the_results_of_the_plain_engine(self, n):
        assert_same(normal(1, n, 9), normal(1, 3, 9, seed=1), torch.rand(1, n, generator=seeded(2)))

    # Tiles are of 64 centers.
    @pytest.mark.parametrize("k", [1, 64, 65, 130])
    def test_any_number_of_centers_gives_the_results_of_the_plain_engine(self, k):
        assert_same(levels(4, 1, 70, 10), levels(4, 1, k, 10, seed=1))

    # Chunks are of 128 coordinates, or of 64 for more; the tree of sums has from 1 to 8 levels.
    @pytest.mark.parametrize("width", [9, 16, 17, 128, 129, 257])
    def test_any_number_of_coordinates_gives_the_results_of_the_plain_engine(self, width):
        assert_same(levels(3, 1, 20, width), levels(3, 1, 7, width, seed=1))

    def test_2048_coordinates_give_the_results_of_the_plain_engine(self):
        assert_same(normal(1, 3, 2048), normal(1, 2, 2048, seed=1))

    def test_there_may_be_as_many_centers_as_points(self):
        x = normal(1, 100, 12)
        assert_same(x, x.clone())


class TestInputs:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16])
    def test_points_of_every_dtype_of_at_most_16_bits(self, dtype):
        assert_same((normal(1, 70, 20) * 30).to(dtype), normal(1, 9, 20, seed=1) * 30)

    def test_float64_centers_of_float32_points_give_the_results_of_the_plain_engine(self):
        assert_same(normal(1, 70, 20), normal(1, 9, 20, seed=1).double())

    def test_points_of_any_strides_give_the_results_of_the_plain_engine(self):
        base = normal(4, 140, 25)
        views = {
            "every second": base[:2, :70, :24:2],
            "channel-major": base[:2, :24, :25].mT,
            "other problems": base.transpose(0, 1)[:2, :, :12],
            "one point everywhere": base[:2, :1, :12].expand(2, 70, 12),
            "one problem everywhere": base[:1, :70, :12].expand(2, 70, 12),
        }
        for x in views.values():
            weights = torch.rand(2 * x.shape[1], 2, generator=seeded(2))[::2].mT
            assert_same(x, normal(2, 3, x.shape[2], seed=1), weights)

    def test_points_without_weight_are_ignored_in_moments(self):
        x, weights = normal(1, 200, 9), torch.randint(2, (1, 200), generator=seeded(1)).double()
        x[:, ::2], weights[:, ::2] = 1e3, 0
        assert_same(x, normal(1, 4, 9, seed=1), weights)

    @pytest.mark.parametrize("problems", [[0], [1, 0], [2, 2, 0, 2], [2, 1, 0]])
    def test_runs_may_be_over_any_problems(self, problems):
        x = normal(3, 70, 10) * torch.tensor([1.0, 1e-3, 30.0])[:, None, None]
        weights = torch.rand(3, 70, generator=seeded(2))
        assert_same(x, normal(len(problems), 5, 10, seed=1), weights, problems)


def test_more_runs_than_a_launch_has_blocks_are_computed_in_parts(monkeypatch):
    monkeypatch.setattr("gpukmeans.engines.screened.engine._MAX_RUNS", 2)
    assert_same(normal(2, 70, 9), normal(5, 3, 9, seed=1), problems=[0, 1, 1, 0, 1])


@given(
    n=st.sampled_from([1, 5, 64, 65, 129]),
    k=st.integers(1, 70),
    width=st.integers(9, 40),
    n_levels=st.integers(1, 6),
    offset=st.sampled_from([0.0, 1e4, -1e6]),
    noise=st.sampled_from([0.0, 1e-6, 1e-3]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=6)
def test_every_bit_is_that_of_the_plain_engine(n, k, width, n_levels, offset, noise, weighted, seed):
    x = levels(n_levels, 1, n, width, seed=seed) + normal(1, n, width, seed=seed) * noise + offset
    centers = levels(n_levels, 1, k, width, seed=seed + 1) + offset
    weights = levels(3, 1, n, seed=seed) if weighted else None
    if weighted:
        weights[0, 0] = 1
    assert_same(x, centers, weights)


def test_a_clustering_has_the_bits_of_the_plain_engine():
    x = blobs(100, 20)
    plain = kmeans(x, 5, init=x[:5], max_iter=3, engine="plain")
    screened = kmeans(x.to(DEVICE), 5, init=x[:5].to(DEVICE), max_iter=3, engine=ScreenedEngine(DEVICE))
    for field in fields(plain):
        assert torch.equal(getattr(screened, field.name).cpu(), getattr(plain, field.name)), field.name


def test_assign_has_the_bits_of_the_plain_engine():
    x, centers = normal(100, 20), normal(6, 20, seed=1)
    found = assign(x.to(DEVICE), centers.to(DEVICE), engine=ScreenedEngine(DEVICE))
    for value, expected in zip(found, assign(x, centers, engine="plain"), strict=True):
        assert torch.equal(value.cpu(), expected)


class TestUnsupportedReason:
    def test_points_on_another_device_are_refused(self):
        assert "for cuda, and these points are on cpu" in ScreenedEngine().unsupported_reason(torch.rand(3, 20))

    def test_points_of_too_few_or_too_many_coordinates_are_refused(self):
        engine = ScreenedEngine("cpu")
        assert engine.unsupported_reason(torch.rand(3, 9)) is None
        assert engine.unsupported_reason(torch.rand(3, 2048)) is None
        assert "of 9 to 2048 coordinates, got 8" in engine.unsupported_reason(torch.rand(3, 8))
        assert "of 9 to 2048 coordinates, got 2049" in engine.unsupported_reason(torch.rand(3, 2049))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.int64])
    def test_points_that_need_float64_are_refused(self, dtype):
        reason = ScreenedEngine("cpu").unsupported_reason(torch.ones(3, 20, dtype=dtype))
        assert "need float64" in reason

    def test_more_points_than_32_bits_count_are_refused(self):
        x = torch.zeros(1, 1).expand(2**31, 9)
        assert "at most 2147482624 points, got 2147483648" in ScreenedEngine("cpu").unsupported_reason(x)

    def test_more_problems_than_a_launch_has_blocks_are_refused(self):
        x = torch.zeros(1, 1).expand(2, 2**15, 1, 9)
        assert "at most 65535 problems, got 65536" in ScreenedEngine("cpu").unsupported_reason(x)
