"""Lloyd's loop (Lloyd 1982): points and first centers in, a Fit out. It never learns where the points live."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from gpukmeans.checkpoints import State, packed, unpacked
from gpukmeans.distance import squared_distance
from gpukmeans.metrics import Projection
from gpukmeans.moments import Moments
from gpukmeans.points.base import Points

# A grid for squared distances this much larger than the largest there is would lose bits that matter.
_LOOSE = 2.0**20

# Rounds without a new low of the inertia after which what is left to gain is rounding.
_PATIENCE = 3


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
    start: Tensor | State,
    *,
    max_iter: int,
    tol: float,
    project: Projection | None = None,
    watch: Watch | None = None,
    window: int | None = None,
    n_fixed: int = 0,
    keep: Callable[[State], object] | None = None,
    every: int = 1,
) -> Fit:
    """Centers (B, K, D) moved to the means of their points, again and again; each run ends by itself.

    They start where they are, or go on from a state that `keep` was given, which it is before the first round and after
    each `every` of them, as long as a run is left.

    The first `n_fixed` centers stay where they are, and no one minds if their clusters are empty.

    Converged when the centers stand still or the inertia falls by no more than `tol` of itself, but never while a
    cluster is empty and some point is not at its center, unless only rounding keeps it from there, which shows in an
    inertia that finds no new low. `n_iter` counts the rounds, with the one that moved nothing.

    The host looks at what has ended after at most `window` rounds; by default after what suits the device. With a
    `watch` that is each round. No bit depends on it.
    """
    longest = 1 if watch is not None else window or _rounds_between_looks(points.device)
    if isinstance(start, Tensor):
        running, ended = _begin(points, start, n_fixed), []
        inertia, shifts, n_iter = running.lowest.clone(), torch.zeros_like(running.lowest), 0
    else:
        kept = unpacked(_Kept, start, "loop")
        running, ended = kept.running.resumed(points, n_fixed), [(kept.ended, kept.fits)]
        inertia, shifts, n_iter = kept.inertia.clone(), kept.shifts.clone(), int(kept.n_iter)
    stopped = False
    while len(running.which) and n_iter < max_iter and not stopped:
        # At most one more than so far, so that a run which ends soon is not measured long after.
        rounds = min(longest, n_iter + 1, max_iter - n_iter)
        if keep is not None:
            if n_iter % every == 0:
                keep(packed(_Kept.of(running, ended, inertia, shifts, n_iter), "loop"))
            rounds = min(rounds, every - n_iter % every)
        n_iter += rounds
        running = _aimed(running, project)
        shifts.zero_()[running.which] = running.sqshifts.amax(dim=1).sqrt()
        if longest == 1:  # a look costs less than to measure those that stand
            gone, running = _parted(running, running.going.tolist())
            ended += gone
        if len(running.which):
            running, going = _through(running, rounds, tol, project)
            inertia[running.which] = running.moments.weighted_sqdist()
            gone, running = _parted(running, going)
            ended += gone
        stopped = watch is not None and watch(n_iter, inertia, shifts)
    ended.append((running.which, running.fit()))
    order = torch.cat([which for which, _ in ended]).argsort()
    return Fit.joined([fit for _, fit in ended]).select(order)


def next_centers(centers: Tensor, moments: Moments, project: Projection | None = None, n_fixed: int = 0) -> Tensor:
    """The means of the clusters. Of the empty ones the first moves to the worst-served point, the others stay.

    So do the first `n_fixed` centers, whatever their clusters are.
    """
    empty = moments.totals == 0
    means = moments.means()
    if project is not None:
        means = project(means, centers)
    moved = torch.where(empty[..., None], centers, means.to(centers.dtype))
    moved[:, :n_fixed] = centers[:, :n_fixed]
    empty[:, :n_fixed].zero_()
    first = empty & (empty.cumsum(dim=1) == 1) & (moments.worst_sqdist > 0)[:, None]
    return torch.where(first[..., None], moments.worst_x[:, None], moved)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Running:
    """Runs side by side: which these are, where they stand, and where they go next.

    Those that are not `going` have ended and stay as they are. `n_iter` are the rounds of each, `stalled` those of them
    since the inertia was at its `lowest`. `loose` says where a grid was found too coarse. The first `n_fixed` centers
    never move.
    """

    which: Tensor
    points: Points
    centers: Tensor
    moments: Moments
    goal: Tensor
    sqshifts: Tensor
    lowest: Tensor
    stalled: Tensor
    n_iter: Tensor
    going: Tensor
    loose: Tensor
    n_fixed: int

    def select(self, runs: list[int]) -> "_Running":
        index = torch.tensor(runs, dtype=torch.int64, device="cpu")
        points, index = self.points.select(index), index.to(self.which.device)
        others = [field.name for field in fields(self) if field.name not in ("points", "moments", "n_fixed")]
        tensors = {name: getattr(self, name)[index] for name in others}
        return replace(self, points=points, moments=self.moments.select(index), **tensors)

    def fit(self) -> Fit:
        return Fit(centers=self.centers, moments=self.moments, n_iter=self.n_iter, converged=~self.going)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Standing:
    """What there is to runs between two rounds, at a look of the host."""

    which: Tensor
    centers: Tensor
    moments: Moments
    lowest: Tensor
    stalled: Tensor
    n_iter: Tensor

    def resumed(self, points: Points, n_fixed: int) -> _Running:
        """These runs, all going, of the points of all runs. ValueError if their moments are not those of the points."""
        own = points.select(self.which)
        if len(self.which):
            again = own.part.measure(self.centers, self.moments.grid, own.problems)
            if not all(
                torch.equal(getattr(again, name), getattr(self.moments, name)) for name in ("sums", "totals", "inertia")
            ):
                raise ValueError("a checkpoint must be of the same points and options, got one of other points")
        return _Running(
            **{each.name: getattr(self, each.name) for each in fields(self)},
            points=own,
            goal=self.centers,
            sqshifts=torch.zeros(self.centers.shape[:2], dtype=torch.float64, device=self.centers.device),
            going=torch.ones_like(self.which) > 0,
            loose=torch.zeros_like(self.which) > 0,
            n_fixed=n_fixed,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kept:
    """All there is to a loop between two rounds: `n_iter` () of them so far, the runs that are going, and the fits of
    those that have `ended`, by their numbers."""

    n_iter: Tensor
    inertia: Tensor
    shifts: Tensor
    running: _Standing
    ended: Tensor
    fits: Fit

    @staticmethod
    def of(
        running: _Running, ended: Sequence[tuple[Tensor, Fit]], inertia: Tensor, shifts: Tensor, n_iter: int
    ) -> "_Kept":
        gone = [*ended, (running.which[:0], running.fit().select(running.which[:0]))]  # so that there is a last one
        return _Kept(
            n_iter=torch.tensor(n_iter),
            inertia=inertia,
            shifts=shifts,
            running=_Standing(**{each.name: getattr(running, each.name) for each in fields(_Standing)}),
            ended=torch.cat([which for which, _ in gone]),
            fits=Fit.joined([fit for _, fit in gone]),
        )


def _rounds_between_looks(device: torch.device) -> int:
    """A look waits for a GPU, which then waits for the host; a CPU has nothing to wait for."""
    return 8 if device.type == "cuda" else 1


def _begin(points: Points, centers: Tensor, n_fixed: int = 0) -> _Running:
    moments = measured(points, centers)
    which = torch.arange(len(centers), device=centers.device)
    nothing = torch.zeros_like(which)
    return _Running(
        which=which,
        points=points,
        centers=centers,
        moments=moments,
        goal=centers,
        sqshifts=torch.zeros(centers.shape[:2], dtype=torch.float64, device=centers.device),
        lowest=moments.weighted_sqdist(),
        stalled=nothing,
        n_iter=nothing,
        going=nothing == 0,
        loose=nothing > 0,
        n_fixed=n_fixed,
    )


def _parted(running: _Running, going: list[bool]) -> tuple[list[tuple[Tensor, Fit]], _Running]:
    """Which runs have ended and their fits, unless none has, and the runs that are going."""
    if all(going):
        return [], running
    gone = running.select([run for run, goes in enumerate(going) if not goes])
    return [(gone.which, gone.fit())], running.select([run for run, goes in enumerate(going) if goes])


def _aimed(running: _Running, project: Projection | None) -> _Running:
    """The runs at the beginning of a round, those that stand no longer going."""
    means = next_centers(running.centers, running.moments, project, running.n_fixed)
    goal = torch.where(running.going[:, None, None], means, running.centers)
    return replace(
        running,
        goal=goal,
        sqshifts=_sqshifts(goal, running.centers),
        n_iter=running.n_iter + running.going,
        going=(goal != running.centers).flatten(1).any(dim=1),
    )


def _through(aimed: _Running, rounds: int, tol: float, project: Projection | None) -> tuple[_Running, list[bool]]:
    """The runs after so many rounds, and which are still going. At these the host looks once, in the end."""
    found = _rounds(aimed, rounds, tol, project, twice=False)
    going, loose = torch.stack([found.going, found.loose]).tolist()
    if any(loose):  # too rare to be asked each round
        found = _rounds(aimed, rounds, tol, project, twice=True)
        going = found.going.tolist()
    return found, going


def _rounds(aimed: _Running, rounds: int, tol: float, project: Projection | None, *, twice: bool) -> _Running:
    """The runs after so many rounds, of which the first has begun. The host knows nothing of what it finds.

    A run that ends stays as it is. Where a grid was too coarse, it is `loose`; measured `twice`, on a finer one.
    """
    running = _advanced(aimed, tol, twice)
    for _ in range(rounds - 1):
        running = _advanced(_aimed(running, project), tol, twice)
    return running


def _advanced(running: _Running, tol: float, twice: bool) -> _Running:
    """The runs at their goals, those for which that was enough no longer going."""
    farthest = _farthest_after(running.moments, running.sqshifts)
    moments = running.points.measure(running.goal, farthest)
    found = _farthest_found(moments, farthest)
    if twice:
        moments = running.points.measure(running.goal, found)
    before, inertia = running.moments.weighted_sqdist(), moments.weighted_sqdist()
    stalled = torch.where(inertia < running.lowest, 0, running.stalled + 1)
    misses_a_cluster = (moments.worst_sqdist > 0) & (moments.totals[:, running.n_fixed :] == 0).any(dim=1)
    settled = (stalled >= _PATIENCE) | ((before - inertia <= tol * before) & ~misses_a_cluster)
    loose = running.loose if twice else running.loose | (running.going & (found < farthest))
    return replace(
        running,
        centers=running.goal,
        moments=moments.where(running.going, running.moments),
        lowest=torch.minimum(inertia, running.lowest),
        stalled=stalled,
        going=running.going & ~settled,
        loose=loose,
    )


def measured(points: Points, centers: Tensor) -> Moments:
    """Moments at centers (B, K, D), wherever these are, on a grid that suits the squared distances found."""
    farthest = points.farthest(centers)
    moments = points.measure(centers, farthest)
    found = _farthest_found(moments, farthest)
    return points.measure(centers, found) if (found < farthest).any() else moments


def _farthest_found(moments: Moments, farthest: Tensor) -> Tensor:
    """The largest squared distance (B,), where it is so far below what was possible that the grid should know."""
    worst = moments.worst_sqdist.double()
    return torch.where((worst > 0) & (worst * _LOOSE < farthest), worst, farthest)


def _farthest_after(moments: Moments, sqshifts: Tensor) -> Tensor:
    """No squared distance to the nearest center is larger after the move: no farther than the old one has gone."""
    serving = sqshifts.where(moments.totals > 0, 0)
    return (moments.worst_sqdist.double().sqrt() + serving.amax(dim=1).sqrt()) ** 2


def _sqshifts(moved: Tensor, centers: Tensor) -> Tensor:
    """The squared distance (B, K) that each center went."""
    return squared_distance(moved.double().permute(2, 0, 1), centers.double().permute(2, 0, 1))
