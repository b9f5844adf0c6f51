import pytest
import torch
from helpers.problems import assert_same_moments, fixed_point_of, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans import assign, kmeans
from gpukmeans.engines.cells.engine import CellsEngine
from gpukmeans.engines.plain import PlainEngine

DTYPES = [torch.uint8, torch.int32, torch.float16, torch.bfloat16, torch.float32, torch.float64]


def check(x, centers, problems, weights=None, engine=None):
    """Each of several calls of one bound engine has the result of the plain engine."""
    bound, plain = (e.bind(x, weights) for e in (engine or CellsEngine(4, 3), PlainEngine()))
    fixed_point = fixed_point_of(x, weights).select(torch.tensor(problems))
    for moved in (centers, centers + 0.125, centers + 0.127, centers + 0.126, centers.flip(1)):
        for found, expected in zip(bound.assign(moved, problems), plain.assign(moved, problems), strict=True):
            assert torch.equal(found, expected)
        assert_same_moments(bound.measure(moved, fixed_point, problems), plain.measure(moved, fixed_point, problems))


@given(
    n=st.integers(1, 60),
    k=st.integers(1, 12),
    width=st.integers(1, 8),
    levels=st.integers(1, 5),
    offset=st.sampled_from([0.0, 1e4, -1e6]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50)
def test_every_bit_is_that_of_the_plain_engine(n, k, width, levels, offset, dtype, weighted, seed):
    generator = seeded(seed)
    x = (torch.randint(levels, (2, n, width), generator=generator) / 3 + offset).to(dtype)
    centers = (torch.randint(levels, (3, k, width), generator=generator) / 3 + offset).to(dtype)
    weights = torch.randint(3, (2, n), generator=generator) if weighted else None
    if weights is not None:
        weights[:, 0] = 1
    check(x, centers, [1, 0, 1], weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 31, 32, 33, 301, 2000])
def test_every_bit_is_that_of_the_plain_engine_for_every_dtype_and_for_padded_cells(dtype, n):
    x = (torch.rand(1, n, 3, generator=seeded(), dtype=torch.float64) * 200).to(dtype)
    computed = torch.float64 if dtype in (torch.int32, torch.float64) else torch.float32
    check(x, torch.rand(1, 7, 3, generator=seeded(1), dtype=computed) * 200, [0], engine=CellsEngine())


@pytest.mark.parametrize(("size", "fanout"), [(1, 1), (2, 7), (5, 2), (64, 64)])
def test_no_bit_depends_on_the_size_of_cells(size, fanout):
    x, centers = torch.rand(1, 500, 3, generator=seeded()), torch.rand(1, 40, 3, generator=seeded(1))
    check(x, centers, [0], torch.rand(1, 500, generator=seeded(2)), CellsEngine(size, fanout))


def test_points_may_have_any_strides():
    x = torch.rand(3, 1, 300, generator=seeded()).permute(1, 2, 0)
    check(x, torch.rand(1, 9, 3, generator=seeded(1)), [0])


def test_a_point_of_weight_0_is_not_the_worst_served():
    x, weights = torch.tensor([[[9.0], [0.0], [0.0]]]), torch.tensor([[0, 1, 1]])
    moments = CellsEngine(2, 2).bind(x, weights).measure(torch.zeros(1, 1, 1), fixed_point_of(x, weights), [0])
    assert moments.worst_sqdist.item() == 0


def test_one_run_may_be_over_any_problem():
    x = torch.rand(3, 100, 3, generator=seeded())
    check(x, torch.rand(1, 9, 3, generator=seeded(1)), [2], torch.rand(3, 100, generator=seeded(2)))


@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_no_bit_depends_on_the_magnitude_of_the_points(scale):
    x = torch.rand(1, 200, 3, generator=seeded()) * scale
    centers = x[:, :20].clone()
    for found, expected in zip(
        CellsEngine(4, 3).bind(x, None).assign(centers, [0]),
        PlainEngine().bind(x, None).assign(centers, [0]),
        strict=True,
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("n_init", [1, 3])
def test_a_clustering_of_colors_has_the_bits_of_the_plain_engine(china, n_init):
    x, weights = china[::3, ::3].flatten(0, 1).unique(dim=0, return_counts=True)
    results = [
        kmeans(x, 24, weights=weights, n_init=n_init, max_iter=12, engine=engine) for engine in ("cells", "plain")
    ]
    for name in ("centers", "labels", "cluster_weights", "inertia", "n_iter"):
        assert torch.equal(*(getattr(result, name) for result in results)), name


def test_centers_may_be_changed_in_place_between_calls():
    x, centers = torch.rand(1, 500, 3, generator=seeded()), torch.rand(1, 40, 3, generator=seeded(1))
    bound, plain = CellsEngine(4, 3).bind(x, None), PlainEngine().bind(x, None)
    for move in (0.0, 1e-4, 2e-4, 0.3):
        centers += move
        assert torch.equal(bound.assign(centers, [0]).labels, plain.assign(centers, [0]).labels)


def test_more_than_8_coordinates_are_unsupported():
    assert CellsEngine().unsupported_reason(torch.rand(5, 8)) is None
    assert "at most 8 coordinates, and these have 9" in CellsEngine().unsupported_reason(torch.rand(5, 9))
    with pytest.raises(ValueError, match="'cells' cannot take these points: it is for points of at most 8 coordinates"):
        assign(torch.rand(5, 9), torch.rand(2, 9), engine="cells")
