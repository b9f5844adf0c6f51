"""Assignments and moments of points of few coordinates by the kernels of few.c.

A small box is 64 points, and a large box is 16 small boxes. The candidates of a box are the centers that may be nearest
to one of its points. A slot is the state of one run between calls.
"""

from collections.abc import Callable
from ctypes import Structure, addressof, c_int, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gpukmeans.engines.base import Assignment
from gpukmeans.engines.native.library import fields
from gpukmeans.engines.native.tensors import empty, kernel, point_to, zeros
from gpukmeans.engines.native.threads import run_chunks
from gpukmeans.fixed_point import FixedPoint
from gpukmeans.moments import Moments
from gpukmeans.tiling import blocks

MAX_WIDTH = 8
"""The largest number of coordinates of a point."""

BOX, FANOUT = 64, 16
"""The number of points in a small box, and of small boxes in a large box, as in few.c."""

# The longest list of candidates that is kept between calls.
_CAPACITY = 64
MAX_SORTED = (1 << 31) - 1
"""Problems of more points are not sorted, because row numbers are int32."""

# A problem of at least this many rows is sorted by several calls, each for a part of this size.
_LONG_SORT = 1 << 18
# The number of digits of the radix sort, and the largest number of grid lines of a coordinate, as in few_order.h.
_N_DIGITS, _MAX_LINES = 1 << 11, 1 << 10
# `assign` uses the spatial order for at least this many centers.
_MIN_CENTERS = 16
# Estimated nanoseconds: the longest duration of a chunk, and the shortest duration of a call that uses several threads.
_LONGEST_CHUNK, _SHORT_WORK = 2e7, 2e5
# Estimated nanoseconds for each coordinate of a point: for the comparison with one center, and for all other work.
_COMPARISON, _OTHER = 0.15, 5.0

# The dtypes in the order of their codes in few.c.
_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}


class _Array(Structure):
    """`struct array` of few.c."""

    _fields_ = [("data", c_void_p), ("type", c_int64), ("strides", c_int64 * 3)]

    @staticmethod
    def of(tensor: Tensor | None) -> "_Array":
        """The array of a tensor (problems, rows) or (problems, rows, channels); without data for None."""
        if tensor is None:
            return _Array()
        return _Array(tensor.data_ptr(), _CODES[tensor.dtype], (c_int64 * 3)(*tensor.stride()))


class _DirectPass(Structure):
    """`struct direct_pass` of few.c."""

    _fields_ = [
        *fields(_Array, "x", "weights"),
        *fields(c_int64, "n_rows", "n_clusters", "width"),
        *fields(c_void_p, "problems", "centers", "sum_scale", "lowest", "weight_scale", "sqdist_scale"),
        *fields(c_void_p, "totals", "inertia", "worst", "labels", "sqdist"),
    ]


class SortedPoints(Structure):
    """`struct sorted_points` of few.c."""

    _fields_ = [
        *fields(_Array, "x", "weights"),
        *fields(c_int64, "n_problems", "n_rows", "n_small", "n_large", "width"),
        *fields(
            c_void_p, "sorted", "sorted_weights", "rows", "small", "large", "half_diagonal", "heaviest", "has_absent"
        ),
    ]


class _SortPass(Structure):
    """`struct sort_pass` of few.c."""

    _fields_ = [
        ("points", SortedPoints),
        *fields(c_int64, "problem", "sort_pass"),
        *fields(c_void_p, "lines", "keys", "to_keys", "rows", "to_rows", "positions"),
    ]


