"""Greedy k-means++ by the kernels of seeding_body.h and few_seeding.h.

Each step draws some points as candidates and makes one of them the next center. w is the weight of a point, and d² its
squared distance to the nearest center so far. Totals of w·d² are integers in fixed-point units.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from ctypes import Array, Structure, addressof, c_double, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpukmeans.engines.native.few import BOX, FANOUT, MAX_WIDTH, SortedPoints, SpatialOrder
from gpukmeans.engines.native.library import fields
from gpukmeans.engines.native.many import Many, given_order, memory_for_panels, scratch_for
from gpukmeans.engines.native.tensors import empty, kernel, point_to
from gpukmeans.engines.native.threads import run_chunks
from gpukmeans.fixed_point import finest_scale

MAX_CANDIDATES = 16
"""The largest number of candidates, which is the size of a panel in propose.h."""

# Each group of this many rows has one total of w·d², as in many.c and few.c.
_GROUP = 256

# The number of multiplications of coordinates in one chunk. They take about half a millisecond.
_CHUNK_PRODUCTS = 1 << 24

# Points of few coordinates are sorted if at least this many centers are added.
_SORTED_STEPS = 16

# A range of groups or panels as arguments of a kernel.
_RANGE = c_int64, c_int64


class _Screened(Structure):
    """`struct seeding` of seeding_body.h."""

    _fields_ = [
        ("screen", Many),
        *fields(c_void_p, "centers", "least_gaps", "nearer", "any_nearer", "units", "largest"),
        ("n_centers", c_int64),
    ]


class _Boxed(Structure):
    """`struct seeding_boxes` of few.c."""

    _fields_ = [
        ("points", SortedPoints),
        *fields(c_void_p, "candidates", "sqdist", "places", "small_ranges", "large_ranges", "small_most", "large_most"),
        *fields(c_void_p, "heaviest", "units"),
        ("scale", c_double),
        ("n_candidates", c_int64),
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
    """Centers (K, D): the given centers (M, D), then points that greedy k-means++ chooses.

    None if w·d² becomes 0 for all points before there are K centers.

    Args:
        rows: points and weights.
        centers: the given centers.
        labels: index of the nearest given center for each point (N,).
        sqdist: squared distance of each point to its nearest given center (N,), in the dtype of the points.
        n_clusters: K.
        n_candidates: the number of candidates of each step, at most `MAX_CANDIDATES`.
        draw: a function of the number of a step, from 0, and of the total of w·d². It returns a position from 0 to the
            total - 1 for each candidate. The candidate is the first point at which the cumulative sum of w·d² exceeds
            the position.
    """
    state: _State
    if rows.x.shape[1] <= MAX_WIDTH:
        state = _BoxedState(rows, centers, sqdist, n_clusters, n_candidates)
    else:
        state = _ScreenedState(rows, centers, labels, sqdist, n_clusters, n_candidates)
    for step in range(n_clusters - len(centers)):
        total = state.total()
        if total == 0:
            return None
        state.draw(draw(step, total))
        gains = state.weigh()
        state.take(gains.index(min(gains)))  # the first on ties
    return state.centers


class _State(ABC):
    """The centers so far, the squared distances of points to the nearest of them, and the candidates of a step."""

    _PREFIX: str
    _address: int

    def __init__(self, rows: WeightedRows, centers: Tensor, n_clusters: int, n_candidates: int) -> None:
        x = rows.x
        self.centers = x.new_empty(n_clusters, x.shape[1])
        self.centers[: len(centers)] = centers
        self._n_centers, self._n_candidates = len(centers), n_candidates
        self._n_groups = -(-len(x) // _GROUP)
        self._dtype, self._total_weight = x.dtype, rows.total_weight
        self._candidates = x.new_empty(n_candidates, x.shape[1])
        self._exponent: int | None = None

    def total(self) -> int:
        """The total of w·d², at the finest fixed-point scale for the largest d²."""
        largest = c_double()
        total = self._sum(largest)
        bound = self._total_weight * largest.value
        _, exponent = math.frexp(bound)
        if exponent != self._exponent:
            self._exponent = exponent
            self._rescale(finest_scale(torch.tensor(bound, dtype=torch.float64, device="cpu")).item())
            total = self._sum(largest)
        return total

    def draw(self, positions: Sequence[int]) -> None:
        """Make the points at these positions of the cumulative sum the candidates."""
        self._draw((c_int64 * self._n_candidates)(*positions))

    def weigh(self) -> list[int]:
        """The change of the total of w·d² that each candidate would make as a center: 0 or less."""
        parts: list[Array[c_int64]] = []

        def weigh_chunk(start: int, stop: int) -> None:
            part = (c_int64 * MAX_CANDIDATES)()
            self._weigh(start, stop, part)
            parts.append(part)

        self._run(weigh_chunk)
        return [sum(gains) for gains in zip(*parts, strict=True)][: self._n_candidates]

    def take(self, candidate: int) -> None:
        """Make a candidate the next center."""
        self._run(lambda start, stop: self._take(start, stop, candidate))
        self.centers[self._n_centers] = self._candidates[candidate]
        self._n_centers += 1

    def _sum(self, largest: c_double) -> int:
        """The total of w·d². The kernel sets `largest` to the largest d² of a point with weight."""
        return self._kernel("total", c_void_p, restype=c_int64)(self._address, addressof(largest))

    def _kernel(self, name: str, *argtypes: Any, restype: Any = None) -> Callable[..., Any]:
        """A kernel for the dtype of the points. Its first argument is the address of the structure of the state."""
        return kernel(f"{self._PREFIX}_{name}", c_void_p, *argtypes, restype=restype, dtype=self._dtype)

    @abstractmethod
    def _rescale(self, scale: float) -> None:
        """Compute the totals of all groups at a fixed-point scale."""

    @abstractmethod
    def _draw(self, positions: "Array[c_int64]") -> None:
        """Copy the points at these positions to the candidates."""

    @abstractmethod
    def _run(self, kernel: Callable[[int, int], object]) -> None:
        """Call a kernel, such as `_weigh` or `_take`, for chunks of all points."""

    @abstractmethod
    def _weigh(self, start: int, stop: int, gains: "Array[c_int64]") -> None:
        """Add to `gains` the change of the total that each candidate would make, for a part of the points."""

    @abstractmethod
    def _take(self, start: int, stop: int, candidate: int) -> None:
        """Update the squared distances of a part of the points for a candidate that becomes a center."""


class _BoxedState(_State):
    """State for few coordinates. Points are in boxes, and most boxes are too far from a candidate to change."""

    _PREFIX = "few_seeding"

    def __init__(self, rows: WeightedRows, centers: Tensor, sqdist: Tensor, n_clusters: int, n_candidates: int) -> None:
        super().__init__(rows, centers, n_clusters, n_candidates)
        x, weights = rows.x[None], None if rows.weights is None else rows.weights[None]
        sorts = n_clusters - len(centers) >= _SORTED_STEPS
        self._order = order = SpatialOrder.of(x, weights, self._dtype, sorts=sorts)
        n_small, n_large = order.arguments.n_small, order.arguments.n_large
        self._n_panels = n_panels = -(-n_large // FANOUT)
        width = x.shape[2]
        self._tensors = {
            "candidates": self._candidates,
            "sqdist": x.new_empty(order.tensors["sorted"].shape[2]),
            "places": empty(x.shape[1], dtype=torch.int32),
            "small_ranges": x.new_zeros(n_large, 2, width, FANOUT),
            "large_ranges": x.new_zeros(n_panels, 2, width, FANOUT),
            # -1 for the boxes that pad the last large box, as for boxes in which all weights are 0.
            "small_most": x.new_full((n_large * FANOUT,), -1.0),
            "large_most": x.new_full((n_panels * FANOUT,), -1.0),
            "heaviest": empty(n_small, dtype=torch.float64),
            "units": empty(self._n_groups, dtype=torch.int64),
        }
        self._block = _Boxed(order.arguments, n_candidates=n_candidates)
        point_to(self._block, self._tensors)
        self._address = addressof(self._block)
        self._panel_rows = BOX * FANOUT * FANOUT
        self._chunk = max(1, _CHUNK_PRODUCTS // (self._panel_rows * MAX_CANDIDATES * width))
        started, given = self._kernel("start", *_RANGE, c_void_p), sqdist.contiguous()
        run_chunks(
            lambda start, stop: started(self._address, start, stop, given.data_ptr()), n_large, FANOUT * self._chunk
        )

    def _rescale(self, scale: float) -> None:
        self._block.scale = scale
        chunk = self._chunk * self._panel_rows // _GROUP
        measure = self._kernel("measure", *_RANGE)
        run_chunks(lambda start, stop: measure(self._address, start, stop), self._n_groups, chunk)

    def _draw(self, positions: "Array[c_int64]") -> None:
        self._kernel("draw", c_void_p)(self._address, positions)

    def _run(self, kernel: Callable[[int, int], object]) -> None:
        run_chunks(kernel, self._n_panels, self._chunk)

    def _weigh(self, start: int, stop: int, gains: "Array[c_int64]") -> None:
        self._kernel("weigh", *_RANGE, c_void_p)(self._address, start, stop, gains)

    def _take(self, start: int, stop: int, candidate: int) -> None:
        self._kernel("take", *_RANGE, c_int64)(self._address, start, stop, candidate)


class _ScreenedState(_State):
    """State for many coordinates. Matrix products exclude most points, which are not nearer to a candidate."""

    _PREFIX = "seeding"

    def __init__(
        self, rows: WeightedRows, centers: Tensor, labels: Tensor, sqdist: Tensor, n_clusters: int, n_candidates: int
    ) -> None:
        super().__init__(rows, centers, n_clusters, n_candidates)
        x, n_groups = rows.x, self._n_groups
        n_rows, width = x.shape
        self._tensors = {
            "centers": self.centers,
            "least_gaps": x.new_empty(n_clusters),
            "nearer": empty(n_rows, dtype=torch.int16),
            "any_nearer": empty(n_groups, dtype=torch.int16),
            "units": empty(n_groups, dtype=torch.int64),
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
            **memory_for_panels(self._candidates),
        }
        if rows.weights is not None:
            self._screened["weights"] = rows.weights
        screen = Many(n_rows=n_rows, width=width, n_clusters=n_candidates, sqdist_scale=1.0)
        point_to(screen, self._screened)
        self._block = _Screened(screen=screen)
        point_to(self._block, self._tensors)
        self._address = addressof(self._block)
        self._chunk = max(1, _CHUNK_PRODUCTS // (_GROUP * MAX_CANDIDATES * width))
        self._run(self._measure)

    def _rescale(self, scale: float) -> None:
        self._block.screen.sqdist_scale = scale
        self._run(self._measure)

    def _draw(self, positions: "Array[c_int64]") -> None:
        self._block.n_centers = self._n_centers
        self._kernel("draw", c_void_p, c_void_p)(self._address, positions, (c_int64 * self._n_candidates)())

    def _run(self, kernel: Callable[[int, int], object]) -> None:
        run_chunks(kernel, self._n_groups, self._chunk)

    def _weigh(self, start: int, stop: int, gains: "Array[c_int64]") -> None:
        weigh, scratch = self._kernel("weigh", *_RANGE, c_void_p, c_void_p), self._scratch()
        weigh(self._address, start, stop, scratch.data_ptr(), gains)

    def _take(self, start: int, stop: int, candidate: int) -> None:
        take, scratch = self._kernel("take", c_int64, *_RANGE, c_void_p), self._scratch()
        take(self._address, candidate, start, stop, scratch.data_ptr())

    def _measure(self, start: int, stop: int) -> None:
        self._kernel("measure", *_RANGE)(self._address, start, stop)

    def _scratch(self) -> Tensor:
        return scratch_for(self._dtype, self._candidates.shape[1], self._n_candidates)
