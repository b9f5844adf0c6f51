"""Textbook K-means (Lloyd 1982). Read this first: the rest of the package makes it fast, exact and repeatable."""

import torch
from torch import Tensor


def kmeans(x: Tensor, n_clusters: int, generator: torch.Generator, max_iter: int = 100) -> tuple[Tensor, Tensor]:
    """Centers (K, D) of points (N, D), and the index of the nearest center of each point (N,).

    `gpukmeans.kmeans` adds weights, better seeding, a rule for empty clusters, and sums that do not depend on the order
    of the points. This function has none of these, and holds a table of N x K distances.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [8.0], [9.0]])
        >>> centers, labels = kmeans(x, 2, torch.Generator().manual_seed(0))
        >>> centers.sort(dim=0).values.tolist()
        [[0.5], [8.5]]
    """
    centers = random_points(x, n_clusters, generator)
    for _ in range(max_iter):
        labels = nearest(x, centers)
        moved = means(x, labels, centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    return centers, nearest(x, centers)


def random_points(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n distinct rows (n, D) of the points (N, D)."""
    return x[torch.randperm(len(x), generator=generator, device=generator.device)[:n]]


def nearest(x: Tensor, centers: Tensor) -> Tensor:
    """Index of the nearest center (K, D) of each point (N, D): (N,)."""
    # The faster mode, a matrix product, loses all digits far from the origin.
    return torch.cdist(x, centers, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)


def means(x: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """Mean of the points of each cluster (K, D). An empty cluster keeps its center."""
    counts = x.new_zeros(len(centers)).scatter_add_(0, labels, torch.ones_like(x[:, 0]))[:, None]
    sums = torch.zeros_like(centers).scatter_add_(0, labels[:, None].expand_as(x), x)
    return torch.where(counts > 0, sums / counts, centers)
