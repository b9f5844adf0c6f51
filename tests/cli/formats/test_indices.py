import numpy as np
import pytest

from gpukmeans_cli.formats.indices import index_counts, look_up, row_blocks


@pytest.mark.parametrize(("height", "width", "size"), [(1, 1, 1), (10, 3, 9), (10, 3, 2), (7, 1000, 5), (3, 0, 4)])
def test_blocks_of_rows_cover_all_rows_in_order_and_have_at_most_that_many_pixels(height, width, size):
    blocks = list(row_blocks(height, width, size))
    assert [row for rows in blocks for row in range(rows.start, rows.stop)] == list(range(height))
    assert all((rows.stop - rows.start) * width <= max(size, width) for rows in blocks)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (700, 400)])
def test_counts_and_look_ups_are_those_of_the_whole_array(shape):
    indices = np.random.default_rng(0).integers(0, 200, shape, dtype=np.uint8)
    table = np.random.default_rng(1).integers(0, 256, (200, 4), dtype=np.uint8)
    np.testing.assert_array_equal(index_counts(indices, 256), np.bincount(indices.ravel(), minlength=256))
    np.testing.assert_array_equal(look_up(table, indices), table[indices])
    np.testing.assert_array_equal(look_up(table[:, 0], indices), table[indices, 0])
