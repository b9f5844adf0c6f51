"""Kernels for many coordinates: each round has the bits of the plain engine."""

from dataclasses import replace

import pytest
import torch
from helpers.problems import assert_same_moments, points_of, seeded
from helpers.threads import threads
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukmeans.distance import squared_distance
from gpukmeans.engines.native.many import ManyCoordinates
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.lloyd import next_centers

# Runs keep labels from the second measure on, and lower bounds from the third, however small and unsettled they are.
EAGER = {"keeps_from": 0, "bounds_from": 2.0, "chunk": 1 << 16}
STATELESS = {"keeps_from": 1 << 60, "chunk": 1}
BOTH = {"eager": EAGER, "stateless": STATELESS}
DTYPES = [torch.float32, torch.float64]


def runs_at(points, centers):
    """The fixed-point scales and problems of runs at centers (B, K, D)."""
    scale = points.sqdist_scale(points.sqdist_bound(centers))
    return replace(points.fixed_point, sqdist=scale), torch.arange(len(centers))


def assert_same_rounds(x, weights, rounds, options, dtype, n_threads=1):
    """Compare moments and assignments at the centers (P, K, D) that a generator yields, which is sent the moments."""
    points = points_of(x.to(dtype), weights)
    plain = PlainEngine().bind(x, points.source.weights)
    native = ManyCoordinates(x, points.source.weights, **options)
    moments = None
    while True:
        try:
            centers = rounds.send(moments)
        except StopIteration:
            return
        fixed_point, problems = runs_at(points, centers)
        moments = plain.measure(centers, fixed_point, problems.tolist())
        expected = plain.assign(centers, problems.tolist())
        with threads(n_threads):
            assert_same_moments(native.measure(centers, fixed_point, problems), moments)
            assert_same_assignment(native.assign(centers, problems), expected)


def assert_same_assignment(found, expected):
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.sqdist, expected.sqdist)


def at(rounds):
    """Rounds at given centers."""
    return (centers for centers in rounds)


def lloyd_with_jumps(centers, n_rounds, jumps):
    """Centers of Lloyd's loop; in each round the center of a jump moves to another place."""
    for n in range(n_rounds):
        moments = yield centers
        centers = next_centers(centers, moments)
        if n < len(jumps):
            k, place = jumps[n]
            centers = centers.clone()
            centers[:, k % centers.shape[1]] = place


KINDS = {
    "normal": lambda shape, generator: torch.randn(shape, generator=generator, dtype=torch.float64),
    "ties": lambda shape, generator: torch.randint(3, shape, generator=generator).double() / 3,
    "duplicates": lambda shape, generator: torch.randn(shape, generator=generator, dtype=torch.float64)[
        :, torch.arange(shape[1]) // 4
    ],
    "far from the origin": lambda shape, generator: (
        1e6 + torch.randint(5, shape, generator=generator) + torch.rand(shape, generator=generator).double()
    ),
    "denormal": lambda shape, generator: torch.randn(shape, generator=generator, dtype=torch.float64) * 3e-39,
    "underflowing squares": lambda shape, generator: (
        torch.randn(shape, generator=generator, dtype=torch.float64) * 3e-23
    ),
    "huge": lambda shape, generator: torch.randn(shape, generator=generator, dtype=torch.float64) * 1e17,
    "outliers": lambda shape, generator: (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        * torch.where(torch.rand(shape[:2], generator=generator)[..., None] < 0.05, 1e9, 1.0)
    ),
}


@pytest.mark.usefixtures("each_library")
@pytest.mark.parametrize("options", BOTH.values(), ids=BOTH)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_round_has_the_bits_of_the_plain_engine(options, data):
    width = data.draw(st.sampled_from([9, 16, 31, 32, 33, 64, 100, 128, 1000]), "width")
    n = data.draw(st.sampled_from([1, 5, 6, 7, 127, 128, 129]), "n")
    n_clusters = data.draw(st.sampled_from([1, 2, 15, 16, 17, 100, n]), "n_clusters")
    kind = data.draw(st.sampled_from(list(KINDS)), "kind")
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    n_rounds = data.draw(st.integers(1, 6), "n_rounds")
    jumps = data.draw(st.lists(st.tuples(st.integers(0, 99), st.sampled_from([0.0, 0.5, 1e6])), max_size=6), "jumps")
    generator = seeded(data.draw(st.integers(0, 2**31), "seed"))
    x = KINDS[kind]((2 if width < 1000 else 1, n, width), generator).to(dtype)
    weights = None
    if data.draw(st.booleans(), "weighted"):
        weights = torch.randint(4, x.shape[:2], generator=generator).double() / 3
        weights[:, 0] = 1  # not all of them 0
    rows = torch.randint(n, (n_clusters,), generator=generator)
    rounds = lloyd_with_jumps(x[:, rows], n_rounds, jumps if kind != "denormal" else [])
    assert_same_rounds(x, weights, rounds, options, dtype, data.draw(st.sampled_from([1, 2]), "n_threads"))


