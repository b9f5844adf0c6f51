import subprocess
import sys
from pathlib import Path

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans.engine_torch import TorchEngine
from gpukmeans.points import survey
from gpukmeans.score import squared_distance

NAMES = ("sums", "totals", "inertia", "worst_sqdist", "worst_row", "worst_x")


def assign(x, centers, tile=1 << 20):
    return TorchEngine(tile).bind(x, None).assign(centers)


def test_a_toy_by_hand():
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


def test_the_squared_distance_is_the_score_and_not_a_squared_root():
    x = torch.tensor([[0.1, 0.2, 0.3]])
    centers = torch.tensor([[7.7, -3.1, 0.9]])
    assert assign(x, centers).sqdist.item() == squared_distance(x.T, centers.T).item()
    assert torch.cdist(x, centers).square().item() != squared_distance(x.T, centers.T).item()


def test_a_center_nearer_by_less_than_a_root_can_tell_wins():
    # The squared distances are 2**24 and 2**24 - 1; their float32 roots are equal.
    x = torch.zeros(1, 4)
    centers = torch.tensor([[4096.0, 0.0, 0.0, 0.0], [4095.0, 90.0, 9.0, 3.0]])
    scores = squared_distance(x.T[:, :, None], centers.T[:, None])
    assert scores.tolist() == [[2**24, 4095**2 + 90**2 + 81 + 9]]
    assert scores[0, 1] < scores[0, 0]
    assert torch.equal(scores[0].sqrt()[0], scores[0].sqrt()[1])
    assert assign(x, centers).labels.tolist() == [1]


def scores(x, centers):
    return squared_distance(x.T[:, :, None], centers.T[:, None])


@given(width=st.integers(3, 20), dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 2**31))
def test_the_score_decides_where_only_rounding_differs(width, dtype, seed):
    # Equally far in exact arithmetic, and in another order of the channels not equally far in floating point.
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(15, width, generator=generator, dtype=dtype)
    order = torch.stack([torch.randperm(width, generator=generator) for _ in range(9)])
    x = torch.zeros(1, width, dtype=dtype)
    for step in steps:
        expected = scores(x, step[order]).min(dim=1)
        labels, sqdist = assign(x, step[order])
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
def test_labels_are_the_lowest_index_of_the_lowest_score(n, k, width, levels, offset, tile, seed):
    # Few levels, so that points tie with several centers.
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(levels, (n, width), generator=generator) / 3 + offset
    centers = torch.randint(levels, (k, width), generator=generator) / 3 + offset
    expected = scores(x, centers).min(dim=1)
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
def test_no_bit_depends_on_the_size_of_the_tile(tile, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(53, 3, generator=generator)
    weights = torch.rand(53, generator=generator)
    centers = torch.randn(7, 3, generator=generator)
    grid = survey(torch.cat([x, centers]), None).grid()
    whole = TorchEngine().bind(x, weights).measure(centers, grid)
    tiled = TorchEngine(tile).bind(x, weights).measure(centers, grid)
    for name in NAMES:
        assert torch.equal(getattr(tiled, name), getattr(whole, name)), name


@pytest.mark.parametrize("tile", [4, 8, 1000])
def test_of_equally_badly_served_points_the_lowest_row_is_the_worst_in_whatever_block(tile):
    x = torch.tensor([[1.0], [5.0], [-5.0], [5.0], [-5.0]])
    moments = TorchEngine(tile).bind(x, None).measure(torch.zeros(1, 1), survey(x, None).grid())
    assert moments.worst_row.item() == 1
    assert moments.worst_x.item() == 5


def test_no_bit_depends_on_the_number_of_threads(china):
    x = china.reshape(-1, 3).float()
    centers = x[::9973] + 0.25
    grid = survey(x, None).grid()
    threads = torch.get_num_threads()
    try:
        found = []
        for n in (1, 2):
            torch.set_num_threads(n)
            found.append(TorchEngine().bind(x, None).measure(centers, grid))
    finally:
        torch.set_num_threads(threads)
    for name in NAMES:
        assert torch.equal(getattr(found[0], name), getattr(found[1], name)), name


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.int16])
def test_points_of_fewer_bits_are_computed_in_the_dtype_of_the_centers(dtype):
    x = torch.tensor([[255, 255, 255], [0, 0, 0]]).to(dtype)
    labels, sqdist = assign(x, torch.tensor([[0.0, 0.0, 0.0]]))
    assert labels.tolist() == [0, 0]
    assert sqdist[0].item() == 3 * float(x[0, 0]) ** 2  # 195,075 for uint8: no float16


def test_a_view_with_strides_is_read_right():
    base = torch.arange(24.0).reshape(4, 6)
    x = base[:, ::2]
    assert not x.is_contiguous()
    assert assign(x, x.contiguous()).labels.tolist() == [0, 1, 2, 3]


MEASURE_PEAK = """
import re, torch
from pathlib import Path
from gpukmeans.engine_torch import TorchEngine
from gpukmeans.points import survey
def memory(name): return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
x = torch.randint({levels}, ({n}, {d})).to(torch.{dtype})
centers = torch.randint({levels}, ({k}, {d})).to(torch.{dtype})
bound = TorchEngine().bind(x, None)
grid = survey(x, None).grid()
small = TorchEngine().bind(x[:100, :1].contiguous(), None)  # loads the libraries and starts the threads
small.measure(centers[:2, :1].contiguous(), grid)
Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
before = memory("VmRSS")
moments = bound.measure(centers, grid)
print((memory("VmHWM") - before - moments.sums.nbytes - moments.totals.nbytes) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset the peak it reports")
@pytest.mark.parametrize(
    ("n", "k", "d", "levels", "dtype"),
    [
        (300_000, 300, 3, 1000, "float32"),
        (100_000, 2, 64, 1000, "float64"),
        (20, 10, 500_000, 1000, "float32"),
        (20, 500_000, 2, 1000, "float64"),
        (5_000, 2_000, 3, 2, "float64"),  # each point ties with hundreds of centers
        (5_000, 2_000, 64, 1, "float64"),  # ... with all of them
    ],
)
def test_one_pass_holds_at_most_64_mib_beside_its_outputs(n, k, d, levels, dtype):
    code = MEASURE_PEAK.format(n=n, k=k, d=d, levels=levels, dtype=dtype)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) <= 64
