"""The native engine: kernels in C for the CPU, with the bits of the plain engine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans.engines.base import Assignment
from gpukmeans.engines.native import few
from gpukmeans.engines.native.few import FewCoordinates
from gpukmeans.engines.native.library import unavailable_reason
from gpukmeans.engines.native.many import MAX_WIDTH, ManyCoordinates
from gpukmeans.engines.native.tensors import is_plain
from gpukmeans.fixed_point import FixedPoint
from gpukmeans.moments import Moments
from gpukmeans.tiling import ProblemIndex
from gpukmeans.validation import dtype_and_shape

# The dtypes of centers and of the computation.
_COMPUTE_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class NativeEngine:
    """Engine for points of up to 32,768 coordinates in plain tensors (see `is_plain`) on the CPU.

    For up to 8 coordinates, the second `measure` of at least `sorts_from` points copies the points into spatial order.
    For more coordinates, labels and lower bounds of distances are kept from the second `measure` on. No bit of a result
    depends on `sorts_from`.
    """

    sorts_from: int = 1024
    name = "native"

    def unsupported_reason(self, x: Tensor) -> str | None:
        if x.device.type != "cpu":
            return f"its kernels are for the CPU, and these points are on {x.device}"
        if not is_plain(x):
            return f"its kernels read memory, and these points are a {type(x).__name__} without memory of their own"
        if x.shape[-1] > MAX_WIDTH:
            return f"its kernels are for points of up to {MAX_WIDTH} coordinates, got {x.shape[-1]}"
        return unavailable_reason()

    def bind(self, x: Tensor, weights: Tensor | None) -> "BoundNativeEngine":
        return BoundNativeEngine(x, weights, self)


class BoundNativeEngine:
    """The native engine, bound to points (P, N, D) and weights (P, N)."""

    def __init__(self, x: Tensor, weights: Tensor | None, engine: NativeEngine) -> None:
        self._x = x.resolve_neg()
        self._state = _state_for(self._x, None if weights is None else weights.resolve_neg(), engine)
        self._problem_index = ProblemIndex(x.device)
        self._checked: Tensor | None = None

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N), in the dtype of the centers (B, K, D)."""
        return self._state.assign(*self._checked_runs(centers, problems))

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Sequence[int]) -> Moments:
        """Moments at centers (B, K, D)."""
        centers, index = self._checked_runs(centers, problems)
        return self._state.measure(centers, fixed_point, index)

    def _checked_runs(self, centers: Tensor, problems: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Contiguous centers, and the problems as a tensor.

        ValueError for a shape, dtype or problem with which a kernel would access memory out of bounds.
        """
        n_problems, _, width = self._x.shape
        if centers.shape != (len(problems), centers.shape[1], width) or centers.dtype not in _COMPUTE_DTYPES:
            raise ValueError(
                f"centers must be float32 or float64 of shape ({len(problems)}, K, {width}), got"
                f" {dtype_and_shape(centers)}"
            )
        index = self._problem_index(problems)
        if index is not self._checked:
            if len(problems) and not 0 <= min(problems) <= max(problems) < n_problems:
                raise ValueError(f"problems must be from 0 to {n_problems - 1}, got {min(problems)} to {max(problems)}")
            self._checked = index
        return centers.resolve_neg().contiguous(), index


def _state_for(x: Tensor, weights: Tensor | None, engine: NativeEngine) -> FewCoordinates | ManyCoordinates:
    """The points (P, N, D) for the kernels of their number of coordinates, with weights (P, N)."""
    if x.shape[2] > few.MAX_WIDTH:
        return ManyCoordinates(x, weights)
    return FewCoordinates(x, weights, engine.sorts_from)
