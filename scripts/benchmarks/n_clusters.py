"""How often criteria for the number of clusters find the true number, on synthetic blobs and on labeled data."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits, load_iris, load_wine
from torch import Tensor

from gpukmeans import compare_n_clusters

# The largest number of clusters to choose from, numbers of blobs, numbers of coordinates, and points of each data set.
_LARGEST, _BLOBS, _WIDTHS, _N = 15, (2, 3, 5, 8, 12), (2, 8, 32), 600

# The smallest distance of two centers of blobs whose standard deviation is about 1.
_SEPARATION = {"apart": 6.0, "overlapping": 3.5, "unequal": 5.0, "elongated": 6.0}


@dataclass(frozen=True)
class Labeled:
    """Points (N, D) of a known number of clusters."""

    kind: str
    x: Tensor
    n_clusters: int


@dataclass(frozen=True)
class Curve:
    """Inertia and silhouette for each K from 1 to M, at index K, of N points of D coordinates."""

    inertia: list[float]
    silhouette: list[float]
    n: int
    d: int

    @property
    def largest(self) -> int:
        return len(self.inertia) - 1

    def best(self, score: Callable[[int], float], first: int, last: int) -> int:
        """The number from `first` to `last` with the largest score."""
        return max(range(first, last + 1), key=score)


def rates(n_init: int) -> Iterator[tuple[str, int, dict[str, int]]]:
    """For each kind of data its name, its number of sets, and for each criterion the number of sets it solves."""
    sets = [*_blobs(), *_labeled()]
    for kind in dict.fromkeys(one.kind for one in sets):
        chosen = [one for one in sets if one.kind == kind]
        curves = [_curve(one.x, n_init) for one in chosen]
        found = {
            name: sum(choose(curve) == one.n_clusters for curve, one in zip(curves, chosen, strict=True))
            for name, choose in CRITERIA.items()
        }
        yield kind, len(chosen), found


def _curve(x: Tensor, n_init: int) -> Curve:
    compared = compare_n_clusters(x, range(1, _LARGEST + 1), n_init=n_init)
    return Curve([math.nan, *compared.inertia.tolist()], [math.nan, *compared.silhouette.tolist()], *x.shape)


def _blobs() -> Iterator[Labeled]:
    """Normal blobs. "unequal" blobs differ in size and variance, and each "elongated" blob has its own covariance."""
    for kind, separation in _SEPARATION.items():
        for n_blobs in _BLOBS:
            for width in _WIDTHS:
                generator = torch.Generator().manual_seed(1000 * n_blobs + width)
                yield Labeled(kind, _blob_points(kind, n_blobs, width, separation, generator), n_blobs)


def _blob_points(kind: str, n_blobs: int, width: int, separation: float, generator: torch.Generator) -> Tensor:
    sizes, deviations = torch.full((n_blobs,), _N // n_blobs), torch.ones(n_blobs, width)
    if kind == "unequal":
        shares = -torch.rand(n_blobs, generator=generator).log()
        sizes = (_N * shares / shares.sum()).int().clamp(min=20)
        deviations *= 0.6 + 0.8 * torch.rand(n_blobs, 1, generator=generator)
    if kind == "elongated":
        deviations = (1.5 * torch.rand(n_blobs, width, generator=generator) - 1.2).exp()
    points = []
    for center, size, deviation in zip(_centers(n_blobs, width, separation, generator), sizes, deviations, strict=True):
        offsets = torch.randn(int(size), width, generator=generator) * deviation
        if kind == "elongated":
            offsets = offsets @ torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        points.append(center + offsets)
    return torch.cat(points).double()


def _centers(n: int, width: int, separation: float, generator: torch.Generator) -> Tensor:
    """Random centers at least `separation` apart, in a cube that grows with each try."""
    side, centers = separation / math.sqrt(width), torch.empty(0, width)
    while len(centers) < n:
        center = 2 * side * torch.rand(1, width, generator=generator)
        if (torch.cdist(center, centers) >= separation).all():
            centers = torch.cat([centers, center])
        side *= 1.01
    return centers


def _labeled() -> Iterator[Labeled]:
    wine = torch.tensor(load_wine(return_X_y=True)[0])
    yield Labeled("iris, wine, digits", torch.tensor(load_iris(return_X_y=True)[0]), 3)
    yield Labeled("iris, wine, digits", (wine - wine.mean(dim=0)) / wine.std(dim=0), 3)
    yield Labeled("iris, wine, digits", torch.tensor(load_digits(return_X_y=True)[0]), 10)


def _silhouette(curve: Curve) -> int:
    return curve.best(lambda k: curve.silhouette[k], 1, curve.largest)


def _calinski_harabasz(curve: Curve) -> int:
    w, n = curve.inertia, curve.n
    return curve.best(lambda k: (w[1] - w[k]) / (k - 1) / (w[k] / (n - k)), 2, curve.largest)


def _krzanowski_lai(curve: Curve) -> int:
    w, power = curve.inertia, 2 / curve.d
    drop = [math.nan] * 2 + [(k - 1) ** power * w[k - 1] - k**power * w[k] for k in range(2, curve.largest + 1)]
    return curve.best(lambda k: abs(drop[k] / drop[k + 1]), 2, curve.largest - 1)


def _hartigan(curve: Curve) -> int:
    w, n = curve.inertia, curve.n
    numbers = range(1, curve.largest)
    return next((k for k in numbers if (w[k] / w[k + 1] - 1) * (n - k - 1) <= 10), curve.largest)


def _pham(curve: Curve) -> int:
    w, alpha, scores = curve.inertia, 0.0, [math.nan, -1.0]
    for k in range(2, curve.largest + 1):
        alpha = 1 - 3 / (4 * curve.d) if k == 2 else alpha + (1 - alpha) / 6
        scores.append(-w[k] / (alpha * w[k - 1]))
    return curve.best(lambda k: scores[k], 1, curve.largest)


def _kneedle(curve: Curve) -> int:
    w, last = curve.inertia, curve.largest
    return curve.best(lambda k: (w[1] - w[k]) / (w[1] - w[last]) - (k - 1) / (last - 1), 1, last)


def _jump(curve: Curve) -> int:
    jumps = [0.0] + [(w / curve.n / curve.d) ** (-curve.d / 2) for w in curve.inertia[1:]]
    return curve.best(lambda k: jumps[k] - jumps[k - 1], 1, curve.largest)


def _wb(curve: Curve) -> int:
    w = curve.inertia
    return curve.best(lambda k: -k * w[k] / (w[1] - w[k]), 2, curve.largest)


CRITERIA: dict[str, Callable[[Curve], int]] = {
    "simplified silhouette": _silhouette,
    "Calinski & Harabasz 1974": _calinski_harabasz,
    "Krzanowski & Lai 1988": _krzanowski_lai,
    "Hartigan 1975": _hartigan,
    "Pham et al. 2005": _pham,
    "Kneedle (Satopaa et al. 2011)": _kneedle,
    "jump (Sugar & James 2003)": _jump,
    "WB (Zhao & Fränti 2014)": _wb,
}
