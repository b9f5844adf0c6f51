import pytest
import torch
from helpers import oracle
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.distance import squared_distance


def test_three_channels_have_the_distance_worked_out_by_hand():
    x = torch.tensor([[1.0], [2.0], [3.0]])
    y = torch.tensor([[4.0], [6.0], [3.0]])
    assert squared_distance(x, y).tolist() == [9 + 16]


def test_channels_broadcast_to_all_pairs():
    x = torch.tensor([[0.0, 1.0]])
    y = torch.tensor([[10.0, 20.0, 30.0]])
    assert squared_distance(x[:, :, None], y[:, None]).tolist() == [[100, 400, 900], [81, 361, 841]]


def test_up_to_eight_channels_are_added_from_left_to_right():
    # In float32, 2**24 + 1 rounds to 2**24: ones added after the large square are lost, ones before it are not.
    first = torch.tensor([[4096.0], [1.0], [1.0], [1.0]])
    last = first.flip(0)
    zero = torch.zeros(4, 1)
    assert squared_distance(first, zero).item() == 2**24
    assert squared_distance(last, zero).item() == 2**24 + 4  # 2**24 + 3, rounded to even


@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 9, 15, 16, 17, 100, 257])
def test_distances_of_any_number_of_channels_agree_with_the_oracle(width):
    x, y = torch.randn(2, width, 5, generator=torch.Generator().manual_seed(width))
    expected = torch.tensor([oracle.sqdist(x[:, i].tolist(), y[:, i].tolist()) for i in range(5)])
    torch.testing.assert_close(squared_distance(x, y), expected, rtol=2e-6, atol=0)


def test_inputs_are_not_changed():
    x, y = torch.rand(20, 4), torch.rand(20, 4)
    copies = x.clone(), y.clone()
    squared_distance(x, y)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])


@given(st.integers(1, 20), st.integers(0, 2**31))
def test_bits_do_not_depend_on_the_number_of_points(width, seed):
    x, y = torch.randn(2, width, 37, generator=torch.Generator().manual_seed(seed))
    whole = squared_distance(x, y)
    one_by_one = torch.cat([squared_distance(x[:, i : i + 1], y[:, i : i + 1]) for i in range(37)])
    assert torch.equal(whole, one_by_one)
