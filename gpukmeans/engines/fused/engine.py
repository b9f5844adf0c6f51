"""The fused engine: one pass over the points by kernels in Triton, the same bits as the plain engine."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gpukmeans.engines.base import Assignment
from gpukmeans.engines.fused.storage import in_place, sorted_copy
from gpukmeans.fixed_point import Grid
from gpukmeans.moments import Moments
from gpukmeans.tiling import Problems

# Up to so many channels the score is added from left to right, as the kernels do.
_WIDTH = 8


@dataclass(frozen=True)
class TritonEngine:
    """Runs on CUDA, for points of up to 8 coordinates. No bit depends on any field.

    `device` is the type of device it serves: "cpu" is for tests, where Triton interprets its kernels. `programs` is how
    many run at a time; by default it suits the GPU. From `sorts_from` centers on, the first `measure` sorts the points
    once, into a copy.
    """

    device: str = "cuda"
    programs: int | None = None
    sorts_from: int = 32
    name = "triton"

    def obstacle(self, x: Tensor) -> str | None:
        """Why this engine cannot take these points, as a sentence; None if it can."""
        if x.device.type != self.device:
            return f"its kernels are for {self.device}, and these points are on {x.device}"
        if x.shape[-1] > _WIDTH:
            return f"its kernels are for points of up to {_WIDTH} coordinates, got {x.shape[-1]}"
        if importlib.util.find_spec("triton") is None:
            return "it needs triton, which is not installed"
        import triton.language

        if not hasattr(triton.language, "tuple"):
            return f"it needs triton 3.3 or later, got {triton.__version__}"
        return None

    def bind(self, x: Tensor, weights: Tensor | None) -> "BoundTritonEngine":
        """The engine at work on P problems: points (P, N, D) of any real dtype, with weights (P, N) or all of weight 1.

        A point of weight 0 is absent: it is assigned, and not measured.
        """
        return BoundTritonEngine(x, weights, self)


class BoundTritonEngine:
    """The fused engine at work on points (P, N, D). It keeps a sorted copy of them, once there is one.

    B sets of centers are served at a time; `problems`, B numbers below P, says whose points each is for.
    """

    def __init__(self, x: Tensor, weights: Tensor | None, engine: TritonEngine) -> None:
        self._x = x
        self._stored = in_place(x, weights)
        self._engine = engine
        self._whose = Problems(x.device)

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D), whose dtype is the one computed in."""
        import gpukmeans.engines.fused.launch as fused

        return Assignment(*fused.assign(self._stored, self._whose(problems), centers, self._engine.programs))

    def measure(self, centers: Tensor, grid: Grid, problems: Sequence[int]) -> Moments:
        """Moments at centers (B, K, D), without labels. Once there is a sorted copy, the device is never waited for."""
        import gpukmeans.engines.fused.launch as fused

        n_clusters, width = centers.shape[1:]
        if self._stored.rows is None and n_clusters >= self._engine.sorts_from:
            self._stored = sorted_copy(self._x, self._stored.weights)
        whose = self._whose(problems)
        found = fused.measure(self._stored, whose, centers, grid, self._engine.programs)
        return Moments(
            grid=grid,
            sums=found.totals[..., :width],
            totals=found.totals[..., width],
            inertia=found.inertia,
            worst_sqdist=found.worst_sqdist,
            worst_row=found.worst_row,
            worst_x=self._x[whose, found.worst_row].to(centers.dtype),
        )
