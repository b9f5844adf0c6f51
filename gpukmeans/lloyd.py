"""Lloyd's loop (Lloyd 1982): points and first centers in, a Fit out. It never learns where the points live."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpukmeans.moments import Moments
from gpukmeans.points import Points
from gpukmeans.score import squared_distance

# A grid for squared distances this much larger than the largest there is would lose bits that matter.
_LOOSE = 2.0**20

# Rounds without a new low of the inertia after which what is left to gain is rounding.
_PATIENCE = 3

# Of new centers (B, K, D) and the old ones, what to move to: see `gpukmeans.metrics`.
Projection = Callable[[Tensor, Tensor], Tensor]

# Of the rounds so far, and for each run the sum of w·d² and the farthest that a center moved, whether to stop.
Watch = Callable[[int, Tensor, Tensor], bool]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """For B runs centers (B, K, D) and the moments measured at exactly these.

    `n_iter` and `converged` (B,) tell how each loop ended.
    """

    centers: Tensor
    moments: Moments
    n_iter: Tensor
    converged: Tensor

    @property
    def totals(self) -> Tensor:
        """The weight of each cluster (B, K), float64."""
        return self.moments.weight_of_clusters()

    @property
    def inertia(self) -> Tensor:
        """The sum of w·d² (B,), float64."""
        return self.moments.weighted_sqdist()

    def select(self, runs: Tensor) -> "Fit":
        """The fits of some of the runs."""
        return Fit(
            centers=self.centers[runs],
            moments=self.moments.select(runs),
            n_iter=self.n_iter[runs],
            converged=self.converged[runs],
        )

    @staticmethod
    def joined(parts: "Sequence[Fit]") -> "Fit":
        """The fits of all runs of several parts, one part after the other."""
        return Fit(
            centers=torch.cat([part.centers for part in parts]),
            moments=Moments.joined([part.moments for part in parts]),
            n_iter=torch.cat([part.n_iter for part in parts]),
            converged=torch.cat([part.converged for part in parts]),
        )


def lloyd(
    points: Points,
    centers: Tensor,
    *,
    max_iter: int,
    tol: float,
    project: Projection | None = None,
    watch: Watch | None = None,
) -> Fit:
    """Centers (B, K, D) moved to the means of their points, again and again; each run ends by itself.

    Converged when the centers stand still or the inertia falls by no more than `tol` of itself, but never while a
    cluster is empty and some point is not at its center, unless only rounding keeps it from there, which shows in an
    inertia that finds no new low. `n_iter` counts the rounds, with the one that moved nothing.
    """
    running = _begin(points, centers)
    inertia, shifts = running.lowest.clone(), torch.zeros_like(running.lowest)
    ended: list[tuple[Tensor, Fit]] = []
    n_iter, stopped = 0, False
    while len(running.which) and n_iter < max_iter and not stopped:
        n_iter += 1
        moved = next_centers(running.centers, running.moments, project)
        sqshifts = _sqshifts(moved, running.centers)
        shifts.zero_()[running.which] = sqshifts.amax(dim=1).sqrt()
        standing = (moved == running.centers).flatten(1).all(dim=1)
        ended.append(running.ended(standing, n_iter))
        running, moved, sqshifts = running.select(~standing), moved[~standing], sqshifts[~standing]
        if len(running.which):
            running, settled = _advance(running, moved, sqshifts, tol)
            inertia[running.which] = running.moments.weighted_sqdist()
            ended.append(running.ended(settled, n_iter))
            running = running.select(~settled)
        stopped = watch is not None and watch(n_iter, inertia, shifts)
    ended.append(running.ended(slice(None), n_iter, converged=False))
    order = torch.cat([which for which, _ in ended]).argsort()
    return Fit.joined([fit for _, fit in ended]).select(order)


def next_centers(centers: Tensor, moments: Moments, project: Projection | None = None) -> Tensor:
    """The means of the clusters. Of the empty ones the first moves to the worst-served point, the others stay."""
    empty = moments.totals == 0
    means = moments.means()
    if project is not None:
        means = project(means, centers)
    moved = torch.where(empty[..., None], centers, means.to(centers.dtype))
    first = empty & (empty.cumsum(dim=1) == 1) & (moments.worst_sqdist > 0)[:, None]
    return torch.where(first[..., None], moments.worst_x[:, None], moved)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Running:
    """The runs that have not ended: which these are, where they stand, and how long they have found no new low."""

    which: Tensor
    points: Points
    centers: Tensor
    moments: Moments
    lowest: Tensor
    stalled: Tensor

    def select(self, runs: Tensor) -> "_Running":
        if runs.all():
            return self
        return _Running(
            which=self.which[runs],
            points=self.points.select(runs),
            centers=self.centers[runs],
            moments=self.moments.select(runs),
            lowest=self.lowest[runs],
            stalled=self.stalled[runs],
        )

    def ended(self, runs: Tensor | slice, n_iter: int, *, converged: bool = True) -> tuple[Tensor, Fit]:
        """Which runs these are, and their fits after so many rounds."""
        which = self.which[runs]
        fit = Fit(
            centers=self.centers[runs],
            moments=self.moments.select(runs),
            n_iter=torch.full_like(which, n_iter),
            converged=torch.full_like(which, converged, dtype=torch.bool),
        )
        return which, fit


def _begin(points: Points, centers: Tensor) -> _Running:
    moments = measured(points, centers)
    which = torch.arange(len(centers), device=centers.device)
    return _Running(
        which=which,
        points=points,
        centers=centers,
        moments=moments,
        lowest=moments.weighted_sqdist(),
        stalled=torch.zeros_like(which),
    )


def _advance(running: _Running, moved: Tensor, sqshifts: Tensor, tol: float) -> tuple[_Running, Tensor]:
    """The runs at their moved centers, which went so far (B, K), and of which of them (B,) that was enough."""
    farthest = _farthest_after(running.moments, sqshifts)
    moments = _measure(running.points, moved, farthest)
    before, inertia = running.moments.weighted_sqdist(), moments.weighted_sqdist()
    stalled = torch.where(inertia < running.lowest, 0, running.stalled + 1)
    lowest = torch.minimum(inertia, running.lowest)
    misses_a_cluster = (moments.worst_sqdist > 0) & (moments.totals == 0).any(dim=1)
    settled = (stalled >= _PATIENCE) | ((before - inertia <= tol * before) & ~misses_a_cluster)
    return replace(running, centers=moved, moments=moments, lowest=lowest, stalled=stalled), settled


def measured(points: Points, centers: Tensor) -> Moments:
    """Moments at centers (B, K, D), wherever these are."""
    return _measure(points, centers, points.farthest(centers))


def _measure(points: Points, centers: Tensor, farthest: Tensor) -> Moments:
    """Moments on a grid that suits the squared distances found, not only those that were possible."""
    moments = points.measure(centers, farthest)
    worst = moments.worst_sqdist.double()
    loose = (worst > 0) & (worst * _LOOSE < farthest)
    return points.measure(centers, torch.where(loose, worst, farthest)) if loose.any() else moments


def _farthest_after(moments: Moments, sqshifts: Tensor) -> Tensor:
    """No squared distance to the nearest center is larger after the move: no farther than the old one has gone."""
    serving = sqshifts.where(moments.totals > 0, 0)
    return (moments.worst_sqdist.double().sqrt() + serving.amax(dim=1).sqrt()) ** 2


def _sqshifts(moved: Tensor, centers: Tensor) -> Tensor:
    """The squared distance (B, K) that each center went."""
    return squared_distance(moved.double().permute(2, 0, 1), centers.double().permute(2, 0, 1))
