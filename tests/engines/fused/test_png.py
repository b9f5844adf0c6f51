import pytest
import torch
from helpers.problems import random_image

from gpukmeans.engines.fused import png

pytest.importorskip("triton")


@pytest.mark.parametrize("per_byte", [2, 4, 8])
@pytest.mark.parametrize("width", [1, 8, 13])
def test_unpacked_bytes_are_the_indices_that_were_packed(cuda, per_byte, width):
    indices = random_image(5, width, 1, 1 << 8 // per_byte, 0)[..., 0]
    rows = png.packed(indices.to(cuda), per_byte)
    assert rows.shape == (5, -(-width // per_byte))
    result = torch.zeros(indices.shape, dtype=torch.uint8, device=cuda)
    png.unpack(rows, per_byte, result)
    assert torch.equal(result.cpu(), indices)


def test_a_table_maps_each_index(cuda):
    indices, table = random_image(4, 9, 1, 7, 1)[..., 0], torch.tensor([6, 5, 4, 3, 2, 1, 0])
    found = png.mapped(indices.to(cuda), table.to(cuda))
    assert torch.equal(found.cpu().long(), table[indices.long()])
