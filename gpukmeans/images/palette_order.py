"""Palette re-indexing: palette orders in which adjacent pixels have close indices, so that PNG residuals are small."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.fused import png as cuda
from gpukmeans.engines.fused.availability import has_kernels
from gpukmeans.engines.native import png
from gpukmeans.engines.native.tensors import takes
from gpukmeans.images.png_rate import binary_logarithms
from gpukmeans.tiling import blocks

# Largest number of places by which refinement moves a color. The time is proportional to this number. A larger number
# saves only 0.2 % of the bytes.
_REACH = 16

# Number of pixels whose pairs are counted at a time.
_BLOCK = 1 << 18


def palette_orders(indices: UInt8[Tensor, "h w"], n_colors: int) -> list[Int[Tensor, " k"]]:
    """Permutations (K,), int64 on the CPU, of a palette of K colors, lowest entropy first.

    The entropy is computed for the differences between the indices of adjacent pixels. A permutation lists the old
    indices in their new order. The first permutation is refined by moves of single colors that reduce code lengths.

    Args:
        indices: uint8 (H, W), below K.
        n_colors: K.

    Example:
        >>> palette_orders(torch.tensor([[0, 2, 1, 2, 0]], dtype=torch.uint8), 3)[0].tolist()
        [0, 2, 1]
    """
    if n_colors == 1:
        return [torch.zeros(1, dtype=torch.int64, device="cpu")]
    counts = _adjacency_counts(indices, n_colors).cpu()
    by_kernels = takes(counts, dtype=torch.int64)
    if by_kernels:
        orders = [png.chained_order(counts), png.grown_order(counts)]
    else:
        orders = [_chained_order(counts), _grown_order(counts)]
    count_differences = png.difference_counts if by_kernels else _difference_counts
    best, *others = sorted(orders, key=lambda order: _entropy(count_differences(counts, order)))
    lengths = -binary_logarithms(count_differences(counts, best) + 1)
    refine = png.refined_order if by_kernels else _refined_order
    return [refine(counts, best, lengths, _REACH), *others]


def _adjacency_counts(indices: Tensor, n_colors: int) -> Tensor:
    """Number of adjacent pixels, horizontal or vertical, of each color pair: int64 (K, K), symmetric, diagonal 0."""
    if takes(indices, dtype=torch.uint8):
        pairs = png.adjacency_counts(indices.contiguous(), n_colors)
        return (pairs + pairs.T).fill_diagonal_(0)
    if has_kernels(indices):
        return cuda.adjacency_counts(indices, n_colors)
    pairs = torch.zeros(n_colors**2, dtype=torch.int64, device=indices.device)
    for rows in blocks(len(indices), max(1, _BLOCK // indices.shape[1])):
        block = indices[rows.start : rows.stop + 1].int()  # with the row below
        own = block[: rows.stop - rows.start]
        for first, second in ((own[:, :-1], own[:, 1:]), (block[:-1], block[1:])):
            pairs += torch.bincount((first * n_colors + second).flatten(), minlength=n_colors**2)
    pairs = pairs.view(n_colors, n_colors)
    return (pairs + pairs.T).fill_diagonal_(0)


def _chained_order(counts: Tensor) -> Tensor:
    """Order of the colors on a greedy Hamiltonian path. Pairs of colors are linked in descending order of their count.

    Links that would branch or close a cycle are skipped. Pairs with equal counts are ordered by row, then by column.
    Battiato, Gallo, Impoco and Stanco, "An efficient re-indexing algorithm for color-mapped images" (2004).
    """
    n_colors = len(counts)
    first, second = torch.triu_indices(n_colors, n_colors, 1, device="cpu")
    by_count = counts[first, second].sort(descending=True, stable=True).indices
    links: list[list[int]] = [[] for _ in range(n_colors)]
    other_end = list(range(n_colors))  # valid for the two ends of each chain only
    n_links = 0
    for a, b in zip(first[by_count].tolist(), second[by_count].tolist(), strict=True):
        if len(links[a]) < 2 and len(links[b]) < 2 and other_end[a] != b:
            links[a].append(b)
            links[b].append(a)
            end_a, end_b = other_end[a], other_end[b]
            other_end[end_a], other_end[end_b] = end_b, end_a
            n_links += 1
            if n_links == n_colors - 1:
                break
    chain = [next(color for color in range(n_colors) if len(links[color]) < 2)]
    while len(chain) < n_colors:
        chain.append(next(color for color in links[chain[-1]] if color not in chain[-2:-1]))
    return torch.tensor(chain, dtype=torch.int64, device="cpu")


def _grown_order(counts: Tensor) -> Tensor:
    """Modified Zeng order: the color most often adjacent to placed colors is added, at the end nearer to its neighbors.

    Pinho and Neves, "A note on Zeng's technique for color re-indexing of palette-based images" (2004). The lowest
    color wins a tie of colors, and the right end wins a tie of ends.
    """
    n_colors, rows = len(counts), counts.tolist()
    first = max(range(n_colors), key=lambda color: max(rows[color]))
    order = [first, max((color for color in range(n_colors) if color != first), key=rows[first].__getitem__)]
    unplaced = [color for color in range(n_colors) if color not in order]
    with_placed = counts[order].sum(dim=0)
    while unplaced:
        totals = with_placed.tolist()
        color = max(unplaced, key=totals.__getitem__)
        unplaced.remove(color)
        with_placed += counts[color]
        row, weight = rows[color], len(order) - 1
        leftward = sum((weight - 2 * place) * row[other] for place, other in enumerate(order))
        order.insert(0 if leftward > 0 else len(order), color)
    return torch.tensor(order, dtype=torch.int64, device="cpu")


def _refined_order(counts: Tensor, order: Tensor, lengths: Tensor, reach: int) -> Tensor:
    """The order after each color has moved by up to `reach` places to the place of the least total code length.

    `lengths` (256,), int64, are the code lengths of index differences. Colors move one after another, in the given
    order. A move shifts the colors in between. The present place wins a tie, then the nearest place to the left, then
    the nearest place to the right.
    """
    colors, places = order.tolist(), order.argsort()
    for color in order.tolist():
        start = int(places[color])
        best, best_place = 0, start
        for step in (-1, 1):
            change = 0
            for place in range(start + step, start + step * (reach + 1), step):
                if not 0 <= place < len(colors):
                    break
                change += _swap(counts, colors, places, lengths, place - step, place)
                if change < best:
                    best, best_place = change, place
            while places[color] != start:
                place = int(places[color])
                _swap(counts, colors, places, lengths, place, place - step)
        step = 1 if best_place > start else -1
        for place in range(start, best_place, step):
            _swap(counts, colors, places, lengths, place, place + step)
    return torch.tensor(colors, device="cpu")


def _swap(counts: Tensor, colors: list[int], places: Tensor, lengths: Tensor, place: int, other_place: int) -> int:
    """Swap the colors at two adjacent places, in `colors` and `places`, and return the change of the code lengths."""
    color, other = colors[place], colors[other_place]
    change = lengths[(places - other_place).abs()] - lengths[(places - place).abs()]
    change[[color, other]] = 0
    colors[place], colors[other_place] = other, color
    places[color], places[other] = other_place, place
    return int(((counts[color] - counts[other]) * change).sum())


def _difference_counts(counts: Tensor, order: Tensor) -> Tensor:
    """Counts (256,), int64, of differences modulo 256 of adjacent indices in a palette of this order (K,)."""
    n_colors = len(order)
    places = torch.arange(n_colors, device="cpu")
    differences = (places[:, None] - places) & 255
    frequencies = torch.zeros(256, dtype=torch.int64, device="cpu")
    return frequencies.index_add_(0, differences.flatten(), counts[order][:, order].flatten())


def _entropy(frequencies: Tensor) -> int:
    """Entropy of values with these frequencies, summed over all values, in 1/64 bit. Frequencies may be 0."""
    return int((frequencies * (binary_logarithms(frequencies.sum()) - binary_logarithms(frequencies))).sum())
