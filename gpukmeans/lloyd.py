"""Lloyd's loop (Lloyd 1982): move the centers to the means, measure moments there, decide whether a run has ended.

The loop does not depend on where the points are stored. A run is one clustering from its own initial centers; the loop
computes B runs side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from gpukmeans.checkpoints import CheckpointState, from_tensors, to_tensors
from gpukmeans.distance import squared_distance
from gpukmeans.engines.fused import iteration as cuda_steps
from gpukmeans.engines.iteration import Decision
from gpukmeans.engines.native import iteration as native_steps
from gpukmeans.metrics import Projection
from gpukmeans.moments import Moments
from gpukmeans.points import Points
from gpukmeans.relocation import relocated

# The fixed-point scale for a bound on squared distances is too coarse if the bound is more than this many times the
# largest squared distance that was found.
_TOO_COARSE = 2.0**20

# After this many iterations without a new minimum of the inertia, the remaining changes are rounding errors.
_PATIENCE = 3

LoopCallback = Callable[[int, Tensor, Tensor], bool]
"""A function of the number of iterations, the inertia (B,) of each run and the largest distance (B,) that one of its
centers moved. A return value of True ends the loop."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """Centers (B, K, D) of B runs, and the moments measured at these centers.

    `inertia` (B,) is the sum of weight times squared distance, float64, and `n_iter` (B,) the number of iterations.
    `converged` (B,) is true for runs that neither `max_iter` nor the callback ended.
    """

    centers: Tensor
    moments: Moments
    inertia: Tensor
    n_iter: Tensor
    converged: Tensor

    @property
    def cluster_weights(self) -> Tensor:
        """The weight of each cluster (B, K), float64."""
        return self.moments.cluster_weights()

    def select(self, runs: Tensor) -> "Fit":
        """The fits of some of the runs."""
        return Fit(
            centers=self.centers[runs],
            moments=self.moments.select(runs),
            inertia=self.inertia[runs],
            n_iter=self.n_iter[runs],
            converged=self.converged[runs],
        )

    @staticmethod
    def concatenated(parts: "Sequence[Fit]") -> "Fit":
        """The fits of the runs of all parts, in the order of the parts."""
        return Fit(
            centers=torch.cat([part.centers for part in parts]),
            moments=Moments.concatenated([part.moments for part in parts]),
            inertia=torch.cat([part.inertia for part in parts]),
            n_iter=torch.cat([part.n_iter for part in parts]),
            converged=torch.cat([part.converged for part in parts]),
        )


def lloyd(
    points: Points,
    start: Tensor | CheckpointState,
    *,
    max_iter: int,
    tol: float,
    project: Projection | None = None,
    callback: LoopCallback | None = None,
    window: int | None = None,
    n_fixed: int = 0,
    save: Callable[[CheckpointState], object] | None = None,
    every: int = 1,
) -> Fit:
    """The fits of B runs from initial centers (B, K, D), or from a state that `save` received.

    A run ends when its centers do not move, or when its inertia decreases by at most the fraction `tol`. While a
    cluster is empty and some point is not at its center, the run continues until `_PATIENCE` iterations bring no new
    minimum of the inertia. `n_iter` includes the iteration in which no center moved.

    The first `n_fixed` centers do not move, and their clusters may be empty. `project` makes next centers of means.
    `save` is called before the first iteration and after every `every` iterations, until all runs have ended.

    The loop checks which runs have ended after at most `window` iterations, and with a callback after each iteration.
    The default depends on the device. The result does not depend on `window`.
    """
    window = 1 if callback is not None else window or _default_window(points.device)
    if isinstance(start, Tensor):
        # Without a check of the scales, which synchronizes with a GPU. The check of the first window includes them.
        unchecked = window > 1 and max_iter > 0 and save is None
        active, ended = _start_runs(points, start, n_fixed, unchecked=unchecked), []
        inertia, n_iter = active.inertia, 0
    else:
        snapshot = from_tensors(_LoopSnapshot, start, "loop")
        active, ended = snapshot.active.resume(points, n_fixed), [(snapshot.ended, snapshot.fits)]
        inertia, n_iter = snapshot.inertia, int(snapshot.n_iter)
    still = shifts = torch.zeros_like(inertia)
    stopped = False
    while active.n_runs and n_iter < max_iter and not stopped:
        # First 4, then at most as many iterations as so far plus one: a run that ends early is measured in vain until
        # the next check.
        n = min(window, max(4, n_iter + 1), max_iter - n_iter)
        if save is not None:
            if n_iter % every == 0:
                save(to_tensors(_LoopSnapshot.of(active, ended, inertia, n_iter), "loop"))
            n = min(n, every - n_iter % every)
        n_iter += n
        if window == 1:
            active = _move(active, project, relocate=True)
            shifts = _of_all_runs(active.sqshift.sqrt(), active.run_ids, still)
            # Here a check costs less than measuring runs that have ended.
            finished, active = _split_finished(active, active.going.tolist())
            ended += finished
            active, going = _measured_and_checked(active, tol)
        else:
            active, going = _iterated_and_checked(active, n, tol, project)
        if active.n_runs:
            inertia = _of_all_runs(active.inertia, active.run_ids, inertia)
        finished, active = _split_finished(active, going)
        ended += finished
        stopped = callback is not None and callback(n_iter, inertia, shifts)
    if active.n_runs:
        ended.append((active.run_ids, active.fit()))
    parts = [(run_ids, fit) for run_ids, fit in ended if len(run_ids)]
    if len(parts) == 1:  # its runs are in order
        return parts[0][1]
    order = torch.cat([run_ids for run_ids, _ in parts]).argsort()
    return Fit.concatenated([fit for _, fit in parts]).select(order)


def next_centers(centers: Tensor, moments: Moments, project: Projection | None = None, n_fixed: int = 0) -> Tensor:
    """The means of the clusters (B, K, D). Empty clusters and the first `n_fixed` clusters keep their centers."""
    if project is None and (found := cuda_steps.next_centers(centers, moments, n_fixed)) is not None:
        return found
    means = moments.means()
    if project is not None:
        means = project(means, centers)
    moved = torch.where(moments.totals[..., None] == 0, centers, means.to(centers.dtype))
    moved[:, :n_fixed] = centers[:, :n_fixed]
    return moved


def measure_at(points: Points, centers: Tensor) -> Moments:
    """Moments at any centers (B, K, D), with a fixed-point scale that is fine enough for the squared distances."""
    moments, bound, is_coarse = _measured_at(points, centers)
    return points.measure(centers, bound) if is_coarse.any() else moments


def _measured_at(points: Points, centers: Tensor) -> tuple[Moments, Tensor, Tensor]:
    """Moments at any centers (B, K, D), a bound (B,) on squared distances, and whether the scale is too coarse (B,).

    Moments at a scale that is too coarse must be measured again with the bound.
    """
    found = cuda_steps.bound_and_scale(centers, points.fixed_point, points.total_weight)
    bound, scale = (points.sqdist_bound(centers), None) if found is None else found
    moments = points.measure(centers, bound, scale)
    return moments, *_tightened(moments, bound)


@dataclass(frozen=True, kw_only=True, eq=False)
class _ActiveRuns:
    """B runs side by side: centers, the moments at these centers, and the next centers, `target`.

    `run_ids` (B,) are the numbers of these runs among all runs. `going` (B,) is True for runs that have not ended; the
    others do not change. `inertia` (B,) is the inertia of the moments, and `lowest` (B,) the lowest inertia so far.
    `n_iter` (B,) counts all iterations, and `stalled` (B,) the iterations since the lowest inertia. `unresolved` (B,)
    is True for runs whose iterations must be repeated with checks, because a fixed-point scale was too coarse or a
    cluster became empty.

    For the move to the target, `sqshift` (B,) is the largest squared distance that a center moves, `bound` (B,) is an
    upper bound of the squared distances of points after the move, and `scale` (B,) is the fixed-point scale for this
    bound.
    """

    run_ids: Tensor
    points: Points
    centers: Tensor
    moments: Moments
    target: Tensor
    sqshift: Tensor
    bound: Tensor
    scale: Tensor
    inertia: Tensor
    lowest: Tensor
    stalled: Tensor
    n_iter: Tensor
    going: Tensor
    unresolved: Tensor
    n_fixed: int

    @property
    def n_runs(self) -> int:
        return self.run_ids.shape[0]  # `len` of a tensor takes three times as long

    def updated(self, **changes: Any) -> "_ActiveRuns":
        """The runs with some fields changed. (`dataclasses.replace` takes as long as a pass over few points.)"""
        runs = object.__new__(_ActiveRuns)
        runs.__dict__.update(self.__dict__, **changes)
        return runs

    def select(self, runs: list[int]) -> "_ActiveRuns":
        index = torch.tensor(runs, dtype=torch.int64, device="cpu")
        points, index = self.points.select(index), index.to(self.run_ids.device)
        names = [field.name for field in fields(self) if field.name not in ("points", "moments", "n_fixed")]
        tensors = {name: getattr(self, name)[index] for name in names}
        return self.updated(points=points, moments=self.moments.select(index), **tensors)

    def fit(self) -> Fit:
        return Fit(
            centers=self.centers,
            moments=self.moments,
            inertia=self.inertia,
            n_iter=self.n_iter,
            converged=~self.going,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _RunSnapshot:
    """The fields of active runs that a checkpoint stores. `resume` sets the other fields."""

    run_ids: Tensor
    centers: Tensor
    moments: Moments
    lowest: Tensor
    stalled: Tensor
    n_iter: Tensor

    def resume(self, points: Points, n_fixed: int) -> _ActiveRuns:
        """The active runs, from the points of all runs. ValueError if the moments belong to other points."""
        own = points.select(self.run_ids)
        if len(self.run_ids):
            again = own.source.measure(self.centers, self.moments.fixed_point, own.problems)
            totals = ("sums", "totals", "inertia")
            if not all(torch.equal(getattr(again, name), getattr(self.moments, name)) for name in totals):
                raise ValueError("a checkpoint must be of the same points and options, got one of other points")
        return _ActiveRuns(
            **{field.name: getattr(self, field.name) for field in fields(self)},
            points=own,
            target=self.centers,
            sqshift=torch.zeros_like(self.lowest),
            bound=torch.zeros_like(self.lowest),
            scale=torch.zeros_like(self.lowest),
            inertia=self.moments.weighted_sqdist(),
            going=torch.ones_like(self.run_ids) > 0,
            unresolved=torch.zeros_like(self.run_ids) > 0,
            n_fixed=n_fixed,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _LoopSnapshot:
    """The state of the loop after `n_iter` () iterations: the active runs, and the fits of the runs `ended` (E,).

    `inertia` and `shifts` (R,) are the last values of all R runs, as for the callback.
    """

    n_iter: Tensor
    inertia: Tensor
    active: _RunSnapshot
    ended: Tensor
    fits: Fit

    @staticmethod
    def of(active: _ActiveRuns, ended: Sequence[tuple[Tensor, Fit]], inertia: Tensor, n_iter: int) -> "_LoopSnapshot":
        none = active.run_ids[:0]
        ended = [*ended, (none, active.fit().select(none))]  # `concatenated` needs at least one fit
        return _LoopSnapshot(
            n_iter=torch.tensor(n_iter, device="cpu"),
            inertia=inertia,
            active=_RunSnapshot(**{field.name: getattr(active, field.name) for field in fields(_RunSnapshot)}),
            ended=torch.cat([run_ids for run_ids, _ in ended]),
            fits=Fit.concatenated([fit for _, fit in ended]),
        )


def _default_window(device: torch.device) -> int:
    """Iterations between two checks of which runs have ended. A check synchronizes with a GPU and is free on a CPU."""
    return 8 if device.type == "cuda" else 1


def _start_runs(points: Points, centers: Tensor, n_fixed: int = 0, *, unchecked: bool = False) -> _ActiveRuns:
    """The runs at their initial centers (B, K, D), with the moments there.

    With `unchecked`, runs whose fixed-point scale is too coarse are unresolved.
    """
    moments, bound, is_coarse = _measured_at(points, centers)
    if not unchecked and is_coarse.any():
        moments = points.measure(centers, bound)
    run_ids = torch.arange(len(centers), device=centers.device)
    zeros = torch.zeros_like(run_ids)
    inertia = moments.weighted_sqdist()
    no_move = torch.zeros_like(inertia)
    return _ActiveRuns(
        run_ids=run_ids,
        points=points,
        centers=centers,
        moments=moments,
        target=centers,
        sqshift=no_move,
        bound=bound,
        scale=no_move,
        inertia=inertia,
        lowest=inertia,
        stalled=zeros,
        n_iter=zeros,
        going=zeros == 0,
        unresolved=is_coarse if unchecked else torch.zeros_like(is_coarse),
        n_fixed=n_fixed,
    )


def _resolved(active: _ActiveRuns) -> _ActiveRuns:
    """The runs before a window. Unresolved runs are at their initial centers, and are measured again."""
    if not active.unresolved.any():
        return active
    moments = active.points.measure(active.centers, active.bound)
    inertia, resolved = moments.weighted_sqdist(), torch.zeros_like(active.unresolved)
    return active.updated(moments=moments, inertia=inertia, lowest=inertia, unresolved=resolved)


def _of_all_runs(values: Tensor, run_ids: Tensor, others: Tensor) -> Tensor:
    """Values (R,) of all R runs: `values` (B,) for the active runs, and `others` (R,) for the ended runs."""
    return values if values.shape == others.shape else others.index_copy(0, run_ids, values)


def _split_finished(active: _ActiveRuns, going: list[bool]) -> tuple[list[tuple[Tensor, Fit]], _ActiveRuns]:
    """The numbers and fits of the runs that have ended, if any, and the remaining active runs."""
    if all(going):
        return [], active
    if not any(going):
        return [(active.run_ids, active.fit())], active.updated(run_ids=active.run_ids[:0])
    finished = active.select([run for run, goes in enumerate(going) if not goes])
    return [(finished.run_ids, finished.fit())], active.select([run for run, goes in enumerate(going) if goes])


def _move(active: _ActiveRuns, project: Projection | None, *, relocate: bool) -> _ActiveRuns:
    """First step of an iteration: the next centers. Runs whose centers do not move end.

    With `relocate` empty clusters move to the points farthest from their centers, which synchronizes with a GPU.
    Without `relocate`, runs with empty clusters become unresolved.
    """
    if project is None:
        state = active.centers, active.moments, active.going, active.n_iter, active.unresolved
        total_weight = active.points.total_weight
        moved = _steps(active).move(*state, n_fixed=active.n_fixed, total_weight=total_weight)
        if moved is not None:
            relocates = relocate and moved.unresolved is not active.unresolved and bool(moved.unresolved.any())
            if not relocates:
                return active.updated(**moved._asdict())
    centers, moments, unresolved = active.centers, active.moments, active.unresolved
    missing = active.going & _misses_a_cluster(moments, active.n_fixed)
    if not relocate:
        unresolved = unresolved | missing
    elif missing.any():
        centers, moments = _relocated_runs(active, missing)
    means = next_centers(centers, moments, project, active.n_fixed)
    target = torch.where(active.going[:, None, None], means, active.centers)
    sqshifts = _sqshifts(target, active.centers)
    bound = _bound_after_move(active.moments, sqshifts)
    return active.updated(
        target=target,
        sqshift=sqshifts.amax(dim=1),
        bound=bound,
        scale=active.points.sqdist_scale(bound),
        n_iter=active.n_iter + active.going,
        going=(target != active.centers).flatten(1).any(dim=1),
        unresolved=unresolved,
    )


def _relocated_runs(active: _ActiveRuns, missing: Tensor) -> tuple[Tensor, Moments]:
    """The centers and moments of all runs, after relocation in the runs of the mask `missing` (B,)."""
    runs = missing.nonzero().squeeze(1)
    own = active.points.select(runs), active.centers[runs], active.moments.select(runs)
    centers, moments = relocated(*own, active.n_fixed)
    sums, totals = (
        getattr(active.moments, name).index_copy(0, runs, getattr(moments, name)) for name in ("sums", "totals")
    )
    return active.centers.index_copy(0, runs, centers), replace(active.moments, sums=sums, totals=totals)


def _misses_a_cluster(moments: Moments, n_fixed: int) -> Tensor:
    """True (B,) for runs with an empty cluster that is not fixed and a point with weight that is not at its center."""
    return (moments.worst_sqdist > 0) & (moments.totals[:, n_fixed:] == 0).any(dim=1)


def _measured_and_checked(moved: _ActiveRuns, tol: float) -> tuple[_ActiveRuns, list[bool]]:
    """The runs after the second step of an iteration, and whether each continues. No run has ended before."""
    if not moved.n_runs:
        return moved, []
    active = _measure(moved, tol, twice=False, all_going=True)
    if any(active.unresolved.tolist()):
        active = _measure(moved, tol, twice=True, all_going=True)
    return active, active.going.tolist()


def _iterated_and_checked(
    before: _ActiveRuns, n: int, tol: float, project: Projection | None
) -> tuple[_ActiveRuns, list[bool]]:
    """The runs after `n` iterations, and whether each continues. This synchronizes with a GPU, usually once."""
    active = _iterate(before, n, tol, project, careful=False)
    going, unresolved = torch.stack([active.going, active.unresolved]).tolist()
    if any(unresolved):
        active = _iterate(_resolved(before), n, tol, project, careful=True)
        going = active.going.tolist()
    return active, going


def _iterate(active: _ActiveRuns, n: int, tol: float, project: Projection | None, *, careful: bool) -> _ActiveRuns:
    """The runs after `n` iterations.

    With `all_going` no run has ended before. With `careful` empty clusters are relocated, and each pass is repeated
    with scales that are fine enough, which synchronizes with a GPU.
    """
    for _ in range(n):
        active = _measure(_move(active, project, relocate=careful), tol, twice=careful, all_going=False)
    return active


def _measure(moved: _ActiveRuns, tol: float, *, twice: bool, all_going: bool) -> _ActiveRuns:
    """Second step of an iteration: the runs at their next centers, with the moments there. Converged runs end.

    A run becomes unresolved if its fixed-point scale was too coarse. With `twice`, all runs are measured a second time,
    at scales that are fine enough.
    """
    bound = moved.bound
    moments = moved.points.measure(moved.target, bound, moved.scale)
    if twice:
        bound, _ = _tightened(moments, bound)
        moments = moved.points.measure(moved.target, bound)
    decision = _decide(moved, moments, bound, tol, all_going=all_going)
    return moved.updated(centers=moved.target, **decision._asdict())


def _decide(moved: _ActiveRuns, moments: Moments, bound: Tensor, tol: float, *, all_going: bool) -> Decision:
    """Which runs continue, decided by the moments at their next centers."""
    previous = None if all_going else moved.moments
    state = moved.going, bound, moved.inertia, moved.lowest, moved.stalled, moved.unresolved
    rule = {"n_fixed": moved.n_fixed, "tol": tol, "patience": _PATIENCE, "too_coarse": _TOO_COARSE}
    if (decision := _steps(moved).decide(moments, previous, *state, **rule)) is not None:
        return decision
    before, inertia = moved.inertia, moments.weighted_sqdist()
    stalled = torch.where(inertia < moved.lowest, 0, moved.stalled + 1)
    missing = _misses_a_cluster(moments, moved.n_fixed)
    settled = (stalled >= _PATIENCE) | ((before - inertia <= tol * before) & ~missing)
    return Decision(
        moments=moments if previous is None else moments.where(moved.going, previous),
        inertia=torch.where(moved.going, inertia, moved.inertia),
        lowest=torch.minimum(inertia, moved.lowest),
        stalled=stalled,
        going=moved.going & ~settled,
        unresolved=moved.unresolved | (moved.going & _tightened(moments, bound)[1]),
    )


def _steps(active: _ActiveRuns) -> Any:
    """The module of the kernels of both steps for the device of the runs."""
    return native_steps if active.centers.is_cpu else cuda_steps


def _tightened(moments: Moments, bound: Tensor) -> tuple[Tensor, Tensor]:
    """The bound (B,), or the largest squared distance found where the bound is far above it; and the mask of these."""
    if (found := cuda_steps.tightened(moments, bound, _TOO_COARSE)) is not None:
        return found
    worst = moments.worst_sqdist.double()
    is_coarse = (worst > 0) & (worst * _TOO_COARSE < bound)
    return torch.where(is_coarse, worst, bound), is_coarse


def _bound_after_move(moments: Moments, sqshifts: Tensor) -> Tensor:
    """An upper bound (B,) on squared distances after centers moved: (a + b)² <= 2(a² + b²).

    Here a is the largest distance before the move, and b is the largest move of a center that has points. The bound
    determines a scale, so it must have equal bits on all devices. The formula has no roots, because the rounding of
    roots differs between devices.
    """
    of_used = sqshifts.where(moments.totals > 0, 0)
    return 2 * (moments.worst_sqdist.double() + of_used.amax(dim=1))


def _sqshifts(moved: Tensor, centers: Tensor) -> Tensor:
    """The squared distance (B, K) that each center moves."""
    return squared_distance(moved.double().permute(2, 0, 1), centers.double().permute(2, 0, 1))
