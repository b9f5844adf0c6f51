"""The two steps of an iteration of Lloyd's loop apart from the pass over the points, by the kernels of iteration.c."""

from ctypes import Structure, addressof, c_double, c_int64, c_void_p
from typing import NamedTuple

import torch
from torch import Tensor

from gpukmeans.engines.native.library import fields, unavailable_reason
from gpukmeans.engines.native.tensors import addresses, kernel
from gpukmeans.moments import Moments


class Move(NamedTuple):
    """Centers (B, K, D) that have moved to the means of their clusters.

    `sqshift` (B,) is the largest squared distance that a center moves. `bound` (B,) is an upper bound of the squared
    distances of points after the move, and `scale` (B,) the fixed-point scale for this bound. `n_iter` (B,) includes
    this iteration. `going` (B,) is true if any center moves.
    """

    target: Tensor
    sqshift: Tensor
    bound: Tensor
    scale: Tensor
    n_iter: Tensor
    going: Tensor


class Decision(NamedTuple):
    """The state of runs (B,) after an iteration.

    `lowest` is the lowest `inertia` so far, and `stalled` the number of iterations since then. `going` is true for runs
    that continue. `unresolved` is true for runs whose iteration must be repeated, as after a measurement at a scale
    that is too coarse.
    """

    inertia: Tensor
    lowest: Tensor
    stalled: Tensor
    going: Tensor
    unresolved: Tensor


class _Moments(Structure):
    """`struct moments` of iteration.c."""

    _fields_ = [
        *fields(c_void_p, "sums", "totals", "inertia"),
        *fields(c_void_p, "sum_scale", "weight_scale", "sqdist_scale", "lowest", "highest", "worst"),
        *fields(c_int64, "run", "cluster", "channel", "run_of_totals", "cluster_of_totals"),
        *fields(c_int64, "is_double", "n_clusters", "width", "n_fixed"),
    ]


class _Move(Structure):
    """`struct move` of iteration.c."""

    _fields_ = [
        ("moments", _Moments),
        *fields(c_void_p, "centers", "total_weight", "going_before", "n_iter_before", *Move._fields),
    ]


class _Decision(Structure):
    """`struct decision` of iteration.c."""

    _fields_ = [
        ("moments", _Moments),
        *fields(
            c_void_p, "going_before", "bound", "inertia_before", "lowest_before", "stalled_before", "unresolved_before"
        ),
        *fields(c_void_p, *Decision._fields),
    ]


def move(
    centers: Tensor, moments: Moments, going: Tensor, n_iter: Tensor, *, n_fixed: int, total_weight: Tensor
) -> Move | None:
    """The next centers of the runs of the mask `going` (B,), with the bits of the torch operations in `lloyd`.

    None if an empty cluster must be relocated, if the tensors are not on the CPU, or if there are no native kernels.
    """
    if not centers.is_cpu or unavailable_reason() is not None:
        return None
    centers, going = centers.contiguous(), going.contiguous()
    n_runs, _, width = centers.shape
    moved = Move(*map(torch.empty_like, (centers, total_weight, total_weight, total_weight, n_iter, going)))
    described, kept = _described(moments, n_fixed)
    arguments = _Move(described, *addresses(centers, total_weight, going, n_iter, *moved))
    scratch = total_weight.new_empty(3 * width)
    run = kernel("move", c_void_p, c_int64, c_int64, c_void_p, restype=c_int64)
    n_missing = run(addressof(arguments), 0, n_runs, scratch.data_ptr())
    del kept
    return None if n_missing else moved


def decide(
    moments: Moments,
    going: Tensor,
    bound: Tensor,
    inertia: Tensor,
    lowest: Tensor,
    stalled: Tensor,
    unresolved: Tensor,
    *,
    n_fixed: int,
    tol: float,
    patience: int,
    too_coarse: float,
) -> Decision | None:
    """The state of runs after a move, decided by the moments, with the bits of the torch operations in `lloyd`.

    None if the tensors are not on the CPU, or if there are no native kernels.
    """
    if not inertia.is_cpu or unavailable_reason() is not None:
        return None
    decision = Decision(*map(torch.empty_like, (inertia, lowest, stalled, going, unresolved)))
    described, kept = _described(moments, n_fixed)
    arguments = _Decision(described, *addresses(going, bound, inertia, lowest, stalled, unresolved, *decision))
    run = kernel("decide", c_void_p, c_int64, c_int64, c_double, c_int64, c_double)
    run(addressof(arguments), 0, inertia.shape[0], tol, patience, too_coarse)
    del kept
    return decision


def _described(moments: Moments, n_fixed: int) -> tuple[_Moments, list[Tensor]]:
    """Moments as an argument of a kernel, and the tensors that must live while the kernel runs."""
    scales, (_, n_clusters, width) = moments.fixed_point, moments.sums.shape
    scales_and_range = scales.sum, scales.weight, scales.sqdist, scales.lowest, scales.highest
    kept = [tensor.contiguous() for tensor in (moments.inertia, *scales_and_range, moments.worst_sqdist)]
    described = _Moments(
        *addresses(moments.sums, moments.totals, *kept),
        *moments.sums.stride(),
        *moments.totals.stride(),
        moments.worst_sqdist.dtype == torch.float64,
        n_clusters,
        width,
        n_fixed,
    )
    return described, kept
