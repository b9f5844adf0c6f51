"""Points on the ranks of a process group, each of which holds a part: every answer is a sum over the ranks."""

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from gpukmeans.fixed_point import Grid
from gpukmeans.moments import Moments
from gpukmeans.points.base import Masses, Near, Part, Urn
from gpukmeans.points.communicator import Company, on_device
from gpukmeans.points.stats import Census, Spread

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RanksPart:
    """The points of all ranks, in the order of these, of which this one holds a part, `own`.

    Answers are equal on all ranks, except for labels, which each gives of its own points. Moments name the worst-served
    point only where some cluster is empty, as it costs more to know; elsewhere its row is -1, and NaN.
    """

    own: Part
    company: Company
    width: int
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return self.own.dtype

    @property
    def weights_dtype(self) -> torch.dtype | None:
        return self.own.weights_dtype

    def census(self) -> Census:
        looks = self.company.gather("the survey of values", self.own.census)
        return functools.reduce(operator.add, on_device(looks, self.device))

    def weighed(self, scale: Tensor) -> "RanksPart":
        return replace(self, own=self._agreed("the weights", lambda: self.own.weighed(scale)))

    def spread(self, scale: Tensor) -> Spread:
        looks = self.company.gather("the survey of points", lambda: self.own.spread(scale))
        return functools.reduce(operator.add, on_device(looks, self.device))

    def measure(self, centers: Tensor, grid: Grid, problems: Sequence[int]) -> Moments:
        found = nothing = Moments.nothing(centers, grid)
        like = _flat(nothing)

        def work() -> Tensor:
            nonlocal found
            found = self.own.measure(centers, grid, problems)
            return _flat(found)

        summed = self.company.total("the sum of moments", like, work)
        sizes = [nothing.sums.numel(), nothing.totals.numel(), nothing.inertia.numel()]
        sums, totals, inertia = summed.split(sizes)
        worst_sqdist = self.company.largest("the worst-served point", found.worst_sqdist)
        moments = replace(
            nothing,
            sums=sums.view(nothing.sums.shape),
            totals=totals.view(nothing.totals.shape),
            inertia=inertia,
            worst_sqdist=worst_sqdist,
            worst_row=torch.full_like(nothing.worst_row, -1),
            worst_x=torch.full_like(nothing.worst_x, torch.nan),
        )
        return self._with_worst(moments, found) if (moments.totals == 0).any() else moments

    def assign(self, centers: Tensor, problems: Sequence[int]) -> "_Later":
        return _Later(lambda: self.own.assign(centers, problems))

    def nearer(self, near: "_Later", centers: Tensor, first: int, problems: Sequence[int]) -> "_Later":
        return _Later(lambda: self.own.nearer(near.found, centers, first, problems))

    def labels(self, centers: Tensor, problems: Sequence[int]) -> Tensor | None:
        return self._agreed("the labels", lambda: self.own.labels(centers, problems))

    def farthest(self, near: "_Later", total_weight: Tensor, problems: Sequence[int]) -> Tensor:
        if near.farthest is None:  # which is asked twice
            found = self.company.gather(
                "the farthest point", lambda: self.own.farthest(near.found, total_weight, problems)
            )
            near.farthest = torch.stack(found).amax(dim=0).to(self.device)
        return near.farthest

    def urn(self, masses: Masses, near: "_Later | None", scale: Tensor, problems: Sequence[int]) -> "RanksUrn":
        urn: Urn | None = None

        def work() -> Tensor:
            nonlocal urn
            urn = self.own.urn(masses, None if near is None else near.found, scale, problems)
            return urn.totals

        totals = on_device(self.company.gather("the masses of a draw", work), self.device)
        assert urn is not None  # else the others' error, or this one's, was raised
        before = functools.reduce(operator.add, totals[: self.company.rank], torch.zeros_like(totals[0]))
        none = torch.empty(len(problems), 0, self.width, dtype=self.dtype, device=self.device)
        return RanksUrn(urn, self.company, before, functools.reduce(operator.add, totals), none)

    def potentials(self, near: "_Later", candidates: Tensor, scale: Tensor, problems: Sequence[int]) -> Tensor:
        like = torch.zeros(candidates.shape[:2], dtype=torch.int64, device=self.device)
        return self.company.total(
            "the sum of potentials", like, lambda: self.own.potentials(near.found, candidates, scale, problems)
        )

    def totals(self, near: "_Later", n_centers: int, scale: Tensor, problems: Sequence[int]) -> Tensor:
        like = torch.zeros(len(problems), n_centers, dtype=torch.int64, device=self.device)
        return self.company.total(
            "the sum of totals", like, lambda: self.own.totals(near.found, n_centers, scale, problems)
        )

    def gathered(self, centers: Tensor, totals: Tensor) -> Part:
        return self.own.gathered(centers, totals)  # which all ranks have

    def _agreed(self, what: str, work: Callable[[], T]) -> T:
        """What the work gives here, if it has failed on no rank."""
        found: list[T] = []
        self.company.gather(what, lambda: found.append(work()))
        return found[0]

    def _with_worst(self, moments: Moments, own: Moments) -> Moments:
        """The same with the worst-served point: of equally bad ones that of the lowest rank, where rows are lowest."""
        told = self.company.gather("where the worst-served point is", lambda: (own.worst_sqdist, own.worst_x))
        sqdists, points = (torch.stack(parts).to(self.device) for parts in zip(*told, strict=True))
        rank = sqdists.argmax(dim=0)  # the first of equals, as these are few
        return replace(moments, worst_x=points[rank, torch.arange(len(rank), device=self.device)])


class _Later:
    """What is near on this rank, found within the collective that asks for it first, where it may fail for all."""

    def __init__(self, find: Callable[[], Near]) -> None:
        self._find: Callable[[], Near] | None = find
        self._found: Near = None
        self.farthest: Tensor | None = None
        """Of all ranks, once it is known."""

    @property
    def found(self) -> Near:
        if self._find is not None:
            self._found, self._find = self._find(), None
        return self._found


@dataclass(frozen=True, eq=False)
class RanksUrn:
    """The points of all ranks that B runs draw from, those of this rank after the positions `before` it (B or 1, 1).

    `none` (B, 0, D) is what the points look like.
    """

    own: Urn
    company: Company
    before: Tensor
    totals: Tensor
    none: Tensor

    def take(self, positions: Tensor) -> Tensor:
        within = positions - self.before
        here = ((within >= 0) & (within < self.own.totals)).expand(len(self.none), -1)
        bits = torch.int32 if self.none.dtype == torch.float32 else torch.int64
        like = torch.zeros(*here.shape, self.none.shape[2], dtype=torch.int64, device=self.none.device)

        def work() -> Tensor:
            own = self.own.take(within.clamp(min=0).minimum((self.own.totals - 1).clamp(min=0)))
            return own.view(bits).long().where(here[..., None], 0)

        # Each position is on one rank, so that the sum of the bits are its own.
        return self.company.total("the points drawn", like, work).to(bits).view(self.none.dtype)


def _flat(moments: Moments) -> Tensor:
    return torch.cat([moments.sums.flatten(), moments.totals.flatten(), moments.inertia])
