import pytest
import torch
from helpers.problems import seeded
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.metrics import METRICS, unit_rows


@given(st.integers(1, 40), st.sampled_from([1e-30, 1.0, 1e30]), st.integers(0, 2**31))
def test_unit_rows_are_rows_divided_by_their_norms(width, scale, seed):
    x = torch.randn(7, width, generator=seeded(seed)) * scale
    expected = x.double() / x.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(unit_rows(x, torch.float64), expected, rtol=1e-14, atol=0)
    assert torch.equal(unit_rows(x, torch.float32), unit_rows(x, torch.float64).float())


def test_the_largest_and_smallest_float64_have_unit_rows():
    x = torch.tensor([[1e308, 1e308], [5e-324, 0.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(unit_rows(x, torch.float64), x.new_tensor([[0.5**0.5, 0.5**0.5], [1, 0], [0, 0]]))


def test_unit_rows_have_the_gradient_of_the_division_by_the_norm():
    x = torch.randn(5, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: unit_rows(rows, torch.float64), (x,))


def test_the_cosine_metric_is_half_the_squared_distance_of_unit_rows():
    u, v = unit_rows(torch.randn(2, 9, 5, generator=seeded()), torch.float64)
    cosine = 1 - (u * v).sum(dim=1)
    torch.testing.assert_close((u - v).square().sum(dim=1) * METRICS["cosine"].factor, cosine)


def test_projected_means_are_unit_vectors_and_a_zero_mean_keeps_the_center():
    means = torch.tensor([[[0.0, 0.5], [0.0, 0.0]]], dtype=torch.float64)
    centers = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    projected = METRICS["cosine"].project(means, centers)
    torch.testing.assert_close(projected, torch.tensor([[[0.0, 1.0], [0.6, 0.8]]]).double())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64])
def test_the_euclidean_metric_returns_points_unchanged(dtype):
    x = torch.ones(2, 2, dtype=dtype)
    assert METRICS["euclidean"].prepare(x, torch.float32) is x
