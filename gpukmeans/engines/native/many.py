"""Assignments and moments of points of many coordinates by the kernels of many.c.

A panel is 16 centers. A kernel compares a point with all centers of a panel at a time. The state of a run may have a
lower bound of the distances for each point and panel. A kernel skips a panel if the bound shows that no center of the
panel is nearest.
"""

import functools
from ctypes import Structure, addressof, c_double, c_int64, c_void_p
from dataclasses import dataclass, field
from queue import LifoQueue
from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.engines.base import Assignment
from gpukmeans.engines.native.library import fields
from gpukmeans.engines.native.tensors import empty, kernel, zeros
from gpukmeans.engines.native.threads import run_chunks
from gpukmeans.fixed_point import FixedPoint
from gpukmeans.moments import Moments

MAX_WIDTH = 1 << 15
"""The largest number of coordinates of a point. It limits the scratch memory."""

# The number of centers in a panel, as in propose.h. For a single panel, lower bounds cost more than they save.
_PANEL = 16

# Which results at the previous centers are known, as in many.c: labels, or labels and lower bounds.
_KNOWN_LABELS, _KNOWN_BOUNDS = 1, 2

# The largest number of multiplications and of rows in one chunk. The multiplications take 20 ms with AVX2 and fused
# multiply-adds, 50 ms without.
_CHUNK_PRODUCTS = 1 << 30
_CHUNK_ROWS = 1 << 16

# The largest number of elements whose dtype torch converts on the calling thread alone.
_CONVERTED = 1 << 15

# The largest number of bytes of all copies of sums. Several threads add at the same time, each to another copy.
_SUMS_BYTES = 1 << 24


class Many(Structure):
    """`struct many` of many_body.h."""

    _fields_ = [
        *fields(c_void_p, "points", "weights", "centers", "centers_before", "members", "places"),
        *fields(c_void_p, "panels", "origin", "norms", "drifts", "moved"),
        *fields(c_void_p, "labels", "sqdist", "bounds", "long_labels"),
        *fields(c_void_p, "labels_before", "lowest", "sum_scales", "sums", "totals", "scratch"),
        *fields(c_double, "weight_scale", "sqdist_scale"),
        *fields(c_int64, "n_rows", "width", "n_clusters", "known", "inertia"),
        ("largest", c_double),
        ("n_changed", c_int64),
    ]


class _ManyRuns(Structure):
    """`struct many_runs` of many_body.h."""

    _fields_ = [
        ("shared", Many),
        *fields(c_void_p, "problems", "weight_scales", "sqdist_scales", "inertia", "largest"),
    ]


def _scratch_bytes(dtype: torch.dtype, width: int, n_clusters: int) -> int:
    return kernel("many_scratch", c_int64, c_int64, restype=c_int64, dtype=dtype)(width, n_clusters)


def scratch_for(dtype: torch.dtype, width: int, n_clusters: int) -> Tensor:
    """Scratch memory for one call of a kernel for K centers of D coordinates."""
    return empty(_scratch_bytes(dtype, width, n_clusters), dtype=torch.uint8)