class _SortedPass(Structure):
    """`struct sorted_pass` of few.c."""

    _fields_ = [
        ("points", SortedPoints),
        *fields(c_int64, "n_clusters", "capacity", "n_slots"),
        *fields(
            c_void_p,
            "slot_problems",
            "problems",
            "slots",
            "centers",
            "sum_scale",
            "lowest",
            "weight_scale",
            "sqdist_scale",
        ),
        *fields(c_void_p, "totals", "labels", "lists", "counts", "box_inertia", "box_worst"),
        *fields(c_void_p, "last", "origins", "slack", "scales", "moved", "flags"),
        *fields(c_void_p, "total_changes", "total_results", "inertia", "worst", "label_results", "sqdist_results"),
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sums:
    """Sums of B runs over points, in fixed-point units, and the largest squared distances.

    `totals` (B, K, D + 1) are the D sums of w·(x - lowest), then the sum of w, for each cluster. `inertia` (B,) is the
    sum of w·d². `worst` (B,) is the largest squared distance.
    """

    totals: Tensor
    inertia: Tensor
    worst: Tensor

    @staticmethod
    def zeros(centers: Tensor) -> "_Sums":
        """Sums over no points: zeros, and -1 as the largest squared distance, for centers (B, K, D)."""
        n_runs, n_clusters, width = centers.shape
        return _Sums(
            totals=zeros(n_runs, n_clusters, width + 1, dtype=torch.int64),
            inertia=zeros(n_runs, dtype=torch.int64),
            worst=torch.full((n_runs,), -1.0, dtype=centers.dtype, device="cpu"),
        )

    def add(self, other: "_Sums") -> None:
        """Add the sums of other points, in place."""
        self.totals.add_(other.totals)
        self.inertia.add_(other.inertia)
        torch.maximum(self.worst, other.worst, out=self.worst)

    def moments(self, fixed_point: FixedPoint) -> Moments:
        return Moments(
            fixed_point=fixed_point,
            sums=self.totals[..., :-1],
            totals=self.totals[..., -1],
            inertia=self.inertia,
            worst_sqdist=self.worst,
        )


class FewCoordinates:
    """Points (P, N, D) of P problems, D at most 8, with weights (P, N), and the state of runs between calls.

    The state saves time, but changes no result. The second `measure` sorts the points in spatial order if a problem has
    at least `sorts_from` points. From then on, a call updates candidates and totals of the previous call.
    """

    def __init__(self, x: Tensor, weights: Tensor | None, sorts_from: int) -> None:
        self._x = x
        self._weights = weights
        self._direct = _DirectPass(_Array.of(x), _Array.of(weights), n_rows=x.shape[1], width=x.shape[2])
        self._sorts = sorts_from <= x.shape[1] <= MAX_SORTED
        self._was_measured = False
        self._runs: _SortedRuns | None = None

    def assign(self, centers: Tensor, problems: Tensor) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D)."""
        n_runs, n_rows = len(centers), self._x.shape[1]
        labels = empty(n_runs, n_rows, dtype=torch.int64)
        sqdist = empty(n_runs, n_rows, dtype=centers.dtype)
        if self._runs is not None and self._runs.dtype == centers.dtype and centers.shape[1] >= _MIN_CENTERS:
            self._runs.assign(centers, problems, labels, sqdist)
        else:
            self._compare(centers, problems, {"labels": labels, "sqdist": sqdist})
        return Assignment(labels, sqdist)

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Tensor) -> Moments:
        """Moments at centers (B, K, D)."""
        sums = _Sums.zeros(centers)
        if self._sorts and self._was_measured:
            self._sorted_runs(centers, problems).measure(centers, _scales(fixed_point), problems, sums)
        else:
            self._compare(centers, problems, vars(sums) | _scales(fixed_point), sums)
        self._was_measured = True
        return sums.moments(fixed_point)

    def _sorted_runs(self, centers: Tensor, problems: Tensor) -> "_SortedRuns":
        """The state of the last call if it has a slot for each of these runs; else a new state."""
        runs, self._runs = self._runs, None  # frees memory before more is allocated
        if runs is None or runs.dtype != centers.dtype:
            runs = _SortedRuns(SpatialOrder.of(self._x, self._weights, centers.dtype), centers, problems)
        elif not runs.select(centers, problems):
            runs = _SortedRuns(runs.points, centers, problems)
        self._runs = runs
        return runs

    def _compare(
        self, centers: Tensor, problems: Tensor, tensors: dict[str, Tensor], sums: _Sums | None = None
    ) -> None:
        """Compute results with the points in their given order. Every 64 points are a box."""
        n_runs, n_clusters, width = centers.shape
        n_rows = self._x.shape[1]
        arguments = _DirectPass.from_buffer_copy(self._direct)
        arguments.n_clusters = n_clusters
        point_to(arguments, {"problems": problems, "centers": centers, **tensors})
        n_blocks = -(-n_rows // BOX)
        chunk, splits = _chunk(n_runs, n_blocks, min(BOX, n_rows) * width * (_COMPARISON * n_clusters + _OTHER))

        def memory() -> _Memory:
            if sums is None or not splits:
                return _Memory(addressof(arguments), _workspace(centers))
            own = _Sums.zeros(centers)
            copy = _DirectPass.from_buffer_copy(arguments)
            point_to(copy, vars(own))
            return _Memory(addressof(copy), _workspace(centers), copy, own)

        for used in _run(_kernel("direct", centers.dtype), memory, n_runs * n_blocks, chunk):
            if sums is not None and used.result is not None:
                sums.add(used.result)


@dataclass(frozen=True, kw_only=True, eq=False)
class SpatialOrder:
    """Points of P problems in boxes, along a Hilbert curve or in their given order: `struct sorted_points`."""

    arguments: SortedPoints
    tensors: dict[str, Tensor]
    dtype: torch.dtype

    @staticmethod
    def of(x: Tensor, weights: Tensor | None, dtype: torch.dtype, *, sorts: bool = True) -> "SpatialOrder":
        """The boxes of points (P, N, D) with weights (P, N), for kernels of this dtype, along the curve if `sorts`."""
        n_problems, n_rows, width = x.shape
        n_small = -(-n_rows // BOX)
        n_large = -(-n_small // FANOUT)
        arguments = SortedPoints(_Array.of(x), _Array.of(weights), n_problems, n_rows, n_small, n_large, width)
        tensors = {"rows": empty(n_problems, n_rows, dtype=torch.int32)}
        point_to(arguments, tensors)

        if not sorts:
            tensors["rows"].copy_(torch.arange(n_rows, dtype=torch.int32, device="cpu"))
        elif n_rows < _LONG_SORT:

            def memory() -> _Memory:
                return _Memory(addressof(arguments), empty(12 * n_rows, dtype=torch.uint8))

            _run(_kernel("order", dtype), memory, n_problems, max(1, _LONG_SORT // n_rows))
        else:
            for problem, rows in enumerate(tensors["rows"]):
                _sort_in_parts(arguments, problem, rows, dtype)
        tensors |= {
            "sorted": empty(n_problems, width, n_small * BOX, dtype=dtype),
            "small": empty(n_problems, n_small, 2, width, dtype=dtype),
            "large": empty(n_problems, n_large, 2, width, dtype=dtype),
            "half_diagonal": empty(n_problems, dtype=torch.float64),
            "heaviest": empty(n_problems, dtype=torch.float64),
            "has_absent": empty(n_problems, dtype=torch.uint8),
        }
        if weights is not None:
            tensors["sorted_weights"] = empty(n_problems, n_small * BOX, dtype=torch.float64)
        point_to(arguments, tensors)
        chunk, _ = _chunk(n_problems, n_large, BOX * FANOUT * width * _OTHER)
        _run(_kernel("boxes", dtype), lambda: _Memory(addressof(arguments)), n_problems * n_large, chunk)
        _kernel("summary", dtype)(addressof(arguments), 0, n_problems, None)
        return SpatialOrder(arguments=arguments, tensors=tensors, dtype=dtype)


class _SortedRuns:
    """The state of runs over sorted points: a slot for each run, with its labels, candidate lists and totals."""

    def __init__(self, points: SpatialOrder, centers: Tensor, problems: Tensor) -> None:
        n_runs, n_clusters, width = centers.shape
        n_small = points.arguments.n_small
        self.points = points
        self.dtype = points.dtype
        self._shape = n_clusters, width
        self._slot_problems = self._problems = problems
        self._slots = torch.arange(n_runs, device="cpu")
        self._prepared = _SortedPass(points.arguments, n_clusters, min(_CAPACITY, n_clusters), n_runs)
        self._state = {
            "totals": empty(n_runs, n_clusters, width + 1, dtype=torch.int64),
            "labels": empty(n_runs, n_small * BOX, dtype=torch.int32),
            "lists": empty(n_runs, n_small, min(_CAPACITY, n_clusters), dtype=torch.int32),
            "counts": zeros(n_runs, n_small, dtype=torch.int32),
            "box_inertia": empty(n_runs, n_small, dtype=torch.int64),
            "box_worst": empty(n_runs, n_small, dtype=self.dtype),
            "last": empty(n_runs, n_clusters, width, dtype=self.dtype),
            "origins": empty(n_runs, n_clusters, width, dtype=self.dtype),
            "slack": empty(n_runs, dtype=self.dtype),
            "scales": empty(n_runs, 2 * width + 2, dtype=torch.float64),
            "moved": empty(n_runs, n_clusters, dtype=torch.uint8),
            "flags": zeros(n_runs, dtype=torch.int32),
        }
        point_to(self._prepared, self._state | {"slot_problems": problems})

    def select(self, centers: Tensor, problems: Tensor) -> bool:
        """Choose a slot for each run at centers (B, K, D). False if K differs, or if a problem has too few slots."""
        if centers.shape[1:] != self._shape:
            return False
        if problems is not self._problems and not torch.equal(problems, self._problems):
            slots = self._nearest_slots(centers, problems)
            if (slots < 0).any():
                return False
            self._slots = slots
        self._problems = problems
        return True

    def measure(self, centers: Tensor, scales: dict[str, Tensor], problems: Tensor, sums: _Sums) -> None:
        """Compute the sums of runs at centers (B, K, D), after `select` has chosen their slots."""
        arguments = self._arguments(centers, problems, self._slots)
        point_to(arguments, scales)
        point_to(arguments, {"total_results": sums.totals, "inertia": sums.inertia, "worst": sums.worst})
        n_runs = len(centers)
        _kernel("prepare", self.dtype)(addressof(arguments), 0, n_runs, None)
        changes = self._run("measure", arguments, centers, adds=True)
        for change in changes:
            self._state["totals"].index_add_(0, self._slots, change)
        _kernel("finish", self.dtype)(addressof(arguments), 0, n_runs, None)

    def assign(self, centers: Tensor, problems: Tensor, labels: Tensor, sqdist: Tensor) -> None:
        """Write labels and squared distances (B, N) at centers (B, K, D), for any K.

        At the centers of the last `measure`, the labels are reused.
        """
        slots = self._nearest_slots(centers, problems) if centers.shape[1:] == self._shape else None
        arguments = self._arguments(centers, problems, slots)
        point_to(arguments, {"label_results": labels, "sqdist_results": sqdist})
        self._run("assign", arguments, centers, adds=False)

    def _run(self, name: str, arguments: _SortedPass, centers: Tensor, *, adds: bool) -> list[Tensor]:
        """Call a kernel for all large boxes.

        With `adds`, if several threads compute one run, the result is the changes (B, K, D + 1) of totals by each
        thread. The caller adds them to the totals.
        """
        n_runs, n_clusters, width = centers.shape
        n_large = self.points.arguments.n_large
        chunk, splits = _chunk(n_runs, n_large, BOX * FANOUT * width * (_COMPARISON * n_clusters + _OTHER))

        def memory() -> _Memory:
            if not (adds and splits):
                return _Memory(addressof(arguments), _workspace(centers))
            changes = zeros(n_runs, n_clusters, width + 1, dtype=torch.int64)
            copy = _SortedPass.from_buffer_copy(arguments)
            point_to(copy, {"total_changes": changes})
            return _Memory(addressof(copy), _workspace(centers), copy, changes)

        used = _run(_kernel(name, self.dtype), memory, n_runs * n_large, chunk)
        return [memory.result for memory in used if memory.result is not None]

    def _arguments(self, centers: Tensor, problems: Tensor, slots: Tensor | None) -> _SortedPass:
        """Arguments of a kernel, with pointers to the points and the state."""
        arguments = _SortedPass.from_buffer_copy(self._prepared)
        arguments.n_clusters = centers.shape[1]
        point_to(arguments, {"problems": problems, "centers": centers})
        if slots is not None:
            point_to(arguments, {"slots": slots})
        return arguments

    def _nearest_slots(self, centers: Tensor, problems: Tensor) -> Tensor:
        """For each run the free slot of its problem whose last centers are nearest, or -1 if none is left."""
        slots = empty(len(problems), dtype=torch.int64)
        arguments = self._arguments(centers, problems, slots)
        scratch = empty(self.points.arguments.n_problems + arguments.n_slots, dtype=torch.int64)
        _kernel("slots", self.dtype)(addressof(arguments), 0, len(problems), scratch.data_ptr())
        return slots


def _sort_in_parts(points: SortedPoints, problem: int, rows: Tensor, dtype: torch.dtype) -> None:
    """Sort the rows (N,) of a problem of many points in short calls, so that KeyboardInterrupt can be raised soon."""
    n = len(rows)
    keys, next_keys, next_rows = (empty(n, dtype=torch.int32) for _ in range(3))
    tensors = {"lines": empty(MAX_WIDTH, _MAX_LINES, dtype=dtype), "keys": keys, "rows": rows}
    arguments = _SortPass(points, problem)
    point_to(arguments, tensors)
    _kernel("grid", dtype)(addressof(arguments), 0, 1, None)
    chunk, _ = _chunk(1, -(-n // BOX), BOX * points.width * _OTHER)
    _run(_kernel("keys", dtype), lambda: _Memory(addressof(arguments)), -(-n // BOX), chunk)
    order = rows
    n_passes = kernel("few_sort_passes", c_int64, c_int64, restype=c_int64)(n, points.width)
    for number in range(n_passes):
        arguments.sort_pass = number
        positions = zeros(_N_DIGITS, dtype=torch.int64)
        point_to(arguments, {"keys": keys, "rows": order, "to_keys": next_keys, "to_rows": next_rows})
        point_to(arguments, {"positions": positions})
        for name in ("count_digits", "scatter_digits"):  # each part continues where the previous part ended
            run = kernel(f"few_{name}", c_void_p, c_int64, c_int64)
            for part in blocks(n, _LONG_SORT):
                run(addressof(arguments), part.start, part.stop)
        keys, next_keys, order, next_rows = next_keys, keys, next_rows, order
    if order is not rows:
        rows.copy_(order)


class _Memory(NamedTuple):
    """The memory of one thread: the address of the arguments of a kernel, and scratch memory.

    If several threads compute one run, each thread has a copy of the arguments in `kept`, with pointers to its own sums
    in `result`. Otherwise both are None.
    """

    arguments: int
    workspace: Tensor | None = None
    kept: Structure | None = None
    result: Any = None


def _run(function: Callable[..., int], memory: Callable[[], _Memory], n_items: int, chunk: int) -> list[_Memory]:
    """Call a kernel for all items, in chunks on several threads, and return the memory of each thread."""
    if n_items <= chunk:
        own = memory()
        _call(function, own, 0, n_items)
        return [own]
    made: list[_Memory] = []
    free: list[_Memory] = []

    def compute(start: int, stop: int) -> None:
        try:
            own = free.pop()
        except IndexError:
            own = memory()
            made.append(own)
        _call(function, own, start, stop)
        free.append(own)

    run_chunks(compute, n_items, chunk)
    return made


def _call(function: Callable[..., int], own: _Memory, start: int, stop: int) -> None:
    workspace = None if own.workspace is None else own.workspace.data_ptr()
    if function(own.arguments, start, stop, workspace):
        raise AssertionError("a kernel was called for points of a width that it does not support")


def _chunk(n_runs: int, n_items: int, duration: float) -> tuple[int, bool]:
    """The number of items of a chunk, and whether several threads may have chunks of the same run.

    Each run has `n_items` items, which take `duration` nanoseconds each.
    """
    total = n_runs * n_items
    n_threads = torch.get_num_threads()
    if n_threads == 1 or total * duration < _SHORT_WORK:
        return max(1, min(total, int(_LONGEST_CHUNK / duration))), False
    chunk = max(1, min(int(_LONGEST_CHUNK / duration), total // (4 * n_threads)))
    if chunk < n_items:
        return chunk, True
    return chunk // n_items * n_items, False


def _kernel(name: str, dtype: torch.dtype) -> Callable[..., int]:
    """A kernel of few.c. Its arguments are the address of a structure, a start, a stop, and scratch memory."""
    return kernel(f"few_{name}", c_void_p, c_int64, c_int64, c_void_p, restype=c_int, dtype=dtype)


def _workspace(centers: Tensor) -> Tensor:
    """Scratch memory of a kernel for centers (B, K, D)."""
    size = kernel("few_workspace_bytes", c_int64, c_int64, restype=c_int64, dtype=centers.dtype)
    return empty(size(*centers.shape[1:]), dtype=torch.uint8)


def _scales(fixed_point: FixedPoint) -> dict[str, Tensor]:
    """The fixed-point scales and the origin, contiguous, by their names in few.c."""
    return {
        "sum_scale": fixed_point.sum.contiguous(),
        "lowest": fixed_point.lowest.contiguous(),
        "weight_scale": fixed_point.weight.contiguous(),
        "sqdist_scale": fixed_point.sqdist.contiguous(),
    }
