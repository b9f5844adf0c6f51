import pytest
import torch
from helpers.problems import seeded

from gpukmeans.engines.fused.storage import in_place, sorted_copy


def test_in_place_is_a_view():
    x = torch.rand(2, 5, 3)
    stored = in_place(x, None)
    assert stored.x.shape == (2, 3, 5)
    assert stored.x.data_ptr() == x.data_ptr()
    assert stored.rows is None


@pytest.mark.parametrize("n", [1, 63, 64, 65])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_a_sorted_copy_holds_each_point_with_its_weight_and_its_row(n, dtype):
    x = (torch.rand(2, n, 3, generator=seeded()) * 99).to(dtype)
    weights = torch.rand(2, n, generator=seeded(1))
    stored = sorted_copy(x, weights)
    assert (stored.n, stored.x.dtype, stored.rows.dtype) == (n, dtype, torch.int32)
    assert torch.equal(stored.rows[:, :n].sort(dim=1).values, torch.arange(n, dtype=torch.int32).expand(2, -1))
    for problem in range(2):
        rows = stored.rows[problem].long()
        assert torch.equal(stored.x[problem].mT, x[problem, rows])
        assert torch.equal(stored.weights[problem], weights[problem, rows])


def test_the_channels_of_a_sorted_copy_begin_at_multiples_of_16_bytes():
    stored = sorted_copy(torch.zeros(2, 70, 3, dtype=torch.uint8), None)
    assert stored.x.shape == (2, 3, 128)
    assert all(stride % 16 == 0 for stride in stored.x.stride()[:2])
    assert stored.x.stride(2) == 1
    assert stored.weights is None
