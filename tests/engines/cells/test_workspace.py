import torch

from gpukmeans.engines.cells.workspace import Workspace


def test_a_table_reuses_the_memory_of_the_last_one_of_its_name_if_that_is_large_enough():
    workspace, like = Workspace(), torch.empty(0)
    first = workspace.table("a", (4, 3), like)
    assert first.shape == (4, 3)
    assert workspace.table("a", (2, 1, 5), like).data_ptr() == first.data_ptr()
    assert workspace.table("b", (4, 3), like).data_ptr() != first.data_ptr()
    assert workspace.table("a", (13,), like).shape == (13,)


def test_a_table_has_the_requested_dtype_and_not_that_of_the_last_one():
    workspace = Workspace()
    assert workspace.table("a", (8,), torch.empty(0)).dtype == torch.float32
    assert workspace.table("a", (4,), torch.empty(0, dtype=torch.float64)).dtype == torch.float64
    assert workspace.table("a", (), torch.empty(0)).shape == ()
