import pytest
import torch
from helpers.problems import seeded
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.distance import squared_distance
from gpukmeans.engines.cells import candidates as module
from gpukmeans.engines.cells.candidates import Lists, candidates, lowest
from gpukmeans.engines.cells.workspace import Scratch
from gpukmeans.engines.spatial_order import cells


def lists(layout, centers, problems, slack=0.0):
    """For each cell of each run the centers that are listed, as a dict."""
    found = {}
    slack = torch.full((len(centers),), slack, dtype=centers.dtype)
    for boxes, listed in candidates(layout, centers, torch.tensor(problems), slack, Scratch()):
        for box, column in zip(boxes.tolist(), listed.T.tolist(), strict=True):
            where = divmod(box, layout.small.count)
            assert where not in found
            found[where] = sorted(set(column))
            assert column == found[where] + column[-1:] * (len(column) - len(found[where]))
    return found


def check(x, centers, problems, size=8, fan=4):
    """Each cell is there once, and lists every center that is nearest to one of its points, ties among them."""
    check_lists(cells(x, centers.dtype, size, fan), centers, problems)


def check_lists(layout, centers, problems, found=None):
    found = lists(layout, centers, problems) if found is None else found
    size, n_problems = layout.small.size, len(layout.rows)
    assert set(found) == {(run, box) for run in range(len(problems)) for box in range(layout.small.count)}
    for run, problem in enumerate(problems):
        points = layout.x.view(len(layout.x), n_problems, -1)[:, problem]
        scores = squared_distance(points[:, :, None], centers[run].T[:, None])
        best = scores == scores.amin(dim=1, keepdim=True)
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
def test_no_center_that_is_nearest_to_some_point_is_left_out(n, k, width, levels, offset, dtype, seed):
    # Few levels, so that points tie with several centers and cells are flat.
    generator = seeded(seed)
    x = (torch.randint(levels, (2, n, width), generator=generator) / 3 + offset).to(dtype)
    centers = (torch.randint(levels, (3, k, width), generator=generator) / 3 + offset).to(dtype)
    check(x, centers, [1, 0, 1])


@given(st.integers(0, 2**31), st.sampled_from([1e-30, 1e-20, 1.0, 1e15]), st.sampled_from([0.0, 1.0, 1e3]))
def test_nor_where_scores_vanish_or_points_are_far_from_the_origin(seed, scale, offset):
    generator = seeded(seed)
    x = (torch.rand(1, 100, 3, generator=generator) + offset) * scale
    centers = x[:, torch.randint(100, (30,), generator=generator)]
    check(x, centers + torch.rand(30, 3, generator=generator) * scale * 1e-6, [0])


@pytest.mark.parametrize("tile", [1, 100, 1000])
def test_nor_where_only_few_pairs_are_looked_at_at_a_time(tile, monkeypatch):
    monkeypatch.setattr(module, "_TILE", tile)
    monkeypatch.setattr(module, "_WASTE", tile)
    x = torch.rand(1, 600, 3, generator=seeded())
    check(x, x[:, ::20].clone(), [0])


def test_lists_of_colors_are_short(china):
    x = china.flatten(0, 1).unique(dim=0).float()[None]
    centers = x[:, torch.randperm(x.shape[1], generator=seeded())[:256]]
    found = lists(cells(x, torch.float32, 32, 16), centers, [0])
    assert sum(map(len, found.values())) / len(found) < 10


def test_what_fills_up_the_list_of_a_large_box_is_not_handed_down(monkeypatch):
    monkeypatch.setattr(module, "_WASTE", 1 << 30)
    x = torch.rand(1, 600, 2, generator=seeded())
    (group,) = candidates(
        cells(x, torch.float32, 8, 4), x[:, ::20].clone(), torch.tensor([0]), torch.zeros(1), Scratch()
    )
    assert len(group.listed) == max(len(set(column)) for column in group.listed.T.tolist())


def test_lists_are_filled_up_with_their_last_center():
    layout = cells(torch.tensor([[[0.0], [1.0], [10.0], [11.0], [12.0], [13.0]]]), torch.float32, 2, 4)
    centers = torch.tensor([[[0.0], [10.0], [11.0], [12.5], [100.0]]])
    (group,) = candidates(layout, centers, torch.tensor([0]), torch.zeros(1), Scratch())
    lists = dict(zip(group.boxes.tolist(), group.listed.T.tolist(), strict=True))
    assert lists == {0: [0, 0], 1: [1, 2], 2: [3, 3]}


@pytest.mark.parametrize("tile", [1, 40, 1000])
@pytest.mark.parametrize("waste", [0, 50, 10_000])
def test_groups_are_tiles_that_cover_all_lists(tile, waste, monkeypatch):
    monkeypatch.setattr(module, "_TILE", tile)
    monkeypatch.setattr(module, "_WASTE", waste)
    counts = torch.randint(1, 6, (40,), generator=seeded())
    found = {}
    for boxes, listed in Lists(torch.arange(100, 140), counts, torch.arange(int(counts.sum())).int()).groups(8):
        assert listed.numel() * 8 <= max(tile, len(listed) * 8)
        found |= {box: sorted(set(column)) for box, column in zip(boxes.tolist(), listed.T.tolist(), strict=True)}
    stops = counts.cumsum(0).tolist()
    expected = [list(range(stop - count, stop)) for stop, count in zip(stops, counts.tolist(), strict=True)]
    assert found == dict(zip(range(100, 140), expected, strict=True))


@given(
    slack=st.floats(0.0, 0.5),
    width=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**31),
)
def test_lists_hold_wherever_centers_move_within_the_slack(slack, width, dtype, seed):
    generator = seeded(seed)
    x = torch.rand(1, 200, width, generator=generator, dtype=dtype)
    centers = torch.rand(1, 15, width, generator=generator, dtype=dtype)
    layout = cells(x, dtype, 8, 4)
    found = lists(layout, centers, [0], slack)
    for _ in range(3):
        steps = torch.randn(1, 15, width, generator=generator, dtype=dtype)
        steps *= 0.999 * slack / steps.square().sum(dim=2, keepdim=True).sqrt()
        check_lists(layout, centers + steps, [0], found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lowest_index_of_equal_scores_wins(dtype):
    scores = torch.tensor([[3.0, 0.0, 1e-45], [1.0, 0.0, 0.0], [1.0, 5.0, 0.0], [2.0, torch.inf, 1e30]], dtype=dtype)
    best, label = lowest(
        scores.clone(), torch.tensor([1, 4, 7, 9], dtype=torch.int32)[:, None], torch.empty_like(scores)
    )
    assert torch.equal(best, scores.amin(dim=0))
    assert label.tolist() == [4, 1, 4]


def test_one_center_needs_no_choice():
    best, label = lowest(torch.tensor([[3.0, 2.0]]), torch.tensor([[5]], dtype=torch.int32), torch.empty(1, 2))
    assert (best.tolist(), label.tolist()) == ([3, 2], [5, 5])
