"""The engine by matrix products: one proposes, and the one score decides what its rounding leaves open."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans.engines.base import Assignment
from gpukmeans.engines.plain import BoundTorchEngine, Proposal, TorchEngine, nearest_by_cdist


@dataclass(frozen=True)
class MatmulEngine(TorchEngine):
    """The plain engine with |c|²/2 - x·c in place of distances: the same answers, up to 15 times faster on a CPU."""

    name = "matmul"

    def obstacle(self, x: Tensor) -> str | None:
        if torch.get_float32_matmul_precision() != "highest":
            return "its error bound needs torch.set_float32_matmul_precision('highest'), the default of torch"
        return super().obstacle(x)

    def bind(self, x: Tensor, weights: Tensor | None) -> BoundTorchEngine:
        return BoundTorchEngine(x, weights, self.tile, nearest_by_product)


def nearest_by_product(x: Tensor, centers: Tensor) -> Assignment:
    """The nearest of centers (B, K, D) to points (B, N, D); see `Nearest`."""
    origin = centers.mean(dim=1, keepdim=True)  # far from it the product would cancel
    points, choices = x - origin, centers - origin
    norms = choices.square().sum(dim=2)
    with torch.autocast(x.device.type, enabled=False):  # which would round the factors
        table = torch.baddbmm(norms[:, None] / 2, points, choices.mT, alpha=-1)
    proposed, labels = table.min(dim=2)
    # Entries of |x| = r and |c| <= s are off by less than (D/2 + 4) units of rounding of (r + s)² (Higham 2002, section
    # 3.1, for sums of products in any order, and the rounding of points - origin), half a score by D/4 + 1. A unit is
    # eps/2, and two entries are compared.
    info = torch.finfo(x.dtype)
    reach = (points.square().sum(dim=2).sqrt() + norms.amax(dim=1, keepdim=True).sqrt()).square()
    limit = proposed + (x.shape[2] + 8) * (info.eps * reach + info.tiny)
    proposal = Proposal(table, proposed, labels, limit)
    # Where far outliers make that bound loose, most rows would be decided one by one.
    if 4 * len(proposal.contested) > proposed.numel():
        return nearest_by_cdist(x, centers)
    return proposal.decided(x, centers)
