"""Palette re-indexing: orders in which adjacent pixels have close indices, which the filters of PNG make small."""

import numpy as np

from gpukmeans_cli.formats.indices import row_blocks


def palette_orders(indices: np.ndarray, n_colors: int) -> list[np.ndarray]:
    """Permutations of a palette of `n_colors`, by the entropy of index differences of adjacent pixels, lowest first.

    `indices` is uint8 (height, width). Each permutation lists the old indices in their new order.
    """
    if n_colors == 1:
        return [np.arange(1)]
    counts = _adjacency_counts(indices, n_colors)
    orders = [_chained_order(counts), _grown_order(counts)]
    return sorted(orders, key=lambda order: _difference_entropy(counts, order))


def _adjacency_counts(indices: np.ndarray, n_colors: int) -> np.ndarray:
    """Count of adjacent pixels, horizontal or vertical, of each color pair: int64 (K, K), symmetric, 0 diagonal."""
    pairs = np.zeros(n_colors**2, dtype=np.int64)
    for rows in row_blocks(*indices.shape):
        block = indices[rows.start : rows.stop + 1]  # with the row below
        first, n_rows = block.astype(np.int32) * n_colors, rows.stop - rows.start
        pairs += np.bincount((first[:n_rows, :-1] + block[:n_rows, 1:]).ravel(), minlength=n_colors**2)
        pairs += np.bincount((first[:-1] + block[1:]).ravel(), minlength=n_colors**2)
    pairs = pairs.reshape(n_colors, n_colors)
    counts = pairs + pairs.T
    np.fill_diagonal(counts, 0)
    return counts


def _chained_order(counts: np.ndarray) -> np.ndarray:
    """Greedy Hamiltonian path: links the pairs of highest count, skips links that would branch or close a cycle.

    Battiato, Gallo, Impoco and Stanco, "An efficient re-indexing algorithm for color-mapped images" (2004). Equal
    counts are linked by row, then by column.
    """
    n_colors = len(counts)
    first, second = np.triu_indices(n_colors, 1)
    by_count = np.argsort(-counts[first, second], kind="stable")
    links: list[list[int]] = [[] for _ in range(n_colors)]
    other_end = list(range(n_colors))  # valid for the two ends of each chain only
    n_missing = n_colors - 1
    for a, b in zip(first[by_count].tolist(), second[by_count].tolist(), strict=True):
        if not n_missing:
            break
        if len(links[a]) < 2 and len(links[b]) < 2 and other_end[a] != b:
            links[a].append(b)
            links[b].append(a)
            end_a, end_b = other_end[a], other_end[b]
            other_end[end_a], other_end[end_b] = end_b, end_a
            n_missing -= 1
    chain = [next(color for color in range(n_colors) if len(links[color]) < 2)]
    while len(chain) < n_colors:
        chain.append(next(color for color in links[chain[-1]] if color not in chain[-2:-1]))
    return np.array(chain)


def _grown_order(counts: np.ndarray) -> np.ndarray:
    """Modified Zeng order: adds the color most often adjacent to the placed ones, on the side where its neighbors are.

    Pinho and Neves, "A note on Zeng's technique for color re-indexing of palette-based images" (2004). Ties: the lowest
    color, the right side.
    """
    n_colors = len(counts)
    order = list(divmod(int(counts.argmax()), n_colors))
    unplaced = np.ones(n_colors, dtype=bool)
    unplaced[order] = False
    with_placed = counts[order].sum(axis=0)
    while unplaced.any():
        color = int(np.where(unplaced, with_placed, -1).argmax())
        unplaced[color] = False
        with_placed = with_placed + counts[color]
        leftward = np.arange(len(order) - 1, -len(order), -2)
        order.insert(0 if leftward @ counts[color, order] > 0 else len(order), color)
    return np.array(order)


def _difference_entropy(counts: np.ndarray, order: np.ndarray) -> float:
    """Entropy in bits, summed over all adjacent pixels, of the index difference modulo 256."""
    differences = np.subtract.outer(np.arange(len(order)), np.arange(len(order))) & 255
    frequencies = np.bincount(differences.ravel(), weights=counts[np.ix_(order, order)].ravel())
    frequencies = frequencies[frequencies > 0]
    return float(frequencies @ np.log2(frequencies.sum() / frequencies))
