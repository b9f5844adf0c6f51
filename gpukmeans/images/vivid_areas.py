"""Small flat areas of vivid colors: counts of flat pixels, and palette colors for areas without a similar color.

A badge of a few hundred pixels adds little to the squared error, so K-means often leaves it without a center of its
own. In palettes of up to about 32 colors the badge then has a visibly wrong color. Errors are summed as integers, so
all devices return the same bits.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from gpukmeans.assignment import assign
from gpukmeans.clustering import KMeansResult
from gpukmeans.compilation import eager
from gpukmeans.distance import squared_distance
from gpukmeans.images.coarsening import ColorMeans, bin_colors, bin_means
from gpukmeans.images.colorspace import COLOR_SPACES, ColorSpace
from gpukmeans.images.histogram import ColorHistogram, check_histogram, check_image
from gpukmeans.tiling import blocks

# Largest difference between the levels of a channel in the 3 x 3 pixels around a flat pixel.
_FLAT = 23

# Distances in OKLab, where white has lightness 1. `_CHROMA` is the least chroma of a vivid color. `_TOLERATED` is
# subtracted from the distance of each pixel. An area whose mean error is then `_DISSIMILAR` - `_TOLERATED` or more has
# no similar palette color.
_CHROMA, _DISSIMILAR, _TOLERATED = 0.1, 0.08, 0.04

# An area consists of the flat pixels whose colors are equal in the `_AREA_BITS` high bits of each channel. Areas of
# fewer than `_MIN_PIXELS` are ignored. Colors that are equal in `_MEAN_BITS` high bits are replaced by their mean,
# because computing the errors of all single colors takes ten times as long.
_AREA_BITS, _MEAN_BITS, _MIN_PIXELS = 4, 6, 12

# The largest relative increase of the squared error of K-means, the number of areas that are processed, and the number
# of iterations of Lloyd's loop after each move and at the end. With a limit of 2 % fewer badges get a color. Without
# iterations the error increases too much.
_MAX_RISE, _TRIES, _STEPS = 0.04, 6, 6

# Number of pixels processed at a time, and largest number of distances computed at a time.
_BLOCK, _TABLE = 1 << 17, 1 << 18

_LAB = COLOR_SPACES["oklab"]

# Fixed-point units of an OKLab distance of 1.
_ERROR_UNITS = 1 << 20


@eager
def flat_counts(image: UInt8[Tensor, "h w c"], histogram: ColorHistogram) -> Int[Tensor, " m"]:
    """Number of flat pixels of each color of the histogram, int64 (M,).

    A pixel is flat if the levels of each channel in the 3 x 3 pixels around it differ by less than 24. For a histogram
    of several images, add the flat counts of the images.

    Args:
        image: uint8 (H, W, C).
        histogram: a histogram that has all colors of the image.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if the image has the wrong shape, or the histogram lacks a color of the image.

    Example:
        >>> image = torch.tensor([[[0], [0], [0], [99]]], dtype=torch.uint8)
        >>> flat_counts(image, unique_colors(image)).tolist()
        [2, 0]
    """
    check_image(image)
    check_histogram(histogram)
    counts = torch.zeros(len(histogram.colors), dtype=torch.int64, device=image.device)
    for rows in blocks(len(image), _BLOCK // image.shape[1]):
        above = min(rows.start, 1)
        strip = image[rows.start - above : rows.stop + 1]
        spread = _extreme(strip, torch.maximum) - _extreme(strip, torch.minimum)
        is_flat = (spread <= _FLAT).all(dim=2)[above : above + rows.stop - rows.start]
        flat = image[rows][is_flat]
        if len(flat) > 0:
            counts += torch.bincount(histogram.lookup(flat[None]).flatten(), minlength=len(counts))
    return counts


def _extreme(image: Tensor, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Maximum or minimum (H, W, C) of the 3 x 3 pixels around each pixel. `extreme` is torch.maximum or minimum."""
    for axis in (0, 1):
        pairs = extreme(image.narrow(axis, 1, image.shape[axis] - 1), image.narrow(axis, 0, image.shape[axis] - 1))
        first, last = image.narrow(axis, 0, 1), image.narrow(axis, -1, 1)
        image = extreme(torch.cat([first, pairs], dim=axis), torch.cat([pairs, last], dim=axis))
    return image


class Clustered(NamedTuple):
    """Points x (M, D), their weights (M,), and their K-means result with centers (K, D)."""

    x: Tensor
    weights: Tensor
    result: KMeansResult[Tensor]


