"""k-means|| beside k-means++: time, and inertia after a few iterations."""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans import kmeans

# N, D and K.
SIZES = [
    (20_000, 3, 256),
    (200_000, 3, 1024),
    (1_000_000, 3, 256),
    (20_000, 32, 256),
    (50_000, 32, 256),
    (200_000, 32, 256),
    (200_000, 32, 1024),
    (100_000, 128, 512),
]
_ITERATIONS = 20


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ratios of k-means|| to k-means++, medians of several seeds.

    `seeding` is of seconds with one iteration, `clustering` of seconds with 20 iterations, and `inertia` of the inertia
    after these.
    """

    n: int
    width: int
    k: int
    seeding: float
    clustering: float
    inertia: float


def compare(n_seeds: int) -> Iterator[Comparison]:
    """A comparison for each of `SIZES`, with points of 2,000 normal distributions."""
    for n, width, k in SIZES:
        x = _points(n, width)
        ratios = [_ratios(x, k, seed) for seed in range(n_seeds)]
        seeding, clustering, inertia = (statistics.median(values) for values in zip(*ratios, strict=True))
        yield Comparison(n=n, width=width, k=k, seeding=seeding, clustering=clustering, inertia=inertia)


def _points(n: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(2000, width, generator=generator)
    which = torch.randint(2000, (n,), generator=generator)
    return means[which] + 0.3 * torch.randn(n, width, generator=generator)


def _ratios(x: Tensor, k: int, seed: int) -> tuple[float, float, float]:
    measured = []
    for init in ("k-means||", "k-means++"):
        seconds, inertia = [], 0.0
        for n_iter in (1, _ITERATIONS):
            start = time.perf_counter()
            generator = torch.Generator().manual_seed(seed)
            inertia = float(kmeans(x, k, init=init, max_iter=n_iter, generator=generator).inertia)
            seconds.append(time.perf_counter() - start)
        measured.append((*seconds, inertia))
    first, second, third = (one / other for one, other in zip(*measured, strict=True))
    return first, second, third
