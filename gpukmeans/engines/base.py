"""What an engine is: it assigns points to centers and measures moments."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from gpukmeans.fixed_point import Grid
from gpukmeans.moments import Moments


class Assignment(NamedTuple):
    """For each point the index of its nearest center and the squared distance to it."""

    labels: Tensor
    sqdist: Tensor


@runtime_checkable
class BoundEngine(Protocol):
    """An engine at work on the points of P problems; it may keep state between calls.

    It serves B sets of centers (B, K, D) at a time; `problems`, B numbers below P, says whose points each is for.
    """

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment: ...

    def measure(self, centers: Tensor, grid: Grid, problems: Sequence[int]) -> Moments: ...


@runtime_checkable
class Engine(Protocol):
    """A way to find nearest centers. Its answers are those of the plain engine."""

    @property
    def name(self) -> str: ...

    def obstacle(self, x: Tensor) -> str | None: ...

    def bind(self, x: Tensor, weights: Tensor | None) -> BoundEngine: ...
