"""Merges of pairs of clusters (Ward 1963) by the kernels of merging.c."""

from ctypes import Structure, addressof, c_int64, c_void_p

import torch
from torch import Tensor

from gpukmeans.engines.native.library import fields
from gpukmeans.engines.native.tensors import addresses, empty, kernel
from gpukmeans.engines.native.threads import run_chunks

# For up to this many coordinates, centers are stored as (B, D, M), as in merging.c.
_BY_CHANNEL = 8
# The sizes of a chunk of `find_cheapest` (squared differences of coordinates) and of `merge_pairs` (clusters). A chunk
# takes at most about 10 ms.
_CHUNK_SQUARES, _CHUNK_CLUSTERS = 1 << 24, 1 << 16
# The scratch memory has a float64 for each cluster and each coordinate, and this many more for distance.h and a vector.
_MORE_SCRATCH = 24

# The first arguments of each kernel: the structure, and the start and the stop of a range.
_RANGE = c_void_p, c_int64, c_int64


class _Merging(Structure):
    """`struct merging` of merging.c."""

    _fields_ = [
        *fields(c_void_p, "centers", "totals", "costs", "partners", "stale", "n_stale", "n_left"),
        *fields(c_int64, "n_all", "width", "n_clusters", "n_fixed"),
    ]


def merged(centers: Tensor, totals: Tensor, n_clusters: int, n_fixed: int) -> Tensor | None:
    """Centers (B, K, D), with the bits of `gpukmeans.refinement.merge`. None if costs in any run could overflow.

    Args:
        centers: plain float64 tensor (B, M, D) on the CPU.
        totals: total weights of the clusters, plain float64 tensor (B, M) on the CPU.
        n_clusters: K, at most M.
        n_fixed: the first `n_fixed` centers, fewer than K, keep their indices and positions.
    """
    n_runs, n_all, width = centers.shape
    if totals.shape != (n_runs, n_all) or not 0 <= n_fixed < n_clusters <= n_all < 1 << 31:
        shapes = f"{tuple(centers.shape)} and {tuple(totals.shape)}"
        raise ValueError(
            f"merges need centers (B, M, D), totals (B, M) and n_fixed < K <= M, got {shapes}, K = {n_clusters} and"
            f" n_fixed = {n_fixed}"
        )
    by_channel = width <= _BY_CHANNEL
    # Copies of centers and totals, because the kernels change them.
    stored = (centers.mT if by_channel else centers).clone(memory_format=torch.contiguous_format)
    totals = totals.clone(memory_format=torch.contiguous_format)
    totals[:, :n_fixed] = torch.inf
    costs = empty(n_runs, n_all, dtype=torch.float64)
    partners, stale = (empty(n_runs, n_all, dtype=torch.int32) for _ in range(2))
    n_stale, n_left = (empty(n_runs, dtype=torch.int64) for _ in range(2))
    tensors = stored, totals, costs, partners, stale, n_stale, n_left
    arguments = _Merging(*addresses(*tensors), n_all, width, n_clusters, n_fixed)
    address = addressof(arguments)
    cheapest = kernel("merging_cheapest", *_RANGE, c_void_p)
    merge = kernel("merging_merge", *_RANGE, c_void_p, restype=c_int64)
    n_refused = [kernel("merging_start", *_RANGE, restype=c_int64)(address, 0, n_runs)]

    def find_cheapest(start: int, stop: int) -> None:
        scratch = empty(n_all + width + _MORE_SCRATCH, dtype=torch.float64)
        cheapest(address, start, stop, scratch.data_ptr())

    def merge_pairs(start: int, stop: int) -> None:
        scratch = empty(3 * n_all, dtype=torch.float64)
        n_refused.append(merge(address, start, stop, scratch.data_ptr()))

    while not any(n_refused) and (n_items := int(n_stale.sum())):
        run_chunks(find_cheapest, n_items, max(1, _CHUNK_SQUARES // (n_all * (width + _BY_CHANNEL))))
        run_chunks(merge_pairs, n_runs, max(1, _CHUNK_CLUSTERS // n_all))
    if any(n_refused):
        return None
    left = stored[:, :, :n_clusters].mT if by_channel else stored[:, :n_clusters]
    return left.contiguous()
