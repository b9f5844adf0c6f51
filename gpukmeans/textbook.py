"""K-means as textbooks give it (Lloyd 1982). Read this first: it is what the rest of the package makes fast and exact."""

import torch
from torch import Tensor


def kmeans(x: Tensor, n_clusters: int, generator: torch.Generator, max_iter: int = 100) -> tuple[Tensor, Tensor]:
    """Centers (K, D) of points (N, D), and for each point the index of its nearest center (N,).

    `gpukmeans.kmeans` adds weights, better first centers, a use for empty clusters, and sums that do not depend on the
    order of the points. This function has none of these, and holds a table of N x K distances.

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
    """n of the points (N, D), each at most once: (n, D)."""
    return x[torch.randperm(len(x), generator=generator)[:n]]


def nearest(x: Tensor, centers: Tensor) -> Tensor:
    """For each point (N, D) the index of the nearest center (K, D): (N,)."""
    # The faster mode, a matrix product, cancels far from the origin.
    return torch.cdist(x, centers, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)


def means(x: Tensor, labels: Tensor, centers: Tensor) -> Tensor:
    """The mean of the points of each cluster (K, D). A cluster without points keeps its center."""
    counts = x.new_zeros(len(centers)).scatter_add_(0, labels, torch.ones_like(x[:, 0]))[:, None]
    sums = torch.zeros_like(centers).scatter_add_(0, labels[:, None].expand_as(x), x)
    return torch.where(counts > 0, sums / counts, centers)