@pytest.mark.usefixtures("each_library")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_clusters", [40, 200])
def test_lower_bounds_follow_a_center_that_comes_and_goes(n_clusters, dtype):
    generator = seeded()
    x = torch.randn(1, 20, 9, generator=generator, dtype=dtype) / 100
    centers = torch.nn.functional.normalize(torch.randn(1, n_clusters, 9, generator=generator, dtype=dtype), dim=2) * 6
    centers[0, n_clusters // 2 :, 0] += 100
    own, other = centers[0, 0], centers[0, -1]  # of different panels, also when the other one is near
    own /= 6
    away = centers.clone()
    rounds = [away, away, away]
    for distance in (0.9, 1.1, 0.95, 1.2, 30.0, 0.9, 1.05):
        other.zero_()[1] = distance
        rounds.append(centers.clone())
    assert_same_rounds(x, None, at(rounds), EAGER, dtype)


# Near ties at the scale of the rounding. A product adds the coordinates to its first term one by one, and loses those
# that are less than half a unit in the last place of it, or rounds those up that are a little more.
WIDTH = 1000


def near_tie(dtype):
    """A point and two centers: nearly all rounding of products is against the nearer one, the second.

    `shift(distance)` is the second center at a distance that much larger along the first coordinate.
    """
    unit = torch.finfo(dtype).eps / 2
    rest = 2.0**-12 if dtype == torch.float32 else 2.0**-26
    first = (1.02 / 1.5) ** 0.5  # products are then a little above 1
    x = torch.full((WIDTH,), rest, dtype=dtype)
    lost = torch.full((WIDTH,), 0.98 * unit / rest, dtype=dtype)
    gained = torch.full((1000, WIDTH), 1.02 * unit / rest, dtype=dtype)
    x[0], lost[0] = 2 * first, first
    gained[:, 0] = lost[0] - unit * torch.arange(1000, dtype=dtype)
    return x, nearest_beyond(x, lost, gained), lost


def nearest_beyond(x, center, others):
    """The first of others (n, D) that is farther from the point than a center, by the reference distance."""
    farther = squared_distance(x[:, None], others.T) > squared_distance(x, center)
    return others[farther.nonzero()[0, 0]]


def product(x, center):
    """x·c - |c|²/2, added in the order of the coordinates."""
    total = (-center.double().square().sum() / 2).to(x.dtype)
    for term in x * center:
        total = total + term
    return total


@pytest.mark.parametrize("dtype", DTYPES)
def test_near_ties_mislead_products(dtype):
    x, farther, nearer = near_tie(dtype)
    assert squared_distance(x, nearer) < squared_distance(x, farther)
    assert product(x, farther) > product(x, nearer) + 900 * torch.finfo(dtype).eps


def with_zeros(n_clusters, *centers):
    """Centers (1, K, D) of which the others are 0, so that the median is."""
    return torch.stack([*centers, *[torch.zeros_like(centers[0])] * (n_clusters - len(centers))])[None]


def assert_label(dtype, x, rounds, options, expected):
    """Compare the last of some rounds with the plain engine, for rows that are all equal."""
    points = points_of(x.repeat(1, 7, 1))
    native = ManyCoordinates(points.source.x, None, **options)
    for centers in rounds:
        native.measure(centers, *runs_at(points, centers))
    plain = PlainEngine().bind(points.source.x, None).assign(rounds[-1], [0])
    assert plain.labels.eq(expected).all()
    fixed_point, problems = runs_at(points, rounds[-1])
    assert_same_moments(
        native.measure(rounds[-1], fixed_point, problems),
        PlainEngine().bind(points.source.x, None).measure(rounds[-1], fixed_point, [0]),
    )
    assert_same_assignment(native.assign(rounds[-1], problems), plain)


@pytest.mark.usefixtures("each_library")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_clusters", [8, 40])
def test_a_near_tie_between_two_products_is_decided_by_the_distance(n_clusters, dtype):
    x, farther, nearer = near_tie(dtype)
    assert_label(dtype, x, [with_zeros(n_clusters, farther, nearer)], STATELESS, 1)


@pytest.mark.usefixtures("each_library")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n_clusters", "bounds_from"), [(8, 0.0), (40, 0.0), (40, 2.0)])
def test_a_near_tie_with_the_center_before_is_decided_by_the_distance(n_clusters, bounds_from, dtype):
    x, farther, nearer = near_tie(dtype)
    rounds = [*[with_zeros(n_clusters, farther)] * 3, with_zeros(n_clusters, farther, nearer)]
    assert_label(dtype, x, rounds, {"keeps_from": 0, "bounds_from": bounds_from}, 1)


@pytest.mark.usefixtures("each_library")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_center_that_moves_as_far_as_its_lower_bound_is_compared(dtype):
    # The product overestimates the distance of the center that will move.
    x, _, other = near_tie(dtype)
    own = other.clone()
    own[0] += 0.1
    moved = other.repeat(1000, 1)
    moved[:, 0] = own[0] - torch.finfo(dtype).eps * torch.arange(100, -900, -1, dtype=dtype)
    moved = moved[(squared_distance(x[:, None], moved.T) < squared_distance(x, own)).nonzero()[0, 0]]
    rounds = [*[with_zeros(40, own, other)] * 3, with_zeros(40, own, moved)]
    assert_label(dtype, x, rounds, EAGER, 1)


@pytest.mark.parametrize("options", BOTH.values(), ids=BOTH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_points_of_other_dtypes_are_converted(dtype, options):
    x = (torch.rand(2, 130, 12, generator=seeded()) * 100).to(dtype)
    compute = torch.float64 if dtype in (torch.int32, torch.int64) else torch.float32
    plain, native = PlainEngine().bind(x, None), ManyCoordinates(x, None, **options)
    points = points_of(x.to(compute))
    centers = x[:, ::7].to(compute)
    for _ in range(4):
        fixed_point, problems = runs_at(points, centers)
        moments = plain.measure(centers, fixed_point, [0, 1])
        assert_same_moments(native.measure(centers, fixed_point, problems), moments)
        assert_same_assignment(native.assign(centers, problems), plain.assign(centers, [0, 1]))
        centers = next_centers(centers, moments)


@pytest.mark.parametrize("options", BOTH.values(), ids=BOTH)
def test_strided_points_and_repeated_problems_have_the_bits_of_plain(options):
    x = torch.randn(12, 3, 90, generator=seeded()).permute(1, 2, 0)
    weights = torch.randint(3, (90, 3), generator=seeded()).T
    points = points_of(x, weights.double()).select(torch.tensor([2, 0, 2, 1, 0]))
    bound = PlainEngine().bind(x, points.source.weights)
    native = ManyCoordinates(x, points.source.weights, **options)
    centers = torch.randn(5, 20, 12, generator=seeded())
    for _ in range(4):
        fixed_point, _ = runs_at(points, centers)
        problems = torch.tensor(points.problems)
        moments = bound.measure(centers, fixed_point, points.problems)
        assert_same_moments(native.measure(centers, fixed_point, problems), moments)
        assert_same_assignment(native.assign(centers, problems), bound.assign(centers, points.problems))
        centers = next_centers(centers, moments)


def test_a_change_of_scales_or_of_the_number_of_centers_starts_anew():
    x = torch.randn(1, 200, 10, generator=seeded())
    points = points_of(x)
    native, plain = ManyCoordinates(x, None, **EAGER), PlainEngine().bind(x, None)
    for n_clusters, factor in [(20, 1.0), (20, 1.0), (20, 0.5), (20, 0.5), (33, 0.5), (33, 1.0), (2, 1.0)]:
        centers = x[:, :n_clusters] + 0.01
        fixed_point, problems = runs_at(points, centers)
        fixed_point = replace(fixed_point, sum=fixed_point.sum * factor)
        assert_same_moments(native.measure(centers, fixed_point, problems), plain.measure(centers, fixed_point, [0]))
