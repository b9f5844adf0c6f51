"""`compare_n_clusters`: inertia and silhouette for several numbers of clusters K, and the best K."""

import functools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float, Int, Num, Shaped
from torch import Tensor

from gpukmeans.arrays import Array
from gpukmeans.clustering import KMeansResult, kmeans
from gpukmeans.compilation import eager
from gpukmeans.engines import Assignment, Engine, choose
from gpukmeans.fixed_point import finest_scale, to_fixed
from gpukmeans.metrics import Metric, check_metric
from gpukmeans.points import KMeansInput, read_input
from gpukmeans.tiling import blocks
from gpukmeans.validation import check_count, compute_dtype

# Coordinates in a block of rows. With the copies of rows and the tiles of an engine, a pass needs less than 64 MiB.
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class NClustersComparison:
    """Result of `compare_n_clusters`: inertia and simplified silhouette for each number of clusters, and the best K.

    Args:
        n_clusters: the numbers of clusters K, in the given order.
        inertia: the inertia for each K, float64.
        silhouette: the simplified silhouette for each K, from 0 to 1, float64; 0 for K = 1.
        best: the K of the largest silhouette, the smallest K on ties.
        result: the result of `kmeans` for this K.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [20.0], [21.0], [60.0], [61.0]])
        >>> compare_n_clusters(x, [2, 3]).result.centers.flatten().tolist()
        [0.5, 60.5, 20.5]
    """

    n_clusters: Int[Tensor, " m"]
    inertia: Float[Tensor, " m"]
    silhouette: Float[Tensor, " m"]
    best: int
    result: KMeansResult[Tensor | None]

    def __repr__(self) -> str:
        rows = zip(self.n_clusters.tolist(), self.inertia.tolist(), self.silhouette.tolist(), strict=True)
        lines = [f"{k:>10} {inertia:>12.6g} {silhouette:>11.4f}" for k, inertia, silhouette in rows]
        return "\n".join(["n_clusters      inertia  silhouette", *lines, f"best: {self.best}"])


@eager
@torch.no_grad()
def compare_n_clusters(
    x: Num[Tensor, "n d"] | Array | Iterable[Any],
    n_clusters: Iterable[SupportsIndex],
    *,
    weights: Shaped[Tensor, " n"] | Array | None = None,
    **options: Any,
) -> NClustersComparison:
    """Inertia and simplified silhouette of `kmeans` for several numbers of clusters K, and the best K.

    The best K has the largest simplified silhouette (Hruschka, de Castro & Campello 2004; compared with other criteria
    by Vendramin, Campello & Hruschka 2010). The simplified silhouette of a point is (b - a) / b: a is its Euclidean
    distance to the center of its cluster, and b its distance to the nearest other center with points. The silhouette of
    a point is 0 in a cluster of one point, and if K = 1. For `metric="cosine"` the distances are between unit vectors.
    The silhouette of a clustering is the mean over the points, by weight. It is near 1 for clusters that are far apart.
    The simplified silhouette takes N·K distances and is larger than the silhouette of Rousseeuw (1987), which takes N²
    distances.

    A silhouette cannot show that points have no clusters: K = 1 is the best only if no larger K is given. For points of
    a uniform distribution the largest silhouette is about 0.5 in 2 dimensions and 0.2 in 8. docs/benchmarks.md has the
    rate at which this and other criteria find a known K.

    For each K, `kmeans` is called with these options and the same generator state. Inertia and silhouette have the same
    bits for every engine, block size and number of threads, and for a tensor and a stream with equal centers.

    Args:
        x: points (N, D): a tensor, an array or a stream, as for `kmeans`. A stream is read once more for each K.
        n_clusters: the numbers of clusters to compare, in any order, such as `range(2, 11)`.
        weights: weights (N,) of the points, as for `kmeans`.
        **options: other options of `kmeans`, except `group` and `checkpoint`. `n_init=10` makes the comparison more
            reliable.

    Raises:
        TypeError, ValueError: for any other input, and for a batch of problems.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [20.0], [21.0], [60.0], [61.0]])
        >>> compare_n_clusters(x, range(1, 5))
        n_clusters      inertia  silhouette
                 1      3734.83      0.0000
                 2        401.5      0.8577
                 3          1.5      0.9792
                 4            1      0.6500
        best: 3
    """
    numbers = _checked_numbers(n_clusters, options)
    engine, metric = options.get("engine", "auto"), check_metric(options.get("metric", "euclidean"))
    given = read_input(x, weights, engine)
    if given.batch:
        raise ValueError(f"x must be (N, D), or a stream, got a batch of problems {(*given.batch, '...')}")
    generator = options.get("generator")
    state = None if generator is None else generator.get_state()
    inertia, silhouette = [], []
    best: tuple[float, int, KMeansResult[Tensor | None]] | None = None
    for k in numbers:
        if generator is not None and state is not None:
            generator.set_state(state)
        result = kmeans(given.rows, k, weights=given.weights, **options)
        inertia.append(result.inertia)
        silhouette.append(_simplified_silhouette(given, result, metric, engine))
        if best is None or (silhouette[-1], -k) > best[:2]:
            best = silhouette[-1], -k, result
    assert best is not None  # `_checked_numbers` returns at least one number
    device = best[2].centers.device
    return NClustersComparison(
        n_clusters=torch.tensor(numbers, device=device),
        inertia=torch.stack(inertia),
        silhouette=torch.tensor(silhouette, dtype=torch.float64, device=device),
        best=-best[1],
        result=best[2],
    )


