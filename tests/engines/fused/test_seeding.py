import pytest
import torch
from helpers.problems import seeded

from gpukmeans import ENGINES
from gpukmeans.points.tensor import tensor_points
from gpukmeans.seeding import kmeans_plus_plus

pytest.importorskip("triton")


def seeded_centers(device, x, weights, k, fixed=None):
    """Centers on the CPU, and the state of the generator after the seeding."""
    generator = seeded(1)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    weights = None if weights is None else weights.to(device)
    points = tensor_points(x.to(device), weights, ENGINES["triton" if device == "cuda" else "plain"], dtype)
    centers = kmeans_plus_plus(points, k, generator, fixed=None if fixed is None else fixed.to(device))
    return centers.cpu(), generator.get_state()


@pytest.mark.parametrize(
    ("n", "width", "k", "dtype"),
    [
        (1, 1, 1, torch.float32),
        (3, 2, 3, torch.uint8),
        (1025, 3, 4, torch.float16),
        (40, 8, 9, torch.float32),
        (40, 7, 9, torch.float64),
    ],
)
def test_centers_and_random_numbers_are_those_of_the_cpu(cuda, n, width, k, dtype):
    x = (torch.rand(2, n, width, generator=seeded(), dtype=torch.float64) * 200).to(dtype)
    for weights in (None, torch.randint(0, 3, (2, n), generator=seeded(2)) + (torch.arange(n) < k)):
        found, expected = (seeded_centers(device, x, weights, k) for device in (cuda, "cpu"))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_if_all_points_are_at_centers_the_plain_seeding_takes_over(cuda):
    x = torch.tensor([[1.0], [1.0], [5.0], [5.0]]).expand(2, 4, 1)
    found, expected = (seeded_centers(device, x, None, 4) for device in (cuda, "cpu"))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_fixed_centers_come_first(cuda):
    x = torch.rand(1, 70, 2, generator=seeded())
    found, expected = (seeded_centers(device, x, None, 5, fixed=x[:, :2] + 1) for device in (cuda, "cpu"))
    assert torch.equal(found[0], expected[0])
