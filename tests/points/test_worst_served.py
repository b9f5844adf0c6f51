"""The worst-served points, against a plain sort."""

import pytest
import torch
from helpers.problems import points_of, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans.engines import choose
from gpukmeans.points.tensor import TensorSource
from gpukmeans.points.worst_served import WorstServed


def source_of(x, weights=None):
    """Points (N, D) of one problem."""
    engine = choose("plain", x)
    return TensorSource(x[None], None if weights is None else weights[None], engine, torch.float32)


def sorted_candidates(x, weights, centers, n):
    """Squared distance, label and point of the first n different points with weight, by a plain sort."""
    table = (x[:, None] - centers).square().sum(dim=2)
    found = []
    for row in sorted(range(len(x)), key=lambda row: -float(table[row].min())):
        entry = float(table[row].min()), int(table[row].argmin()), x[row].tolist()
        if entry[0] > 0 and weights[row] > 0 and entry[2] not in [point for *_, point in found]:
            found.append(entry)
    return found[:n]


def entries(worst):
    """The entries above 0 of one run."""
    rows = zip(worst.sqdist[0].tolist(), worst.labels[0].tolist(), worst.x[0].tolist(), strict=True)
    return [row for row in rows if row[0] > 0]


CASES = {
    "n_rows": st.integers(1, 40),
    "n": st.integers(1, 12),
    "levels": st.sampled_from([2, 4, 1000]),
    "width": st.integers(1, 3),
    "seed": st.integers(0, 2**31),
}


def case(n_rows, levels, width, seed):
    x = torch.randint(levels, (n_rows, width), generator=seeded(seed)).float()
    weights = torch.randint(0, 3, (n_rows,), generator=seeded(seed + 1))
    return x, weights, torch.randint(levels, (1, 3, width), generator=seeded(seed + 2)).float()


@given(**CASES)
@settings(max_examples=60)
def test_the_worst_served_points_are_the_first_different_ones_of_a_stable_sort(n_rows, n, levels, width, seed):
    x, weights, centers = case(n_rows, levels, width, seed)
    worst = source_of(x, weights).worst_served(centers, n, [0])
    assert worst.sqdist.shape == (1, n)
    assert entries(worst) == sorted_candidates(x, weights, centers[0], n)


@given(cut=st.floats(0.0, 1.0), **CASES)
@settings(max_examples=60)
def test_the_worst_served_points_of_two_parts_add_to_those_of_the_whole(n_rows, n, levels, width, seed, cut):
    x, weights, centers = case(n_rows, levels, width, seed)
    rows = int(cut * n_rows)
    parts = [slice(0, rows), slice(rows, n_rows)]
    added = WorstServed.none(centers, n)
    for part in parts:
        if len(x[part]):
            added = added + source_of(x[part], weights[part]).worst_served(centers, n, [0])
    assert entries(added) == sorted_candidates(x, weights, centers[0], n)


def test_many_equal_points_are_one_entry():
    x = torch.cat([torch.full((5000, 2), 7.0), torch.rand(50, 2, generator=seeded())])
    worst = source_of(x).worst_served(torch.zeros(1, 1, 2), 20, [0])
    assert entries(worst) == sorted_candidates(x, torch.ones(len(x)), torch.zeros(1, 2), 20)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_totals_of_equal_points_are_their_part_of_the_moments(dtype):
    x = torch.tensor([[1, 5], [0, 0], [1, 5], [3, 4], [2, 0]], dtype=dtype)
    weights = torch.tensor([2.0, 1.0, 0.5, 4.0, 3.0])
    points = points_of(x, weights)
    values = torch.tensor([[[1, 5], [9, 9], [3, 4], [1, 5]]]).to(points.dtype)
    totals = points.totals_of_equal(values)[0].double()
    scales = torch.cat([points.fixed_point.sum, points.fixed_point.weight[:, None]], dim=1)
    # Sums of w·(x - lowest), and of w. Of equal values the first has the points.
    assert (totals / scales).tolist() == [[2.5, 12.5, 2.5], [0, 0, 0], [12, 16, 4], [0, 0, 0]]
