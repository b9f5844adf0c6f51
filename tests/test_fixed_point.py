import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.fixed_point import finest_scale, from_fixed, to_fixed


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


def scale_for(total):
    return finest_scale(float64(total)).item()


@given(st.floats(1e-280, 1e300))
def test_the_sum_of_two_totals_at_the_limit_fits_an_int64(total):
    units = total * scale_for(total)
    assert units < 2**62
    assert 2 * units < 2**63


@given(st.floats(1e-280, 1e300))
def test_the_scale_is_the_finest_that_fits_and_a_power_of_two(total):
    assert total * scale_for(total) >= 2**60
    assert math.frexp(scale_for(total))[0] == 0.5


def test_a_total_of_0_has_scale_1():
    assert scale_for(0.0) == 1


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (3, 1, 2), (2, 0)])
def test_each_total_of_a_tensor_has_its_scale(shape):
    totals = float64([0.0, 5e-324, 1e-9, 1.0, 3.0, 1e300])[: math.prod(shape)].reshape(shape)
    scales = finest_scale(totals)
    assert scales.shape == shape
    assert scales.dtype == torch.float64
    assert scales.flatten().tolist() == [scale_for(total) for total in totals.flatten().tolist()]


@given(st.floats(0, 1.7976931348623157e308))
def test_the_scale_of_any_total_is_a_finite_power_of_two(total):
    assert math.frexp(scale_for(total))[0] == 0.5
    assert 2.0**-1000 <= scale_for(total) <= 2.0**1000


def test_the_scale_is_exact_at_the_extremes():
    smallest, largest = 5e-324, 1.7976931348623157e308
    assert scale_for(smallest) == 2.0**1000  # finer ones are not a finite float64
    assert scale_for(largest) == 2.0 ** (61 - 1024)
    assert scale_for(1.0) == 2.0**60


def test_terms_round_to_the_nearest_unit_and_ties_to_even():
    assert to_fixed(float64([0.25, 0.375, 0.625, -0.3]), float64(4.0)).tolist() == [1, 2, 2, -1]
    assert from_fixed(torch.tensor([3]), float64(4.0)).tolist() == [0.75]


def test_to_fixed_does_not_change_its_argument():
    terms = float64([0.3])
    to_fixed(terms, float64(1024.0))
    assert terms.item() == 0.3


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.randoms())
def test_the_order_of_terms_changes_no_bit(values, random):
    scale = finest_scale(float64(len(values) * 1e6))
    shuffled = random.sample(values, len(values))
    totals = [to_fixed(float64(row), scale).sum() for row in (values, shuffled)]
    assert torch.equal(*totals)
