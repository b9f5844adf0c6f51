"""Rows that the float16 screen of the engine `screened` leaves open, on five kinds of points."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gpukmeans import kmeans

N_CLUSTERS = 1024
_ITERATIONS = 8
_SIDE, _STRIDE = 8, 4  # pixels of a patch
_CELL, _N_ANGLES = 4, 8  # pixels of a cell of gradients, and bins of their directions


@dataclass(frozen=True, kw_only=True)
class Share:
    """The share of the rows of one kind of points that are contested after a few iterations."""

    kind: str
    n_rows: int
    width: int
    share: float


def gaussian(n: int, generator: torch.Generator) -> Tensor:
    """Independent normal coordinates (N, 128)."""
    return torch.randn(n, 128, generator=generator)


def mixture(n: int, generator: torch.Generator) -> Tensor:
    """Points (N, 128) of 1,000 normal distributions of deviation 0.5, whose means have deviation 1."""
    means = torch.randn(1000, 128, generator=generator)
    which = torch.randint(1000, (n,), generator=generator)
    return means[which] + 0.5 * torch.randn(n, 128, generator=generator)


def embeddings(n: int, generator: torch.Generator) -> Tensor:
    """Points (N, 128) near a curved surface of 16 dimensions, as embeddings are: tanh of a linear map, with noise."""
    weights, hidden = torch.randn(16, 128, generator=generator), torch.randn(n, 16, generator=generator)
    return torch.tanh(hidden @ weights / 4) + 0.05 * torch.randn(n, 128, generator=generator)


def patches(photos: Sequence[Tensor]) -> Tensor:
    """Patches (N, 192) of 8 x 8 pixels of photos (H, W, 3)."""
    return torch.cat([photo.unfold(0, _SIDE, _STRIDE).unfold(1, _SIDE, _STRIDE).reshape(-1, 192) for photo in photos])


def descriptors(photos: Sequence[Tensor]) -> Tensor:
    """Unit vectors (N, 128) like those of SIFT: sums of gradients by direction in 4 x 4 cells of photos (H, W, 3)."""
    rows = []
    for photo in photos:
        dy, dx = torch.gradient(photo.mean(dim=2))
        angle = ((torch.atan2(dy, dx) / torch.pi + 1) / 2 * _N_ANGLES).long() % _N_ANGLES
        length = (dx.square() + dy.square()).sqrt()
        by_angle = torch.zeros(_N_ANGLES, *angle.shape).scatter_(0, angle[None], length[None])
        cells = torch.nn.functional.avg_pool2d(by_angle, _CELL)
        rows.append(cells.unfold(1, 4, 1).unfold(2, 4, 1).permute(1, 2, 0, 3, 4).reshape(-1, 16 * _N_ANGLES))
    return torch.nn.functional.normalize(torch.cat(rows))


SYNTHETIC: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "Gaussian": gaussian,
    "mixture of 1,000 Gaussians": mixture,
    "16 dimensions through tanh": embeddings,
}
"""Kinds of points from a generator."""

OF_PHOTOS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "descriptors of gradients": descriptors,
    "patches of 8 x 8 pixels": patches,
}
"""Kinds of points from photos."""


def measure(files: Sequence[Path], n: int, on_share: Callable[[Share], None]) -> None:
    """The shares for `n` rows of each kind, with the photos in these files. Without CUDA, kernels are interpreted."""
    photos = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).float() for file in files]
    for kind, points in SYNTHETIC.items():
        on_share(share_of(kind, points(n, torch.Generator().manual_seed(0))))
    for kind, of_photos in OF_PHOTOS.items():
        rows = of_photos(photos)
        on_share(share_of(kind, rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:n]]))


def share_of(kind: str, x: Tensor, n_screened: int | None = None) -> Share:
    """The share of contested rows among the first `n_screened` rows (N, D), by default all, after a few iterations."""
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    from gpukmeans.engines.screened.launch import ScreenedPoints

    # The centers of the same bits on every machine, so the share is the same, too.
    centers = kmeans(x, N_CLUSTERS, init="random", max_iter=_ITERATIONS, tol=0.0).centers
    device = "cuda" if torch.cuda.is_available() else "cpu"
    screened = x[:n_screened].to(device)
    problem = torch.zeros(1, dtype=torch.int64, device=device)
    n_contested = ScreenedPoints(screened[None], None).n_contested(centers[None].to(device), problem).item()
    return Share(kind=kind, n_rows=len(screened), width=x.shape[1], share=n_contested / len(screened))
