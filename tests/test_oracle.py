"""The package does what loops in float64 do, which share no line with it, on whatever points hypothesis comes up with.

Where distances are equal within rounding, rounding may decide. So each round is judged on its own: labels by the
distance they reach, and the next centers by the labels before. Where nothing hangs on rounding, all rounds are compared
with those of the oracle as a whole. How far numbers may be off is derived from the rounding of the dtype.
"""

import itertools
import warnings
from dataclasses import dataclass

import pytest
import torch
from helpers import oracle
from helpers.problems import seeded
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpukmeans import ENGINES, assign, kmeans

DTYPES = [torch.float32, torch.float64]
ON_THE_CPU = [name for name, engine in ENGINES.items() if engine.obstacle(torch.zeros(2, 1)) is None]
# The others are held to the plain engine in float64 by tests of their own.
PAIRS = [(engine, dtype) for engine in ON_THE_CPU for dtype in DTYPES if engine == "torch" or dtype == torch.float32]
ROUNDS = 4

# Each test is made for every engine, so that a kind of points is tried a few times as often as this by each of them.
some = settings(max_examples=30)


@dataclass(frozen=True)
class Problem:
    """Points (*batch, N, D), weights (*batch, N) or None and first centers (*batch, K, D), all float64."""

    x: torch.Tensor
    weights: torch.Tensor | None
    start: torch.Tensor

    def __len__(self):
        return self.start.shape[-2]

    def run(self, dtype, **options):
        """The result, without the warning that some problem has few distinct points."""
        options = {"weights": self.weights, "init": self.start.to(dtype), "tol": 0.0} | options
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*distinct points")
            return kmeans(self.x.to(dtype), len(self), **options)

    def each(self, dtype, *tensors):
        """For each problem of the batch: points, weights and first centers as lists, and the given tensors' parts."""
        for problem in itertools.product(*map(range, self.x.shape[:-2])):
            x = self.x.to(dtype)[problem].tolist()
            weights = [1.0] * len(x) if self.weights is None else self.weights[problem].tolist()
            yield x, weights, self.start.to(dtype)[problem].tolist(), *(tensor[problem].tolist() for tensor in tensors)


