"""The input of `kmeans` as points: one tensor or a stream, in one process or on every rank of a group."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gpukmeans.arrays import as_tensor, weights_tensor
from gpukmeans.engines import Engine, choose
from gpukmeans.metrics import Metric
from gpukmeans.points.base import Points, PointSource, points_from_source
from gpukmeans.points.batches import Batches
from gpukmeans.points.communicator import Communicator, SingleProcess, run_on_all_ranks
from gpukmeans.points.distributed import DistributedSource
from gpukmeans.points.streaming import BatchSource, PointSpec, first_batch
from gpukmeans.points.tensor import TensorSource
from gpukmeans.validation import check_points, check_range, check_weights, compute_dtype, dtype_and_shape, short_name


@dataclass(frozen=True, kw_only=True, eq=False)
class KMeansInput:
    """The input of one rank: a tensor (..., N, D) with its weights, or batches.

    `spec` has the width, dtypes and device of the points. `spec` and `engine` are None if there are no batches. `batch`
    are the dimensions before (N, D).
    """

    rows: Tensor | Batches
    weights: Tensor | None
    spec: PointSpec | None
    batch: tuple[int, ...]
    engine: Engine | None

    @property
    def is_stream(self) -> bool:
        return not isinstance(self.rows, Tensor)


def read_input(x: Any, weights: Any, engine: str | Engine, *, least: int = 1) -> KMeansInput:
    """The input `x` with its weights.

    TypeError or ValueError if `x` cannot be points, or is a tensor of fewer than `least` rows.
    """
    x = as_tensor(x, "x")
    if isinstance(x, Tensor):
        check_points(x, least=least)
        weights = None if weights is None else weights_tensor(weights, "weights")
        check_weights(weights, x)
        spec = PointSpec(x.shape[-1], x.dtype, x.device, None if weights is None else weights.dtype)
        return KMeansInput(rows=x, weights=weights, spec=spec, batch=tuple(x.shape[:-2]), engine=choose(engine, x))
    if weights is not None:
        pairs = "Batches(source, weighted=True) of pairs (x, weights)"
        raise TypeError(f"weights of a stream must be in its batches: use {pairs}, got the argument weights")
    if _is_list_of_numbers(x):
        raise TypeError(f"x must be a tensor or an array, got {type(x).__name__}")
    batches = x if isinstance(x, Batches) else Batches(x)
    first = first_batch(batches)
    spec, chosen = (None, None) if first is None else (PointSpec.of(first), choose(engine, first.x))
    return KMeansInput(rows=batches, weights=None, spec=spec, batch=(), engine=chosen)


def _is_list_of_numbers(x: Any) -> bool:
    """Whether this is a list of numbers or a nested list of numbers, by its first entry."""
    first = x
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    return first is not x and isinstance(first, numbers.Number)


def required_spec(spec: PointSpec | None) -> PointSpec:
    """The spec. ValueError if it is None, because there are no points."""
    if spec is None:
        raise ValueError("x must have at least one row, got none")
    return spec


@dataclass(frozen=True, kw_only=True, eq=False)
class CallOptions:
    """The properties of a call of `kmeans` that all ranks compare.

    All properties must be equal, with these exceptions: a rank without batches has no spec (None), `is_stream` and
    `has_callback` may differ, and `resumes` is taken from rank 0.
    """

    spec: PointSpec | None
    batch: tuple[int, ...]
    is_stream: bool
    has_callback: bool
    resumes: bool
    options: Mapping[str, Any]

    def spec_on(self, own: PointSpec | None) -> PointSpec:
        """The spec of the points of all ranks, on the device of this rank's points. ValueError without points."""
        spec = required_spec(self.spec)
        # A rank without batches uses the device type of the other ranks, but not the GPU number of another rank.
        return spec._replace(device=torch.device(spec.device.type) if own is None else own.device)


def check_equal_on_ranks(calls: Sequence[CallOptions]) -> CallOptions:
    """The properties of the call on all ranks. ValueError, equal on all ranks, for a property that differs."""
    specs = [(rank, call.spec) for rank, call in enumerate(calls) if call.spec is not None]
    _check_same("the number of coordinates of x", [(rank, spec.width) for rank, spec in specs])
    _check_same("the dtype of x", [(rank, spec.dtype) for rank, spec in specs])
    _check_same("the dtype of weights", [(rank, spec.weights_dtype or "none") for rank, spec in specs])
    _check_same("the kind of device of x", [(rank, spec.device.type) for rank, spec in specs])
    _check_same("the shape of x before (N, D)", [(rank, call.batch) for rank, call in enumerate(calls)])
    for name in calls[0].options:
        _check_same(name, [(rank, call.options[name]) for rank, call in enumerate(calls)])
    return replace(
        calls[0],
        spec=specs[0][1] if specs else None,
        is_stream=any(call.is_stream for call in calls),
        has_callback=any(call.has_callback for call in calls),
    )


def points_from_input(
    given: KMeansInput, spec: PointSpec, metric: Metric, engine: str | Engine, communicator: Communicator
) -> Points:
    """The points of all problems and all ranks, prepared for the metric.

    ValueError for wrong values of points or weights, and if there are no points.
    """
    source = run_on_all_ranks(communicator, "the points", lambda: _own_source(given, spec, metric, engine))
    if not isinstance(communicator, SingleProcess):
        source = DistributedSource(source, communicator, spec.width, spec.device)
    points = points_from_source(source)
    check_range(points.stats.values, source.dtype, "x")
    return points


def _own_source(given: KMeansInput, spec: PointSpec, metric: Metric, engine: str | Engine) -> PointSource:
    """The points of this rank."""
    empty = spec.empty_points()
    rows, dtype, chosen = given.rows, compute_dtype(empty), given.engine or choose(engine, empty)
    if isinstance(rows, Batches) or not rows.shape[-2]:
        batches = rows if isinstance(rows, Batches) else None
        return BatchSource(batches, spec, chosen, dtype, metric, math.prod(given.batch))
    x = metric.prepare(rows.detach(), dtype).reshape(-1, *rows.shape[-2:])
    weights = given.weights
    if weights is not None:
        weights = weights.detach().reshape(-1, weights.shape[-1])
    return TensorSource(x, weights, chosen, dtype, metric.normalizes)


def _check_same(name: str, values: Sequence[tuple[int, Any]]) -> None:
    """ValueError unless the values, each with its rank, are equal."""
    for rank, value in values[1:]:
        if not _equal(values[0][1], value):
            received = ", ".join(f"{_short(each)} on rank {of}" for of, each in (values[0], (rank, value)))
            raise ValueError(f"{name} must be the same on every rank, got {received}")


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        # NaN equals NaN here, because a later check raises an error for NaN.
        return alike and bool(((one == other) | ((one != one) & (other != other))).all())
    return type(one) is type(other) and one == other


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {dtype_and_shape(value)}"
    return short_name(value) if isinstance(value, torch.dtype) else str(value)
