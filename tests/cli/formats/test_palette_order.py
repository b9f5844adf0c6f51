import numpy as np
import pytest

from gpukmeans_cli.formats import palette_order
from gpukmeans_cli.formats.palette_order import palette_orders


def test_the_chain_links_the_pairs_that_are_adjacent_most_often():
    indices = np.array([[0, 3, 0, 3, 0, 3, 1, 3, 1, 2]], np.uint8)
    counts = palette_order._adjacency_counts(indices, 4)
    np.testing.assert_array_equal(counts, [[0, 0, 0, 5], [0, 0, 1, 3], [0, 1, 0, 0], [5, 3, 0, 0]])
    np.testing.assert_array_equal(palette_order._chained_order(counts), [0, 3, 1, 2])


def test_the_order_grows_on_the_side_closer_to_the_neighbors_of_the_color():
    counts = palette_order._adjacency_counts(np.array([[0, 3, 0, 3, 0, 3, 1, 3, 1, 2]], np.uint8), 4)
    np.testing.assert_array_equal(palette_order._grown_order(counts), [0, 3, 1, 2])
    mirrored = palette_order._adjacency_counts(np.array([[0, 1, 0, 1, 0, 1, 0, 2, 0, 2, 3]], np.uint8), 4)
    np.testing.assert_array_equal(palette_order._grown_order(mirrored), [3, 2, 0, 1])


@pytest.mark.parametrize("n_colors", [2, 3, 17, 256])
def test_an_order_is_a_permutation(n_colors):
    indices = np.random.default_rng(n_colors).integers(0, n_colors, (400, 400)).astype(np.uint8)
    for order in palette_orders(indices, n_colors):
        np.testing.assert_array_equal(np.sort(order), np.arange(n_colors))


def test_the_entropy_of_differences_is_least_when_all_are_1():
    counts = palette_order._adjacency_counts(np.array([[0, 1, 2, 3]], np.uint8), 4)
    assert palette_order._difference_entropy(counts, np.arange(4)) == pytest.approx(6)  # one bit each: up or down
    assert palette_order._difference_entropy(counts, np.array([0, 2, 1, 3])) > 6
