"""Points in a stream of batches, too many to be held: every question is a pass over all, and a sum over its batches."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from gpukmeans.engines.base import Engine
from gpukmeans.fixed_point import Grid, finest_scale
from gpukmeans.metrics import Metric
from gpukmeans.moments import Moments
from gpukmeans.points.base import Masses
from gpukmeans.points.batches import Batch, Batches, batch_name
from gpukmeans.points.stats import Census, Spread
from gpukmeans.points.tensor import TensorPart, TensorUrn
from gpukmeans.tiling import blocks
from gpukmeans.validation import check_points, check_weights, short_name

T = TypeVar("T")

# Rows whose masses are added before a draw says which of them it wants.
_BLOCK = 1 << 12
# Binary exponents of the scales, by that of the farthest there was, at which masses are made while the farthest there
# is is sought: it may have come nearer, and on another rank it may be farther.
_SCALES = range(-1, 4)


class Form(NamedTuple):
    """What all batches have in common; `weights` is the dtype of theirs, None where all are 1."""

    width: int
    dtype: torch.dtype
    device: torch.device
    weights: torch.dtype | None

    def __str__(self) -> str:
        weights = "without weights" if self.weights is None else f"with weights of {short_name(self.weights)}"
        return f"(N, {self.width}) of {short_name(self.dtype)} on {self.device} {weights}"

    def like(self, batch: tuple[int, ...] = ()) -> Tensor:
        """Points of this form, (..., 0, D) after the dimensions of a batch, to check others against."""
        return torch.empty(*batch, 0, self.width, dtype=self.dtype, device=self.device)

    @staticmethod
    def of(batch: Batch) -> "Form":
        weights = None if batch.weights is None else batch.weights.dtype
        return Form(batch.x.shape[-1], batch.x.dtype, batch.x.device, weights)


@dataclass(eq=False)
class _Seen:
    """What the first pass saw, which every other must see again: how many rows each batch has, and the first row."""

    rows: list[int] = field(default_factory=list)
    first: Tensor | None = None

    def block_rows(self) -> list[int]:
        """How many rows each block has."""
        return [block.stop - block.start for n in self.rows for block in blocks(n, _BLOCK)]


@dataclass(eq=False)
class _Near:
    """The centers so far (B, M, D), as nothing is kept for each point, and what a pass has found out: how far they are,
    no farther than `limit`, and the `masses` by that of each block, at scales that may be asked for."""

    centers: Tensor
    limit: Tensor | None = None
    farthest: Tensor | None = None
    masses: "_Masses | None" = None


@dataclass(frozen=True, eq=False)
class _Masses:
    """Totals (S, B, blocks) at each of some scales (S, B)."""

    scales: Tensor
    totals: Tensor

    def at(self, scale: Tensor) -> Tensor | None:
        """Those at a scale (B,), if they are there for each run: (B, blocks)."""
        known = self.scales == scale
        if not known.any(dim=0).all():
            return None
        return self.totals[known.int().argmax(dim=0), torch.arange(len(scale), device=scale.device)]


@dataclass(frozen=True, eq=False)
class StreamPart:
    """Points in batches of this form, or in none. They are one problem, unless there are none.

    What it holds for each batch is how many rows it has. Each pass must read the same rows in the same order.
    """

    batches: Batches | None
    form: Form
    engine: Engine
    dtype: torch.dtype
    metric: Metric
    n_problems: int = 1
    scale: Tensor | None = None
    seen: _Seen = field(default_factory=_Seen)

    @property
    def weights_dtype(self) -> torch.dtype | None:
        return self.form.weights

    def census(self) -> Census:
        shape = self.n_problems, self.form.width
        return _sum(self.answers(lambda part, _: part.census()), Census.nothing(shape, self.form.device))

    def weighed(self, scale: Tensor) -> "StreamPart":
        return replace(self, scale=scale)

    def spread(self, scale: Tensor) -> Spread:
        shape = self.n_problems, self.form.width
        return _sum(self.answers(lambda part, _: part.spread(scale)), Spread.nothing(shape, self.form.device))

    def measure(self, centers: Tensor, grid: Grid, problems: Sequence[int]) -> Moments:
        def answer(part: TensorPart, start: int) -> Moments:
            moments = part.measure(centers, grid, problems)
            return replace(moments, worst_row=moments.worst_row + start)

        return _sum(self.answers(answer), Moments.nothing(centers, grid))

    def assign(self, centers: Tensor, problems: Sequence[int]) -> _Near:
        return _Near(centers)

    def nearer(self, near: _Near, centers: Tensor, first: int, problems: Sequence[int]) -> _Near:
        return _Near(torch.cat([near.centers, centers], dim=1), limit=near.farthest)

    def labels(self, centers: Tensor, problems: Sequence[int]) -> Tensor | None:
        if self.batches is None:
            return torch.empty(len(problems), 0, dtype=torch.int64, device=self.form.device)
        return None

    def farthest(self, near: _Near, total_weight: Tensor, problems: Sequence[int]) -> Tensor:
        if near.farthest is not None:  # which is asked twice, and costs a pass
            return near.farthest
        scales = torch.empty(0, len(problems), dtype=torch.float64, device=self.form.device)
        if near.limit is not None:
            # To be asked for masses next, at a scale that is not known before the pass is over, would cost another.
            steps = torch.tensor([2.0**exponent for exponent in _SCALES], dtype=torch.float64, device=scales.device)
            scales = finest_scale(total_weight * near.limit) * steps[:, None]

        def answer(part: TensorPart, _: int) -> tuple[Tensor, Tensor]:
            found = part.assign(near.centers, problems)
            urns = [part.urn(Masses.FAR, found, scale, problems).subtotals(_BLOCK) for scale in scales]
            nothing = torch.zeros(0, dtype=torch.int64, device=self.form.device)
            return part.farthest(found, total_weight, problems), torch.stack(urns) if urns else nothing

        farthest = torch.zeros(len(problems), dtype=torch.float64, device=self.form.device)
        totals = []
        for one, masses in self.answers(answer):
            farthest = torch.maximum(farthest, one)
            totals.append(masses)
        if len(scales) and totals:
            near.masses = _Masses(scales, torch.cat(totals, dim=2))
        near.farthest = farthest
        return farthest

    def urn(self, masses: Masses, near: _Near | None, scale: Tensor, problems: Sequence[int]) -> "StreamUrn":
        def urn_of(part: TensorPart) -> TensorUrn:
            known = None if near is None else part.assign(near.centers, problems)
            return part.urn(masses, known, scale, problems)

        totals = None
        if masses is Masses.WEIGHT and self.form.weights is None:  # which the first pass has counted
            totals = torch.tensor([self.seen.block_rows()], dtype=torch.int64, device=self.form.device)
        elif masses is Masses.FAR and near is not None and near.masses is not None:
            totals = near.masses.at(scale)
        if totals is None:
            nothing = torch.empty(len(problems), 0, dtype=torch.int64, device=self.form.device)
            totals = torch.cat([nothing, *self.answers(lambda part, _: urn_of(part).subtotals(_BLOCK))], dim=1)
        return StreamUrn(self, urn_of, totals, len(problems))

    def potentials(self, near: _Near, candidates: Tensor, scale: Tensor, problems: Sequence[int]) -> Tensor:
        nothing = torch.zeros(candidates.shape[:2], dtype=torch.int64, device=self.form.device)
        return _sum(
            self.answers(
                lambda part, _: part.potentials(part.assign(near.centers, problems), candidates, scale, problems)
            ),
            nothing,
        )

    def totals(self, near: _Near, n_centers: int, scale: Tensor, problems: Sequence[int]) -> Tensor:
        nothing = torch.zeros(len(problems), n_centers, dtype=torch.int64, device=self.form.device)
        return _sum(
            self.answers(lambda part, _: part.totals(part.assign(near.centers, problems), n_centers, scale, problems)),
            nothing,
        )

    def gathered(self, centers: Tensor, totals: Tensor) -> TensorPart:
        return TensorPart(centers, totals, self.engine, self.dtype)

    def parts(self) -> Iterator[TensorPart]:
        """The batches that have rows, each as points of its own; one pass. ValueError if it reads other rows than the
        first pass, TypeError or ValueError for a batch of another form."""
        if self.batches is None:
            return
        first_pass = self.seen.first is None
        n_seen, numbers = 0, itertools.count()
        for batch in self.batches.read():  # not by `enumerate`, which would keep the last one
            number = next(numbers)
            check_batch(batch, self.form, number)
            if n_rows := len(batch.x):
                if n_seen == 0:
                    self._check_first(batch.x[0])
                if first_pass:
                    self.seen.rows.append(n_rows)
                elif self.seen.rows[n_seen : n_seen + 1] != [n_rows]:
                    raise ValueError(f"{_CHANGED}, got {n_rows} rows in batch {number}, which was another before")
                n_seen += 1
                part = self._part(batch, number)
                del batch  # as no batch may be held while the next but one is read
                yield part
                del part
        if n_seen < len(self.seen.rows):
            raise ValueError(f"{_CHANGED}, got {n_seen} batches where there were {len(self.seen.rows)}")

    def answers(self, ask: Callable[[TensorPart, int], T]) -> Iterator[T]:
        """What each batch answers, given itself and the number of its first row. One pass."""
        start = 0

        def answer(part: TensorPart) -> tuple[int, T]:
            return part.x.shape[1], ask(part, start)

        # By `map`, which lets go of a batch before it asks for the next.
        for n_rows, answered in map(answer, self.parts()):
            start += n_rows
            yield answered

    def _part(self, batch: Batch, number: int) -> TensorPart:
        x = self.metric.prepare(batch.x.detach(), self.dtype)[None]
        weights = None if batch.weights is None else batch.weights.detach()[None]
        part = TensorPart(x, weights, self.engine, self.dtype, self.metric.directions, batch_name(number))
        return part if self.scale is None else part.weighed(self.scale)

    def _check_first(self, row: Tensor) -> None:
        if self.seen.first is None:
            self.seen.first = row.detach().clone()
        elif not torch.equal(self.seen.first, row):
            raise ValueError(f"{_CHANGED}, got another first row: is it shuffled?")


_CHANGED = "x must give the same rows in the same order each time it is read"


@dataclass(frozen=True, eq=False)
class StreamUrn:
    """The points of a stream that B runs draw from. `blocks` (B or 1, blocks) are the totals of each block of rows."""

    stream: StreamPart
    urn_of: Callable[[TensorPart], TensorUrn]
    blocks: Tensor
    n_runs: int

    @property
    def totals(self) -> Tensor:
        return self.blocks.sum(dim=1, keepdim=True)

    def take(self, positions: Tensor) -> Tensor:
        positions = positions.expand(self.n_runs, -1).contiguous()
        ends = self.blocks.expand(self.n_runs, -1).cumsum(1)
        starts = ends - self.blocks
        # Only the blocks that points are drawn from are looked into: a few of a stream that is long.
        hit = torch.searchsorted(ends, positions, right=True).unique().tolist()
        shape = *positions.shape, self.stream.form.width
        taken = torch.zeros(shape, dtype=self.stream.dtype, device=positions.device)
        n_before = 0

        def answer(part: TensorPart, _: int) -> None:
            nonlocal n_before
            own = list(blocks(part.x.shape[1], _BLOCK))
            for first, last in _streaks(
                number - n_before for number in hit if n_before <= number < n_before + len(own)
            ):
                start, end = starts[:, n_before + first, None], ends[:, n_before + last, None]
                here = (positions >= start) & (positions < end)
                urn = self.urn_of(part.rows(slice(own[first].start, own[last].stop)))
                taken[here] = urn.take((positions - start).where(here, 0))[here]
            n_before += len(own)

        for _ in self.stream.answers(answer):
            pass
        return taken


def _streaks(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each row of numbers, ascending, that follow one another."""
    for _, each in itertools.groupby(enumerate(numbers), lambda place: place[1] - place[0]):
        streak = [number for _, number in each]
        yield streak[0], streak[-1]


def first_batch(batches: Batches) -> Batch | None:
    """The first batch that has rows, else the last one; None where there is none. TypeError or ValueError for what is
    no batch."""
    batch = None
    for number, batch in enumerate(batches.read()):
        check_batch(batch, None, number)
        if len(batch.x):
            break
    return batch


def check_batch(batch: Batch, form: Form | None, number: int) -> None:
    """TypeError or ValueError unless these are points with their weights, of this form if it is known."""
    name = batch_name(number)
    check_points(batch.x, name, least=0)
    if batch.x.ndim != 2:
        raise ValueError(f"{name} must have shape (N, D), got {tuple(batch.x.shape)}")
    check_weights(batch.weights, batch.x, f"the weights of {name}")
    if form is not None and len(batch.x) and Form.of(batch) != form:
        raise ValueError(f"{name} must be like the first that has rows, {form}, got {Form.of(batch)}")


def _sum(terms: Iterable[Any], nothing: Any) -> Any:
    return functools.reduce(operator.add, terms, nothing)
