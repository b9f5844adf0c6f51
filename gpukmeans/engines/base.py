"""Interface of an engine: points and centers in, assignments and moments out."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from gpukmeans.fixed_point import FixedPoint
from gpukmeans.moments import Moments


class Assignment(NamedTuple):
    """The index of the nearest center of each point, int64, and the squared distance to it.

    The lowest index wins a tie.
    """

    labels: Tensor
    sqdist: Tensor


@runtime_checkable
class BoundEngine(Protocol):
    """An engine bound to the points of P problems. It may cache state between calls; no result depends on it.

    A call computes B runs side by side, each with K centers of its own. Run b uses the points of problem `problems[b]`,
    below P. Several runs may use the same problem.
    """

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D).

        Distances are computed in the dtype of the centers, float32 or float64. Points of weight 0 are assigned too.
        """
        ...

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        """Moments at centers (B, K, D), with sums in the fixed-point units of the B runs.

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
        """The name in error messages. For an engine in `ENGINES` it is the key."""
        ...

    def unsupported_reason(self, x: Tensor) -> str | None:
        """The reason why the engine does not support points (..., N, D) of this shape, dtype and device, else None.

        The reason completes the sentence "engine ... cannot take these points: ". Values of the points are not read.
        """
        ...

    def bind(self, x: Tensor, weights: Tensor | None) -> BoundEngine:
        """The engine, bound to points (P, N, D) of any real dtype. Weights (P, N) are at least 0, and 1 if None."""
        ...
