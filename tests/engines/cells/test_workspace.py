import torch

from gpukmeans.engines.cells.workspace import Scratch


def test_a_table_lies_on_the_memory_of_the_last_one_of_its_name_if_that_is_large_enough():
    scratch, like = Scratch(), torch.empty(0)
    first = scratch.table("a", (4, 3), like)
    assert first.shape == (4, 3)
    assert scratch.table("a", (2, 1, 5), like).data_ptr() == first.data_ptr()
    assert scratch.table("b", (4, 3), like).data_ptr() != first.data_ptr()
    assert scratch.table("a", (13,), like).shape == (13,)


def test_a_table_has_the_dtype_that_was_asked_for_whatever_the_last_one_had():
    scratch = Scratch()
    assert scratch.table("a", (8,), torch.empty(0)).dtype == torch.float32
    assert scratch.table("a", (4,), torch.empty(0, dtype=torch.float64)).dtype == torch.float64
    assert scratch.table("a", (), torch.empty(0)).shape == ()
