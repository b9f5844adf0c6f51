import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import oracle
from helpers.problems import assert_same_moments, fixed_point_of
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans.distance import squared_distance
from gpukmeans.engines import Assignment
from gpukmeans.engines.plain import PlainEngine


def assign(x, centers, tile=1 << 20):
    """The assignment of one run: points (N, D) at centers (K, D)."""
    labels, sqdist = PlainEngine(tile).bind(x[None], None).assign(centers[None], range(1))
    return Assignment(labels[0], sqdist[0])


def test_the_plain_engine_gives_the_labels_and_distances_worked_out_by_hand():
    labels, sqdist = assign(torch.tensor([[0.0], [4.0], [11.0]]), torch.tensor([[10.0], [1.0]]))
    assert labels.tolist() == [1, 1, 0]
    assert sqdist.tolist() == [1, 9, 1]


def test_ties_go_to_the_lowest_index():
    centers = torch.tensor([[9.0, 9.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    assert assign(torch.tensor([[1.0, 1.0]]), centers).labels.tolist() == [4]
    assert assign(torch.tensor([[1.0, 1.0]]), centers[:4]).labels.tolist() == [1]


@pytest.mark.parametrize("tile", [1, 2, 3, 5, 64])
def test_ties_go_to_the_lowest_index_across_tiles(tile):
    centers = torch.tensor([[3.0], [1.0], [-1.0], [1.0], [-1.0]])
    assert assign(torch.tensor([[0.0], [1.0]]), centers, tile).labels.tolist() == [1, 1]


def test_sqdist_is_the_written_distance_and_not_a_squared_root():
    x = torch.tensor([[0.1, 0.2, 0.3]])
    centers = torch.tensor([[7.7, -3.1, 0.9]])
    assert assign(x, centers).sqdist.item() == squared_distance(x.T, centers.T).item()
    assert torch.cdist(x, centers).square().item() != squared_distance(x.T, centers.T).item()


def test_the_nearest_center_wins_where_the_roots_of_distances_are_equal():
    # The squared distances are 2**24 and 2**24 - 1; their float32 roots are equal.
    x = torch.zeros(1, 4)
    centers = torch.tensor([[4096.0, 0.0, 0.0, 0.0], [4095.0, 90.0, 9.0, 3.0]])
    sqdist = distances(x, centers)
    assert sqdist.tolist() == [[2**24, 4095**2 + 90**2 + 81 + 9]]
    assert sqdist[0, 1] < sqdist[0, 0]
    assert torch.equal(sqdist[0].sqrt()[0], sqdist[0].sqrt()[1])
    assert assign(x, centers).labels.tolist() == [1]


def distances(x, centers):
    """The table (N, K) of reference distances."""
    return squared_distance(x.T[:, :, None], centers.T[:, None])


@given(width=st.integers(3, 20), dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 2**31))
def test_the_written_distance_decides_where_only_rounding_differs(width, dtype, seed):
    # Equally far in exact arithmetic; in another order of the channels not equally far in floating point.
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.randn(15, width, generator=generator, dtype=dtype)
    order = torch.stack([torch.randperm(width, generator=generator) for _ in range(9)])
    x = torch.zeros(1, width, dtype=dtype)
    for offset in offsets:
        expected = distances(x, offset[order]).min(dim=1)
        labels, sqdist = assign(x, offset[order])
        assert torch.equal(sqdist, expected.values)
        assert torch.equal(labels, expected.indices)


@given(
    n=st.integers(1, 40),
    k=st.integers(1, 12),
    width=st.integers(1, 12),
    levels=st.integers(1, 4),
    offset=st.sampled_from([0.0, 1e4, -1e6]),
    tile=st.integers(1, 100),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=200)
def test_labels_are_the_lowest_index_of_the_lowest_distance(n, k, width, levels, offset, tile, seed):
    # Few levels, so that points tie with several centers.
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(levels, (n, width), generator=generator) / 3 + offset
    centers = torch.randint(levels, (k, width), generator=generator) / 3 + offset
    expected = distances(x, centers).min(dim=1)
    labels, sqdist = assign(x, centers, tile)
    assert torch.equal(sqdist, expected.values)
    assert torch.equal(labels, expected.indices)


@pytest.mark.parametrize("width", [1, 3, 50])
def test_far_from_the_origin_labels_are_those_of_the_oracle(width):
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(301, width, generator=generator) + 1e4
    centers = torch.randn(27, width, generator=generator) + 1e4  # more than 25 rows: where cdist would use a product
    labels, sqdist = assign(x, centers)
    found = oracle.nearest(x.tolist(), centers.tolist())
    reached = torch.tensor([oracle.sqdist(x[i].tolist(), centers[labels[i]].tolist()) for i in range(301)])
    best = torch.tensor([distance for _, distance in found])
    torch.testing.assert_close(reached, best, rtol=1e-5, atol=0)
    torch.testing.assert_close(sqdist, best, rtol=1e-5, atol=0)


@given(st.integers(1, 300), st.integers(0, 2**31))
@settings(max_examples=30)
def test_no_bit_depends_on_the_size_of_the_tile(tile, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 13, 3, generator=generator)
    weights = torch.rand(2, 13, generator=generator)
    centers = torch.randn(3, 7, 3, generator=generator)
    problems = [0, 1, 0]
    fixed_point = fixed_point_of(torch.cat([x, centers[:2]], dim=1)).select(torch.tensor(problems))
    whole, tiled = PlainEngine().bind(x, weights), PlainEngine(tile).bind(x, weights)
    assert_same_moments(tiled.measure(centers, fixed_point, problems), whole.measure(centers, fixed_point, problems))
    for found, expected in zip(tiled.assign(centers, problems), whole.assign(centers, problems), strict=True):
        assert torch.equal(found, expected)


@given(
    problems=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    n=st.integers(1, 12),
    k=st.integers(1, 7),
    width=st.sampled_from([1, 3, 10]),
    weighted=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    tile=st.sampled_from([7, 100, 400, 1 << 20]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_each_run_of_a_batch_has_the_result_of_the_run_alone(problems, n, k, width, weighted, dtype, tile, seed):
    # Integers, so that there are ties. One problem is much larger than the others, one much smaller.
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([1.0, 100.0, 1e-2], dtype=dtype)[:, None, None]
    x = torch.randint(-3, 4, (3, n, width), generator=generator) * extent
    weights = torch.rand(3, n, generator=generator) if weighted else None
    if weighted:
        weights[:, 1:].mul_(torch.randint(2, (3, n - 1), generator=generator))  # many of weight 0
    centers = torch.randint(-3, 4, (len(problems), k, width), generator=generator) * extent[problems]
    fixed_point = fixed_point_of(x, weights).select(torch.tensor(problems))
    bound = PlainEngine(tile).bind(x, weights)
    moments, (labels, sqdist) = bound.measure(centers, fixed_point, problems), bound.assign(centers, problems)
    for run, problem in enumerate(problems):
        own = None if weights is None else weights[problem, None]
        alone = PlainEngine().bind(x[problem, None], own)
        this = slice(run, run + 1)
        assert_same_moments(moments.select(this), alone.measure(centers[this], fixed_point.select(this), [0]))
        expected = alone.assign(centers[this], [0])
        assert torch.equal(labels[this], expected.labels)
        assert torch.equal(sqdist[this], expected.sqdist)


@given(tile=st.sampled_from([30, 1 << 20]), seed=st.integers(0, 2**31))
@settings(max_examples=30)
def test_a_point_of_weight_0_is_assigned_but_not_measured(tile, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 3, generator=generator)
    weights = torch.rand(20, generator=generator) + 0.1
    present = torch.rand(20, generator=generator) < 0.5
    present[0] = True
    centers = torch.randn(1, 4, 3, generator=generator)
    fixed_point = fixed_point_of(x[None])
    x[~present] *= 1e6  # the worst served by far
    padded = PlainEngine(tile).bind(x[None], weights.where(present, 0)[None])
    alone = PlainEngine().bind(x[present][None], weights[present][None])
    moments, expected = padded.measure(centers, fixed_point, [0]), alone.measure(centers, fixed_point, [0])
    assert_same_moments(moments, expected)
    labels = padded.assign(centers, [0]).labels[0]
    assert torch.equal(labels, distances(x, centers[0]).min(dim=1).indices)


@pytest.mark.parametrize("tile", [1, 8, 1000])
def test_a_point_of_weight_0_is_not_the_worst_served(tile):
    x = torch.tensor([[[9.0], [0.0], [0.0]]])
    weights = torch.tensor([[0, 1, 1]])
    moments = PlainEngine(tile).bind(x, weights).measure(torch.zeros(1, 1, 1), fixed_point_of(x, weights), [0])
    assert moments.worst_sqdist.item() == 0


def test_no_bit_depends_on_the_number_of_threads(china):
    x = china.reshape(1, -1, 3).float()
    centers = x[:, ::9973] + 0.25
    fixed_point = fixed_point_of(x)
    threads = torch.get_num_threads()
    try:
        moments = []
        for n in (1, 2):
            torch.set_num_threads(n)
            moments.append(PlainEngine().bind(x, None).measure(centers, fixed_point, [0]))
    finally:
        torch.set_num_threads(threads)
    assert_same_moments(*moments)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.int16])
def test_distances_are_computed_in_the_dtype_of_the_centers(dtype):
    x = torch.tensor([[255, 255, 255], [0, 0, 0]]).to(dtype)
    labels, sqdist = assign(x, torch.tensor([[0.0, 0.0, 0.0]]))
    assert labels.tolist() == [0, 0]
    assert sqdist[0].item() == 3 * float(x[0, 0]) ** 2  # 195,075 for uint8: no float16


def test_a_view_with_strides_is_read_correctly():
    base = torch.arange(24.0).reshape(4, 6)
    x = base[:, ::2]
    assert not x.is_contiguous()
    assert assign(x, x.contiguous()).labels.tolist() == [0, 1, 2, 3]


# Each case runs in a child process, forked after the import of torch and before its first use.
MEASURE_PEAKS = r"""
import json, os, re, sys, torch
from pathlib import Path
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.points.tensor import tensor_points
def memory(name): return int(re.search(name + r":\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
def peak(problems, runs, n, k, d, levels, dtype, weighted):
    x = torch.randint(levels, (problems, n, d)).to(getattr(torch, dtype))
    weights = torch.randint(5, (problems, n)) if weighted else None
    centers = torch.randint(levels, (runs, k, d)).to(x.dtype)
    problem_of_run = [run % problems for run in range(runs)]
    bound = PlainEngine().bind(x, weights)
    fixed_point = tensor_points(x, weights, PlainEngine(), torch.float64).fixed_point
    fixed_point = fixed_point.select(torch.tensor(problem_of_run))
    small = PlainEngine().bind(x[:1, :100, :1].contiguous(), None)  # loads the libraries and starts the threads
    small.measure(centers[:1, :2, :1].contiguous(), fixed_point.select(torch.tensor([0])), [0])
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the memory held now
    before = memory("VmRSS")
    moments = bound.measure(centers, fixed_point, problem_of_run)
    return (memory("VmHWM") - before - moments.sums.nbytes - moments.totals.nbytes) / 2**20
for case in json.loads(sys.argv[1]):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        print(peak(*case), flush=True)
        os._exit(0)
"""

# Problems, runs, N, K, D, levels of a coordinate, dtype, whether there are weights.
PASSES = {
    "many centers": (1, 1, 300_000, 300, 3, 1000, "float32", False),
    "many coordinates": (1, 1, 100_000, 2, 64, 1000, "float64", False),
    "half a million coordinates": (1, 1, 20, 10, 500_000, 1000, "float32", False),
    "half a million centers": (1, 1, 20, 500_000, 2, 1000, "float64", False),
    "each point ties with hundreds of centers": (1, 1, 5_000, 2_000, 3, 2, "float64", False),
    "each point ties with all centers": (1, 1, 5_000, 2_000, 64, 1, "float64", False),
    "many problems": (2_000, 2_000, 100, 10, 8, 1000, "float64", True),
    "many problems of ties": (2_000, 2_000, 100, 10, 8, 1, "float32", False),
    "many runs of one problem": (1, 2_000, 100, 10, 8, 1000, "float64", True),
}


@pytest.fixture(scope="module")
def peaks():
    """MiB held by each of these passes in addition to its outputs."""
    command = [sys.executable, "-c", MEASURE_PEAKS, json.dumps([*PASSES.values()])]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(PASSES, map(float, run.stdout.split()), strict=True))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak it reports")
@pytest.mark.parametrize("name", PASSES)
def test_one_pass_holds_at_most_64_mib_in_addition_to_its_outputs(name, peaks):
    assert peaks[name] <= 64


def test_the_problem_index_of_the_last_call_is_reused_and_a_different_one_replaces_it():
    x = torch.arange(12.0).view(3, 4, 1)
    bound = PlainEngine().bind(x, None)
    first = bound._problem_index(range(3))
    assert bound._problem_index([0, 1, 2]) is first
    for problems in ([2, 0], [1, 1, 1], [0, 1, 2]):
        assert bound._problem_index(problems).tolist() == problems
        assert bound.assign(x[problems][:, :1], problems).sqdist[:, 0].tolist() == [0] * len(problems)
    assert bound._problem_index(range(3)) is not first
