import pytest
import torch
from helpers.problems import seeded

from gpukmeans.engines.plain import TorchEngine
from gpukmeans.points.base import Masses, Part, Urn
from gpukmeans.points.tensor import TensorPart


def part_of(x, weights=None, **options):
    return TensorPart(x, weights, TorchEngine(), torch.float32, **options)


def urn(part, masses, scale, centers):
    problems = range(len(part.x))
    return part.urn(masses, part.assign(centers, problems), torch.tensor([scale] * len(part.x)).double(), problems)


def test_a_tensor_is_a_part_and_its_urn_an_urn():
    part = part_of(torch.rand(1, 3, 1))
    assert isinstance(part, Part)
    assert isinstance(urn(part, Masses.WEIGHT, 1.0, torch.zeros(1, 1, 1)), Urn)


X = torch.tensor([[[0.0], [1.0], [2.0], [4.0]]])
CENTER = torch.tensor([[[1.0]]])


@pytest.mark.parametrize(
    ("masses", "weights", "scale", "rows"),
    [
        (Masses.WEIGHT, None, 1.0, [0, 1, 2, 3]),
        (Masses.WEIGHT, [2, 0, 1, 1], 1.0, [0, 0, 2, 3]),
        (Masses.WEIGHT, [0.5, 0.0, 1.0, 0.25], 4.0, [0, 0, 2, 2, 2, 2, 3]),
        (Masses.OFF, None, 1.0, [0, 2, 3]),
        (Masses.OFF, [2, 5, 1, 0], 1.0, [0, 0, 2]),
        (Masses.FAR, None, 1.0, [0, 2, *[3] * 9]),
        (Masses.FAR, [1, 7, 2, 1], 2.0, [0] * 2 + [2] * 4 + [3] * 18),
    ],
)
def test_a_point_fills_as_many_positions_of_an_urn_as_its_mass_has_steps(masses, weights, scale, rows):
    weights = None if weights is None else torch.tensor([weights])
    found = urn(part_of(X, weights), masses, scale, CENTER)
    assert found.totals.tolist() == [[len(rows)]]
    assert torch.equal(found.take(torch.arange(len(rows))[None]), X[:, rows])


def test_totals_of_an_urn_keep_nothing_of_the_rows():
    found = urn(part_of(torch.rand(1, 5000, 1)), Masses.OFF, 1.0, CENTER).totals
    assert found.untyped_storage().nbytes() == 8


def test_an_urn_of_nothing_gives_any_point():
    found = urn(part_of(X[:, 1:2]), Masses.FAR, 1.0, CENTER)
    assert found.totals.tolist() == [[0]]
    assert found.take(torch.tensor([[0, 0]])).tolist() == [[[1], [1]]]


def test_errors_call_points_by_their_name_and_a_single_problem_by_its_own_shape():
    x = torch.rand(1, 5, 2, generator=seeded())
    x[0, 3] = 0
    with pytest.raises(ValueError, match=r"batch 2 of x must have no zero row .* got row 3$"):
        part_of(x, directions=True, name="batch 2 of x").spread(torch.ones(1).double())
    x[0, 3] = torch.nan
    with pytest.raises(ValueError, match=r"batch 2 of x must be finite, .* its \(5, 2\) values"):
        part_of(x, name="batch 2 of x").census()


def test_weights_are_rounded_to_their_grid_and_what_is_left_of_a_tiny_one_is_absence():
    part = part_of(X, torch.tensor([[0.75, 0.3, 0.1, 1e-9]])).weighed(torch.tensor([4.0]).double())
    assert part.weights.tolist() == [[0.75, 0.25, 0, 0]]
    spread = part.spread(torch.tensor([4.0]).double())
    assert (spread.total.tolist(), spread.n_present.tolist()) == ([4], [2])
    assert (spread.lowest.tolist(), spread.highest.tolist()) == ([[0]], [[1]])
