"""Greedy k-means++ in native kernels: candidates are drawn, compared and taken by seeding_body.h."""

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans.engines.native.many import Many, given_order, kernel, room_for_centers, scratch_for
from gpukmeans.engines.native.threads import run_chunks
from gpukmeans.fixed_point import finest_scale

MAX_CANDIDATES = 16
"""The most candidates: those of a panel, as in propose.h."""

# Rows whose w·d² have one total, as in many.c.
_GROUP = 256

# Products of a coordinate in one chunk: about half a millisecond.
_CHUNK_PRODUCTS = 1 << 24


class _Seeding(ctypes.Structure):
    """`struct seeding` of seeding_body.h."""

    _fields_ = [
        ("screen", Many),
        *(
            (name, ctypes.c_void_p)
            for name in ("centers", "gaps", "least_gaps", "nearer", "any_nearer", "units", "largest")
        ),
        ("n_clusters", ctypes.c_int64),
        ("n_centers", ctypes.c_int64),
    ]


@dataclass(frozen=True, eq=False)
class WeightedRows:
    """Points (N, D), float32 or float64, with weights (N,) float64 or None, and the sum of the weights."""

    x: Tensor
    weights: Tensor | None
    total_weight: float


def extended(
    rows: WeightedRows,
    centers: Tensor,
    labels: Tensor,
    sqdist: Tensor,
    n_clusters: int,
    n_candidates: int,
    draw: Callable[[int, int], Sequence[int]],
) -> Tensor | None:
    """Centers (K, D): the given ones (M, D), then points by greedy k-means++. None if all points are at centers before.

    Args:
        rows: points and weights.
        centers: centers so far.
        labels: index of the nearest of these for each point (N,).
        sqdist: squared distance to it (N,), in the dtype of the points.
        n_clusters: K.
        n_candidates: points that are drawn for each center, at most `MAX_CANDIDATES`.
        draw: a function of the number of the step and the total of w·d² in fixed point, which returns the positions of
            the candidates, below the total.
    """
    state = _State(rows, centers, labels, sqdist, n_clusters, n_candidates)
    for step in range(n_clusters - len(centers)):
        total = state.total()
        if total == 0:
            return None
        state.draw(draw(step, total))
        gains = state.weigh()
        state.take(gains.index(min(gains)))  # the first on ties
    return state.centers


class _State:
    """The nearest center so far of each point, and the candidates for the next one."""

    def __init__(
        self, rows: WeightedRows, centers: Tensor, labels: Tensor, sqdist: Tensor, n_clusters: int, n_candidates: int
    ) -> None:
        x = rows.x
        n_rows, width = x.shape
        n_groups = -(-n_rows // _GROUP)
        self.centers = x.new_empty(n_clusters, width)
        self.centers[: len(centers)] = centers
        self._dtype = x.dtype
        self._total_weight = rows.total_weight
        self._n_candidates, self._n_groups = n_candidates, n_groups
        self._candidates = x.new_empty(n_candidates, width)
        self._tensors = {
            "gaps": x.new_empty(n_candidates, n_clusters),
            "least_gaps": x.new_empty(n_clusters),
            "nearer": torch.empty(n_rows, dtype=torch.int16, device="cpu"),
            "any_nearer": torch.empty(n_groups, dtype=torch.int16, device="cpu"),
            "units": torch.empty(n_groups, dtype=torch.int64, device="cpu"),
            "largest": x.new_empty(n_groups),
        }
        order = given_order(n_candidates)
        self._screened = {
            "points": x,
            "sqdist": sqdist.clone(memory_format=torch.contiguous_format),
            "labels": labels.to(torch.int32),
            "centers": self._candidates,
            "members": order.members,
            "places": order.places,
            "scratch": self._scratch(),
            **room_for_centers(self._candidates),
        }
        if rows.weights is not None:
            self._screened["weights"] = rows.weights
        screen = Many(n_rows=n_rows, width=width, n_clusters=n_candidates, sqdist_scale=1.0)
        for name, tensor in self._screened.items():
            setattr(screen, name, tensor.data_ptr())
        self._block = _Seeding(screen=screen, n_clusters=n_clusters, n_centers=len(centers))
        for name, tensor in {**self._tensors, "centers": self.centers}.items():
            setattr(self._block, name, tensor.data_ptr())
        self._address = ctypes.addressof(self._block)
        self._exponent: int | None = None
        self._chunk = max(1, _CHUNK_PRODUCTS // (_GROUP * MAX_CANDIDATES * width))
        self._measure()

    def total(self) -> int:
        """The total of w·d², at the finest scale for the largest distance."""
        largest = ctypes.c_double()
        summed = kernel("seeding_total", self._dtype, ctypes.c_void_p, ctypes.c_void_p, restype=ctypes.c_int64)
        total = summed(self._address, ctypes.addressof(largest))
        bound = self._total_weight * largest.value
        _, exponent = math.frexp(bound)
        if exponent != self._exponent:
            self._exponent = exponent
            scale = finest_scale(torch.tensor(bound, dtype=torch.float64, device="cpu"))
            self._block.screen.sqdist_scale = scale.item()
            self._measure()
            total = summed(self._address, ctypes.addressof(largest))
        return total

    def draw(self, positions: Sequence[int]) -> None:
        """Make the points at these positions the candidates."""
        array = ctypes.c_int64 * self._n_candidates
        kernel("seeding_draw", self._dtype, *[ctypes.c_void_p] * 3)(self._address, array(*positions), array())

    def weigh(self) -> list[int]:
        """The change of the total by each candidate."""
        gains = [0] * self._n_candidates
        function = kernel("seeding_weigh", self._dtype, *_CHUNK_TYPES, ctypes.c_void_p, ctypes.c_void_p)
        parts: list[ctypes.Array[ctypes.c_int64]] = []

        def weigh_chunk(start: int, stop: int) -> None:
            scratch, part = self._scratch(), (ctypes.c_int64 * MAX_CANDIDATES)()
            function(self._address, start, stop, scratch.data_ptr(), part)
            parts.append(part)

        run_chunks(weigh_chunk, self._n_groups, self._chunk)
        for part in parts:
            gains = [gain + more for gain, more in zip(gains, part, strict=False)]
        return gains

    def take(self, candidate: int) -> None:
        """Make a candidate the next center."""
        function = kernel(
            "seeding_take", self._dtype, ctypes.c_void_p, ctypes.c_int64, *_CHUNK_TYPES[1:], ctypes.c_void_p
        )

        def take_chunk(start: int, stop: int) -> None:
            scratch = self._scratch()
            function(self._address, candidate, start, stop, scratch.data_ptr())

        run_chunks(take_chunk, self._n_groups, self._chunk)
        self.centers[self._block.n_centers] = self._candidates[candidate]
        self._block.n_centers += 1

    def _measure(self) -> None:
        function = kernel("seeding_measure", self._dtype, *_CHUNK_TYPES)
        run_chunks(lambda start, stop: function(self._address, start, stop), self._n_groups, self._chunk)

    def _scratch(self) -> Tensor:
        return scratch_for(self._dtype, self._candidates.shape[1], self._n_candidates)


_CHUNK_TYPES = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
