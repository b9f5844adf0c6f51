import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.tiling import blocks, problem_index, tiles


@given(st.integers(0, 100), st.integers(1, 200))
def test_blocks_cover_the_length_in_order_up_to_the_size(length, size):
    found = list(blocks(length, size))
    assert [i for block in found for i in range(block.start, block.stop)] == list(range(length))
    assert all(1 <= block.stop - block.start <= size for block in found)


@pytest.mark.parametrize("size", [0, -3])
def test_a_block_has_at_least_one_entry(size):
    assert len(list(blocks(5, size))) == 5


@given(st.integers(0, 20), st.integers(1, 20), st.integers(-1, 500))
def test_tiles_cover_each_entry_once_in_order_up_to_the_size(n_runs, n_rows, size):
    covered = []
    for runs, rows in tiles(n_runs, n_rows, size):
        entries = [(run, row) for run in range(n_runs)[runs] for row in range(n_rows)[rows]]
        assert 1 <= len(entries) <= max(1, size)
        covered += entries
    assert covered == [(run, row) for run in range(n_runs) for row in range(n_rows)]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 500))
def test_a_tile_has_rows_of_one_run_or_several_whole_runs(n_runs, n_rows, size):
    for runs, rows in tiles(n_runs, n_rows, size):
        assert runs.stop - runs.start == 1 or rows == slice(0, n_rows)


@pytest.mark.parametrize("problems", [[1], [0, 2], [2, 2, 0], range(3), range(1, 2)])
def test_the_problems_of_runs_are_selected_in_the_order_of_the_runs(problems):
    x = torch.arange(6).reshape(3, 2)
    assert x[problem_index(problems, torch.tensor(problems))].tolist() == [x[problem].tolist() for problem in problems]


def test_a_single_problem_is_selected_without_a_copy():
    x = torch.arange(6).reshape(3, 2)
    assert x[problem_index([1], torch.tensor([1]))].data_ptr() == x[1].data_ptr()
