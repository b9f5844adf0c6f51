"""Candidate lists: the centers that may be nearest to a point of a box, found from large boxes to small ones."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance
from gpukmeans.engines.cells.workspace import Workspace
from gpukmeans.engines.spatial_order import Boxes, Cells
from gpukmeans.tiling import blocks

# Pairs of a box, or point, and a center that are compared at a time.
_TILE = 1 << 19
# Padding pairs that cost as much as one more batch.
_WASTE = 1 << 17


class CandidateBatch(NamedTuple):
    """Candidate lists of some boxes of all runs, padded to the same length L."""

    boxes: Tensor
    """(n,) indices of boxes: run · number of boxes of a problem + index in the problem."""
    center_ids: Tensor
    """(L, n) int32, indices among the K centers of the run, ascending. Shorter lists repeat their last index."""


class CandidateLists(NamedTuple):
    """Candidate lists of some boxes of all runs: the centers that may be nearest to one of their points."""

    boxes: Tensor
    """(n,) indices of boxes, see `CandidateBatch`."""
    counts: Tensor
    """(n,) the length of each list."""
    center_ids: Tensor
    """(sum of counts,) int32, indices among the K centers of the run, ascending, one list after the other."""

    def batches(self, size: int) -> Iterator[CandidateBatch]:
        """The lists in batches of at most a tile of pairs, for boxes of `size` members.

        Shorter lists are padded where that costs less than one more batch.
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
                rank = torch.arange(length, device=first.device)[:, None]
                for block in blocks(stop - start, _TILE // (length * size)):
                    of = slice(start + block.start, start + block.stop)
                    yield CandidateBatch(boxes[of], self.center_ids.take(first[of] + rank.minimum(ordered[of] - 1)))
                start, wasted = stop, 0


def candidates(
    cells: Cells, centers: Tensor, problems: Tensor, slack: Tensor, workspace: Workspace
) -> list[CandidateBatch]:
    """Candidate lists of the cells of B runs: the centers (B, K, D) that may be nearest to one of their points.

    The lists stay valid while no center of a run moves farther than the `slack` (B,) of the run. `problems` (B,) are
    the indices of the problems of the runs. A batch has at most a tile of pairs of points and centers.
    """
    n_runs, n_clusters = centers.shape[:2]
    device = centers.device
    # The first lists contain all centers: one list for all large boxes, or several if there are many boxes.
    fanout = max(1, min(_TILE // n_clusters, cells.large.count))
    n_boxes = -(-cells.large.count // fanout)
    lists = CandidateLists(
        boxes=torch.arange(n_runs * n_boxes, device=device),
        counts=torch.full((n_runs * n_boxes,), n_clusters, device=device),
        center_ids=torch.arange(n_clusters, dtype=torch.int32, device=device).repeat(n_runs * n_boxes),
    )
    for boxes, box_fanout in ((cells.large, fanout), (cells.small, cells.fanout)):
        parts = [
            _refined(batch, n_boxes, boxes, box_fanout, centers, problems, slack, workspace)
            for batch in lists.batches(box_fanout)
        ]
        lists, n_boxes = CandidateLists(*(torch.cat(tensors) for tensors in zip(*parts, strict=True))), boxes.count
    return list(lists.batches(cells.small.size))


def _refined(
    batch: CandidateBatch,
    n_coarse: int,
    boxes: Boxes,
    fanout: int,
    centers: Tensor,
    problems: Tensor,
    slack: Tensor,
    workspace: Workspace,
) -> CandidateLists:
    """Lists of the `fanout` smaller boxes in each box of a batch. A run has `n_coarse` of the larger boxes."""
    runs, coarse = batch.boxes // n_coarse, batch.boxes % n_coarse
    # (fanout, n): the long dimension last, as operations along a short one are slow.
    fine = coarse * fanout + torch.arange(fanout, device=centers.device)[:, None]
    box = (problems[runs] * boxes.count + fine.clamp(max=boxes.count - 1)).flatten()
    midpoint, half_width = (
        bound.index_select(1, box).view(-1, *fine.shape) for bound in (boxes.midpoint, boxes.half_width)
    )
    flat_ids = batch.center_ids + runs * centers.shape[1]
    mask = _undominated(midpoint, half_width, flat_ids, centers, slack[runs], workspace)
    mask.logical_and_(fine < boxes.count)
    mask[1:].logical_and_((batch.center_ids[1:] != batch.center_ids[:-1])[:, None])
    # In the order of the boxes, and within a box in the order of its list.
    row, rank = mask.permute(1, 2, 0).flatten(0, 1).nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=fine.numel())
    exists = counts.nonzero().squeeze(1)
    return CandidateLists(
        boxes=(runs * boxes.count + fine).flatten().index_select(0, exists),
        counts=counts.index_select(0, exists),
        center_ids=batch.center_ids.flatten().index_select(0, row % len(runs) + rank * len(runs)),
    )


def _undominated(
    midpoint: Tensor, half_width: Tensor, center_ids: Tensor, centers: Tensor, slack: Tensor, workspace: Workspace
) -> Tensor:
    """Whether each candidate may be nearest to a point of its box (D, S, n): a mask (L, S, n).

    `center_ids` (L, n) are indices among the centers (B, K, D) of all runs.

    Let b be the center nearest to the midpoint m of a box, whose points are no farther from m than h in each
    coordinate, and c another one. |x - c|² - |x - b|² is linear in x, so in the box it is at least |m - c|² - |m - b|²
    less twice the sum of h·|c - b| over the coordinates (equivalent to the test of Kanungo et al. 2002, section 3). If
    that is above 0, c is nearest to no point of the box. If both may move by s, |x - c| - |x - b| may fall by 2s, so it
    must be above 2s(|x - c| + |x - b|), which is at most 2s(|m - c| + |m - b| + 2|h|).
    """
    width = len(midpoint)
    info = torch.finfo(midpoint.dtype)
    flat_centers = centers.permute(2, 0, 1).flatten(1)
    others = flat_centers.index_select(1, center_ids.flatten()).view(width, len(center_ids), 1, -1)
    shape = len(center_ids), *midpoint.shape[1:]
    sqdist, spare, change = (workspace.table(name, shape, midpoint) for name in ("sqdist", "spare", "change"))
    squared_distance(midpoint[:, None], others, out=sqdist, workspace=spare)
    best, nearest = lowest(sqdist, center_ids[:, None].int(), spare)
    own = flat_centers.index_select(1, nearest.flatten()).view(midpoint.shape)
    sqdiagonal = half_width.square().sum(dim=0)
    # Two distances are compared, each with an error below (D/2 + 2) units of its own magnitude. In the box that is at
    # most twice the distance of the midpoint plus twice the square of the half diagonal. This bound is rounded too.
    rounding = (4 * width + 32) * info.eps
    limit = best + rounding * (best + sqdiagonal) + width * info.tiny
    half_width = half_width * (2 + 2 * rounding)
    change.zero_()
    for channel in range(width):
        change.addcmul_(torch.sub(others[channel], own[channel], out=spare).abs_(), half_width[channel])
    if slack.any():
        slack = slack * (2 + 2 * rounding)
        limit += slack * (best.sqrt() + 2 * sqdiagonal.sqrt())
        change.addcmul_(torch.sqrt(sqdist, out=spare), slack)
    # Not `le`, which is false for the NaN of an overflow: such a center must stay.
    return sqdist.mul_(1 - rounding).gt(change.add_(limit)).logical_not_()


def lowest(sqdist: Tensor, center_ids: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest of distances (L, ...) of at least 0, and its center id: int32, below 2**30, broadcast to `sqdist`.

    The lowest id wins a tie. The values of `spare`, of the shape and dtype of `sqdist`, are overwritten.
    """
    if len(sqdist) == 1:
        return sqdist[0].clone(), center_ids[0].expand(sqdist.shape[1:])
    best = sqdist.amin(dim=0)
    # Floats of at least 0 have the order of their bits, and a CPU compares integers much faster.
    bits = torch.int32 if sqdist.dtype == torch.float32 else torch.int64
    marked = torch.sub(sqdist.view(bits), best.view(bits), out=spare.view(bits)).clamp_(max=1)
    return best, torch.add(center_ids, marked, alpha=1 << 30, out=marked).amin(dim=0).int()