def _checked_numbers(n_clusters: Iterable[SupportsIndex], options: dict[str, Any]) -> list[int]:
    """The numbers of clusters. TypeError or ValueError for other values, and for a group or a checkpoint."""
    if not isinstance(n_clusters, Iterable):
        expected = "several ints, such as range(2, 11)"
        raise TypeError(f"n_clusters must be {expected}, got {type(n_clusters).__name__}")
    numbers = [check_count("n_clusters", k) for k in n_clusters]
    if not numbers:
        raise ValueError("n_clusters must have at least one number, got none")
    for name in ("group", "checkpoint"):
        if options.get(name) is not None:
            raise ValueError(f"{name} must be None to compare numbers of clusters, got {type(options[name]).__name__}")
    return numbers


def _simplified_silhouette(
    given: KMeansInput, result: KMeansResult[Tensor | None], metric: Metric, engine: str | Engine
) -> float:
    """The mean of (b - a) / b over the points, by weight; 0 for a single cluster with points."""
    centers = result.centers[result.cluster_weights > 0]
    if len(centers) < 2:
        return 0.0
    scale = finest_scale(result.cluster_weights.sum())
    parts = [_silhouettes(x, weights, centers, scale, engine) for x, weights in _blocks(given, metric)]
    by_cluster = functools.reduce(operator.add, parts)
    # Python divides integers with a single rounding.
    return int(by_cluster.sums.where(by_cluster.n_points > 1, 0).sum()) / int(by_cluster.weight)


@dataclass(frozen=True, eq=False)
class _Silhouettes:
    """Sums over points, in fixed-point units. Sums of disjoint points add.

    `sums` (K,) is the sum of w·(b - a) / b in each cluster, and `n_points` (K,) the number of points of weight above 0.
    `weight` () is the sum of w over all points.
    """

    sums: Tensor
    n_points: Tensor
    weight: Tensor

    def __add__(self, other: "_Silhouettes") -> "_Silhouettes":
        return _Silhouettes(self.sums + other.sums, self.n_points + other.n_points, self.weight + other.weight)


def _blocks(given: KMeansInput, metric: Metric) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Blocks of rows, prepared for the metric, and their weights."""
    batches = [(given.rows, given.weights)] if isinstance(given.rows, Tensor) else given.rows.read()
    for x, weights in batches:
        for rows in blocks(len(x), _BLOCK // x.shape[1]):
            prepared = metric.prepare(x[rows].detach(), compute_dtype(x))
            yield prepared, None if weights is None else weights[rows].detach()


def _silhouettes(
    x: Tensor, weights: Tensor | None, centers: Tensor, scale: Tensor, engine: str | Engine
) -> _Silhouettes:
    """The sums over points (N, D) at centers (K, D)."""
    labels, nearest = _assign(x, centers, engine)
    # For the points of each cluster, b is the distance to the nearest center without the center of the cluster.
    order = labels.argsort(stable=True)
    n_rows = labels.bincount(minlength=len(centers)).tolist()
    clusters = enumerate(x[order].split(n_rows))
    second = torch.cat([_assign(rows, _without(centers, k), engine).sqdist for k, rows in clusters if len(rows)])
    a, b = nearest[order].double().sqrt(), second.double().sqrt()
    w = torch.ones_like(a) if weights is None else weights[order].double()
    units, labels = to_fixed(w, scale), labels[order]
    sums = torch.zeros(len(centers), dtype=torch.int64, device=x.device)
    terms = to_fixed(torch.where(b > 0, (b - a) / b, 0) * w, scale)
    return _Silhouettes(
        sums.scatter_add(0, labels, terms), sums.scatter_add(0, labels, (units > 0).long()), units.sum()
    )


def _without(centers: Tensor, k: int) -> Tensor:
    return torch.cat([centers[:k], centers[k + 1 :]])


def _assign(x: Tensor, centers: Tensor, engine: str | Engine) -> Assignment:
    """Labels and squared distances (N,). Values are not checked, because `kmeans` has checked all rows."""
    labels, sqdist = choose(engine, x).bind(x[None], None).assign(centers[None], [0])
    return Assignment(labels[0], sqdist[0])
