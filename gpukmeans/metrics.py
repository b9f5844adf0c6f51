"""Metrics: how points and means are transformed before squared Euclidean distances are computed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance

Projection = Callable[[Tensor, Tensor], Tensor]
"""A function of means (B, K, D), float64, and the previous centers (B, K, D) that returns the next centers."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A distance equal to `factor` times the squared Euclidean distance of prepared points.

    Args:
        prepare: a function of points or centers (..., N, D) and the dtype of the computation that returns the prepared
            points.
        project: a function of means (B, K, D), float64, and the previous centers that returns the next centers; None if
            the means are the next centers.
        factor: the distance divided by the squared Euclidean distance.
        normalizes: whether `prepare` divides points by their norms. A point of zeros is then an error.

    Example:
        >>> rows = METRICS["cosine"].prepare(torch.tensor([[3.0, 4.0]]), torch.float64)
        >>> [round(value, 6) for value in rows[0].tolist()]
        [0.6, 0.8]
    """

    prepare: Callable[[Tensor, torch.dtype], Tensor]
    project: Projection | None
    factor: float
    normalizes: bool


def unit_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Points (..., D) divided by their Euclidean norms, computed in float64.

    Points of zeros are unchanged. Points whose norm is 1 up to rounding are unchanged too, so that normalizing fitted
    centers changes no bit.
    """
    eps = torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
    x = x.double()
    original = x.detach()
    # Scaled so that no square overflows or underflows. The scale cancels, so it needs no gradient.
    largest = original.abs().amax(dim=-1, keepdim=True)
    x = x / torch.where(largest == 0, 1.0, largest)
    channels = x.movedim(-1, 0)
    sqnorm = squared_distance(channels, x.new_zeros(()).expand_as(channels))[..., None]
    unit = x / torch.where(sqnorm == 0, 1.0, sqnorm).sqrt()
    is_unit = (original.square().sum(dim=-1, keepdim=True) - 1).abs() <= 8 * eps
    # The original value with the gradient of the division.
    return torch.where(is_unit, unit + (original - unit).detach(), unit).to(dtype)


def _unchanged(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x


def _mean_directions(means: Tensor, centers: Tensor) -> Tensor:
    """Normalized means. The previous center is kept where the mean is zero, because zero has no direction."""
    is_zero = (means == 0).all(dim=-1, keepdim=True)
    return torch.where(is_zero, centers.double(), unit_rows(means, torch.float64))


MetricName = Literal["euclidean", "cosine"]
"""A name of `METRICS`."""

METRICS: dict[str, Metric] = {
    "euclidean": Metric(prepare=_unchanged, project=None, factor=1.0, normalizes=False),
    # |u - v|² = 2 (1 - cos) of unit vectors: spherical K-means (Dhillon & Modha 2001).
    "cosine": Metric(prepare=unit_rows, project=_mean_directions, factor=0.5, normalizes=True),
}


def check_metric(metric: str | Metric) -> Metric:
    """The metric of this name, or the metric itself. ValueError for an unknown name, TypeError for other types."""
    if isinstance(metric, str):
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)} or a metric, got {metric!r}")
        return METRICS[metric]
    if not isinstance(metric, Metric):
        raise TypeError(f"metric must be a name or a metric, got {type(metric).__name__}")
    return metric
