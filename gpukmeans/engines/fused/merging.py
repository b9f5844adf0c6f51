"""Merges of pairs of clusters (Ward 1963) by a Triton kernel, in one launch for all runs."""

import torch
from torch import Tensor

from gpukmeans.engines.fused.availability import MAX_WIDTH, has_kernels
from gpukmeans.moments import Moments

# One program merges all clusters of a run, so many clusters take longer than on the host.
_MAX_CLUSTERS = 1 << 12
# Below this total weight no cost of a merge overflows, because squared distances of float32 are below 1e78.
_MAX_WEIGHT = 1e200
# The costs of this many clusters with this many others are computed at a time. Few rows are enough, because after the
# first merges the clusters whose costs are stale are scattered. With more rows, registers spill on some GPUs.
_ROWS, _BLOCK = 2, 256


def supports(centers: Tensor, total_weight: Tensor) -> bool:
    """Whether there is a kernel for centers (B, M, D) on their device. `total_weight` is on the CPU."""
    _, n_all, width = centers.shape
    fits = n_all <= _MAX_CLUSTERS and width <= MAX_WIDTH
    is_small = centers.dtype == torch.float32 and bool((total_weight < _MAX_WEIGHT).all())
    return fits and is_small and has_kernels(centers)


def merged(centers: Tensor, moments: Moments, n_clusters: int, n_fixed: int) -> Tensor:
    """Centers (B, K, D), float32, with the bits of `gpukmeans.refinement.merge` rounded to float32.

    Args:
        centers: float32 centers (B, M, D) on CUDA.
        moments: moments with the weight of each cluster.
        n_clusters: K, at most M.
        n_fixed: the first `n_fixed` centers, fewer than K, keep their indices and positions.
    """
    import gpukmeans.engines.fused.merging_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    (n_runs, n_all, width), device = centers.shape, centers.device
    result = centers.new_empty(n_runs, n_clusters, width)
    doubles = torch.empty(width + 2, n_runs, n_all, dtype=torch.float64, device=device)
    integers = torch.empty(5, n_runs, n_all, dtype=torch.int32, device=device)
    given = centers.contiguous(), moments.totals.contiguous(), moments.fixed_point.weight.contiguous()
    scratch = doubles[2:], doubles[0], doubles[1], integers[0], integers[1:]
    constants = {"width": width, "rows": _ROWS, "block": _BLOCK, "num_warps": 4}
    run_kernel(kernels.merge_kernel, (n_runs,), result, *given, *scratch, n_all, n_clusters, n_fixed, **constants)
    return result
