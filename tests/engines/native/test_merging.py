"""Merges in native kernels: the bits of the operations of torch."""

import pytest
import torch
from helpers.native import without_native
from helpers.problems import seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukmeans.engines.native import merging
from gpukmeans.refinement import merge

KINDS = {
    "normal": lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64),
    "ties": lambda shape, g: torch.randint(3, shape, generator=g).double(),
    "duplicates": lambda shape, g: torch.randn(shape, generator=g).double()[
        :, torch.randint(9, shape[1:2], generator=g) % shape[1]
    ],
    "far from the origin": lambda shape, g: 1e9 + torch.rand(shape, generator=g, dtype=torch.float64),
    "denormal squares": lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64) * 1e-160,
}
TOTALS = {
    "any": lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64) ** 9,
    "equal": lambda shape, g: torch.ones(shape, dtype=torch.float64),
    "some zero": lambda shape, g: torch.randint(3, shape, generator=g).double(),
    "all zero": lambda shape, g: torch.zeros(shape, dtype=torch.float64),
}


def assert_same_as_plain(centers, totals, n_clusters, n_fixed=0):
    found = merging.merged(centers, totals, n_clusters, n_fixed)
    with without_native():
        expected = merge(centers, totals, n_clusters, n_fixed)
    assert found is not None
    assert torch.equal(found.view(torch.int64), expected.view(torch.int64))


@pytest.mark.usefixtures("each_library")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.sampled_from([*range(1, 10), 33]),
    n=st.sampled_from([1, 2, 7, 40, 65]),
    kind=st.sampled_from(list(KINDS)),
    weighted=st.sampled_from(list(TOTALS)),
    n_runs=st.integers(1, 3),
    n_fixed=st.integers(0, 4),
    seed=st.integers(0, 2**31),
)
def test_every_bit_is_that_of_the_operations_of_torch(width, n, kind, weighted, n_runs, n_fixed, seed):
    generator = seeded(seed)
    centers = KINDS[kind]((n_runs, n, width), generator)
    totals = TOTALS[weighted]((n_runs, n), generator)
    n_clusters = int(torch.randint(1, n + 1, (), generator=generator))
    assert_same_as_plain(centers, totals, n_clusters, min(n_fixed, n_clusters - 1))


@pytest.mark.parametrize(("width", "n", "kind"), [(3, 300, "normal"), (3, 600, "ties"), (33, 200, "duplicates")])
def test_merges_of_many_clusters_have_the_same_bits_on_two_threads(width, n, kind, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # not those of the operations of torch
    monkeypatch.setattr(merging, "_CHUNK_SQUARES", 1 << 18)
    monkeypatch.setattr(merging, "_CHUNK_CLUSTERS", n)
    centers, totals = KINDS[kind]((2, n, width), seeded()), TOTALS["some zero"]((2, n), seeded())
    assert_same_as_plain(centers, totals, 4 * n // 5, n_fixed=3)


def test_tensors_of_any_strides_are_merged():
    centers = torch.rand(3, 30, 2, generator=seeded(), dtype=torch.float64).permute(2, 1, 0)
    totals = torch.rand(30, 2, generator=seeded(1), dtype=torch.float64).T
    assert_same_as_plain(centers, totals, 9)


@pytest.mark.parametrize(
    ("extreme", "weight"), [(1e160, 1.0), (float("inf"), 1.0), (float("nan"), 1.0), (1.0, 1e200), (1.0, float("nan"))]
)
@pytest.mark.parametrize("n_fixed", [0, 1])
def test_costs_that_could_overflow_are_those_of_the_operations_of_torch(extreme, weight, n_fixed):
    centers, totals = torch.rand(1, 9, 2, generator=seeded()).double(), torch.ones(1, 9, dtype=torch.float64)
    centers[0, 4, 1], totals[0, 5] = extreme, weight
    assert merging.merged(centers, totals, 7, n_fixed) is None
    found = merge(centers, totals, 7, n_fixed)
    with without_native():
        assert torch.equal(found.isnan(), merge(centers, totals, 7, n_fixed).isnan())
        assert torch.equal(found.nan_to_num(), merge(centers, totals, 7, n_fixed).nan_to_num())


def test_sizes_that_do_not_fit_are_refused():
    centers, totals = torch.zeros(1, 4, 2, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    for arguments in [(totals, 5, 0), (totals, 0, 0), (totals, 2, 2), (totals[:, :3], 2, 0)]:
        with pytest.raises(ValueError, match="merges need centers"):
            merging.merged(centers, *arguments)


def test_merges_use_the_kernels(monkeypatch):
    calls = []
    merged = merging.merged
    monkeypatch.setattr(merging, "merged", lambda *args: calls.append(1) or merged(*args))
    merge(torch.rand(1, 9, 2, dtype=torch.float64), torch.rand(1, 9, dtype=torch.float64), 3)
    assert calls
