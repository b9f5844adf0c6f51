import pytest
import torch
from helpers.problems import seeded
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.distance import squared_distance
from gpukmeans.engines.cells import candidates as module
from gpukmeans.engines.cells.candidates import CandidateLists, candidates, lowest
from gpukmeans.engines.cells.workspace import Workspace
from gpukmeans.engines.spatial_order import cells


def lists(layout, centers, problems, slack=0.0):
    """The candidates of each cell of each run, by (run, cell)."""
    found = {}
    slack = torch.full((len(centers),), slack, dtype=centers.dtype)
    for boxes, center_ids in candidates(layout, centers, torch.tensor(problems), slack, Workspace()):
        for box, column in zip(boxes.tolist(), center_ids.T.tolist(), strict=True):
            run_and_cell = divmod(box, layout.small.count)
            assert run_and_cell not in found
            found[run_and_cell] = expected = sorted(set(column))
            assert column == expected + column[-1:] * (len(column) - len(expected))
    return found


def check(x, centers, problems, size=8, fanout=4):
    """Each cell has one list, with every center that is nearest to one of its points, including ties."""
    check_lists(cells(x, centers.dtype, size, fanout), centers, problems)


def check_lists(layout, centers, problems, found=None):
    found = lists(layout, centers, problems) if found is None else found
    size, n_problems = layout.small.size, len(layout.rows)
    assert set(found) == {(run, box) for run in range(len(problems)) for box in range(layout.small.count)}
    for run, problem in enumerate(problems):
        points = layout.x.view(len(layout.x), n_problems, -1)[:, problem]
        sqdist = squared_distance(points[:, :, None], centers[run].T[:, None])
        best = sqdist == sqdist.amin(dim=1, keepdim=True)
        for box in range(layout.small.count):
            needed = best[box * size : (box + 1) * size].any(dim=0).nonzero().squeeze(1).tolist()
            assert set(needed) <= set(found[run, box])


@given(
    n=st.integers(1, 150),
    k=st.integers(1, 20),
    width=st.integers(1, 8),
    levels=st.integers(1, 6),
    offset=st.sampled_from([0.0, 1e4, -1e6]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_lists_have_every_center_that_is_nearest_to_a_point(n, k, width, levels, offset, dtype, seed):
    # Few levels, so that points tie with several centers and cells are flat.
    generator = seeded(seed)
    x = (torch.randint(levels, (2, n, width), generator=generator) / 3 + offset).to(dtype)
    centers = (torch.randint(levels, (3, k, width), generator=generator) / 3 + offset).to(dtype)
    check(x, centers, [1, 0, 1])


@given(st.integers(0, 2**31), st.sampled_from([1e-30, 1e-20, 1.0, 1e15]), st.sampled_from([0.0, 1.0, 1e3]))
def test_lists_are_complete_where_distances_vanish_or_points_are_far_from_the_origin(seed, scale, offset):
    generator = seeded(seed)
    x = (torch.rand(1, 100, 3, generator=generator) + offset) * scale
    centers = x[:, torch.randint(100, (30,), generator=generator)]
    check(x, centers + torch.rand(30, 3, generator=generator) * scale * 1e-6, [0])


@pytest.mark.parametrize("tile", [1, 100, 1000])
def test_lists_are_complete_if_few_pairs_are_compared_at_a_time(tile, monkeypatch):
    monkeypatch.setattr(module, "_TILE", tile)
    monkeypatch.setattr(module, "_WASTE", tile)
    x = torch.rand(1, 600, 3, generator=seeded())
    check(x, x[:, ::20].clone(), [0])


def test_lists_of_colors_are_short(china):
    x = china.flatten(0, 1).unique(dim=0).float()[None]
    centers = x[:, torch.randperm(x.shape[1], generator=seeded())[:256]]
    found = lists(cells(x, torch.float32, 32, 16), centers, [0])
    assert sum(map(len, found.values())) / len(found) < 10


def test_the_padding_of_the_list_of_a_large_box_is_not_passed_on(monkeypatch):
    monkeypatch.setattr(module, "_WASTE", 1 << 30)
    x = torch.rand(1, 600, 2, generator=seeded())
    (batch,) = candidates(
        cells(x, torch.float32, 8, 4), x[:, ::20].clone(), torch.tensor([0]), torch.zeros(1), Workspace()
    )
    assert len(batch.center_ids) == max(len(set(column)) for column in batch.center_ids.T.tolist())


def test_lists_are_padded_with_their_last_center():
    layout = cells(torch.tensor([[[0.0], [1.0], [10.0], [11.0], [12.0], [13.0]]]), torch.float32, 2, 4)
    centers = torch.tensor([[[0.0], [10.0], [11.0], [12.5], [100.0]]])
    (batch,) = candidates(layout, centers, torch.tensor([0]), torch.zeros(1), Workspace())
    lists = dict(zip(batch.boxes.tolist(), batch.center_ids.T.tolist(), strict=True))
    assert lists == {0: [0, 0], 1: [1, 2], 2: [3, 3]}


@pytest.mark.parametrize("tile", [1, 40, 1000])
@pytest.mark.parametrize("waste", [0, 50, 10_000])
def test_batches_are_tiles_that_cover_all_lists(tile, waste, monkeypatch):
    monkeypatch.setattr(module, "_TILE", tile)
    monkeypatch.setattr(module, "_WASTE", waste)
    counts = torch.randint(1, 6, (40,), generator=seeded())
    found = {}
    for boxes, center_ids in CandidateLists(
        torch.arange(100, 140), counts, torch.arange(int(counts.sum())).int()
    ).batches(8):
        assert center_ids.numel() * 8 <= max(tile, len(center_ids) * 8)
        found |= {box: sorted(set(column)) for box, column in zip(boxes.tolist(), center_ids.T.tolist(), strict=True)}
    stops = counts.cumsum(0).tolist()
    expected = [list(range(stop - count, stop)) for stop, count in zip(stops, counts.tolist(), strict=True)]
    assert found == dict(zip(range(100, 140), expected, strict=True))


@given(
    slack=st.floats(0.0, 0.5),
    width=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_lists_are_valid_while_centers_move_within_the_slack(slack, width, dtype, seed):
    generator = seeded(seed)
    x = torch.rand(1, 200, width, generator=generator, dtype=dtype)
    centers = torch.rand(1, 15, width, generator=generator, dtype=dtype)
    layout = cells(x, dtype, 8, 4)
    found = lists(layout, centers, [0], slack)
    for _ in range(3):
        moves = torch.randn(1, 15, width, generator=generator, dtype=dtype)
        moves *= 0.999 * slack / moves.square().sum(dim=2, keepdim=True).sqrt()
        check_lists(layout, centers + moves, [0], found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lowest_index_of_equal_distances_wins(dtype):
    sqdist = torch.tensor([[3.0, 0.0, 1e-45], [1.0, 0.0, 0.0], [1.0, 5.0, 0.0], [2.0, torch.inf, 1e30]], dtype=dtype)
    best, label = lowest(
        sqdist.clone(), torch.tensor([1, 4, 7, 9], dtype=torch.int32)[:, None], torch.empty_like(sqdist)
    )
    assert torch.equal(best, sqdist.amin(dim=0))
    assert label.tolist() == [4, 1, 4]


def test_the_lowest_of_one_center_is_that_center():
    best, label = lowest(torch.tensor([[3.0, 2.0]]), torch.tensor([[5]], dtype=torch.int32), torch.empty(1, 2))
    assert (best.tolist(), label.tolist()) == ([3, 2], [5, 5])