KINDS = {
    "scattered": lambda n, width, g: torch.randn(n, width, generator=g, dtype=torch.float64),
    "on a lattice": lambda n, width, g: torch.randint(-2, 3, (n, width), generator=g).double(),
    "duplicates": lambda n, width, g: torch.randn(3, width, generator=g, dtype=torch.float64).repeat(n, 1)[:n],
    "all equal": lambda n, width, g: torch.randn(1, width, generator=g, dtype=torch.float64).repeat(n, 1),
    "collinear": lambda n, width, g: torch.randn(n, 1, generator=g, dtype=torch.float64) * torch.arange(1.0, width + 1),
    "far from the origin": lambda n, width, g: torch.randn(n, width, generator=g, dtype=torch.float64) + 1e6,
    "very far": lambda n, width, g: torch.randint(-9, 10, (n, width), generator=g).double() - 2.0**23,
    "in a cone": lambda n, width, g: torch.randn(n, width, generator=g, dtype=torch.float64) * 0.3 + 2,
    "one far outlier": lambda n, width, g: torch.randn(n, width, generator=g, dtype=torch.float64).index_fill_(
        0, torch.tensor([n // 2]), 1e5
    ),
}
WEIGHTS = {
    "none": None,
    "whole": lambda n, g: torch.randint(1, 4, (n,), generator=g).double(),
    "some zero": lambda n, g: torch.randint(0, 3, (n,), generator=g).double(),
    "fractions": lambda n, g: torch.rand(n, generator=g, dtype=torch.float64) * 2.75 + 0.25,
}
STARTS = ["points", "near points", "anywhere", "far away"]


@st.composite
def problems(draw, kinds=tuple(KINDS), starts=tuple(STARTS)):
    """Problems of all kinds, one alone or a batch of them of one shape."""
    generator = seeded(draw(st.integers(0, 2**31)))
    n, width = draw(st.integers(1, 24)), draw(st.integers(1, 4))
    batch = draw(st.sampled_from([(), (1,), (3,), (2, 1)]))
    count = torch.Size(batch).numel()
    x = torch.stack([KINDS[draw(st.sampled_from(kinds))](n, width, generator) for _ in range(count)])
    make = WEIGHTS[draw(st.sampled_from(list(WEIGHTS)))]
    weights = None if make is None else torch.stack([make(n, generator) for _ in range(count)])
    if weights is not None:
        weights[:, draw(st.integers(0, n - 1))] += 1  # or all could be absent
    present = [torch.arange(n) if weights is None else weights[i].nonzero().squeeze(1) for i in range(count)]
    most = min(len(rows) for rows in present)
    k = draw(st.one_of(st.integers(1, min(most, 6)), st.just(most)))  # K = N among them
    start = torch.stack([x[i, rows[:k]] for i, rows in enumerate(present)])
    noise = torch.randn(start.shape, generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(starts))
    if kind == "near points":
        start = start + noise * 1e-2
    elif kind == "anywhere":
        start = x.mean(dim=1, keepdim=True) + noise * (x.std(dim=1, keepdim=True, correction=0) + 0.1)
    elif kind == "far away":
        start = start + noise * 1e3
    shaped = None if weights is None else weights.reshape(*batch, n)
    return Problem(x.reshape(*batch, n, width), shaped, start.reshape(*batch, k, width))


def slack(dtype, width):
    """Relative error of a comparison of two squared distances: each a difference, a square, and `width` - 1 sums."""
    return (width + 5) * torch.finfo(dtype).eps


def check_labels(points, centers, labels, dtype):
    """No center is nearer than that of the label by more than rounding."""
    for point, label, (_, best) in zip(points, labels, oracle.nearest(points, centers), strict=True):
        assert oracle.sqdist(point, centers[label]) <= best * (1 + slack(dtype, len(point)))


def check_move(points, weights, centers, labels, moved, dtype):
    """The moved centers are the means, and of the empty ones the first is a worst-served point, if one is off."""
    eps = torch.finfo(dtype).eps
    off = 2 * eps * max(abs(value) for point in points for value in point)
    expected = oracle.means(points, weights, labels, len(centers))
    served = [
        oracle.sqdist(point, centers[label]) if weight else -1.0
        for point, label, weight in zip(points, labels, weights, strict=True)
    ]
    worst = [
        list(point)
        for point, distance in zip(points, served, strict=True)
        if distance >= max(served) * (1 - slack(dtype, len(point)))
    ]
    first_empty = expected.index(None) if None in expected else None
    for j, (mean, old, new) in enumerate(zip(expected, centers, moved, strict=True)):
        if mean is not None:
            assert new == pytest.approx(mean, rel=0, abs=off)
        elif j == first_empty and max(served) > 0:
            assert new in worst
        else:
            assert new == old


@pytest.mark.parametrize(("engine", "dtype"), PAIRS)
class TestEachRound:
    @some
    @given(problem=problems())
    def test_labels_totals_and_inertia_are_those_of_the_oracle_at_the_centers(self, engine, dtype, problem):
        for max_iter in (1, ROUNDS):
            result = problem.run(dtype, max_iter=max_iter, engine=engine)
            parts = problem.each(dtype, result.centers, result.labels, result.totals, result.inertia)
            for points, weights, _, centers, labels, totals, inertia in parts:
                check_labels(points, centers, labels, dtype)
                assert totals == pytest.approx(oracle.sums(points, weights, labels, len(centers))[0], rel=1e-12)
                # Distances round in the dtype. Then terms round to steps, of which the largest possible term, at most
                # 2**20 times the largest one, has 2**61 over the total weight, some 12 * 24 times the least one.
                tolerance = slack(dtype, len(points[0])) + 24 * 12 * 24 * 2.0**-41
                assert inertia == pytest.approx(oracle.inertia(points, weights, centers), rel=tolerance, abs=0)

    @some
    @given(problem=problems())
    def test_centers_move_to_the_means_of_the_oracle(self, engine, dtype, problem):
        start = problem.start.to(dtype)
        before, labels = start, assign(problem.x.to(dtype), start, engine=engine).labels
        for n in range(1, ROUNDS + 1):
            result = problem.run(dtype, max_iter=n, engine=engine)
            rounds = problem.each(dtype, before, labels, result.centers, result.n_iter)
            for points, weights, _, centers, own, moved, n_iter in rounds:
                if n_iter == n:
                    check_move(points, weights, centers, own, moved, dtype)
                else:
                    assert moved == centers
            before, labels = result.centers, result.labels


@pytest.mark.parametrize("engine", ON_THE_CPU)
class TestAllRounds:
    @some
    @given(
        problem=problems(
            kinds=("scattered", "collinear", "far from the origin", "one far outlier"),
            starts=("near points", "anywhere", "far away"),
        ),
        rounds=st.integers(1, 6),
    )
    def test_centers_labels_and_inertia_are_those_of_the_oracle(self, engine, problem, rounds):
        result = problem.run(torch.float64, max_iter=rounds, engine=engine)
        outputs = (result.centers, result.labels, result.inertia, result.n_iter)
        compared = 0
        for points, weights, start, centers, labels, inertia, n_iter in problem.each(torch.float64, *outputs):
            trace = oracle.path(points, weights, start, n_iter)
            size = max(abs(value) for point in points for value in point)
            if not all(oracle.is_decided(points, weights, before, 1e-6, 1e-12 * size) for before in trace):
                continue
            compared += 1
            expected, reached = trace[-1], oracle.inertia(points, weights, trace[-1])
            for mine, other in zip(centers, expected, strict=True):
                assert mine == pytest.approx(other, rel=0, abs=1e-13 * size)
            assert inertia == pytest.approx(reached, rel=1e-7, abs=len(points) * 3 * (1e-13 * size) ** 2)
            check_labels(points, centers, labels, torch.float64)
        assume(compared)  # hypothesis complains if that is seldom


@pytest.mark.parametrize(("engine", "dtype"), PAIRS)
@some
@given(problem=problems())
def test_assign_reaches_the_distances_of_the_oracle(engine, dtype, problem):
    found = assign(problem.x.to(dtype), problem.start.to(dtype), engine=engine)
    for points, _, centers, labels, sqdist in problem.each(dtype, found.labels, found.sqdist):
        check_labels(points, centers, labels, dtype)
        best = [distance for _, distance in oracle.nearest(points, centers)]
        assert sqdist == pytest.approx(best, rel=slack(dtype, len(points[0])), abs=0)
        for label in set(labels):  # of equal centers the lowest index
            assert centers.index(centers[label]) == label


@pytest.mark.parametrize("engine", ON_THE_CPU)
@some
@given(problem=problems())
def test_centers_for_a_whole_batch_are_those_for_each_of_its_problems(engine, problem):
    centers = problem.start.reshape(-1, *problem.start.shape[-2:])[0]
    found = assign(problem.x, centers, engine=engine)
    for points, _, _, labels in problem.each(torch.float64, found.labels):
        check_labels(points, centers.tolist(), labels, torch.float64)


ON_THE_SPHERE = problems(
    kinds=("scattered", "duplicates", "in a cone", "far from the origin"), starts=("near points", "anywhere")
)


@pytest.mark.parametrize(("engine", "dtype"), PAIRS)
class TestOnTheSphere:
    @some
    @given(problem=ON_THE_SPHERE)
    def test_each_round_is_that_of_the_oracle(self, engine, dtype, problem):
        eps = torch.finfo(dtype).eps
        width = problem.x.shape[-1]
        # A unit vector is off by a unit of rounding in each coordinate and a cosine of two by one more for each term.
        off = 4 * (width + 2) * eps
        start = problem.start.to(dtype)
        labels = assign(problem.x.to(dtype), start, metric="cosine", engine=engine).labels
        before = torch.nn.functional.normalize(start, dim=-1)
        for n in range(1, ROUNDS + 1):
            result = problem.run(dtype, max_iter=n, metric="cosine", engine=engine)
            outputs = (before, labels, result.centers, result.labels, result.inertia, result.n_iter)
            for points, weights, _, old, own, centers, reached, inertia, n_iter in problem.each(dtype, *outputs):
                rows = [oracle.unit(point) for point in points]
                for row, label, (_, best) in zip(rows, reached, oracle.nearest(rows, centers), strict=True):
                    assert oracle.sqdist(row, centers[label]) <= best + 2 * off
                expected = oracle.inertia(rows, weights, centers) / 2
                assert inertia == pytest.approx(expected, rel=0, abs=off * sum(weights))
                assert [sum(value**2 for value in center) for center in centers] == pytest.approx([1] * len(centers))
                if n_iter == n:
                    check_turn(rows, weights, old, own, centers, off)
            before, labels = result.centers, result.labels

    # In a cone no sums cancel, and near the origin no angles are so small that rounding has a large share in them.
    @some
    @given(problem=problems(kinds=("in a cone",), starts=("near points", "anywhere")), rounds=st.integers(1, 6))
    def test_all_rounds_are_those_of_the_oracle(self, engine, dtype, problem, rounds):
        result = problem.run(dtype, max_iter=rounds, metric="cosine", engine=engine)
        gap, step = (1e-6, 1e-12) if dtype == torch.float64 else (1e-2, 1e-5)
        compared = 0
        for points, weights, start, centers, inertia, n_iter in problem.each(
            dtype, result.centers, result.inertia, result.n_iter
        ):
            rows = [oracle.unit(point) for point in points]
            trace = oracle.path(rows, weights, [oracle.unit(center) for center in start], n_iter, oracle.directions)
            if not all(oracle.is_decided(rows, weights, before, gap, step) for before in trace):
                continue
            compared += 1
            # |u - c|² = 2 - 2 cos for vectors of length 1, and this is the way to it that does not cancel.
            expected, reached = trace[-1], oracle.inertia(rows, weights, trace[-1]) / 2
            for mine, other in zip(centers, expected, strict=True):
                assert mine == pytest.approx(other, rel=0, abs=100 * torch.finfo(dtype).eps)
            assert inertia == pytest.approx(reached, rel=0, abs=100 * torch.finfo(dtype).eps * sum(weights))
        assume(compared)


def check_turn(rows, weights, centers, labels, moved, off):
    """The moved centers point along the sums of their rows, and the first empty one at a worst-served row."""
    served = [
        oracle.sqdist(row, centers[label]) if weight else -1.0
        for row, label, weight in zip(rows, labels, weights, strict=True)
    ]
    totals, sums = oracle.sums(rows, weights, labels, len(centers))
    first_empty = totals.index(0.0) if 0.0 in totals else None
    for j, (total, row, old, new) in enumerate(zip(totals, sums, centers, moved, strict=True)):
        length = sum(value**2 for value in row) ** 0.5
        if total:
            if length > 0.1 * total:  # else the sum cancels
                assert new == pytest.approx(oracle.unit(row), rel=0, abs=off * total / length)
        elif j == first_empty and max(served) > 4 * off:
            distances = [oracle.sqdist(new, row) for row, d in zip(rows, served, strict=True) if d >= max(served) - off]
            assert min(distances) <= off**2
        elif j != first_empty:
            assert new == pytest.approx(old, rel=0, abs=off)
