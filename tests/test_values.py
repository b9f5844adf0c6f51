import pytest
import torch

from gpukmeans.values import Range, check_directions, check_reach, check_spread, diagonal, finite_range, joined_range


def test_the_range_is_that_of_each_coordinate_of_each_problem_and_joins():
    x = torch.tensor([[[1, 5], [3, 2]], [[0, 0], [7, -7]]])
    found = finite_range(x, "x")
    assert found.lowest.tolist() == [[1, 2], [0, -7]]
    assert found.highest.tolist() == [[3, 5], [7, 0]]
    both = joined_range(Range(*(bound[0] for bound in found)), Range(*(bound[1] for bound in found)))
    assert (both.lowest.tolist(), both.highest.tolist()) == ([0, -7], [7, 5])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_is_refused_by_name_and_shape(bad):
    x = torch.zeros(3, 2)
    x[1, 1] = bad
    with pytest.raises(ValueError, match=r"batch 4 of x must be finite, .* among its \(3, 2\) values"):
        finite_range(x, "batch 4 of x")


def test_the_diagonal_of_a_box_is_squared():
    assert diagonal(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 5.0]])).tolist() == [25]


def test_a_spread_whose_squares_overflow_or_vanish_is_refused():
    def spread(width):
        return Range(torch.zeros(1, 2).double(), torch.full((1, 2), width).double())

    check_spread(spread(1e18), torch.float32, "x")
    with pytest.raises(ValueError, match=r"must stay below 3.4e.38, .* of x spread over up to 1e.20: scale them down"):
        check_spread(spread(1e20), torch.float32, "x")
    check_spread(spread(1e20), torch.float64, "x")
    with pytest.raises(ValueError, match=r"must not vanish below .* spread over no more than 1e-20: scale them up"):
        check_spread(spread(1e-20), torch.float32, "x")
    check_spread(spread(0.0), torch.float32, "x")


def test_weights_times_squared_distances_must_fit_a_grid():
    one = torch.ones(1).double()
    check_reach(one, one * 2.0**899)
    check_reach(one, one * 0)
    for farthest in (2.0**901, 2.0**-901):
        with pytest.raises(ValueError, match=r"weights times squared distances must be from .* scale them"):
            check_reach(one, one * farthest)


def test_a_row_of_zeros_has_no_direction_unless_it_is_absent():
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"x must have no zero row .* got row 1$"):
        check_directions(x, "x")
    check_directions(x, "x", torch.tensor([True, False]))
