import pytest
import torch
from helpers.problems import seeded

from gpukmeans.engines.fused.storage import sorted_copy, unsorted


def test_unsorted_points_are_a_view():
    x = torch.rand(2, 5, 3)
    kernel_input = unsorted(x, None)
    assert kernel_input.x.shape == (2, 3, 5)
    assert kernel_input.x.data_ptr() == x.data_ptr()
    assert kernel_input.rows is None


@pytest.mark.parametrize("n", [1, 63, 64, 65])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_a_sorted_copy_has_each_point_with_its_weight_and_its_row(n, dtype):
    x = (torch.rand(2, n, 3, generator=seeded()) * 99).to(dtype)
    weights = torch.rand(2, n, generator=seeded(1))
    kernel_input = sorted_copy(x, weights)
    assert (kernel_input.n, kernel_input.x.dtype, kernel_input.rows.dtype) == (n, dtype, torch.int32)
    assert torch.equal(kernel_input.rows[:, :n].sort(dim=1).values, torch.arange(n, dtype=torch.int32).expand(2, -1))
    for problem in range(2):
        rows = kernel_input.rows[problem].long()
        assert torch.equal(kernel_input.x[problem].mT, x[problem, rows])
        assert torch.equal(kernel_input.weights[problem], weights[problem, rows])


def test_the_channels_of_a_sorted_copy_begin_at_multiples_of_16_bytes():
    kernel_input = sorted_copy(torch.zeros(2, 70, 3, dtype=torch.uint8), None)
    assert kernel_input.x.shape == (2, 3, 128)
    assert all(stride % 16 == 0 for stride in kernel_input.x.stride()[:2])
    assert kernel_input.x.stride(2) == 1
    assert kernel_input.weights is None
