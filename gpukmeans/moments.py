"""Moments: sums over weighted points at given centers. Moments of disjoint sets of points can be added.

Every tensor has a leading dimension of B runs: each run has K centers of its own, over the same or different points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans.fixed_point import FixedPoint, from_fixed, where_fields

_TENSORS = ("sums", "totals", "inertia", "worst_sqdist")


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Sums of one pass over weighted points at K centers. Lloyd's loop needs no other result of the pass.

    All sums are int64, in the units of `fixed_point`. For points x of weight w at distance d from the nearest center,
    `sums` (B, K, D) is the sum of w·(x - lowest) in each cluster, `totals` (B, K) is the sum of w in each cluster, and
    `inertia` (B,) is the sum of w·d² over all points. `lowest` is a field of `fixed_point`. `worst_sqdist` (B,) is the
    largest squared distance of a point with weight, in the dtype of the centers.
    """

    fixed_point: FixedPoint
    sums: Tensor
    totals: Tensor
    inertia: Tensor
    worst_sqdist: Tensor

    @staticmethod
    def zeros(centers: Tensor, fixed_point: FixedPoint) -> "Moments":
        """Moments of no points at centers (B, K, D). `worst_sqdist` is -1, less than any squared distance."""
        n_runs, n_clusters, _ = centers.shape
        zeros = torch.zeros(n_runs, dtype=torch.int64, device=centers.device)
        return Moments(
            fixed_point=fixed_point,
            sums=zeros.new_zeros(centers.shape),
            totals=zeros.new_zeros(n_runs, n_clusters),
            inertia=zeros,
            worst_sqdist=centers.new_full((n_runs,), -1.0),
        )

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of the union of two disjoint sets of points, at the same centers.

        ValueError if their fixed-point scales differ.
        """
        if not self.fixed_point.equals(other.fixed_point):
            raise ValueError(
                f"moments add when their fixed-point scales are equal, got {self.fixed_point} and {other.fixed_point}"
            )
        return Moments(
            fixed_point=self.fixed_point,
            sums=self.sums + other.sums,
            totals=self.totals + other.totals,
            inertia=self.inertia + other.inertia,
            worst_sqdist=torch.maximum(self.worst_sqdist, other.worst_sqdist),
        )

    def select(self, runs: Tensor | slice) -> "Moments":
        """The moments of some of the runs: a mask (B,), indices or a slice."""
        tensors = {name: getattr(self, name)[runs] for name in _TENSORS}
        return Moments(fixed_point=self.fixed_point.select(runs), **tensors)

    def where(self, runs: Tensor, other: "Moments") -> "Moments":
        """These moments for the runs of a mask (B,), the moments of `other` for the remaining runs."""
        scales = self.fixed_point.where(runs, other.fixed_point)
        return Moments(fixed_point=scales, **where_fields(runs, self, other, _TENSORS))

    @staticmethod
    def concatenated(parts: "Sequence[Moments]") -> "Moments":
        """The moments of the runs of all parts, in the order of the parts."""
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
        return Moments(fixed_point=FixedPoint.concatenated([part.fixed_point for part in parts]), **tensors)

    def cluster_weights(self) -> Tensor:
        """The sum of w of each cluster (B, K), float64."""
        return from_fixed(self.totals, self.fixed_point.weight[:, None])

    def weighted_sqdist(self) -> Tensor:
        """The inertia: the sum of w·d² over all points (B,), float64."""
        return from_fixed(self.inertia, self.fixed_point.sqdist)

    def means(self) -> Tensor:
        """Weighted means (B, K, D), float64, within the range of the points. NaN for a cluster without weight."""
        lowest, highest = self.fixed_point.lowest[:, None], self.fixed_point.highest[:, None]
        means = from_fixed(self.sums, self.fixed_point.sum[:, None]) / self.cluster_weights()[:, :, None] + lowest
        # A cluster weight of few fixed-point units has a large relative error, so the quotient may be out of the range.
        return means.clamp(lowest, highest)