def keep_vivid_areas(
    histogram: ColorHistogram,
    flat: Int[Tensor, " m"],
    found: Clustered,
    means: ColorMeans | None,
    *,
    n_fixed: int,
    space: ColorSpace,
    clustered: Callable[[Tensor, Tensor, Tensor, int], KMeansResult[Tensor]],
) -> KMeansResult[Tensor]:
    """The clusters of `found`, after moving some centers to vivid areas that have no similar center.

    Up to 6 areas are processed, the area of the largest error first. A free center moves to the mean of the area.
    `_center_to_move` chooses this center. A few iterations of Lloyd's loop follow. The move is kept if the error of the
    vivid areas falls, and the squared error of all pixels is at most 4 % above the squared error of `found`.

    Args:
        histogram: the colors (M, C).
        flat: `flat_counts` (M,).
        found: the clusters of all colors.
        means: means of similar colors, used instead of the colors while centers move; None to use the colors.
        n_fixed: number of fixed centers. They are the first centers and do not move.
        space: color space of the points.
        clustered: function of (points, weights, free centers, number of iterations) that runs Lloyd's loop.
    """
    areas = _Areas.of(histogram, flat, space)
    centers, limit = found.result.centers, float(found.result.inertia) * (1 + _MAX_RISE)
    if areas is None or n_fixed >= len(centers):
        return found.result
    x, weights = (found.x, found.weights) if means is None else means
    sums = _Sums.bounded_by(x, weights, space, histogram.colors.shape[1])
    most = sums.squared_error(centers) + sums.rounded(limit - float(found.result.inertia))
    errors = areas.errors(centers)
    before, tried, moved = int(errors.sum()), torch.zeros_like(areas.n_pixels, dtype=torch.bool), False
    for _ in range(_TRIES):
        area = areas.worst(errors, tried)
        if area is None:
            break
        tried[area] = True
        moving = _center_to_move(centers, areas.mean(area), errors, areas, sums, n_fixed)
        if moving is None:
            continue
        start = torch.cat([centers[n_fixed:moving], centers[moving + 1 :], areas.mean(area)[None]])
        changed = clustered(x, weights, start, _STEPS).centers
        changed_errors = areas.errors(changed)
        if changed_errors.sum() < errors.sum() and sums.squared_error(changed) <= most:
            centers, errors, moved = changed, changed_errors, True
    if not moved:
        return found.result
    result = clustered(found.x, found.weights, centers[n_fixed:], _STEPS)
    is_better = float(result.inertia) <= limit and int(areas.errors(result.centers).sum()) < before
    return result if is_better else found.result


