"""Interface of engines, which assign points to centers and compute moments (see `gpukmeans.moments`)."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from gpukmeans.fixed_point import FixedPoint
from gpukmeans.moments import Moments


class Assignment(NamedTuple):
    """The index of the nearest center of each point, int64, and the squared distance to this center.

    If several centers are nearest, the label is the lowest of their indices.
    """

    labels: Tensor
    sqdist: Tensor


@runtime_checkable
class BoundEngine(Protocol):
    """An engine bound to the points of P problems. It may cache state between calls; no result depends on the state.

    A problem is a set of N points. A run is a set of K centers for the points of one problem. One call computes B runs:
    run b uses the points of problem `problems[b]`, from 0 to P - 1. Several runs may use the same problem.
    """

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D).

        Distances are computed in the dtype of the centers, float32 or float64. Points of weight 0 are assigned too.
        """
        ...

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        """Moments of the clusters of centers (B, K, D), with sums in the units of `fixed_point` for each run.

        Points of weight 0 are ignored.
        """
        ...


@runtime_checkable
class Engine(Protocol):
    """A method to find nearest centers. Its results have the bits of the plain engine.

    Any object with these members can be passed to `kmeans(..., engine=...)` and `assign(..., engine=...)`.

    Example:
        >>> class FewPointsEngine:
        ...     name = "few points"
        ...
        ...     def unsupported_reason(self, x):
        ...         return None if x.shape[-2] <= 1000 else f"it takes at most 1000 points, got {x.shape[-2]}"
        ...
        ...     def bind(self, x, weights):
        ...         return ENGINES["plain"].bind(x, weights)
        >>> kmeans(torch.tensor([[0.0], [1.0], [8.0], [9.0]]), 2, engine=FewPointsEngine()).inertia.item()
        1.0
        >>> assign(torch.zeros(1001, 1), torch.zeros(1, 1), engine=FewPointsEngine())
        Traceback (most recent call last):
        ValueError: engine 'few points' cannot take these points: it takes at most 1000 points, got 1001
    """

    @property
    def name(self) -> str:
        """The name of the engine in error messages, which is also its key if the engine is in `ENGINES`."""
        ...

    def unsupported_reason(self, x: Tensor) -> str | None:
        """The reason why the engine does not support points (..., N, D) of this shape, dtype and device, else None.

        The reason completes the sentence "engine ... cannot take these points: ". It does not depend on the values of
        the points.
        """
        ...

    def bind(self, x: Tensor, weights: Tensor | None) -> BoundEngine:
        """The engine, bound to points (P, N, D) of any real dtype. Weights (P, N) are at least 0, or None for 1."""
        ...
