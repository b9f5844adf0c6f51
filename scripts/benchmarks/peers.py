"""K-means packages behind one signature: points (N, D), first centers (K, D) and a count give the centers after it.

Every one runs exactly so many iterations of Lloyd's loop on all points, in float32. Each imports its package when it is
called, so that a process holds the one it measures and no other.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# The first two take weights (N,) too.
Fit = Callable[..., np.ndarray]


def gpukmeans(
    x: np.ndarray,
    first: np.ndarray,
    n_iter: int,
    weights: np.ndarray | None = None,
    *,
    engine: str = "auto",
    device: str = "cpu",
    n_drawn: int = 0,
) -> np.ndarray:
    """This package. Measures at the first centers too, and assigns labels once more at the end.

    The best of `n_drawn` runs from centers of their own, if there are any, and not one run from those that are given.
    """
    import torch

    from gpukmeans import kmeans

    result = kmeans(
        torch.from_numpy(x).to(device),
        len(first),
        weights=None if weights is None else torch.from_numpy(weights).to(device),
        init="random" if n_drawn else torch.from_numpy(first).to(device),
        n_init=n_drawn or 1,
        max_iter=n_iter,
        tol=0.0,
        engine=engine,
    )
    _check_all_ran(int(result.n_iter), n_iter)
    return result.centers.cpu().numpy()


def scikit_learn(x: np.ndarray, first: np.ndarray, n_iter: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Computes in the dtype of `x`. Assigns labels once more at the end."""
    from sklearn.cluster import KMeans

    peer = KMeans(
        len(first),
        init=first,  # pyright: ignore[reportArgumentType]
        n_init=1,  # pyright: ignore[reportArgumentType]
        max_iter=n_iter,
        tol=0,
        algorithm="lloyd",
    )
    peer.fit(x, sample_weight=weights)
    _check_all_ran(peer.n_iter_, n_iter)
    return peer.cluster_centers_


def faiss(x: np.ndarray, first: np.ndarray, n_iter: int) -> np.ndarray:
    """Gives no labels. Left alone it would take a sample of 256 points a center."""
    import faiss  # pyright: ignore[reportMissingImports]

    peer = faiss.Kmeans(
        x.shape[1], len(first), niter=n_iter, min_points_per_centroid=1, max_points_per_centroid=2**31 - 1
    )
    peer.train(x, init_centroids=first)
    assert peer.obj is not None
    assert peer.centroids is not None
    _check_all_ran(len(peer.obj), n_iter)
    return peer.centroids


def fast_pytorch_kmeans(x: np.ndarray, first: np.ndarray, n_iter: int) -> np.ndarray:
    """Its labels are those of the centers before the last. A negative `tol` is one that no move stays below."""
    import torch
    from fast_pytorch_kmeans import KMeans  # pyright: ignore[reportMissingImports]

    peer = KMeans(len(first), max_iter=n_iter, tol=-1)
    peer.fit_predict(torch.from_numpy(x), centroids=torch.from_numpy(first))
    assert peer.centroids is not None
    return peer.centroids.numpy()


def torch_kmeans(x: np.ndarray, first: np.ndarray, n_iter: int) -> np.ndarray:
    """Takes batches, here one of a single set. Assigns labels once more at the end."""
    import torch
    from torch_kmeans import KMeans  # pyright: ignore[reportMissingImports]

    peer = KMeans(n_clusters=len(first), num_init=1, max_iter=n_iter, tol=0, verbose=False)
    return peer(torch.from_numpy(x)[None], centers=torch.from_numpy(first)[None]).centers[0].numpy()


def flash_kmeans(x: np.ndarray, first: np.ndarray, n_iter: int) -> np.ndarray:
    """On CUDA, with products in TF32. Its labels are those of the centers before the last."""
    import torch

    return flash_kmeans_of(torch.from_numpy(x).cuda(), torch.from_numpy(first).cuda(), n_iter).cpu().numpy()


def flash_kmeans_of(x: "torch.Tensor", first: "torch.Tensor", n_iter: int) -> "torch.Tensor":
    """The same of tensors. Takes batches, here one of a single set, and writes into the first centers it is given."""
    from flash_kmeans import batch_kmeans_Euclid  # pyright: ignore[reportMissingImports]

    # No move stays below a tolerance of 0.
    found = batch_kmeans_Euclid(x[None], len(first), max_iters=n_iter, tol=0.0, init_centroids=first[None].clone())
    return found[1][0]


def _check_all_ran(ran: int, wanted: int) -> None:
    if ran != wanted:
        raise RuntimeError(f"stopped after {ran} of {wanted} iterations")


PEERS: dict[str, Fit] = {
    "gpukmeans": gpukmeans,
    "scikit-learn": scikit_learn,
    "faiss-cpu": faiss,
    "fast-pytorch-kmeans": fast_pytorch_kmeans,
    "torch-kmeans": torch_kmeans,
}

FLASH = "flash-kmeans"


def find(name: str) -> Fit:
    """The peer of that name. "ENGINE DEVICE" is this package so, "ENGINE DEVICE N" the best of its N runs."""
    others = {**PEERS, FLASH: flash_kmeans}
    if name in others:
        return others[name]
    engine, device, *n_drawn = name.split()
    return functools.partial(gpukmeans, engine=engine, device=device, n_drawn=int(n_drawn[0]) if n_drawn else 0)


# fast-pytorch-kmeans needs psutil and does not say so.
REQUIRED = (*(name for name in PEERS if name != "gpukmeans"), "psutil")


def missing(required: Sequence[str] = REQUIRED) -> list[str]:
    """Names of the packages that the comparison needs and that are not installed."""
    return [name for name in required if not list(importlib.metadata.distributions(name=name))]


def versions() -> dict[str, str]:
    """The versions of the peers."""
    return {name: importlib.metadata.version(name) for name in PEERS if name != "gpukmeans"}
