"""`fit_palette`: a palette of few colors that represents the pixels of a histogram with a small error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from gpukmeans.assignment import assign, assign_valid
from gpukmeans.clustering import Callback, KMeansResult, cluster
from gpukmeans.compilation import eager
from gpukmeans.distance import squared_distance
from gpukmeans.engines import Engine, EngineName, choose
from gpukmeans.images.coarsening import ColorMeans, cluster_sums, merge_similar_colors
from gpukmeans.images.colorspace import SRGB, ColorSpace, ColorSpaceName, check_space, has_alpha
from gpukmeans.images.histogram import ColorHistogram, check_colors, check_histogram
from gpukmeans.images.indexed import mean_error, weighted_squared_error
from gpukmeans.images.nearest import assign_within_opaque, is_opaque, is_transparent
from gpukmeans.images.vivid_areas import Clustered, first_maximum, keep_vivid_areas
from gpukmeans.options import KMeansOptions
from gpukmeans.seeding import InitName, Seeding
from gpukmeans.summaries import summary_of_fields
from gpukmeans.tiling import blocks
from gpukmeans.transfers import on_host
from gpukmeans.validation import check_count

# A refinement cycle adds centers and merges pairs of centers before Lloyd's loop (see `gpukmeans.refinement`).
# At 16 and at 64 colors a second cycle lowers the error by 0.3 % and takes 10 to 20 ms. At 256 colors it lowers the
# error by 0.2 % and takes 75 ms. Measured on one CPU core: eight photos of 0.4 megapixels and five seeds.
_TWO_CYCLES_UP_TO = 64

# Histograms that are clustered as one batch.
_BATCH = 64

# Iterations of Lloyd's loop in which opaque colors are assigned to opaque centers only.
_OPAQUE_STEPS = 4


BEST_QUALITY: dict[str, Any] = {"n_init": 8, "refine": 2, "polish": 4}
"""Options of `quantize` and `fit_palette` for a smaller error. They take several times as long as the defaults."""


@dataclass(frozen=True, kw_only=True)
class Palette:
    """A palette fitted to a histogram, with the palette index of each color of the histogram and the error.

    Args:
        colors: uint8 (K, C). The fixed colors come first, in the given order. The other colors follow, distinct and in
            lexicographic order. Each of them is nearest to some color of the histogram.
        labels: palette index of each color of the histogram, uint8 (M,): the nearest palette color in the color space
            of the clustering, the lowest index on ties. If the palette has opaque colors, every opaque color of the
            histogram is assigned to one of them.
        engine: name of the engine used; None if no clustering was needed.
        free: mask (K,) of the colors that `apply_palette` may change. It changes colors only with its options
            `dither="optimized"` and `lossy`, which optimize the palette for the image. If the colors were clustered in
            sRGB, the mask has all colors except the fixed colors and a transparent color that `fit_palette` may have
            added to the fixed colors. Otherwise no color may change.
        mse: `mean_squared_error` between the pixels of the histogram and their palette colors.
        n_iter: number of iterations of Lloyd's loop over all colors of the histogram. Iterations of a search on means
            of similar colors are not counted.
        converged: whether this loop ended before `max_iter` and was not ended by the callback.

    Example:
        >>> image = torch.tensor([[[0], [2], [200]]], dtype=torch.uint8)
        >>> palette = fit_palette(unique_colors(image), 2)
        >>> palette.colors.tolist(), palette.labels.tolist(), palette.mse
        ([[1], [200]], [0, 0, 1], 2.0)
    """

    colors: UInt8[Tensor, "k c"]
    labels: UInt8[Tensor, " m"]
    free: Bool[Tensor, " k"]
    engine: str | None
    mse: float
    n_iter: int
    converged: bool

    def __repr__(self) -> str:
        return summary_of_fields("Palette", vars(self))


@eager
def fit_palette(
    histogram: ColorHistogram,
    n_colors: SupportsIndex,
    *,
    space: ColorSpaceName | ColorSpace = "srgb",
    fixed: UInt8[Tensor, "f c"] | None = None,
    flat: Int[Tensor, " m"] | None = None,
    init: InitName | Seeding = "random",
    n_init: int = 1,
    refine: int | None = None,
    polish: int = 0,
    callback: Callback | None = None,
    engine: EngineName | Engine = "auto",
    **clustering: Any,
) -> Palette:
    """A palette of `n_colors` colors with a small mean squared error over the pixels of a histogram.

    If the histogram has at most `n_colors` colors, these are the palette. Otherwise the colors are clustered by
    `kmeans`, the centers are rounded to 8 bits, and the colors are assigned again. Centers that round to the same color
    are merged, and centers that are nearest to no color are dropped. They are replaced by the colors of the histogram
    with the largest count x squared distance. So the palette has exactly `n_colors` colors, unless the histogram has
    too few distinct colors. All fully transparent colors count as one color.

    `fixed` colors come first, even if no pixel uses them. Let F be their number. If at most `n_colors` - F colors of
    the histogram are not among them, these colors are the rest of the palette, and nothing is clustered.

    If the histogram has a fully transparent color, the color 0 in all channels is added to the fixed colors. It is not
    added if a fixed color is fully transparent, or if F is `n_colors` - 1 or more. A palette color that is not fixed is
    made opaque if more than half of the pixels of its cluster are opaque, or if this adds less error than moving the
    opaque pixels to other opaque colors. If any pixel is opaque, a palette of at least two colors has an opaque color,
    unless all colors are fixed. If the palette has opaque colors, opaque pixels are assigned to them.

    If the histogram has many colors, seeding, restarts and `refine` run on the means of similar colors, which takes a
    fraction of the time (see `images.coarsening`). Random centers with one refinement cycle give a smaller error than
    k-means++, and for many palette colors they take less time (docs/performance.md). `BEST_QUALITY` holds options for
    an even smaller error.

    If `flat` is given, small vivid areas, such as badges, keep a color of their own if this raises the squared error by
    at most 4 % (see `images.vivid_areas`).

    Args:
        histogram: the colors and their counts, from `unique_colors` or a sum of several.
        n_colors: number of palette colors, 1 to 256.
        space: color space in which colors are clustered and assigned: a name of `COLOR_SPACES` or a `ColorSpace`.
            "srgb" gives the smallest `Palette.mse`, because this error is always measured in sRGB.
        fixed: first colors of the palette, uint8 (F, C), F <= `n_colors`.
        flat: number of flat pixels of each color, int64 (M,), from `flat_counts`. A pixel is flat if the 3 x 3 pixels
            around it have similar levels. Without `flat`, vivid areas are ignored.
        init: seeding method, see `kmeans`.
        n_init: number of runs; the best is kept.
        refine: refinement cycles before Lloyd's loop; by default 2 up to 64 colors, else 1.
        polish: refinement cycles over all colors after a search on means of similar colors. Ignored if the search runs
            on the colors themselves.
        callback: called after each iteration of Lloyd's loop over all colors. The inertia passed to it is computed for
            centers that are not rounded to 8 bits.
        engine: a name of `ENGINES`, "auto" or an `Engine`.
        **clustering: other options of `kmeans`, such as `max_iter`, `tol` and `generator`. `group` is not allowed.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument has the wrong shape or range, or `group` is given.

    Example:
        >>> image = torch.tensor([[[0, 0, 0], [0, 0, 2], [200, 0, 0]]], dtype=torch.uint8)
        >>> fit_palette(unique_colors(image), 2).colors.tolist()
        [[0, 0, 1], [200, 0, 0]]
    """
    check_histogram(histogram)
    n_colors = check_n_colors(n_colors)
    space = check_space(space)
    if clustering.get("group") is not None:
        raise ValueError("group must be None for a palette, got a group: add the histograms of the ranks instead")
    fixed = histogram.colors[:0] if fixed is None else fixed
    check_colors(fixed, "fixed", histogram.colors, n_colors)
    if flat is not None:
        _check_flat(flat, histogram)
    points = _points_or_palette(histogram, n_colors, fixed, space)
    if isinstance(points, Palette):
        return points
    search: dict[str, Any] = {"init": init, "n_init": n_init, "refine": default_refine(refine, n_colors)}
    options = {"polish": polish, "callback": callback, "engine": engine, **clustering}
    (result,) = _clustered_points([points], n_colors, space, search, **options)
    if flat is not None:

        def moved(x: Tensor, weights: Tensor, start: Tensor, steps: int) -> KMeansResult[Any]:
            fixed = points.encoded_fixed(space)
            return _clustered([(x, weights)], n_colors, engine=engine, init=start, max_iter=steps, fixed=fixed)

        found, n_fixed = Clustered(points.x, histogram.counts, result), len(points.fixed)
        result = keep_vivid_areas(histogram, flat, found, points.means, n_fixed=n_fixed, space=space, clustered=moved)
    return _rounded(points, result, space, choose(engine, points.x))


def fit_palettes(
    histograms: Sequence[ColorHistogram],
    n_colors: int,
    *,
    space: ColorSpace,
    fixed: UInt8[Tensor, "f c"] | None = None,
    init: InitName | Seeding = "random",
    n_init: int = 1,
    refine: int | None = None,
    polish: int = 0,
    engine: EngineName | Engine = "auto",
    max_iter: int,
    tol: float,
) -> list[Palette]:
    """The palette of each histogram, with the bits of `fit_palette`, which describes the arguments.

    Up to 64 histograms are clustered as one batch, which takes a GPU as many launches as one of them. Shorter
    histograms are padded by points of weight 0.
    """
    fixed = histograms[0].colors[:0] if fixed is None else fixed
    found = [_points_or_palette(histogram, n_colors, fixed, space) for histogram in histograms]
    palettes = {number: palette for number, palette in enumerate(found) if isinstance(palette, Palette)}
    groups: dict[tuple[bool, int], dict[int, _HistogramPoints]] = {}
    for number, points in enumerate(found):
        if not isinstance(points, Palette):
            groups.setdefault((points.means is None, len(points.fixed)), {})[number] = points
    search: dict[str, Any] = {"init": init, "n_init": n_init, "refine": default_refine(refine, n_colors)}
    options = {"polish": polish, "callback": None, "engine": engine, "max_iter": max_iter, "tol": tol}
    for group in groups.values():
        for block in blocks(len(group), _BATCH):
            part = [*group.items()][block]
            results = _clustered_points([points for _, points in part], n_colors, space, search, **options)
            for (number, points), result in zip(part, results, strict=True):
                palettes[number] = _rounded(points, result, space, choose(engine, points.x))
    return [palettes[number] for number in range(len(histograms))]


@dataclass(frozen=True, eq=False)
class _HistogramPoints:
    """The colors of a histogram as points to cluster.

    `fixed` uint8 (F, C) are the fixed colors, with the transparent color that may have been added. `x` (M, D) are the
    points of the colors, and `means` are means of similar colors for a faster search, or None.
    """

    histogram: ColorHistogram
    fixed: Tensor
    x: Tensor
    means: ColorMeans | None

    def encoded_fixed(self, space: ColorSpace) -> Tensor | None:
        """The fixed colors as points (F, D), None if there are none."""
        return space.encode(self.fixed) if len(self.fixed) else None


def _points_or_palette(
    histogram: ColorHistogram, n_colors: int, fixed: Tensor, space: ColorSpace
) -> "_HistogramPoints | Palette":
    """The points to cluster, or the palette if no clustering is needed."""
    palette = _exact_palette(histogram, n_colors, fixed, space)
    if palette is not None:
        return palette
    fixed = with_transparent_color(fixed, histogram, n_colors - 1)
    x = space.encode(histogram.colors)
    # If all colors are fixed, no centers have to be searched.
    means = merge_similar_colors(histogram.colors, x, histogram.counts, n_colors) if len(fixed) < n_colors else None
    return _HistogramPoints(histogram, fixed, x, means)


def _clustered_points(
    points: Sequence[_HistogramPoints],
    n_colors: int,
    space: ColorSpace,
    search: dict[str, Any],
    *,
    polish: int,
    callback: Callback | None,
    **clustering: Any,
) -> list[KMeansResult[Any]]:
    """A result of K-means for each of the histograms. All have equally many fixed colors, and means, or none has."""
    clustering["fixed"], n_fixed = points[0].encoded_fixed(space), len(points[0].fixed)
    means = [(of.means.x, of.means.weights) for of in points if of.means is not None]
    if means:
        start = _clustered(means, n_colors, **search, **clustering)
        search = {"init": start.centers[..., n_fixed:, :], "refine": polish}
    colors = [(of.x, of.histogram.counts) for of in points]
    result = _clustered(colors, n_colors, callback=callback, **search, **clustering)
    if len(points) == 1:
        return [result]
    tensors = result.centers, result.labels, result.cluster_weights, result.inertia, result.n_iter, result.converged
    return [
        KMeansResult(
            centers=centers,
            labels=labels[: len(of.x)],
            cluster_weights=weights,
            inertia=inertia,
            n_iter=n_iter,
            converged=converged,
        )
        for of, centers, labels, weights, inertia, n_iter, converged in zip(points, *tensors, strict=True)
    ]


def _rounded(points: _HistogramPoints, result: KMeansResult[Any], space: ColorSpace, engine: Engine) -> Palette:
    """The palette of the colors nearest to the centers."""
    histogram, fixed, x = points.histogram, points.fixed, points.x
    free = space.decode(result.centers[len(fixed) :], histogram.colors.shape[1])
    if has_alpha(histogram.colors.shape[1]):
        free = _with_opaque_colors(fixed, free, result.labels.long(), histogram, x, space, engine)
    # Together, because each transfer waits for a GPU.
    free, n_pixels, n_iter, converged = on_host(
        free.long(), histogram.counts.sum(), result.n_iter, result.converged.long()
    )
    colors, labels, error = _assigned(fixed, free.to(torch.uint8), histogram, x, space, engine)
    return Palette(
        colors=colors,
        labels=labels.to(torch.uint8),
        free=(torch.arange(len(colors), device=colors.device) >= len(fixed)) & (space == SRGB),
        engine=engine.name,
        mse=mean_error(error, int(n_pixels), colors.shape[1]),
        n_iter=int(n_iter),
        converged=bool(converged),
    )


def with_transparent_color(
    colors: UInt8[Tensor, "k c"], histogram: ColorHistogram, max_colors: int
) -> UInt8[Tensor, "n c"]:
    """The colors (K, C), with a fully transparent color appended if the histogram has one and the colors have none.

    Without this color, transparent pixels would take a color that is not fully transparent and become visible.

    Args:
        colors: palette, uint8 (K, C).
        histogram: histogram of the image, of C channels.
        max_colors: a palette of this many colors or more is returned as it is.

    Example:
        >>> histogram = unique_colors(torch.tensor([[[9, 255], [0, 0]]], dtype=torch.uint8))
        >>> with_transparent_color(torch.tensor([[9, 255]], dtype=torch.uint8), histogram, 256).tolist()
        [[9, 255], [0, 0]]
    """
    if not has_alpha(colors.shape[1]) or len(colors) >= max_colors:
        return colors
    if is_transparent(colors).any() or not is_transparent(histogram.colors).any():
        return colors
    return torch.cat([colors, colors.new_zeros(1, colors.shape[1])])


def default_refine(refine: int | None, n_colors: int) -> int:
    """Number of refinement cycles: `refine` if it is given, otherwise 2 for up to 64 colors and 1 for more."""
    return refine if refine is not None else (2 if n_colors <= _TWO_CYCLES_UP_TO else 1)


def check_n_colors(n_colors: SupportsIndex) -> int:
    """The number as an int. TypeError unless it is an integer, ValueError unless it is from 1 to 256."""
    number = check_count("n_colors", n_colors, least=None)
    if not 1 <= number <= 256:
        raise ValueError(f"n_colors must be from 1 to 256, got {number}")
    return number


def _check_flat(flat: object, histogram: ColorHistogram) -> None:
    """TypeError or ValueError unless `flat` has a number of pixels for each color of the histogram."""
    if not isinstance(flat, Tensor):
        raise TypeError(f"flat must be a tensor, from flat_counts, got {type(flat).__name__}")
    expected = histogram.counts
    if flat.dtype != expected.dtype or flat.shape != expected.shape or flat.device != expected.device:
        wanted = f"int64 {tuple(expected.shape)} on {expected.device}, from flat_counts with the same histogram"
        raise ValueError(f"flat must be {wanted}, got {flat.dtype} {tuple(flat.shape)} on {flat.device}")


def _exact_palette(histogram: ColorHistogram, n_colors: int, fixed: Tensor, space: ColorSpace) -> Palette | None:
    """The fixed colors (F, C) followed by all other colors of the histogram. None for more than `n_colors` colors."""
    if len(histogram.colors) > n_colors:
        return None
    labels = torch.zeros(len(histogram.colors), dtype=torch.int64, device=fixed.device)
    other = torch.ones_like(labels, dtype=torch.bool)
    if len(fixed) > 0:
        labels, sqdist = assign(space.encode(histogram.colors), space.encode(fixed))
        other = sqdist > 0
    if len(fixed) + int(other.sum()) > n_colors:
        return None
    labels = torch.where(other, len(fixed) + other.cumsum(0) - 1, labels).to(torch.uint8)
    colors = torch.cat([fixed, histogram.colors[other]])
    free = torch.zeros_like(colors[:, 0], dtype=torch.bool)
    return Palette(colors=colors, labels=labels, free=free, engine=None, mse=0.0, n_iter=0, converged=True)


def _clustered(points: Sequence[tuple[Tensor, Tensor]], n_clusters: int, **options: Any) -> KMeansResult[Any]:
    """The result of `kmeans` for points (M, D) and their weights (M,), or for a batch of several points.

    There is no warning about empty clusters, because `_assigned` replaces their centers.
    """
    (x, weights), *others = points
    if others:
        longest = max(len(x) for x, _ in points)
        # The padding repeats the last point, so that the range of the points stays.
        x = torch.stack([torch.cat([x, x[-1:].expand(longest - len(x), -1)]) for x, _ in points])
        weights = torch.stack([torch.nn.functional.pad(counts, (0, longest - len(counts))) for _, counts in points])
    return cluster(x, weights, None, lambda: KMeansOptions(n_clusters=n_clusters, **options))[0]


def _with_opaque_colors(
    fixed: Tensor, free: Tensor, labels: Tensor, histogram: ColorHistogram, x: Tensor, space: ColorSpace, engine: Engine
) -> Tensor:
    """The free colors (K - F, C) after some of them were made opaque.

    `labels` (M,) is the cluster of each color of the histogram.

    Opaque colors in clusters that stay translucent are assigned to opaque palette colors. A few iterations of Lloyd's
    loop then compute the colors of the changed clusters.
    """
    n_fixed, palette, opaque = len(fixed), torch.cat([fixed, free]), is_opaque(histogram.colors)
    made_opaque = _opaque_clusters(palette, n_fixed, labels, histogram, space)[n_fixed:]
    palette = torch.cat([fixed, _with_opaque_alpha(free, made_opaque)])
    if not (opaque & ~is_opaque(palette)[labels]).any() or not is_opaque(palette).any():
        return palette[n_fixed:]
    for _ in range(_OPAQUE_STEPS):
        centers = space.encode(palette)
        labels = assign_within_opaque(x, opaque, centers, is_opaque(palette), engine=engine).labels
        means = space.decode(_means(x, labels, histogram.counts, centers), free.shape[1])
        palette = torch.cat([fixed, _with_opaque_alpha(means[n_fixed:], made_opaque)])
    return palette[n_fixed:]


def _opaque_clusters(
    palette: Tensor, n_fixed: int, labels: Tensor, histogram: ColorHistogram, space: ColorSpace
) -> Tensor:
    """Mask (K,) of the opaque colors among the first `n_fixed`, and of the free colors that should be made opaque.

    A free color is made opaque in three cases:

    * Most pixels of its cluster are opaque. Otherwise a few translucent edge pixels in a mean would make all opaque
      pixels of the cluster translucent.
    * Its cluster has the most opaque pixels, no color would be opaque otherwise, and there are at least two colors.
    * Making the translucent pixels of its cluster opaque costs a smaller squared error than moving the opaque pixels of
      the cluster to the nearest opaque color. Free colors are made opaque for this reason one at a time, first the free
      color with the largest difference of the two costs.
    """
    device, n_colors = labels.device, len(palette)

    def total(counts: Tensor) -> Tensor:
        return torch.zeros(n_colors, dtype=torch.int64, device=device).index_add_(0, labels, counts)

    alpha = histogram.colors[:, -1].long()
    pixels, opaque = total(histogram.counts), total(histogram.counts * (alpha == 255))
    chosen, free = 2 * opaque > pixels, torch.arange(n_colors, device=device) >= n_fixed
    chosen = torch.where(free, chosen, is_opaque(palette))
    if n_colors == 1 or n_fixed == n_colors or not opaque.any():
        return chosen
    if not chosen.any():
        chosen |= torch.arange(n_colors, device=device) == first_maximum(torch.where(free, opaque, -1))
    points = space.encode(_with_opaque_alpha(palette, torch.ones_like(chosen))).double() / space.scale
    # A change of alpha from A to 255 moves a premultiplied color by (255 - A) / 255 of the opaque color.
    cost = total(histogram.counts * (255 - alpha).square()) * (points.square().sum(dim=1) / 255**2)
    sqdist = squared_distance(points.T[:, :, None], points.T[:, None])
    for _ in range(n_colors):
        gain = sqdist[:, chosen].amin(dim=1) * opaque - cost
        gain[chosen | ~free] = 0
        best = first_maximum(gain)
        if gain[best] <= 0:
            break
        chosen[best] = True
    return chosen


def _with_opaque_alpha(colors: Tensor, opaque: Tensor) -> Tensor:
    """The colors (K, C) with alpha 255 where the mask (K,) is set."""
    alpha = torch.where(opaque, 255, colors[:, -1])
    return torch.cat([colors[:, :-1], alpha[:, None].to(torch.uint8)], dim=1)


def _means(x: Tensor, labels: Tensor, counts: Tensor, centers: Tensor) -> Tensor:
    """Weighted mean (K, D), float64, of the integer points (M, D) of each label. Empty clusters keep their center."""
    sums, totals = cluster_sums(x, labels, counts, len(centers))
    return torch.where(totals[:, None] > 0, sums.double() / totals[:, None], centers.double())


def _assigned(
    fixed: Tensor, free: Tensor, histogram: ColorHistogram, x: Tensor, space: ColorSpace, engine: Engine
) -> tuple[Tensor, Tensor, int]:
    """Palette of the fixed colors (F, C) and of used, distinct free colors; labels (M,) of the histogram; the error.

    The error is the sum over the pixels, as of `squared_error`. `free` is on the CPU. Free colors that are duplicates,
    or nearest to no color of the histogram, are replaced by the colors of the histogram at `_worst_served_rows`. `x`
    (M, D) are the points of the histogram's colors.
    """
    n_colors, free = len(fixed) + len(free), _unique_rows(free)
    while True:
        colors = torch.cat([fixed, free.to(fixed.device, non_blocking=True)])
        labels, sqdist = _nearest(histogram, x, colors, space, engine)
        used = torch.zeros_like(colors[:, 0], dtype=torch.int64).index_fill_(0, labels, 1)
        used[: len(fixed)] = 1
        errors = weighted_squared_error(histogram.colors, histogram.counts, colors, labels)
        is_used, errors = on_host(used, errors)
        n_missing, error = n_colors - int(is_used.sum()), sum(errors.tolist())
        if n_missing == 0:
            return colors, labels, error
        added = _worst_served_rows(x, sqdist, histogram.counts, n_missing)
        if len(added) == 0:
            # The new index of a used color is the number of used colors before it.
            return colors[used > 0], (used.cumsum(0) - 1).index_select(0, labels), error
        # Added colors may leave other colors unused, but stay used themselves, because they are colors of the
        # histogram. So the loop ends.
        free = _unique_rows(torch.cat([free[is_used[len(fixed) :] > 0], histogram.colors[added].cpu()]))


def _nearest(
    histogram: ColorHistogram, x: Tensor, colors: Tensor, space: ColorSpace, engine: Engine
) -> tuple[Tensor, Tensor]:
    """Labels and squared distances (M,) of the histogram's colors, at points x (M, D), to palette colors (K, C)."""
    centers = space.encode(colors)
    if not has_alpha(colors.shape[1]):
        return assign_valid(x, centers, engine)
    return assign_within_opaque(x, is_opaque(histogram.colors), centers, is_opaque(colors), engine=engine)


def _unique_rows(colors: Tensor) -> Tensor:
    """Distinct colors in lexicographic order."""
    return torch.unique(colors, dim=0) if len(colors) else colors


def _worst_served_rows(x: Tensor, sqdist: Tensor, counts: Tensor, n: int) -> Tensor:
    """Rows of up to n points x (M, D), chosen one by one by the largest count x squared distance.

    `sqdist` (M,) are the squared distances to the nearest palette color. A chosen row counts as a palette color from
    then on. The lowest row wins a tie. There are fewer than n rows if all other points have distance 0.
    """
    columns, rows = x.T, []
    for _ in range(n):
        errors = sqdist.double() * counts
        row = first_maximum(errors)
        if errors[row] == 0:
            break
        rows.append(row)
        sqdist = torch.minimum(sqdist, squared_distance(columns, columns[:, row, None].expand_as(columns)))
    return torch.stack(rows) if rows else torch.empty(0, dtype=torch.int64, device=x.device)
