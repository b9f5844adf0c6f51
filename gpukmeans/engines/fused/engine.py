"""The fused engine: one pass over the points by Triton kernels, with the bits of the plain engine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans.engines.base import Assignment
from gpukmeans.engines.fused.availability import MAX_WIDTH, unavailable_reason
from gpukmeans.engines.fused.storage import sorted_copy, unsorted
from gpukmeans.fixed_point import FixedPoint
from gpukmeans.moments import Moments
from gpukmeans.tiling import ProblemIndex

# torch sorts at most this many keys on CUDA.
_MAX_SORTED = torch.iinfo(torch.int32).max


@dataclass(frozen=True)
class TritonEngine:
    """Engine for CUDA and points of up to 8 coordinates. No bit of a result depends on a field.

    Args:
        device: the supported type of device; "cpu" is for tests, in which Triton interprets its kernels.
        programs: the number of programs of a launch; the default depends on the GPU.
        sorts_from: a `measure` with at least this many centers may copy the points into spatial order.
        sorts_at: the number of the first call of `measure` that copies them. The batches of a stream are measured once,
            so they are not sorted.
    """

    device: str = "cuda"
    programs: int | None = None
    sorts_from: int = 32
    sorts_at: int = 2
    name = "triton"

    def unsupported_reason(self, x: Tensor) -> str | None:
        if x.device.type != self.device:
            return f"its kernels are for {self.device}, and these points are on {x.device}"
        if x.shape[-1] > MAX_WIDTH:
            return f"its kernels are for points of up to {MAX_WIDTH} coordinates, got {x.shape[-1]}"
        return unavailable_reason()

    def bind(self, x: Tensor, weights: Tensor | None) -> "BoundTritonEngine":
        return BoundTritonEngine(x, weights, self)


class BoundTritonEngine:
    """The fused engine, bound to points (P, N, D). Its state is the sorted copy of the points that `measure` makes."""

    def __init__(self, x: Tensor, weights: Tensor | None, engine: TritonEngine) -> None:
        self._x = x
        self._kernel_input = unsorted(x, weights)
        self._engine = engine
        self._n_measured = 0
        self._problem_index = ProblemIndex(x.device)

    def _is_sorted_for(self, n_clusters: int) -> bool:
        """Whether `measure` sorts the points: not for few centers, one call, or more keys than torch can sort."""
        engine = self._engine
        repeats = self._n_measured >= engine.sorts_at
        return repeats and n_clusters >= engine.sorts_from and self._x.shape[:2].numel() <= _MAX_SORTED

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N), in the dtype of the centers (B, K, D)."""
        import gpukmeans.engines.fused.launch as launch

        index = self._problem_index(problems)
        return Assignment(*launch.assign(self._kernel_input, index, centers, self._engine.programs))

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        """Moments at centers (B, K, D), without labels. Only the call that sorts the points may wait for the device."""
        import gpukmeans.engines.fused.launch as launch

        n_clusters, width = centers.shape[1:]
        self._n_measured += 1
        if self._kernel_input.rows is None and self._is_sorted_for(n_clusters):
            self._kernel_input = sorted_copy(self._x, self._kernel_input.weights)
        index = self._problem_index(problems)
        measured = launch.measure(self._kernel_input, index, centers, fixed_point, self._engine.programs)
        return Moments(
            fixed_point=fixed_point,
            sums=measured.totals[..., :width],
            totals=measured.totals[..., width],
            inertia=measured.inertia,
            worst_sqdist=measured.worst_sqdist,
        )
