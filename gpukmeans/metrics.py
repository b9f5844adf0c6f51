"""Metrics: what points and means become before squared Euclidean distances are taken of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans.distance import squared_distance

# Of new centers (B, K, D) and the old ones, what to move to: see `gpukmeans.metrics`.
Projection = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A distance that is `factor` times the squared Euclidean distance of points (..., N, D) once these are `prepared`.

    `prepare` also makes centers of any points; `project` makes centers (B, K, D) of means, in float64, and of the
    centers before. Where only `directions` count, a point of zeros is an error.
    """

    prepare: Callable[[Tensor, torch.dtype], Tensor]
    project: Projection | None
    factor: float
    directions: bool


def unit_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Points (..., D) divided by their Euclidean norms, computed in float64. Zero stays zero, and what is a unit vector
    but for rounding stays as it is, so that centers are what they were when they are used."""
    eps = torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
    x = x.double()
    given = x.detach()
    # So that no square overflows or vanishes. The result does not depend on it, so neither does the gradient.
    largest = x.detach().abs().amax(dim=-1, keepdim=True)
    x = x / torch.where(largest == 0, 1.0, largest)
    channels = x.movedim(-1, 0)
    sqnorm = squared_distance(channels, x.new_zeros(()).expand_as(channels))[..., None]
    unit = x / torch.where(sqnorm == 0, 1.0, sqnorm).sqrt()
    is_unit = (given.square().sum(dim=-1, keepdim=True) - 1).abs() <= 8 * eps
    # Their value, and still the gradient of the division.
    return torch.where(is_unit, unit + (given - unit).detach(), unit).to(dtype)


def _as_they_are(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x


def _unit_means(means: Tensor, centers: Tensor) -> Tensor:
    """The mean directions. Where points cancel to zero every direction is as good: the one before stays."""
    cancelled = (means == 0).all(dim=-1, keepdim=True)
    return torch.where(cancelled, centers.double(), unit_rows(means, torch.float64))


METRICS: dict[str, Metric] = {
    "euclidean": Metric(prepare=_as_they_are, project=None, factor=1.0, directions=False),
    # |u - v|² = 2 (1 - cos) of unit vectors: spherical K-means (Dhillon & Modha 2001).
    "cosine": Metric(prepare=unit_rows, project=_unit_means, factor=0.5, directions=True),
}


def check_metric(metric: str | Metric) -> Metric:
    """The metric of that name, or the metric itself."""
    if isinstance(metric, str):
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)} or a metric, got {metric!r}")
        return METRICS[metric]
    if not isinstance(metric, Metric):
        raise TypeError(f"metric must be a name or a metric, got {type(metric).__name__}")
    return metric
