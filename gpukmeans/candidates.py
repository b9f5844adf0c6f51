"""Which centers may be nearest to some point of a box: short lists, exact, found from large boxes to small ones."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.blocks import blocks
from gpukmeans.layout import Boxes, Cells
from gpukmeans.score import squared_distance

# Pairs of boxes, or points, and centers that are looked at at a time.
_TILE = 1 << 18
# Distances that are computed in vain before one more group pays.
_WASTE = 1 << 15


class Group(NamedTuple):
    """Some of the boxes of all runs, with lists of about one length L."""

    runs: Tensor
    """(n,) the run of each."""
    boxes: Tensor
    """(n,) its number among those of a run."""
    listed: Tensor
    """(L, n) int32, indices of centers in ascending order; the last one of a shorter list is repeated."""

    def parts(self, size: int) -> "Iterator[Group]":
        """The same in groups that make a tile of pairs if each box has so many parts."""
        for part in blocks(len(self.runs), _TILE // (len(self.listed) * size)):
            yield Group(self.runs[part], self.boxes[part], self.listed[:, part])


def candidates(cells: Cells, centers: Tensor, problems: Sequence[int]) -> Iterator[Group]:
    """For the cells of B runs the centers (B, K, D) that may be nearest to one of their points, by the one score.

    `problems`, B numbers below P, says whose cells each run is about. A group makes no more than a tile of pairs of
    points and centers.
    """
    n_runs, n_clusters = centers.shape[:2]
    whose = torch.tensor(problems, device=centers.device)
    # All large boxes of a run are in one that is as large as can be, or in several, if there are so many.
    fan = max(1, min(_TILE // n_clusters, cells.large.count))
    run, box = torch.meshgrid(
        torch.arange(n_runs, device=centers.device),
        torch.arange(-(-cells.large.count // fan), device=centers.device),
        indexing="ij",
    )
    listed = torch.arange(n_clusters, dtype=torch.int32, device=centers.device)[:, None].expand(-1, run.numel())
    groups = [Group(run.flatten(), box.flatten(), listed)]
    for boxes, within in ((cells.large, fan), (cells.small, cells.fan)):
        coarse, groups = groups, []
        for group in coarse:
            for part in group.parts(within):
                groups += _finer(part, boxes, within, centers, whose)
    for group in groups:
        yield from group.parts(cells.small.size)


def _finer(group: Group, boxes: Boxes, fan: int, centers: Tensor, problems: Tensor) -> Iterator[Group]:
    """The boxes within those of a group, `fan` of them within each, with their own lists."""
    # (fan, n), since operations on the few parts of each box side by side would be slow.
    within = group.boxes * fan + torch.arange(fan, device=centers.device)[:, None]
    number = (problems[group.runs] * boxes.count + within.clamp(max=boxes.count - 1)).flatten()
    middle, half = (bound.index_select(1, number).view(-1, *within.shape) for bound in (boxes.middle, boxes.half))
    near = _undominated(middle, half, group, centers).logical_and_(within < boxes.count)
    near[1:] &= (group.listed[1:] != group.listed[:-1])[:, None]
    # By boxes, and of each in the order of its list.
    row, place = near.permute(1, 2, 0).flatten(0, 1).nonzero(as_tuple=True)
    n = len(group.runs)
    listed = group.listed.flatten().index_select(0, row % n + place * n)
    runs, within = group.runs.expand_as(within).flatten(), within.flatten()
    for rows, lists in _by_length(torch.bincount(row, minlength=len(within)), listed, boxes.size):
        yield Group(runs[rows], within[rows], lists)


def _undominated(middle: Tensor, half: Tensor, group: Group, centers: Tensor) -> Tensor:
    """Whether the centers listed may be nearest to a point of boxes (D, S, n), as a mask (L, S, n).

    Let b be the center nearest to the middle m of a box, whose points are no farther from m than h in each coordinate,
    and c another one. |x - c|² - |x - b|² is linear in x, so in the box it is at least |m - c|² - |m - b|² less twice
    the sum of h·|c - b| over the coordinates (the test of Kanungo et al. 2002, section 3, in other words). If that is
    above 0, c is nearest to no point of the box.
    """
    width = len(middle)
    info = torch.finfo(middle.dtype)
    others = chosen(centers, group.runs, group.listed)[:, :, None]
    sqdist = squared_distance(middle[:, None], others)
    best, label = lowest(sqdist, group.listed[:, None])
    own = chosen(centers, group.runs, label)
    # Two scores are compared, each off by less than (D/2 + 2) units of its own size, which in the box is no more than
    # twice what it is in the middle, and twice the square of its half diagonal; and there is the rounding of this.
    rounding = (4 * width + 32) * info.eps
    limit = best + rounding * (best + half.square().sum(dim=0)) + width * info.tiny
    half = half * (2 + 2 * rounding)
    apart = torch.zeros_like(sqdist)
    for channel in range(width):
        apart += (others[channel] - own[channel]).abs_().mul_(half[channel])
    # Not "at most", since where something overflowed, nothing may be left out.
    return sqdist.mul_(1 - rounding).gt(apart.add_(limit)).logical_not_()


def chosen(centers: Tensor, runs: Tensor, listed: Tensor) -> Tensor:
    """Of centers (B, K, D) those listed (..., n) of runs (n,): (D, ..., n)."""
    if len(centers) > 1:
        listed = listed + runs * centers.shape[1]
    return centers.permute(2, 0, 1).flatten(1).index_select(1, listed.flatten()).view(-1, *listed.shape)


def lowest(scores: Tensor, listed: Tensor) -> tuple[Tensor, Tensor]:
    """Of scores (L, ...), not negative, the lowest and which of those listed, which broadcast to them, these are of.

    The lowest index of equals.
    """
    if len(scores) == 1:
        return scores[0], listed[0].expand(scores.shape[1:])
    best = scores.amin(dim=0)
    # Numbers that are not negative have the order of their bits, and a CPU compares integers much faster.
    bits = torch.int32 if scores.dtype == torch.float32 else torch.int64
    above = (scores.view(bits) - best.view(bits)).clamp_(max=1).int()
    return best, torch.add(listed, above, alpha=1 << 30).amin(dim=0)


def _by_length(counts: Tensor, listed: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows (n,) whose lists have about one length L, and their lists (L, n).

    Row i has `counts[i]` of those listed, one row after the other; one that has none is left out. Shorter lists are
    filled up where that costs less than one more group, each row being of so many parts.
    """
    ordered, rows = counts.sort(stable=True)
    first = (counts.cumsum(0) - counts).index_select(0, rows)
    lengths, frequencies = (values.tolist() for values in ordered.unique_consecutive(return_counts=True))
    start = stop = wasted = 0
    for length, longer, frequency in zip(lengths, [*lengths[1:], None], frequencies, strict=True):
        stop += frequency
        if length == 0:
            start = stop
            continue
        if longer is not None:
            wasted += (longer - length) * (stop - start) * size
        if longer is None or wasted > _WASTE:
            place = torch.arange(length, device=counts.device)[:, None].minimum(ordered[start:stop] - 1)
            yield rows[start:stop], listed.take(first[start:stop] + place)
            start, wasted = stop, 0
