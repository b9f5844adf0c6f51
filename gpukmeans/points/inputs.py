"""What `kmeans` is given, as points: one tensor or a stream, here alone or on every rank of a group."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpukmeans.engines.base import Engine
from gpukmeans.engines.selection import choose
from gpukmeans.metrics import Metric
from gpukmeans.points.base import Part, Points, surveyed
from gpukmeans.points.batches import Batches
from gpukmeans.points.communicator import Alone, Company
from gpukmeans.points.distributed import RanksPart
from gpukmeans.points.streaming import Form, StreamPart, first_batch
from gpukmeans.points.tensor import TensorPart
from gpukmeans.validation import check_points, check_spread, check_weights, computed_in, short_name


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Points as one rank was given them: a tensor (..., N, D) with its weights, or batches.

    `form` is what is known of them before they are read, None of batches of which there are none. `batch` are the
    dimensions before (N, D).
    """

    rows: Tensor | Batches
    weights: Tensor | None
    form: Form | None
    batch: tuple[int, ...]
    engine: Engine | None

    @property
    def streams(self) -> bool:
        return not isinstance(self.rows, Tensor)


def source_of(x: Any, weights: Tensor | None, engine: str | Engine, *, least: int = 1) -> Source:
    """What was given, if that can be points, of which a tensor has at least so many. TypeError or ValueError if not."""
    if isinstance(x, Tensor):
        check_points(x, least=least)
        check_weights(weights, x)
        form = Form(x.shape[-1], x.dtype, x.device, None if weights is None else weights.dtype)
        return Source(rows=x, weights=weights, form=form, batch=tuple(x.shape[:-2]), engine=choose(engine, x))
    if weights is not None:
        raise TypeError("weights of a stream come with its batches, as pairs (x, weights), got them beside it")
    batches = x if isinstance(x, Batches) else Batches(x)
    first = first_batch(batches)
    form, chosen = (None, None) if first is None else (Form.of(first), choose(engine, first.x))
    return Source(rows=batches, weights=None, form=form, batch=(), engine=chosen)


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What a rank was asked for, as far as all must have been asked for the same."""

    width: int | None
    dtype: str | None
    weights: str | None
    device: str | None
    batch: tuple[int, ...]
    streams: bool
    listens: bool
    resumes: bool
    options: Mapping[str, Any]

    @staticmethod
    def of(source: Source, options: Mapping[str, Any], *, listens: bool = False, resumes: bool = False) -> "Request":
        """That of points of a source and these options of `kmeans`. Whether a callback `listens` may differ, and
        whether a state is there to go on from is for rank 0 to say."""
        form = source.form
        return Request(
            width=None if form is None else form.width,
            dtype=None if form is None else short_name(form.dtype),
            weights=None if form is None else "none" if form.weights is None else short_name(form.weights),
            device=None if form is None else form.device.type,
            batch=source.batch,
            streams=source.streams,
            listens=listens,
            resumes=resumes,
            options=options,
        )

    def form(self, own: Form | None) -> Form:
        """The form of all points, on the device of the rank's own."""
        if self.width is None or self.dtype is None or self.device is None:
            raise ValueError("x must have at least one row, got none")
        weights = None if self.weights in (None, "none") else getattr(torch, self.weights)
        device = torch.device(self.device) if own is None else own.device
        return Form(self.width, getattr(torch, self.dtype), device, weights)


def agreed(requests: Sequence[Request]) -> Request:
    """What all ranks were asked for. ValueError, the same on each, for what is not the same on all that know it."""

    def same(name: str, value_of: Callable[[Request], Any], *, form: bool = False) -> Any:
        told = [(rank, value_of(request)) for rank, request in enumerate(requests)]
        if form:  # of which a rank without a batch knows nothing
            told = [(rank, value) for rank, value in told if value is not None] or told
        first, value = told[0]
        for rank, other in told[1:]:
            if not _equal(value, other):
                came = ", ".join(f"{_brief(each)} on rank {of}" for of, each in ((first, value), (rank, other)))
                raise ValueError(f"{name} must be the same on every rank, got {came}")
        return value

    return Request(
        width=same("the number of coordinates of x", lambda request: request.width, form=True),
        dtype=same("the dtype of x", lambda request: request.dtype, form=True),
        weights=same("the dtype of weights", lambda request: request.weights, form=True),
        device=same("the kind of device of x", lambda request: request.device, form=True),
        batch=same("the shape of x before (N, D)", lambda request: request.batch),
        streams=any(request.streams for request in requests),
        listens=any(request.listens for request in requests),
        resumes=requests[0].resumes,
        options={name: same(name, lambda request, name=name: request.options[name]) for name in requests[0].options},
    )


def points_of(source: Source, form: Form, metric: Metric, engine: str | Engine, company: Company) -> Points:
    """The points of all problems side by side, as the metric sees them; those of all ranks, if there are others.

    ValueError for values that cannot be points, and where there are none.
    """
    parts: list[Part] = []
    company.gather("the points", lambda: parts.append(_part(source, form, metric, engine)))
    part = parts[0]
    if not isinstance(company, Alone):
        part = RanksPart(part, company, form.width, form.device)
    points = surveyed(part)
    check_spread(points.survey.values, part.dtype, "x")
    return points


def _part(source: Source, form: Form, metric: Metric, engine: str | Engine) -> Part:
    """The points that this rank was given."""
    like = form.like()
    rows, dtype, chosen = source.rows, computed_in(like), source.engine or choose(engine, like)
    if isinstance(rows, Batches) or not rows.shape[-2]:
        batches = rows if isinstance(rows, Batches) else None
        return StreamPart(batches, form, chosen, dtype, metric, math.prod(source.batch))
    x = metric.prepare(rows.detach(), dtype).reshape(-1, *rows.shape[-2:])
    weights = source.weights
    if weights is not None:
        weights = weights.detach().reshape(-1, weights.shape[-1])
    return TensorPart(x, weights, chosen, dtype, metric.directions)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and bool(((one == other) | ((one != one) & (other != other))).all())  # NaN has an error of its own
    return type(one) is type(other) and one == other


def _brief(value: Any) -> str:
    return f"a tensor of {short_name(value.dtype)} {tuple(value.shape)}" if isinstance(value, Tensor) else str(value)
