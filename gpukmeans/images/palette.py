"""`fit_palette`: the few colors that serve the pixels of a histogram with a small error."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from gpukmeans.assignment import assign
from gpukmeans.clustering import Callback, kmeans
from gpukmeans.distance import squared_distance
from gpukmeans.engines.base import Engine
from gpukmeans.engines.selection import choose
from gpukmeans.images.coarsening import coarse
from gpukmeans.images.colorspace import SRGB, ColorSpace, check_space, steps_of_a_level
from gpukmeans.images.histogram import ColorHistogram
from gpukmeans.seeding import Seeding
from gpukmeans.tiling import blocks

# A second breath lowers the error by 0.3 % at 16 and at 64 colors, in 10 to 20 ms a photo of 0.4 megapixels; at 256 by
# 0.2 % in 75 ms. Measured on one CPU core, with eight photos and five seeds.
_TWO_BREATHS_UP_TO = 64

# Pixels that are compared at a time.
_BLOCK = 1 << 20

BEST: dict[str, Any] = {"n_init": 8, "refine": 2, "polish": 4}
"""Options of `quantize` and `fit_palette` for a smaller error at several times the time."""


@dataclass(frozen=True, kw_only=True)
class Palette:
    """The palette found for a histogram, and how it serves its colors."""

    colors: UInt8[Tensor, "k c"]
    """In lexicographic order, no two equal, each in its space the nearest one of some color of the histogram; before
    these the fixed ones, as they were given."""
    labels: UInt8[Tensor, " m"]
    """For each color of the histogram the index of the nearest in the palette, the lowest of equally near ones."""
    engine: str | None
    """The name of the engine that found them; None where nothing had to be clustered."""
    mse: float
    """Mean over the pixels of dR² + dG² + dB² (Celebi's measure); with alpha of the premultiplied colors, plus dA²."""
    n_iter: int
    """Rounds of Lloyd's loop over all colors."""
    converged: bool


def fit_palette(
    histogram: ColorHistogram,
    n_colors: int,
    *,
    space: str | ColorSpace = "srgb",
    fixed: UInt8[Tensor, "f c"] | None = None,
    init: str | Seeding = "random",
    n_init: int = 1,
    refine: int | None = None,
    polish: int = 0,
    callback: Callback | None = None,
    engine: str | Engine = "auto",
    **clustering: Any,
) -> Palette:
    """The palette of `n_colors` colors, 1 to 256, that serves the pixels of a histogram with a small `mse`.

    The histogram's own colors if there are no more than that. Else the centers of `kmeans`, which all options are
    passed to, are rounded to 8 bits and the colors assigned anew. Of centers that round to equal colors one is left,
    of those that are then nearest to no color none, and the places go to the worst-served colors: those of the largest
    count times squared distance. So there are exactly `n_colors`, unless fewer can be told apart because alpha is 0.

    Colors are clustered, and assigned, in a `space`: a name of `COLOR_SPACES` or a `ColorSpace`. "srgb" leads to the
    smallest `mse`, which is measured there whatever the space.

    `fixed` colors (F, C), F <= `n_colors`, come first, as they are and whether used or not. Those of the histogram that
    are among them count for nothing else, so there is no clustering if no more than `n_colors` - F are left. Pixels of
    alpha 0 keep an entry of their own, 0 in all channels, unless it would be the only one. A color most of whose pixels
    are opaque is opaque.

    Where there are many colors, first centers are found, restarts made and `refine` done among the means of those that
    are alike, which costs a fraction (see `coarsening.coarse`); `polish` are breaths of the same kind among
    all colors after that. Random centers with one breath of `refine` lead to better optima than k-means++, and with
    many colors sooner (docs/performance.md). By default there are two breaths, one for more than 64 colors.
    `BEST` are options for smaller errors.

    `callback` is that of the `kmeans` over all colors, whose rounds `n_iter` counts: it is called after each of them,
    but not while first centers are found. The last inertia is that of the centers before they are rounded to 8 bits.
    """
    check_n_colors(n_colors)
    space = check_space(space)
    if fixed is None:
        fixed = histogram.colors[:0]
    check_colors(fixed, "fixed", histogram.colors, n_colors)
    palette = _without_clustering(histogram, n_colors, fixed, space)
    if palette is not None:
        return palette
    fixed = with_invisible(fixed, histogram, n_colors - 1)
    x = space.encode(histogram.colors)
    chosen = choose(engine, x)
    clustering["fixed"] = space.encode(fixed) if len(fixed) else None
    # With all colors fixed there is nothing to search.
    means = coarse(histogram.colors, x, histogram.counts, n_colors) if len(fixed) < n_colors else None
    search: dict[str, Any] = {"init": init, "n_init": n_init, "refine": breaths(refine, n_colors)}
    if means is not None:
        start = kmeans(means.x, n_colors, weights=means.weights, engine=engine, **search, **clustering)
        search = {"init": start.centers[len(fixed) :], "refine": polish}
    search["callback"] = callback
    result = kmeans(x, n_colors, weights=histogram.counts, engine=chosen, **search, **clustering)
    found = space.decode(result.centers[len(fixed) :], histogram.colors.shape[1])
    assert result.labels is not None  # as the colors are in one tensor
    found = _solid(found, result.labels.long() - len(fixed), histogram)
    colors, labels = _complete(fixed, found, histogram, x, space, chosen)
    return Palette(
        colors=colors,
        labels=labels.to(torch.uint8),
        engine=chosen.name,
        mse=_mse(histogram, colors, labels),
        n_iter=int(result.n_iter),
        converged=bool(result.converged),
    )


def mean_squared_error(
    image: UInt8[Tensor, "*batch h w c"], palette: UInt8[Tensor, "k c"], indices: UInt8[Tensor, "*batch h w"]
) -> float:
    """What `Palette.mse` is, of an image and the colors of a palette at these indices: exact but for one division."""
    pixels, places = image.reshape(-1, image.shape[-1]), indices.reshape(-1)
    colors, total = SRGB.encode(palette), 0
    for block in blocks(len(pixels), _BLOCK):
        off = SRGB.encode(pixels[block]) - colors.index_select(0, places[block].int())
        total += int(off.long().square().sum())
    return total / len(pixels) / steps_of_a_level(pixels.shape[1]) ** 2


def with_invisible(colors: UInt8[Tensor, "k c"], histogram: ColorHistogram, most: int) -> UInt8[Tensor, "n c"]:
    """The colors and, if the histogram has invisible pixels and they do not, what is invisible, up to `most` in all.

    Else a mean with faint pixels would let all of them be seen a little, or an opaque color hide them.
    """
    if colors.shape[1] in (1, 3) or len(colors) >= most:
        return colors
    if (colors[:, -1] == 0).any() or not (histogram.colors[:, -1] == 0).any():
        return colors
    return torch.cat([colors, colors.new_zeros(1, colors.shape[1])])


def breaths(refine: int | None, n_colors: int) -> int:
    """The breaths asked for, or as many as pay: for more than 64 colors the second costs much and gains little."""
    return refine if refine is not None else (2 if n_colors <= _TWO_BREATHS_UP_TO else 1)


def check_n_colors(n_colors: object) -> None:
    """TypeError or ValueError unless this is a number of colors that a palette may have."""
    if isinstance(n_colors, bool) or not isinstance(n_colors, int):
        raise TypeError(f"n_colors must be an int, got {type(n_colors).__name__}")
    if not 1 <= n_colors <= 256:
        raise ValueError(f"n_colors must be from 1 to 256, got {n_colors}")


def check_colors(colors: object, name: str, image: Tensor, most: int) -> None:
    """TypeError or ValueError unless these are at most so many colors (K, C) for this image (..., C)."""
    if not isinstance(colors, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(colors).__name__}")
    if colors.dtype != torch.uint8:
        raise TypeError(f"{name} must be uint8, got {colors.dtype}")
    channels = image.shape[-1]
    if colors.ndim != 2 or colors.shape[1] != channels or colors.device != image.device:
        wanted = f"(K, {channels}) on {image.device}, as the image has {channels} channels"
        raise ValueError(f"{name} must have shape {wanted}, got shape {tuple(colors.shape)} on {colors.device}")
    if len(colors) > most:
        raise ValueError(f"{name} must have at most {most} colors, got {len(colors)}")


def _without_clustering(histogram: ColorHistogram, n_colors: int, fixed: Tensor, space: ColorSpace) -> Palette | None:
    """Fixed colors (F, C) and after them all others of the histogram, unless these are too many."""
    if len(histogram.colors) > n_colors:
        return None
    labels = torch.zeros(len(histogram.colors), dtype=torch.int64, device=fixed.device)
    other = torch.ones_like(labels, dtype=torch.bool)
    if len(fixed) > 0:
        near = assign(space.encode(histogram.colors), space.encode(fixed))
        labels, other = near.labels, near.sqdist > 0
    if len(fixed) + int(other.sum()) > n_colors:
        return None
    labels = torch.where(other, len(fixed) + other.cumsum(0) - 1, labels).to(torch.uint8)
    colors = torch.cat([fixed, histogram.colors[other]])
    return Palette(colors=colors, labels=labels, engine=None, mse=0.0, n_iter=0, converged=True)


def _solid(found: Tensor, labels: Tensor, histogram: ColorHistogram) -> Tensor:
    """The colors (K, C), opaque where most pixels of the cluster (labels (M,), below 0 of none) are.

    A mean with a few pixels of an edge would let something shine through all those that are opaque.
    """
    if found.shape[1] in (1, 3):
        return found
    inside = labels >= 0
    opaque = torch.where(histogram.colors[:, -1] == 255, histogram.counts, -histogram.counts)
    balance = torch.zeros(len(found), dtype=torch.int64, device=found.device)
    balance.scatter_add_(0, labels[inside].long(), opaque[inside])
    alpha = torch.where(balance > 0, 255, found[:, -1])
    return torch.cat([found[:, :-1], alpha[:, None].to(torch.uint8)], dim=1)


def _complete(
    fixed: Tensor, found: Tensor, histogram: ColorHistogram, x: Tensor, space: ColorSpace, engine: Engine
) -> tuple[Tensor, Tensor]:
    """The fixed colors (F, C) and as many others as were found; for each color of the histogram the nearest's index.

    Those found (K - F, C) that are equal to another, or not the nearest one of any color of the histogram, whose points
    are x (M, D), give way to the worst-served colors of the histogram.
    """
    n_colors, free = len(fixed) + len(found), _distinct(found)
    while True:
        colors = torch.cat([fixed, free])
        labels, sqdist = assign(x, space.encode(colors), engine=engine)
        used = torch.bincount(labels, minlength=len(colors)) > 0
        used[: len(fixed)] = True
        more = _worst_served(x, sqdist, histogram.counts, n_colors - int(used.sum()))
        if len(more) == 0:
            # Places in the palette that is left: the number of used colors before each.
            return colors[used], (used.cumsum(0) - 1).index_select(0, labels)
        # They may leave nothing to others. They themselves stay, as each is the nearest to itself, so this ends.
        free = _distinct(torch.cat([free[used[len(fixed) :]], histogram.colors[more]]))


def _distinct(colors: Tensor) -> Tensor:
    """The distinct ones in lexicographic order."""
    return torch.unique(colors, dim=0) if len(colors) else colors


def _worst_served(x: Tensor, sqdist: Tensor, counts: Tensor, n: int) -> Tensor:
    """Rows of n points x (M, D), one after the other that of the largest count times squared distance (M,).

    The distance is to what serves it, or to one of those before, if that is nearer. The lowest row of equal ones; fewer
    rows where nothing is left that is not served exactly.
    """
    columns, rows = x.T, []
    for _ in range(n):
        lost = sqdist.double() * counts
        most = lost.max()
        if most == 0:
            break
        row = (lost == most).nonzero()[0, 0]  # argmax takes any of equal ones
        rows.append(row)
        sqdist = torch.minimum(sqdist, squared_distance(columns, columns[:, row, None].expand_as(columns)))
    return torch.stack(rows) if rows else torch.empty(0, dtype=torch.int64, device=x.device)


def _mse(histogram: ColorHistogram, colors: Tensor, labels: Tensor) -> float:
    """Mean squared error of the pixels in these colors (K, C), by exact integers."""
    off = SRGB.encode(histogram.colors) - SRGB.encode(colors).index_select(0, labels)
    total = (off.long().square().sum(dim=1) * histogram.counts).sum()
    return int(total) / int(histogram.counts.sum()) / steps_of_a_level(histogram.colors.shape[1]) ** 2
