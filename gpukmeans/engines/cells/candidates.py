"""Which centers may be nearest to some point of a box: short lists, exact, found from large boxes to small ones."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.engines.cells.workspace import Scratch
from gpukmeans.engines.spatial_order import Boxes, Cells
from gpukmeans.tiling import blocks

# Pairs of boxes, or points, and centers that are looked at at a time.
_TILE = 1 << 19
# Pairs that are looked at in vain before one more group pays.
_WASTE = 1 << 17


class Group(NamedTuple):
    """Some of the boxes of all runs, with lists of about one length L."""

    boxes: Tensor
    """(n,) its number among those of all runs, each of which has the boxes of its problem."""
    listed: Tensor
    """(L, n) int32, indices among the K centers of its run, ascending; the last one of a shorter list is repeated."""


class Lists(NamedTuple):
    """For some of the boxes of all runs the centers that may be nearest to one of their points."""

    boxes: Tensor
    """(n,) the number of each, see `Group`."""
    counts: Tensor
    """(n,) the length of its list."""
    listed: Tensor
    """(sum of counts,) int32, indices among the K centers of its run, ascending, one list after the other."""

    def groups(self, size: int) -> Iterator[Group]:
        """The same in groups that make no more than a tile of pairs, each box being of so many parts.

        Shorter lists are filled up where that costs less than one more group.
        """
        ordered, rows = self.counts.sort(stable=True)
        boxes = self.boxes.index_select(0, rows)
        first = (self.counts.cumsum(0) - self.counts).index_select(0, rows)
        lengths, frequencies = (values.tolist() for values in ordered.unique_consecutive(return_counts=True))
        start = stop = wasted = 0
        for length, longer, frequency in zip(lengths, [*lengths[1:], None], frequencies, strict=True):
            stop += frequency
            if longer is not None:
                wasted += (longer - length) * (stop - start) * size
            if longer is None or wasted > _WASTE:
                place = torch.arange(length, device=first.device)[:, None]
                for part in blocks(stop - start, _TILE // (length * size)):
                    of = slice(start + part.start, start + part.stop)
                    yield Group(boxes[of], self.listed.take(first[of] + place.minimum(ordered[of] - 1)))
                start, wasted = stop, 0


def candidates(cells: Cells, centers: Tensor, problems: Tensor, slack: Tensor, scratch: Scratch) -> list[Group]:
    """For the cells of B runs the centers (B, K, D) that may be nearest to one of their points, by the one score.

    That holds as long as no center of a run moves farther than its `slack` (B,). `problems` (B,), numbers below P, says
    whose cells each run is about. A group makes no more than a tile of pairs of points and centers.
    """
    n_runs, n_clusters = centers.shape[:2]
    device = centers.device
    # All large boxes of a run are in one that is as large as can be, or in several, if there are so many.
    fan = max(1, min(_TILE // n_clusters, cells.large.count))
    n_boxes = -(-cells.large.count // fan)
    lists = Lists(
        boxes=torch.arange(n_runs * n_boxes, device=device),
        counts=torch.full((n_runs * n_boxes,), n_clusters, device=device),
        listed=torch.arange(n_clusters, dtype=torch.int32, device=device).repeat(n_runs * n_boxes),
    )
    for boxes, within in ((cells.large, fan), (cells.small, cells.fan)):
        parts = [
            _finer(group, n_boxes, boxes, within, centers, problems, slack, scratch) for group in lists.groups(within)
        ]
        lists, n_boxes = Lists(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))), boxes.count
    return list(lists.groups(cells.small.size))


def _finer(
    group: Group,
    n_coarse: int,
    boxes: Boxes,
    fan: int,
    centers: Tensor,
    problems: Tensor,
    slack: Tensor,
    scratch: Scratch,
) -> Lists:
    """The lists of the boxes within those of a group, `fan` of them within each of the `n_coarse` of a run."""
    runs, coarse = group.boxes // n_coarse, group.boxes % n_coarse
    # (fan, n), since operations on the few parts of each box side by side would be slow.
    within = coarse * fan + torch.arange(fan, device=centers.device)[:, None]
    number = (problems[runs] * boxes.count + within.clamp(max=boxes.count - 1)).flatten()
    middle, half = (bound.index_select(1, number).view(-1, *within.shape) for bound in (boxes.middle, boxes.half))
    near = _undominated(middle, half, group.listed + runs * centers.shape[1], centers, slack[runs], scratch)
    near.logical_and_(within < boxes.count)
    near[1:].logical_and_((group.listed[1:] != group.listed[:-1])[:, None])
    # By boxes, and of each in the order of its list.
    row, place = near.permute(1, 2, 0).flatten(0, 1).nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=within.numel())
    exists = counts.nonzero().squeeze(1)
    return Lists(
        boxes=(runs * boxes.count + within).flatten().index_select(0, exists),
        counts=counts.index_select(0, exists),
        listed=group.listed.flatten().index_select(0, row % len(runs) + place * len(runs)),
    )


def _undominated(
    middle: Tensor, half: Tensor, listed: Tensor, centers: Tensor, slack: Tensor, scratch: Scratch
) -> Tensor:
    """Whether centers may be nearest to a point of boxes (D, S, n), as a mask (L, S, n).

    They are those listed (L, n), counted through the centers (B, K, D) of all runs.

    Let b be the center nearest to the middle m of a box, whose points are no farther from m than h in each coordinate,
    and c another one. |x - c|² - |x - b|² is linear in x, so in the box it is at least |m - c|² - |m - b|² less twice
    the sum of h·|c - b| over the coordinates (the test of Kanungo et al. 2002, section 3, in other words). If that is
    above 0, c is nearest to no point of the box. If both may move by s, |x - c| - |x - b| may fall by 2s, so it must be
    above 2s(|x - c| + |x - b|), which is at most 2s(|m - c| + |m - b| + 2|h|).
    """
    width = len(middle)
    info = torch.finfo(middle.dtype)
    choices = centers.permute(2, 0, 1).flatten(1)
    others = choices.index_select(1, listed.flatten()).view(width, len(listed), 1, -1)
    shape = len(listed), *middle.shape[1:]
    sqdist, spare, apart = (scratch.table(name, shape, middle) for name in ("scores", "spare", "apart"))
    squared_distance(middle[:, None], others, out=sqdist, spare=spare)
    best, nearest = lowest(sqdist, listed[:, None].int(), spare)
    own = choices.index_select(1, nearest.flatten()).view(middle.shape)
    reach = half.square().sum(dim=0)
    # Two scores are compared, each off by less than (D/2 + 2) units of its own size, which in the box is no more than
    # twice what it is in the middle, and twice the square of its half diagonal; and there is the rounding of this.
    rounding = (4 * width + 32) * info.eps
    limit = best + rounding * (best + reach) + width * info.tiny
    half = half * (2 + 2 * rounding)
    apart.zero_()
    for channel in range(width):
        apart.addcmul_(torch.sub(others[channel], own[channel], out=spare).abs_(), half[channel])
    if slack.any():
        slack = slack * (2 + 2 * rounding)
        limit += slack * (best.sqrt() + 2 * reach.sqrt())
        apart.addcmul_(torch.sqrt(sqdist, out=spare), slack)
    # Not "at most", since where something overflowed, nothing may be left out.
    return sqdist.mul_(1 - rounding).gt(apart.add_(limit)).logical_not_()


def lowest(scores: Tensor, listed: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
    """Of scores (L, ...), not negative, the lowest and which of those listed, which broadcast to them, these are of.

    Of equals the one that is listed with the lowest index, int32 and below 2**30. What `spare`, of the shape and dtype
    of the scores, holds is lost.
    """
    if len(scores) == 1:
        return scores[0].clone(), listed[0].expand(scores.shape[1:])
    best = scores.amin(dim=0)
    # Numbers that are not negative have the order of their bits, and a CPU compares integers much faster.
    bits = torch.int32 if scores.dtype == torch.float32 else torch.int64
    marked = torch.sub(scores.view(bits), best.view(bits), out=spare.view(bits)).clamp_(max=1)
    return best, torch.add(listed, marked, alpha=1 << 30, out=marked).amin(dim=0).int()
