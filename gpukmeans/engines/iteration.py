"""Results of the two steps of an iteration of Lloyd's loop apart from the pass over the points.

`gpukmeans.lloyd` has the steps as torch operations, which define the bits. Kernels take few launches or calls:
`gpukmeans.engines.native.iteration` on the CPU, `gpukmeans.engines.fused.iteration` on CUDA.
"""

from typing import NamedTuple

from torch import Tensor

from gpukmeans.moments import Moments


class Move(NamedTuple):
    """Centers (B, K, D) that have moved to the means of their clusters.

    `sqshift` (B,) is the largest squared distance that a center moves. `bound` (B,) is an upper bound of the squared
    distances of points after the move, and `scale` (B,) the fixed-point scale for this bound. `n_iter` (B,) includes
    this iteration. `going` (B,) is true if any center moves. `unresolved` (B,) is true where it was true before, or
    where an empty cluster must be relocated.
    """

    target: Tensor
    sqshift: Tensor
    bound: Tensor
    scale: Tensor
    n_iter: Tensor
    going: Tensor
    unresolved: Tensor


class Decision(NamedTuple):
    """The state of runs (B,) after an iteration.

    `moments` are those of the iteration; runs that had ended before keep their previous moments. `lowest` is the lowest
    `inertia` so far, and `stalled` the number of iterations since then. `going` is true for runs that continue.
    `unresolved` is true for runs whose iteration must be repeated, as after a measurement at a scale that is too
    coarse.
    """

    moments: Moments
    inertia: Tensor
    lowest: Tensor
    stalled: Tensor
    going: Tensor
    unresolved: Tensor