def _n_panels(n_clusters: int) -> int:
    return -(-n_clusters // _PANEL)


@dataclass(frozen=True, eq=False)
class _Arguments:
    """The arguments of a kernel, and references to the tensors to which they point."""

    block: Many = field(default_factory=Many)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def with_tensors(self, **tensors: Tensor | None) -> "_Arguments":
        """A copy of the arguments with pointers to these tensors instead. None is a null pointer."""
        copy = _Arguments(Many.from_buffer_copy(self.block), dict(self.tensors))
        for name, tensor in tensors.items():
            if tensor is None:
                copy.tensors.pop(name, None)
                setattr(copy.block, name, None)
            else:
                assert tensor.is_contiguous()
                copy.tensors[name] = tensor
                setattr(copy.block, name, tensor.data_ptr())
        return copy

    def call(self, name: str, dtype: torch.dtype) -> Many:
        """The arguments after a call of the kernel, which writes its results to them."""
        kernel(name, c_void_p, dtype=dtype)(addressof(self.block))
        return self.block


@dataclass(frozen=True, eq=False)
class Order:
    """The order of K centers in panels of 16 places, int32.

    `members` (16 per panel) is the center at each place, or -1, and `places` (K,) is the place of each center.
    """

    members: Tensor
    places: Tensor

    @staticmethod
    def of(order: Tensor) -> "Order":
        """The order with center `order[i]` at place i, for a permutation (K,), int32."""
        members = torch.full((_n_panels(len(order)) * _PANEL,), -1, dtype=torch.int32, device="cpu")
        members[: len(order)] = order
        places = torch.empty_like(order)
        places[order.long()] = torch.arange(len(order), dtype=torch.int32, device="cpu")
        return Order(members, places)


@functools.lru_cache(maxsize=16)  # computing it takes as long as a small call; it is never changed
def given_order(n_clusters: int) -> Order:
    """The order of centers by index."""
    return Order.of(torch.arange(n_clusters, dtype=torch.int32, device="cpu"))


def _grouped_order(centers: Tensor) -> Order:
    """An order of centers (K, D) with near centers in the same panel, so that lower bounds exclude more panels."""
    n_clusters, width = centers.shape
    order = torch.arange(n_clusters, dtype=torch.int32, device="cpu")
    arguments = _Arguments().with_tensors(centers=centers, scratch=scratch_for(centers.dtype, width, n_clusters))
    arguments.block.width, arguments.block.n_clusters = width, n_clusters
    kernel("many_group", c_void_p, c_void_p, dtype=centers.dtype)(addressof(arguments.block), order.data_ptr())
    return Order.of(order)


def memory_for_panels(centers: Tensor) -> dict[str, Tensor]:
    """Uninitialized tensors for panels of centers (..., K, D), which kernels fill."""
    *_, n_clusters, width = centers.shape
    panels = _n_panels(n_clusters)
    return {
        "panels": centers.new_empty(panels * _PANEL * (width + 1)),
        "origin": centers.new_empty(width),
        "norms": centers.new_empty(panels + 1),
        "drifts": centers.new_empty(-(-panels // 8) * 8, dtype=torch.float32),
        "moved": centers.new_empty(n_clusters, dtype=torch.uint8),
    }


def _memory_for_small_runs(
    dtype: torch.dtype, n_rows: int, n_clusters: int, width: int
) -> tuple[Tensor, dict[str, int]]:
    """One tensor as memory of a thread for runs without state, and the addresses of its parts."""
    size, panels = dtype.itemsize, _n_panels(n_clusters)
    sizes = {
        "panels": size * panels * _PANEL * (width + 1),
        "origin": size * width,
        "norms": size * (panels + 1),
        "drifts": 4 * (panels + 8),
        "moved": n_clusters,
        "labels": 4 * n_rows,
        "sqdist": size * n_rows,
        "scratch": _scratch_bytes(dtype, width, n_clusters),
    }
    memory = empty(sum(sizes.values()) + 64 * len(sizes), dtype=torch.uint8)
    addresses, address = {}, memory.data_ptr()
    for name, part in sizes.items():
        addresses[name] = address
        address += -(-part // 64) * 64
    return memory, addresses


def _packed(centers: Tensor, order: Order, before: Tensor | None) -> _Arguments:
    """Arguments with panels of the centers (K, D), and with the distances by which they moved from `before`."""
    arguments = _Arguments().with_tensors(
        centers=centers, centers_before=before, members=order.members, places=order.places, **memory_for_panels(centers)
    )
    arguments.block.n_clusters, arguments.block.width = centers.shape
    arguments.call("many_pack", centers.dtype)
    return arguments


class _Scales(NamedTuple):
    """The fixed-point scales and the origin of the sums of one run. Sums at other scales cannot be updated."""

    weight: float
    sum: Tensor
    lowest: Tensor

    def equals(self, other: "_Scales") -> bool:
        return (
            self.weight == other.weight and torch.equal(self.sum, other.sum) and torch.equal(self.lowest, other.lowest)
        )


class _RunState:
    """The state of a run between two calls of `measure`: centers, labels, squared distances, lower bounds and sums."""

    def __init__(self, n_rows: int, centers: Tensor, scales: _Scales) -> None:
        n_clusters = len(centers)
        self.centers: Tensor | None = None
        self.known = 0
        self.scales = scales
        self.order = given_order(n_clusters)
        self.labels = empty(n_rows, dtype=torch.int32)
        self.sqdist = centers.new_empty(n_rows)
        self.bounds: Tensor | None = None
        self.n_changed = n_rows
        self.sums = zeros(*centers.shape, dtype=torch.int64)
        self.totals = zeros(n_clusters, dtype=torch.int64)

    def fits(self, centers: Tensor, scales: _Scales) -> bool:
        """Whether the state can be updated to these centers and scales."""
        same = self.centers is not None and self.centers.shape == centers.shape and self.centers.dtype == centers.dtype
        return same and self.scales.equals(scales)

    def is_at(self, centers: Tensor) -> bool:
        """Whether labels and squared distances are the results at these centers (K, D)."""
        return self.centers is not None and self.centers.dtype == centers.dtype and torch.equal(self.centers, centers)

    def add_bounds(self, centers: Tensor, max_bytes: int) -> None:
        """Add lower bounds, with near centers in the same panel, if the state then has at most `max_bytes` bytes."""
        n_rows, panels = len(self.labels), _n_panels(len(centers))
        if self.n_bytes + 4 * n_rows * panels <= max_bytes:
            self.order = _grouped_order(centers)
            self.bounds = empty(n_rows, panels, dtype=torch.float32)
            self.known = _KNOWN_LABELS

    @property
    def n_bytes(self) -> int:
        """The number of bytes of labels, squared distances and lower bounds."""
        tensors = [self.labels, self.sqdist, *([] if self.bounds is None else [self.bounds])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class _SharedSums:
    """Sums (K, D) and totals (K,) with copies, so that several threads can add at the same time."""

    def __init__(self, sums: Tensor, totals: Tensor, n_chunks: int) -> None:
        n_others = min(torch.get_num_threads(), n_chunks, _SUMS_BYTES // (8 * sums.numel())) - 1
        self._others = [(torch.zeros_like(sums), torch.zeros_like(totals)) for _ in range(n_others)]
        self._first = (sums, totals)
        self._free: LifoQueue[tuple[Tensor, Tensor]] = LifoQueue()
        for pair in [self._first, *self._others]:
            self._free.put(pair)

    def add(self, arguments: _Arguments, dtype: torch.dtype) -> int:
        """Add the rows of a chunk whose labels changed, and return the number of these rows."""
        sums, totals = pair = self._free.get()
        try:
            return arguments.with_tensors(sums=sums, totals=totals).call("many_add", dtype).n_changed
        finally:
            self._free.put(pair)

    def collect(self) -> None:
        """Add the copies to the sums and totals. The order changes no integer sum."""
        for pair in self._others:
            for total, part in zip(self._first, pair, strict=True):
                total += part


class ManyCoordinates:
    """Points (P, N, D) of P problems, with weights (P, N), and the state of runs between calls.

    The class has the methods of `BoundEngine`, with the problems of the runs as a tensor (B,) int64. From the second
    `measure` on, the state of a run has labels and squared distances. Lower bounds are added when few labels change.
    The state changes no bit of a result.

    Args:
        x: points of any real dtype on the CPU.
        weights: weights of any real dtype, at least 0. None for weights of 1.
        keeps_from: runs of at least this many multiplications N·K·D have a state. Smaller runs are computed together.
        bounds_from: the fraction of changed labels in a `measure` below which lower bounds are added. As long as
            centers move far, lower bounds exclude few panels.
        chunk: the largest number of multiplications in one chunk.
    """

    def __init__(
        self,
        x: Tensor,
        weights: Tensor | None,
        *,
        keeps_from: int = 1 << 22,
        bounds_from: float = 0.25,
        chunk: int = _CHUNK_PRODUCTS,
    ) -> None:
        self.x = x.detach()
        self.weights = None if weights is None else weights.detach().double().contiguous()
        self._keeps_from, self._bounds_from, self._chunk_products = keeps_from, bounds_from, chunk
        self._n_measured = 0
        self._states: dict[int, _RunState] = {}

    def measure(self, centers: Tensor, fixed_point: FixedPoint, problems: Tensor) -> Moments:
        """Moments at centers (B, K, D), with sums in the fixed-point units of the B runs."""
        centers = centers.detach().contiguous()
        moments = Moments(
            fixed_point=fixed_point,
            sums=zeros(*centers.shape, dtype=torch.int64),
            totals=zeros(*centers.shape[:2], dtype=torch.int64),
            inertia=empty(len(problems), dtype=torch.int64),
            worst_sqdist=centers.new_empty(len(problems)),
        )
        if self._products(centers) < self._keeps_from:
            self._measure_small(centers, fixed_point, problems, moments)
            return moments
        self._n_measured += 1
        for run, problem in enumerate(problems.tolist()):
            self._measure_run(run, problem, centers[run], moments)
        return moments

    def assign(self, centers: Tensor, problems: Tensor) -> Assignment:
        """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D)."""
        centers = centers.detach().contiguous()
        shape = len(problems), self.x.shape[1]
        labels, sqdist = empty(*shape, dtype=torch.int64), empty(*shape, dtype=centers.dtype)
        if self._products(centers) < self._keeps_from:
            self._run_small(centers, problems, {"long_labels": labels, "sqdist": sqdist}, {})
            return Assignment(labels, sqdist)
        for run, problem in enumerate(problems.tolist()):
            state = self._states.get(run)
            if state is not None and state.is_at(centers[run]):
                labels[run], sqdist[run] = state.labels, state.sqdist
            else:
                self._assign_run(problem, centers[run], labels[run], sqdist[run])
        return Assignment(labels, sqdist)

    def _products(self, centers: Tensor) -> int:
        return self.x.shape[1] * centers.shape[1] * centers.shape[2]

    def _chunk(self, problem: int, start: int, stop: int, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """Points of some rows of a problem, converted to the dtype and contiguous, with their weights."""
        weights = None if self.weights is None else self.weights[problem, start:stop]
        return {"points": self.x[problem, start:stop].to(dtype).contiguous(), "weights": weights}

    def _chunk_rows(self, centers: Tensor) -> int:
        """The number of rows of a chunk at centers (K, D)."""
        n_clusters, width = centers.shape
        rows = min(_CHUNK_ROWS, self._chunk_products // (n_clusters * width))
        if self.x.dtype != centers.dtype or not self.x[0].is_contiguous():
            rows = min(rows, _CONVERTED // width)
        return max(1, rows)

    def _measure_run(self, run: int, problem: int, centers: Tensor, moments: Moments) -> None:
        fixed_point = moments.fixed_point
        scales = _Scales(fixed_point.weight[run].item(), fixed_point.sum[run], fixed_point.lowest[run])
        state = self._state(run, centers, scales)
        before = None if state is None or state.centers is None else state.centers
        order = given_order(len(centers)) if state is None else state.order
        sums, totals = (moments.sums[run], moments.totals[run]) if state is None else (state.sums, state.totals)
        shared = _packed(centers, order, before).with_tensors(lowest=scales.lowest, sum_scales=scales.sum)
        shared.block.weight_scale, shared.block.sqdist_scale = scales.weight, fixed_point.sqdist[run].item()
        shared.block.known = 0 if state is None else state.known
        chunk_rows = self._chunk_rows(centers)
        n_rows, dtype = self.x.shape[1], centers.dtype
        added = _SharedSums(sums, totals, -(-n_rows // chunk_rows))
        results: list[tuple[int, float]] = []
        n_changed: list[int] = []

        def measure_chunk(start: int, stop: int) -> None:
            tensors = self._chunk(problem, start, stop, dtype)
            before_chunk = None
            if state is None:
                labels, sqdist = empty(stop - start, dtype=torch.int32), empty(stop - start, dtype=dtype)
                bounds = None
            else:
                labels, sqdist = state.labels[start:stop], state.sqdist[start:stop]
                bounds = None if state.bounds is None else state.bounds[start:stop]
                before_chunk = labels.clone() if shared.block.known else None
            scratch = scratch_for(dtype, *centers.shape[::-1])
            chunk = shared.with_tensors(
                **tensors, labels=labels, sqdist=sqdist, bounds=bounds, labels_before=before_chunk, scratch=scratch
            )
            chunk.block.n_rows = stop - start
            found = chunk.call("many_assign", dtype)
            results.append((found.inertia, found.largest))
            n_changed.append(added.add(chunk, dtype))

        try:
            run_chunks(measure_chunk, n_rows, chunk_rows)
        except BaseException:
            self._states.pop(run, None)  # some chunks have results at the new centers, others at the previous ones
            raise
        added.collect()
        inertia = sum(part for part, _ in results)
        moments.inertia[run] = (inertia + (1 << 63)) % (1 << 64) - (1 << 63)  # wraps as a sum of int64 does
        moments.worst_sqdist[run] = max((largest for _, largest in results), default=-1.0)
        if state is not None:
            state.centers, state.n_changed = centers.clone(), sum(n_changed)
            state.known = _KNOWN_LABELS if state.bounds is None else _KNOWN_BOUNDS
            moments.sums[run], moments.totals[run] = sums, totals

    def _state(self, run: int, centers: Tensor, scales: _Scales) -> _RunState | None:
        """The state of a run, or a new state if its state does not fit the centers and scales.

        None at the first `measure`, or if all states would take too much memory.
        """
        if self._n_measured == 1:
            return None
        state = self._states.pop(run, None)
        n_rows, (n_clusters, width), size = self.x.shape[1], centers.shape, centers.element_size()
        max_bytes = n_rows * (width * size + n_clusters // 4 + 24) - sum(
            other.n_bytes for other in self._states.values()
        )
        if state is None or not state.fits(centers, scales):
            if n_rows * (4 + size) > max_bytes:
                return None
            state = _RunState(n_rows, centers, scales)
        elif state.bounds is None and n_clusters > _PANEL and state.n_changed < self._bounds_from * n_rows:
            state.add_bounds(centers, max_bytes)
        self._states[run] = state
        return state

    def _assign_run(self, problem: int, centers: Tensor, labels: Tensor, sqdist: Tensor) -> None:
        shared, dtype = _packed(centers, given_order(len(centers)), None), centers.dtype

        def assign_chunk(start: int, stop: int) -> None:
            chunk = shared.with_tensors(
                **self._chunk(problem, start, stop, dtype),
                labels=empty(stop - start, dtype=torch.int32),
                long_labels=labels[start:stop],
                sqdist=sqdist[start:stop],
                scratch=scratch_for(dtype, *centers.shape[::-1]),
            )
            chunk.block.n_rows = stop - start
            chunk.call("many_assign", dtype)

        run_chunks(assign_chunk, len(labels), self._chunk_rows(centers))

    def _measure_small(self, centers: Tensor, fixed_point: FixedPoint, problems: Tensor, moments: Moments) -> None:
        tensors = {
            "lowest": fixed_point.lowest.contiguous(),
            "sum_scales": fixed_point.sum.contiguous(),
            "sums": moments.sums,
            "totals": moments.totals,
        }
        run_tensors = {
            "weight_scales": fixed_point.weight.contiguous(),
            "sqdist_scales": fixed_point.sqdist.contiguous(),
            "inertia": moments.inertia,
            "largest": moments.worst_sqdist,
        }
        self._run_small(centers, problems, tensors, run_tensors)

    def _run_small(
        self, centers: Tensor, problems: Tensor, tensors: dict[str, Tensor], run_tensors: dict[str, Tensor]
    ) -> None:
        """Call the kernel that computes several runs. Tensors of results and scales have one row for each run."""
        n_rows, dtype = self.x.shape[1], centers.dtype
        _, n_clusters, width = centers.shape
        n_products = max(1, self._products(centers))
        converted = self.x.dtype != dtype or not self.x.is_contiguous()
        order = given_order(n_clusters)
        shared = {"members": order.members.data_ptr(), "places": order.places.data_ptr()}
        sizes = {"n_rows": n_rows, "width": width, "n_clusters": n_clusters}
        function = kernel("many_runs", c_void_p, c_int64, c_int64, dtype=dtype)

        def measure_runs(start: int, stop: int) -> None:
            x, weights, index, first = self.x, self.weights, problems, start
            if converted:
                index = problems[start:stop]
                x, weights = x[index].to(dtype).contiguous(), None if weights is None else weights[index]
                index, first = torch.arange(stop - start, device="cpu"), 0
            memory, addresses = _memory_for_small_runs(dtype, n_rows, n_clusters, width)
            addresses |= shared
            addresses["points"] = x.data_ptr()
            if weights is not None:
                addresses["weights"] = weights.data_ptr()
            addresses |= {name: _address_of_row(tensor, start) for name, tensor in tensors.items()}
            addresses["centers"] = _address_of_row(centers, start)
            runs = _ManyRuns(
                shared=Many(**addresses, **sizes),
                problems=_address_of_row(index, first),
                **{name: _address_of_row(tensor, start) for name, tensor in run_tensors.items()},
            )
            function(addressof(runs), 0, stop - start)
            del memory  # the kernel uses it until here

        chunk = max(1, self._chunk_products // 4 // n_products)
        if converted:
            chunk = min(chunk, max(1, _CONVERTED // max(1, n_rows * width)))
        run_chunks(measure_runs, len(problems), chunk)


def _address_of_row(tensor: Tensor, row: int) -> int:
    """The address of a row of a contiguous tensor."""
    assert tensor.is_contiguous()
    return tensor.data_ptr() + row * tensor.stride(0) * tensor.element_size()
