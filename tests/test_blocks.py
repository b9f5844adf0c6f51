import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.blocks import blocks


@given(st.integers(0, 100), st.integers(1, 200))
def test_blocks_cover_the_length_in_order_and_none_is_too_long(length, size):
    found = list(blocks(length, size))
    assert [i for block in found for i in range(block.start, block.stop)] == list(range(length))
    assert all(1 <= block.stop - block.start <= size for block in found)


@pytest.mark.parametrize("size", [0, -3])
def test_a_block_has_at_least_one(size):
    assert len(list(blocks(5, size))) == 5
