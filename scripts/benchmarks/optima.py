"""Inertia and time of refinement and of seedings.

Refinement improves the initial centers (the option `refine` of `kmeans`). It is measured on colors of photos, and on
image patches as an example of embeddings. Seedings are measured on random points around 4 K means.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpukmeans import kmeans, unique_colors
from gpukmeans.seeding import SEEDINGS

# Side of a patch in pixels, number of principal directions to project on, number of patches.
_PATCH, _WIDTH, _N_PATCHES = 8, 32, 40_000


@dataclass(frozen=True)
class Points:
    """Points (N, D) with weights (N,), and a name for the table."""

    name: str
    x: Tensor
    weights: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Inertia and time over sets of points and seeds.

    `one` and `refined` are mean inertias of one run, without and with refinement, relative to the best of ten runs.
    `worst_refined` is the largest of the inertias whose mean is `refined`. `cost` is the time of all runs with
    refinement divided by the time of the same runs without.
    """

    name: str
    k: int
    one: float
    refined: float
    worst_refined: float
    cost: float


def colors(images: Sequence[Tensor]) -> list[Points]:
    """The distinct colors of each image (H, W, 3), weighted by their counts."""
    histograms = [unique_colors(image) for image in images]
    return [Points("colors", histogram.colors, histogram.counts) for histogram in histograms]


def patches(images: Sequence[Tensor]) -> list[Points]:
    """Patches at random positions, at most 40,000, projected on the 32 principal directions of all patches: (N, 32).

    Before the projection, the mean of each patch is subtracted from its values.
    """
    x = windows(images, _N_PATCHES)
    x = x - x.mean(dim=1, keepdim=True)
    _, directions = torch.linalg.eigh(x.T @ x)
    return [Points("patches", x @ directions[:, -_WIDTH:], None)]


def windows(images: Sequence[Tensor], n: int) -> Tensor:
    """At most n random patches of 8 x 8 pixels, (n, 64 C), equally many of each image (H, W, C)."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for image in images:
        height, width, _ = image.shape
        of_image = n // len(images)
        top = torch.randint(height - _PATCH + 1, (of_image,), generator=generator)
        left = torch.randint(width - _PATCH + 1, (of_image,), generator=generator)
        corners = image.unfold(0, _PATCH, 1).unfold(1, _PATCH, 1)
        rows.append(corners[top, left].reshape(of_image, -1).float())
    return torch.cat(rows)


def optima(sets: Sequence[Points], k: int, refine: int, seeds: int) -> Optimum:
    """One run, the best of ten runs, and one run with `refine`, from the same seeds."""
    ones, refineds, costs = [], [], []
    for points in sets:
        for seed in range(seeds):
            one, seconds = _run(points, k, seed)
            refined, refined_seconds = _run(points, k, seed, refine=refine)
            best, _ = _run(points, k, seed, n_init=10)
            ones.append(one / best)
            refineds.append(refined / best)
            costs.append((seconds, refined_seconds))
    seconds, refined_seconds = (sum(column) for column in zip(*costs, strict=True))
    return Optimum(
        name=sets[0].name,
        k=k,
        one=sum(ones) / len(ones),
        refined=sum(refineds) / len(refineds),
        worst_refined=max(refineds),
        cost=refined_seconds / seconds,
    )


def _run(points: Points, k: int, seed: int, *, n_init: int = 1, refine: int = 0) -> tuple[float, float]:
    """Inertia and seconds of one call of `kmeans`."""
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    result = kmeans(points.x, k, weights=points.weights, n_init=n_init, refine=refine, generator=generator)
    return result.inertia.item(), time.perf_counter() - start


def seedings(names: Sequence[str], n: int, d: int, k: int, max_iter: int) -> Iterator[tuple[str, float, float]]:
    """For each seeding its name, its seconds, and the inertia after `max_iter` iterations of Lloyd's loop."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(4 * k, d, generator=generator)
    x = means[torch.randint(len(means), (n,), generator=generator)] + torch.randn(n, d, generator=generator) * 0.5
    for name in names:
        seconds: list[float] = []
        result = kmeans(x, k, init=functools.partial(_timed, SEEDINGS[name], seconds), max_iter=max_iter, tol=0.0)
        yield name, seconds[0], result.inertia.item()


def _timed(seeding: Callable[..., Tensor], seconds: list[float], *args: object) -> Tensor:
    start = time.perf_counter()
    centers = seeding(*args)
    seconds.append(time.perf_counter() - start)
    return centers