@dataclass(frozen=True, kw_only=True)
class _Areas:
    """V vivid flat colors in A areas.

    The colors have points `x` (V, D) in `space`, OKLab points `lab` (V, D), numbers of pixels `counts` (V,), and areas
    `labels` (V,). `n_pixels` (A,) is the number of pixels of each area.
    """

    x: Tensor
    lab: Tensor
    counts: Tensor
    labels: Tensor
    n_pixels: Tensor
    space: ColorSpace
    channels: int

    @staticmethod
    def of(histogram: ColorHistogram, flat: Tensor, space: ColorSpace) -> "_Areas | None":
        """The vivid areas, or None if no area has enough pixels. Similar colors are replaced by their mean."""
        channels = histogram.colors.shape[1]
        rows = flat.nonzero().squeeze(1)
        if channels <= 2 or len(rows) == 0:
            return None
        bins = bin_colors(histogram.colors[rows], 1 << _MEAN_BITS)
        colors, counts = bin_means(bins, histogram.colors[rows], flat[rows])
        colors = colors.round().to(torch.uint8)
        lab = _LAB.encode(colors)
        chroma = lab[:, 1:3].double().square().sum(dim=1).sqrt()
        is_vivid = chroma >= _CHROMA * _LAB.scale * _LAB.unit(channels)
        colors, lab, counts = colors[is_vivid], lab[is_vivid], counts[is_vivid]
        if len(colors) == 0:
            return None
        labels, n_areas = bin_colors(colors, 1 << _AREA_BITS)
        n_pixels = torch.zeros(n_areas, dtype=torch.int64, device=colors.device).index_add_(0, labels, counts)
        if not (n_pixels >= _MIN_PIXELS).any():
            return None
        x = space.encode(colors)
        return _Areas(x=x, lab=lab, counts=counts, labels=labels, n_pixels=n_pixels, space=space, channels=channels)

    def errors(self, centers: Tensor) -> Tensor:
        """Error of the pixels of each color, int64 (V,): OKLab distance minus the tolerated distance, times count."""
        return self.errors_at(assign(self.x, centers).labels, centers)

    def errors_at(self, labels: Tensor, centers: Tensor) -> Tensor:
        """`errors`, where color i has the center `labels[i]`."""
        shown = _LAB.encode(self.space.decode(centers, self.channels)).index_select(0, labels)
        distance = (self.lab - shown).double().square().sum(dim=1).sqrt() / (_LAB.scale * _LAB.unit(self.channels))
        return ((distance - _TOLERATED).clamp(min=0) * _ERROR_UNITS).long() * self.counts

    def worst(self, errors: Tensor, tried: Tensor) -> int | None:
        """The area of the largest error, among areas without a similar center that are not in the mask `tried` (A,).

        `errors` (V,) are the errors of the colors. The result is None if no area is left.
        """
        total = torch.zeros_like(self.n_pixels).index_add_(0, self.labels, errors)
        is_dissimilar = total >= (_DISSIMILAR - _TOLERATED) * _ERROR_UNITS * self.n_pixels
        total = torch.where(is_dissimilar & (self.n_pixels >= _MIN_PIXELS) & ~tried, total, 0)
        return int(first_maximum(total)) if total.any() else None

    def mean(self, area: int) -> Tensor:
        """The mean point (D,) of an area."""
        rows = (self.labels == area).nonzero().squeeze(1)
        total = (self.x[rows].long() * self.counts[rows, None]).sum(dim=0)
        return (total.double() / self.n_pixels[area]).to(self.x.dtype)


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Sums of weight x squared distance over points (M, D). Each term is rounded to a multiple of 1 / `units`.

    `units` is a power of two for which every sum fits into 62 bits.
    """

    x: Tensor
    weights: Tensor
    units: float

    @staticmethod
    def bounded_by(x: Tensor, weights: Tensor, space: ColorSpace, channels: int) -> "_Sums":
        largest = x.shape[1] * (2 * space.scale * space.unit(channels)) ** 2 * int(weights.sum())
        return _Sums(x=x, weights=weights, units=2.0 ** (61 - math.frexp(largest)[1]))

    def rounded(self, value: float) -> int:
        return round(value * self.units)

    def terms(self, sqdist: Tensor, rows: slice) -> Tensor:
        return (sqdist.double() * self.weights[rows] * self.units).round().long()

    def squared_error(self, centers: Tensor) -> int:
        """Sum over the points of weight x squared distance to the nearest of the centers (K, D)."""
        sqdist = assign(self.x, centers).sqdist
        return int(self.terms(sqdist, slice(None)).sum())

    def removal_costs(self, centers: Tensor) -> Tensor:
        """Increase of the squared error by the removal of each center, int64 (K,)."""
        totals = torch.zeros(len(centers), dtype=torch.int64, device=self.x.device)
        for rows, (nearest, _, sqdist) in zip(self._rows(centers), _two_nearest(self.x, centers), strict=True):
            totals.index_add_(0, nearest, self.terms(sqdist[:, 1] - sqdist[:, 0], rows))
        return totals

    def _rows(self, centers: Tensor) -> Iterator[slice]:
        return blocks(len(self.x), _TABLE // len(centers))


def _center_to_move(
    centers: Tensor, added: Tensor, errors: Tensor, areas: _Areas, sums: _Sums, n_fixed: int
) -> int | None:
    """Index of the free center to move to the point `added` (D,), or None if no center is suitable.

    A center is suitable if its removal increases the error of vivid areas by less than half of the decrease that the
    added point brings. The suitable center whose removal increases the squared error least moves, the lowest on ties.
    """
    extended = torch.cat([centers, added[None]])
    nearest, second = (torch.cat(labels) for labels in list(zip(*_two_nearest(areas.x, extended), strict=True))[:2])
    changed = areas.errors_at(nearest, extended)
    taken = torch.zeros(len(extended), dtype=torch.int64, device=centers.device)
    taken.index_add_(0, nearest, areas.errors_at(second, extended) - changed)
    fits = 2 * taken < errors.sum() - changed.sum()
    fits[:n_fixed], fits[-1] = False, False
    if not fits.any():
        return None
    removal_costs = torch.where(fits, sums.removal_costs(extended), torch.iinfo(torch.int64).max)
    return int(first_maximum(-removal_costs))


def first_maximum(values: Tensor) -> Tensor:
    """Index of the first maximum of values (N,). `argmax` may return the index of any maximum."""
    return (values == values.max()).nonzero()[0, 0]


def _two_nearest(x: Float[Tensor, "m d"], centers: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For blocks of N points: labels (N,) of the nearest and of the second nearest center, squared distances (N, 2)."""
    n_centers = len(centers)
    numbers = torch.arange(n_centers, device=x.device)
    for rows in blocks(len(x), _TABLE // n_centers):
        table = squared_distance(x[rows].T[:, :, None], centers.T[:, None])
        labels, minima = [], []
        for _ in range(2):
            minimum = table.amin(dim=1)
            # The lowest index wins a tie. `argmin` may return another index.
            label = torch.where(table == minimum[:, None], numbers, n_centers).amin(dim=1).clamp(max=n_centers - 1)
            table.scatter_(1, label[:, None], math.inf)
            labels.append(label)
            minima.append(minimum)
        yield labels[0], labels[1], torch.stack(minima, dim=1)
