"""The matmul engine: a matrix product proposes the nearest centers, and the reference distance decides near ties."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans.engines.base import Assignment
from gpukmeans.engines.plain import BoundPlainEngine, PlainEngine, Proposal, nearest_by_cdist
from gpukmeans.validation import compute_dtype

# Values of torch's setting for float32 products that keep all bits of the factors. Torch before 2.9 has "highest",
# later versions have the others.
_FULL_PRECISION = ("none", "ieee", "highest")


@dataclass(frozen=True)
class MatmulEngine(PlainEngine):
    """The plain engine with |c|²/2 - x·c in place of distances: the same bits, and up to 15 times faster on a CPU."""

    name = "matmul"

    def unsupported_reason(self, x: Tensor) -> str | None:
        precision = _float32_precision(x.device)
        if precision not in _FULL_PRECISION and compute_dtype(x) == torch.float32:
            return (
                f"its error bound needs matrix products of full float32 precision, and torch is set to {precision!r} on"
                f" {x.device.type}, see torch.set_float32_matmul_precision"
            )
        if x.device.type == "cuda" and torch.are_deterministic_algorithms_enabled() and not _multiplies(x.device):
            return (
                "its matrix product on CUDA needs the environment variable CUBLAS_WORKSPACE_CONFIG=:4096:8 while"
                " torch.use_deterministic_algorithms(True) is set"
            )
        return super().unsupported_reason(x)

    def bind(self, x: Tensor, weights: Tensor | None) -> BoundPlainEngine:
        return BoundPlainEngine(x, weights, self._tile_for(x), nearest_by_product)


def _float32_precision(device: torch.device) -> str:
    """The setting of torch for products of float32 matrices on this device."""
    matmul = getattr(torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn, "matmul", None)
    # Torch before 2.9 has one setting for all devices. Later versions raise an error when this setting is read while
    # devices have different settings, so the setting of the device is read first.
    return getattr(matmul, "fp32_precision", None) or torch.get_float32_matmul_precision()


def _multiplies(device: torch.device) -> bool:
    """Whether torch multiplies matrices on this device.

    Torch raises an error if results must be deterministic and a product cannot be.
    """
    one = torch.ones(1, 1, device=device)
    try:
        torch.mm(one, one)
    except RuntimeError:
        return False
    return True


def nearest_by_product(x: Tensor, centers: Tensor) -> Assignment:
    """Labels and squared distances (B, N) of points (B, N, D) at centers (B, K, D). The type is `Nearest`."""
    origin = centers.mean(dim=1, keepdim=True)  # for points far from the origin, digits of the product would cancel
    shifted_x, shifted_centers = x - origin, centers - origin
    norms = shifted_centers.square().sum(dim=2)
    with torch.autocast(x.device.type, enabled=False):  # autocast would round the factors
        table = torch.baddbmm(norms[:, None] / 2, shifted_x, shifted_centers.mT, alpha=-1)
    proposed, labels = table.min(dim=2)
    # With u = eps/2, |x| = r and |c| <= s, the error of an entry is below (D/2 + 4)·u·(r + s)². This includes sums of
    # products in any order (Higham 2002, section 3.1) and the rounding of x - origin. The error of half a reference
    # distance is below (D/4 + 1)·u·(r + s)². The limit covers both errors of each of the two centers compared.
    info = torch.finfo(x.dtype)
    magnitude = (shifted_x.square().sum(dim=2).sqrt() + norms.amax(dim=1, keepdim=True).sqrt()).square()
    limit = proposed + (x.shape[2] + 8) * (info.eps * magnitude + info.tiny)
    proposal = Proposal(table, proposed, labels, limit)
    # Far outliers make the bound loose. Many rows then have several candidates, and `cdist` is faster than comparing
    # the candidates of each row.
    if 4 * len(proposal.contested) > proposed.numel():
        return nearest_by_cdist(x, centers)
    return proposal.resolved(x, centers)
