"""Greedy k-means++ by Triton kernels: 6 launches a center, and one synchronization in all."""

import torch
from torch import Tensor

from gpukmeans.engines.fused.availability import MAX_WIDTH, has_kernels
from gpukmeans.transfers import from_host

# Rows of a block.
_BLOCK = 1024


def supports(x: Tensor) -> bool:
    """Whether there are kernels for the device and the number of coordinates of points (P, N, D)."""
    return x.shape[2] <= MAX_WIDTH and has_kernels(x)


def extended(
    x: Tensor,
    weights: Tensor | None,
    problems: Tensor,
    total_weight: Tensor,
    centers: Tensor,
    sqdist: Tensor,
    random: Tensor,
) -> Tensor | None:
    """Centers (B, M + n, D): the given centers (B, M, D), then n points by greedy k-means++.

    None if a total of weight times squared distance is 0, as if each point is at a center.

    Args:
        x: points (P, N, D), of any real dtype, on CUDA.
        weights: weights (P, N), or None for weights of 1.
        problems: the problem of each run, int64 (B,), on the device.
        total_weight: the weight of all points of each run, float64 (B,).
        centers: centers (B, M, D), in the dtype of the computation.
        sqdist: the squared distance (B, N) of each point to its nearest center. It is overwritten.
        random: random integers below 2**62, int64 (B or 1, n, L) on the CPU: L candidates for each of the n points.
    """
    import gpukmeans.engines.fused.seeding_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    (n_runs, n_given, width), (n_random, n_more, n_candidates) = centers.shape, random.shape
    n, device, k = x.shape[1], x.device, n_given + n_more
    n_blocks = -(-n // _BLOCK)
    (random,) = from_host(device, random)
    random_run = 0 if n_random == 1 else random.stride(0)
    candidates = centers.new_empty(n_runs, n_candidates, width)
    potentials = torch.empty(n_runs, n_candidates, dtype=torch.int64, device=device)
    is_zero = torch.zeros(n_runs, dtype=torch.int32, device=device)
    block_totals = torch.empty(n_runs, n_blocks, dtype=torch.int64, device=device)
    block_maxima = sqdist.new_empty(n_runs, n_blocks)
    scale = torch.empty_like(total_weight)
    extended_centers = torch.cat([centers, centers.new_empty(n_runs, n_more, width)], dim=1)
    present = sqdist if weights is None else sqdist.where(weights[problems] > 0, 0)
    maxima = present.amax(dim=1, keepdim=True)
    of_weights = weights, *((0, 0) if weights is None else weights.stride())
    of_points = *of_weights, x, *x.stride(), problems
    blocks, width_and_block = (n_runs * n_blocks,), {"width": width, "block": _BLOCK}
    for step in range(n_more):
        column = n_given + step
        run_kernel(kernels.scale_kernel, (n_runs,), scale, maxima, total_weight, maxima.shape[1], block=_BLOCK)
        totals_of = block_totals, sqdist, *of_weights, problems, scale
        run_kernel(kernels.block_totals_kernel, blocks, *totals_of, n, n_blocks, block=_BLOCK)
        sampled = candidates, potentials, is_zero, block_totals, sqdist, *of_points, scale, random[:, step]
        grid = n_runs, n_candidates
        run_kernel(kernels.sample_kernel, grid, *sampled, random_run, n, n_blocks, n_candidates, **width_and_block)
        added = potentials, candidates, sqdist, *of_points, scale
        run_kernel(kernels.potentials_kernel, blocks, *added, n, n_blocks, n_candidates, **width_and_block)
        chosen = extended_centers, candidates, potentials, k, column, n_candidates
        run_kernel(kernels.choose_kernel, (n_runs,), *chosen, width=width, block=1 << (n_candidates - 1).bit_length())
        maxima = block_maxima
        updated = sqdist, maxima, extended_centers, *of_points
        run_kernel(kernels.update_kernel, blocks, *updated, n, n_blocks, k, column, **width_and_block)
    return None if is_zero.any() else extended_centers
