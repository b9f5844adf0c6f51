"""The screened engine: many coordinates on CUDA, with the bits of the plain engine.

Products of float16 copies of points and centers screen the nearest centers. A rigorous bound of their errors decides
which labels are certain; the reference distance decides the other rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpukmeans.engines.base import Assignment, BoundEngine
from gpukmeans.engines.fused.availability import unavailable_reason
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.fixed_point import FixedPoint
from gpukmeans.moments import Moments
from gpukmeans.tiling import ProblemIndex, blocks
from gpukmeans.validation import compute_dtype

if TYPE_CHECKING:
    from gpukmeans.engines.screened.launch import ScreenedPoints

# For up to 8 coordinates `gpukmeans.distance` adds squares from left to right, and the engine "triton" is faster.
_MIN_WIDTH, _MAX_WIDTH = 9, 2048
# Row numbers of a block are 32-bit integers.
_MAX_ROWS = 2**31 - 2**10
# The largest number of blocks along the second and third axis of a launch on CUDA.
_MAX_RUNS = 2**16 - 1


@dataclass(frozen=True)
class ScreenedEngine:
    """Engine for CUDA and points of 9 to 2048 coordinates in float32 or less. No bit of a result depends on a field.

    Args:
        device: the supported type of device; "cpu" is for tests, in which Triton interprets its kernels.
        programs: the number of programs that compute exact distances; the default depends on the GPU.
    """

    device: str = "cuda"
    programs: int | None = None
    name = "screened"

    def unsupported_reason(self, x: Tensor) -> str | None:
        if x.device.type != self.device:
            return f"its kernels are for {self.device}, and these points are on {x.device}"
        if not _MIN_WIDTH <= x.shape[-1] <= _MAX_WIDTH:
            return f"its kernels are for points of {_MIN_WIDTH} to {_MAX_WIDTH} coordinates, got {x.shape[-1]}"
        if compute_dtype(x) != torch.float32:
            return f"its kernels compute in float32, and points of {x.dtype} need float64"
        if x.shape[-2] > _MAX_ROWS:
            return f"it takes at most {_MAX_ROWS} points, got {x.shape[-2]}"
        if (n_problems := math.prod(x.shape[:-2])) > _MAX_RUNS:
            return f"it takes at most {_MAX_RUNS} problems, got {n_problems}"
        return unavailable_reason()

    def bind(self, x: Tensor, weights: Tensor | None) -> "BoundScreenedEngine":
        return BoundScreenedEngine(x, weights, self)


class BoundScreenedEngine:
    """The screened engine, bound to points (P, N, D). Its state is the float16 copy of the points.

    For float64 centers it uses the plain engine.
    """

    def __init__(self, x: Tensor, weights: Tensor | None, engine: ScreenedEngine) -> None:
        self._x, self._weights, self._engine = x, weights, engine
        self._points: ScreenedPoints | None = None
        self._problem_index = ProblemIndex(x.device)

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N), in the dtype of the centers (B, K, D)."""
        if centers.dtype != torch.float32:
            return self._plain().assign(centers, problems)
        if len(problems) > _MAX_RUNS:
            parts = [self.assign(centers[runs], problems[runs]) for runs in blocks(len(problems), _MAX_RUNS)]
            return Assignment(*map(torch.cat, zip(*parts, strict=True)))
        return Assignment(*self._screened().assign(centers, self._problem_index(problems)))

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        """Moments at centers (B, K, D). Only the first call waits for the device."""
        if centers.dtype != torch.float32:
            return self._plain().measure(centers, fixed_point, problems)
        if len(problems) > _MAX_RUNS:
            return Moments.concatenated(
                [
                    self.measure(centers[runs], fixed_point.select(runs), problems[runs])
                    for runs in blocks(len(problems), _MAX_RUNS)
                ]
            )
        measured = self._screened().measure(centers, self._problem_index(problems), fixed_point)
        width = centers.shape[2]
        return Moments(
            fixed_point=fixed_point,
            sums=measured.totals[..., :width],
            totals=measured.totals[..., width],
            inertia=measured.inertia,
            worst_sqdist=measured.worst_sqdist,
        )

    def _plain(self) -> BoundEngine:
        return PlainEngine().bind(self._x, self._weights)

    def _screened(self) -> "ScreenedPoints":
        from gpukmeans.engines.screened.launch import ScreenedPoints

        if self._points is None:
            self._points = ScreenedPoints(self._x, self._weights, self._engine.programs)
        return self._points
