"""Launches of the Triton kernels of the screened engine."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

import gpukmeans.engines.screened.kernels as kernels
from gpukmeans.engines.fused.launch import current_device_of
from gpukmeans.engines.screened.summation import Summation, summation_on
from gpukmeans.fixed_point import FixedPoint

# Products of a chunk of coordinates are added by the tensor cores, and the sums of chunks in float32. Up to the first
# number of coordinates there is one chunk; chunks of the second number leave enough registers for several.
_ONE_CHUNK, _CHUNK = 128, 64
# Rows and centers of a tile of the screen, and of the exact distances.
_SCREEN_ROWS, _SCREEN_TILE = 64, 64
# With 4 warps the screen of more than 128 coordinates would spill registers on sm_80.
_SCREEN_WARPS = 8
_NEAREST_ROWS, _NEAREST_TILE = 32, 64
# Rows of a block of the other kernels. The kernels of distances and of the order need equal blocks.
_PREPARED_ROWS, _DISTANCE_ROWS, _SUMS_ROWS = 16, 128, 64
_SUMS_CHUNK = 64
# Coordinates in registers while `distance_kernel` adds their squares.
_DISTANCE_ENTRIES = 4096
# Programs of `nearest_kernel` for each processor of the GPU.
_PER_PROCESSOR = 4
# The largest number of counters of rows, and of copies of the counter of a cluster. Programs that add to different
# copies do not wait for each other.
_MAX_SLOTS, _MAX_COPIES = 1 << 16, 256
# A transposed copy of the centers, which is faster to read, has at most this many bytes.
_MAX_TRANSPOSED = 128 << 20
_UNIT = 2.0**-24


class Prepared(NamedTuple):
    """Points for the screen: `halves` (P, N, padded) float16, upper bounds of norms (P, N), origin (P, D), extent (P,).

    See `gpukmeans.engines.screened.kernels` for the terms.
    """

    halves: Tensor
    norms: Tensor
    residues: Tensor
    origin: Tensor
    extent: Tensor


class Measured(NamedTuple):
    """Moments of one pass. `totals` (B, K, D + 1) int64 are the D sums of w·(x - lowest), then the sum of w."""

    totals: Tensor
    inertia: Tensor
    worst_sqdist: Tensor


class _Errors(NamedTuple):
    """Coefficients of the bound of errors: of |X|·|C|, of G, and of |X|²."""

    product: float
    relative: float
    reference: float


@dataclass(frozen=True)
class ScreenedPoints:
    """Points (P, N, D) with weights (P, N), or None for weights of 1, and what the kernels derive from them once.

    `programs` is the number of programs that compute exact distances; the default depends on the GPU.
    """

    x: Tensor
    weights: Tensor | None
    programs: int | None = None

    def assign(self, centers: Tensor, problems: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B, N) int64 and squared distances (B, N) at centers (B, K, D) float32 of the problems (B,)."""
        found = self._nearest(centers.contiguous(), problems)
        sqdist = torch.empty(found.keys.shape, dtype=torch.float32, device=self.x.device)
        self._compute_distances(found, problems, sqdist=sqdist)
        return found.keys, sqdist

    def measure(self, centers: Tensor, problems: Tensor, fixed_point: FixedPoint) -> Measured:
        """Moments at centers (B, K, D) float32 of the problems (B,). The order of additions changes no integer sum."""
        found = self._nearest(centers.contiguous(), problems)
        (n_runs, n_clusters, width), n, device = centers.shape, self.x.shape[1], self.x.device
        inertia = torch.zeros(n_runs, dtype=torch.int64, device=device)
        n_copies = max(1, min(_MAX_COPIES, _MAX_SLOTS // n_clusters, triton.cdiv(n, _DISTANCE_ROWS)))
        counts = torch.zeros(n_runs, n_clusters * n_copies, dtype=torch.int32, device=device)
        scale = fixed_point.sqdist.contiguous()
        self._compute_distances(found, problems, inertia=inertia, counts=counts, sqdist_scale=scale, n_copies=n_copies)
        weights = self.weights, *((0, 0) if self.weights is None else self.weights.stride())
        self._launch(
            kernels.order_kernel,
            (triton.cdiv(n, _DISTANCE_ROWS), n_runs),
            found.listed,  # the list of contested rows is not needed any more
            counts.cumsum(1),
            found.keys,
            *weights[:1],
            problems,
            n,
            n_copies,
            counts.shape[1],
            *weights[1:],
            rows=_DISTANCE_ROWS,
        )
        totals = torch.zeros(n_runs, n_clusters, width + 1, dtype=torch.int64, device=device)
        chunk = min(_SUMS_CHUNK, 1 << (width - 1).bit_length())
        self._launch(
            kernels.sums_kernel,
            (triton.cdiv(n, _SUMS_ROWS), triton.cdiv(width, chunk), n_runs),
            totals,
            found.listed,
            found.n_present,
            found.keys,
            self.x,
            *weights[:1],
            problems,
            fixed_point.lowest.contiguous(),
            fixed_point.sum.contiguous(),
            fixed_point.weight.contiguous(),
            n,
            n_clusters,
            *self.x.stride(),
            *weights[1:],
            width=width,
            rows=_SUMS_ROWS,
            chunk=chunk,
        )
        return Measured(totals, inertia, found.worst_sqdist)

    def n_contested(self, centers: Tensor, problems: Tensor) -> Tensor:
        """The number (B,) of rows whose nearest of the centers (B, K, D) is decided by exact distances."""
        return self._screened(centers.contiguous(), problems).n_listed

    def _screened(self, centers: Tensor, problems: Tensor) -> "_Nearest":
        """The keys of the rows that are not contested at contiguous centers (B, K, D), and the list of the others."""
        (n_runs, n_clusters, width), n, device = centers.shape, self.x.shape[1], self.x.device
        points, padded, errors = self._prepared, self._padded, self._errors
        extent, ratio, slack, n_listed, n_present = torch.zeros(5, n_runs, dtype=torch.int32, device=device)
        worst_sqdist = centers.new_empty(n_runs)
        halves = centers.new_empty(n_runs, n_clusters, padded, dtype=torch.float16)
        lows = centers.new_empty(n_runs, n_clusters)
        norms = torch.zeros(n_runs, triton.cdiv(n_clusters, _SCREEN_TILE), dtype=torch.int32, device=device)
        keys = torch.empty(n_runs, n, dtype=torch.int64, device=device)
        listed = torch.empty(n_runs, n, dtype=torch.int32, device=device)
        blocks = {"width": width, "rows": _PREPARED_ROWS, "chunk": self._chunk}
        grid = triton.cdiv(n_clusters, _PREPARED_ROWS), n_runs
        of_centers = centers, points.origin, problems
        self._launch(kernels.extent_kernel, grid, extent, worst_sqdist, *of_centers, n_clusters, **blocks)
        derived = halves, lows, norms, ratio, slack
        self._launch(
            kernels.centers_kernel,
            grid,
            *derived,
            *of_centers,
            points.extent,
            extent,
            n_clusters,
            norms.shape[1],
            relative_error=errors.relative,
            padded=padded,
            tile=_SCREEN_TILE,
            **blocks,
        )
        self._launch(
            kernels.screen_kernel,
            (triton.cdiv(n, _SCREEN_ROWS), n_runs),
            keys,
            listed,
            n_listed,
            points.halves,
            points.norms,
            points.residues,
            points.extent,
            problems,
            halves,
            lows,
            norms,
            extent,
            ratio,
            slack,
            n,
            n_clusters,
            product_error=errors.product,
            relative_error=errors.relative,
            reference_error=errors.reference,
            padded=padded,
            rows=_SCREEN_ROWS,
            tile=_SCREEN_TILE,
            chunk=self._chunk,
            num_warps=_SCREEN_WARPS,
        )
        return _Nearest(keys, listed, n_listed, n_present, worst_sqdist, centers)

    def _nearest(self, centers: Tensor, problems: Tensor) -> "_Nearest":
        """The keys of all rows at contiguous centers (B, K, D)."""
        (n_runs, n_clusters, _), n = centers.shape, self.x.shape[1]
        found = self._screened(centers, problems)
        # Kernels read a coordinate of many centers at a time.
        is_small = 4 * centers.numel() <= _MAX_TRANSPOSED
        strided = centers.mT.contiguous().mT if is_small else centers
        order = self._summation
        self._launch(
            kernels.nearest_kernel,
            (max(1, self._n_programs // n_runs), n_runs),
            found.keys,
            found.listed,
            found.n_listed,
            self.x,
            problems,
            strided,
            order.coordinates,
            n,
            n_clusters,
            *self.x.stride(),
            *strided.stride(),
            n_terms=order.n_terms,
            depth=order.depth,
            rows=_NEAREST_ROWS,
            tile=_NEAREST_TILE,
        )
        return found

    def _compute_distances(
        self,
        found: "_Nearest",
        problems: Tensor,
        *,
        sqdist: Tensor | None = None,
        inertia: Tensor | None = None,
        counts: Tensor | None = None,
        sqdist_scale: Tensor | None = None,
        n_copies: int = 1,
    ) -> None:
        """Compute distances to the centers of the keys, see `distance_kernel`."""
        order, weights, centers = self._summation, self.weights, found.centers
        n_runs, n = found.keys.shape
        n_clusters = centers.shape[1]
        self._launch(
            kernels.distance_kernel,
            (triton.cdiv(n, _DISTANCE_ROWS), n_runs),
            found.keys,
            sqdist,
            inertia,
            found.worst_sqdist.view(torch.int32),
            counts,
            found.n_present,
            self.x,
            weights,
            problems,
            centers,
            order.coordinates,
            sqdist_scale,
            n,
            n_clusters,
            n_copies,
            n_clusters * n_copies,
            *self.x.stride(),
            *((0, 0) if weights is None else weights.stride()),
            *centers.stride(),
            n_terms=order.n_terms,
            depth=order.depth,
            block=_DISTANCE_ROWS,
            rows=max(1, min(_DISTANCE_ROWS, _DISTANCE_ENTRIES >> (order.depth + 3))),
        )

    @cached_property
    def _prepared(self) -> Prepared:
        x, device = self.x, self.x.device
        n_problems, n, width = x.shape
        origin = x.mean(dim=1, dtype=torch.float32)
        lowest, highest = (bound.to(torch.float32) for bound in torch.aminmax(x, dim=1))
        extent = torch.maximum(highest - origin, origin - lowest).amax(dim=1)
        halves = torch.empty(n_problems, n, self._padded, dtype=torch.float16, device=device)
        norms, residues = torch.empty(2, n_problems, n, device=device, dtype=torch.float32)
        self._launch(
            kernels.points_kernel,
            (triton.cdiv(n, _PREPARED_ROWS), n_problems),
            halves,
            norms,
            residues,
            x,
            origin,
            extent,
            n,
            *x.stride(),
            width=width,
            padded=self._padded,
            rows=_PREPARED_ROWS,
            chunk=self._chunk,
        )
        return Prepared(halves, norms, residues, origin, extent)

    @cached_property
    def _summation(self) -> Summation:
        return summation_on(self.x.shape[2], self.x.device)

    @cached_property
    def _errors(self) -> _Errors:
        """The coefficients in the docstring of `gpukmeans.engines.screened.kernels`, rounded up."""
        n_chunks = triton.cdiv(self._padded, self._chunk)
        reference = (self._summation.depth + self._summation.n_terms + 4) * _UNIT
        product = (1.5 * self._chunk + 16) * 2 * _UNIT + (n_chunks + 4) * _UNIT
        return _Errors(product, (n_chunks + 12) * _UNIT + 2 * reference, reference)

    @cached_property
    def _chunk(self) -> int:
        width = self.x.shape[2]
        return _CHUNK if width > _ONE_CHUNK else max(16, 1 << (width - 1).bit_length())

    @cached_property
    def _padded(self) -> int:
        """Coordinates with padding of 0, so that a row of float16 is a multiple of 16 bytes."""
        return triton.cdiv(self.x.shape[2], 8) * 8

    @cached_property
    def _n_programs(self) -> int:
        if self.programs is not None or self.x.device.type == "cpu":
            return self.programs or 1
        properties = torch.get_device_module(self.x.device).get_device_properties(self.x.device)
        return _PER_PROCESSOR * properties.multi_processor_count

    def _launch(self, kernel: Any, grid: tuple[int, ...], *args: Any, **constants: int | float) -> None:
        with current_device_of(self.x):
            # A fused multiply-add would round once where the reference distance rounds twice. The bound covers both.
            kernel[grid](*args, enable_fp_fusion=kernel is kernels.screen_kernel, **constants)


class _Nearest(NamedTuple):
    """The keys (B, N) of all rows, see `gpukmeans.engines.screened.kernels`, and memory of the pass."""

    keys: Tensor
    listed: Tensor
    n_listed: Tensor
    n_present: Tensor
    worst_sqdist: Tensor
    centers: Tensor
