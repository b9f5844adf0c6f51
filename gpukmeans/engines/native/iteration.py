"""The steps of a Lloyd iteration after the pass over the points, by the kernels of iteration.c.

`move` moves centers to means. `decide` decides which runs continue.
"""

from ctypes import Structure, addressof, c_double, c_int64, c_void_p

import torch
from torch import Tensor

from gpukmeans.engines.iteration import Decision, Move
from gpukmeans.engines.native.library import fields, unavailable_reason
from gpukmeans.engines.native.tensors import addresses, kernel
from gpukmeans.moments import Moments


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
        *fields(c_void_p, "centers", "total_weight", "going_before", "n_iter_before"),
        *fields(c_void_p, "target", "sqshift", "bound", "scale", "n_iter", "going"),
    ]


class _Decision(Structure):
    """`struct decision` of iteration.c."""

    _fields_ = [
        ("moments", _Moments),
        *fields(
            c_void_p, "going_before", "bound", "inertia_before", "lowest_before", "stalled_before", "unresolved_before"
        ),
        *fields(c_void_p, "inertia", "lowest", "stalled", "going", "unresolved"),
    ]


def move(
    centers: Tensor,
    moments: Moments,
    going: Tensor,
    n_iter: Tensor,
    unresolved: Tensor,
    *,
    n_fixed: int,
    total_weight: Tensor,
) -> Move | None:
    """The next centers, with the bits of the torch operations in `lloyd`. Only runs of the mask `going` (B,) move.

    None if an empty cluster must be relocated, or if there are no native kernels.
    """
    if unavailable_reason() is not None:
        return None
    centers, going = centers.contiguous(), going.contiguous()
    n_runs, _, width = centers.shape
    written = [*map(torch.empty_like, (centers, total_weight, total_weight, total_weight, n_iter, going))]
    described, kept = _described(moments, n_fixed)
    arguments = _Move(described, *addresses(centers, total_weight, going, n_iter, *written))
    scratch = total_weight.new_empty(3 * width)
    run = kernel("move", c_void_p, c_int64, c_int64, c_void_p, restype=c_int64)
    n_missing = run(addressof(arguments), 0, n_runs, scratch.data_ptr())
    del kept
    return None if n_missing else Move(*[*written, unresolved])


def decide(
    moments: Moments,
    previous: Moments | None,
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
    """The state of runs from the moments after a move, with the bits of the torch operations in `lloyd`.

    `previous` are the moments before the move; None if no run had ended. The result is None if there are no native
    kernels.
    """
    if unavailable_reason() is not None:
        return None
    written = [*map(torch.empty_like, (inertia, lowest, stalled, going, unresolved))]
    described, kept = _described(moments, n_fixed)
    arguments = _Decision(described, *addresses(going, bound, inertia, lowest, stalled, unresolved, *written))
    run = kernel("decide", c_void_p, c_int64, c_int64, c_double, c_int64, c_double)
    run(addressof(arguments), 0, inertia.shape[0], tol, patience, too_coarse)
    del kept
    return Decision(moments if previous is None else moments.where(going, previous), *written)


def _described(moments: Moments, n_fixed: int) -> tuple[_Moments, list[Tensor]]:
    """Moments as an argument of a kernel, and the tensors to which its pointers refer.

    The caller must keep references to these tensors while the kernel runs.
    """
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
