"""K-means packages with one signature: points (N, D), initial centers (K, D) and n_iter in, centers (K, D) out.

Each function runs exactly n_iter iterations of Lloyd's loop on all points, in float32 unless stated otherwise. It
imports its package when called, so that a process holds only the package that it measures.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

# Only gpukmeans and scikit-learn accept weights (N,).
Fit = Callable[..., np.ndarray]


def gpukmeans(
    x: np.ndarray,
    first: np.ndarray,
    n_iter: int,
    weights: np.ndarray | None = None,
    *,
    engine: Any = "auto",
    device: str = "cpu",
    n_random: int = 0,
    may_converge: bool = False,
) -> np.ndarray:
    """gpukmeans. It also measures moments at the initial centers, and assigns labels once more at the end.

    With `n_random` it returns the best of this number of runs from random centers, and ignores the values of `first`.
    With `may_converge` it stops as soon as no center moves.
    """
    import torch

    from gpukmeans import kmeans

    result = kmeans(
        torch.from_numpy(x).to(device),
        len(first),
        weights=None if weights is None else torch.from_numpy(weights).to(device),
        init="random" if n_random else torch.from_numpy(first).to(device),
        n_init=n_random or 1,
        max_iter=n_iter,
        tol=0.0,
        engine=engine,
    )
    if not may_converge:
        _check_n_iter(int(result.n_iter), n_iter)
    return result.centers.cpu().numpy()


def scikit_learn(
    x: np.ndarray,
    first: np.ndarray,
    n_iter: int,
    weights: np.ndarray | None = None,
    *,
    algorithm: Literal["lloyd", "elkan"] = "lloyd",
    may_converge: bool = False,
) -> np.ndarray:
    """scikit-learn, in the dtype of `x`. It assigns labels once more at the end.

    With `may_converge` it stops as soon as no label changes.
    """
    from sklearn.cluster import KMeans

    peer = KMeans(
        len(first),
        init=first,  # pyright: ignore[reportArgumentType]
        n_init=1,  # pyright: ignore[reportArgumentType]
        max_iter=n_iter,
        tol=0,
        algorithm=algorithm,
    )
    peer.fit(x, sample_weight=weights)
    if not may_converge:
        _check_n_iter(peer.n_iter_, n_iter)
    return peer.cluster_centers_


def faiss(x: np.ndarray, first: np.ndarray, n_iter: int) -> np.ndarray:
    """faiss, without its default sampling of 256 points per center. It returns no labels."""
    import faiss  # pyright: ignore[reportMissingImports]

    peer = faiss.Kmeans(
        x.shape[1], len(first), niter=n_iter, min_points_per_centroid=1, max_points_per_centroid=2**31 - 1
    )
    peer.train(x, init_centroids=first)
    assert peer.obj is not None
    assert peer.centroids is not None
    _check_n_iter(len(peer.obj), n_iter)
    return peer.centroids


def fast_pytorch_kmeans(x: np.ndarray, first: np.ndarray, n_iter: int) -> np.ndarray:
    """fast-pytorch-kmeans. Its labels belong to the centers before the last update. A negative `tol` never stops it."""
    import torch
    from fast_pytorch_kmeans import KMeans  # pyright: ignore[reportMissingImports]

    peer = KMeans(len(first), max_iter=n_iter, tol=-1)
    peer.fit_predict(torch.from_numpy(x), centroids=torch.from_numpy(first))
    assert peer.centroids is not None
    return peer.centroids.numpy()


def torch_kmeans(x: np.ndarray, first: np.ndarray, n_iter: int) -> np.ndarray:
    """torch-kmeans, on a batch of one problem. It assigns labels once more at the end."""
    import torch
    from torch_kmeans import KMeans  # pyright: ignore[reportMissingImports]

    peer = KMeans(n_clusters=len(first), num_init=1, max_iter=n_iter, tol=0, verbose=False)
    return peer(torch.from_numpy(x)[None], centers=torch.from_numpy(first)[None]).centers[0].numpy()


def flash_kmeans(x: np.ndarray, first: np.ndarray, n_iter: int) -> np.ndarray:
    """flash-kmeans on CUDA, with products in TF32. Its labels belong to the centers before the last update."""
    import torch

    return flash_kmeans_of(torch.from_numpy(x).cuda(), torch.from_numpy(first).cuda(), n_iter).cpu().numpy()


def flash_kmeans_of(x: "torch.Tensor", first: "torch.Tensor", n_iter: int) -> "torch.Tensor":
    """flash-kmeans for tensors, on a batch of one problem. It overwrites its initial centers, so it gets a copy."""
    from flash_kmeans import batch_kmeans_Euclid  # pyright: ignore[reportMissingImports]

    # A tolerance of 0 never stops the loop.
    result = batch_kmeans_Euclid(x[None], len(first), max_iters=n_iter, tol=0.0, init_centroids=first[None].clone())
    return result[1][0]


def _check_n_iter(actual: int, expected: int) -> None:
    if actual != expected:
        raise RuntimeError(f"stopped after {actual} of {expected} iterations")


PEERS: dict[str, Fit] = {
    "gpukmeans": gpukmeans,
    "scikit-learn": scikit_learn,
    "faiss-cpu": faiss,
    "fast-pytorch-kmeans": fast_pytorch_kmeans,
    "torch-kmeans": torch_kmeans,
}

FLASH = "flash-kmeans"


def find(name: str) -> Fit:
    """The function of a package. "ENGINE DEVICE" is gpukmeans with an engine, "ENGINE DEVICE N" its best of N runs."""
    others = {**PEERS, FLASH: flash_kmeans}
    if name in others:
        return others[name]
    engine, device, *n_random = name.split()
    return functools.partial(gpukmeans, engine=engine, device=device, n_random=int(n_random[0]) if n_random else 0)


# fast-pytorch-kmeans needs psutil and does not declare it.
REQUIRED = (*(name for name in PEERS if name != "gpukmeans"), "psutil")


def missing(required: Sequence[str] = REQUIRED) -> list[str]:
    """Names of the required packages that are not installed."""
    return [name for name in required if not list(importlib.metadata.distributions(name=name))]


def versions() -> dict[str, str]:
    """The versions of the peers that are installed."""
    return {name: importlib.metadata.version(name) for name in PEERS if name != "gpukmeans" and not missing([name])}
