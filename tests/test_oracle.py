"""Comparison with an oracle, loops in float64 that share no code with the package, on points drawn by hypothesis.

Rounding may decide between nearly equal distances. So each iteration is checked on its own: labels by the distance
they reach, and the next centers by the previous labels. If no label depends on rounding, all iterations are compared at
once. Tolerances are derived from the rounding of the dtype.
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
ON_THE_CPU = [name for name, engine in ENGINES.items() if engine.unsupported_reason(torch.zeros(2, 1)) is None]
# Other engines are compared with the plain engine in float64 by their own tests.
PAIRS = [(engine, dtype) for engine in ON_THE_CPU for dtype in DTYPES if engine == "plain" or dtype == torch.float32]
ITERATIONS = 4

# Few examples, because each test runs for every engine.
few_examples = settings(max_examples=30)


@dataclass(frozen=True)
class Problem:
    """Points (*batch, N, D), weights (*batch, N) or None, and initial centers (*batch, K, D), all float64."""

    x: torch.Tensor
    weights: torch.Tensor | None
    start: torch.Tensor

    def __len__(self):
        return self.start.shape[-2]

    def run(self, dtype, **options):
        """Result of `kmeans`, without the warning that clusters are empty."""
        options = {"weights": self.weights, "init": self.start.to(dtype), "tol": 0.0} | options
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* clusters ")
            return kmeans(self.x.to(dtype), len(self), **options)

    def each(self, dtype, *tensors):
        """Points, weights, initial centers and the entries of the tensors for each problem of the batch, as lists."""
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
    "integers": lambda n, g: torch.randint(1, 4, (n,), generator=g).double(),
    "some zero": lambda n, g: torch.randint(0, 3, (n,), generator=g).double(),
    "fractions": lambda n, g: torch.rand(n, generator=g, dtype=torch.float64) * 2.75 + 0.25,
}
STARTS = ["points", "near points", "anywhere", "far away"]


@st.composite
def problems(draw, kinds=tuple(KINDS), starts=tuple(STARTS)):
    """Problems of all kinds, single ones and batches of one shape."""
    generator = seeded(draw(st.integers(0, 2**31)))
    n, width = draw(st.integers(1, 24)), draw(st.integers(1, 4))
    batch = draw(st.sampled_from([(), (1,), (3,), (2, 1)]))
    count = torch.Size(batch).numel()
    x = torch.stack([KINDS[draw(st.sampled_from(kinds))](n, width, generator) for _ in range(count)])
    make = WEIGHTS[draw(st.sampled_from(list(WEIGHTS)))]
    weights = None if make is None else torch.stack([make(n, generator) for _ in range(count)])
    if weights is not None:
        weights[:, draw(st.integers(0, n - 1))] += 1  # so that not all are 0
    present = [torch.arange(n) if weights is None else weights[i].nonzero().squeeze(1) for i in range(count)]
    max_k = min(len(rows) for rows in present)
    k = draw(st.one_of(st.integers(1, min(max_k, 6)), st.just(max_k)))  # including K = N
    start = torch.stack([x[i, rows[:k]] for i, rows in enumerate(present)])
    noise = torch.randn(start.shape, generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(starts))
    if kind == "near points":
        start = start + noise * 1e-2
    elif kind == "anywhere":
        start = x.mean(dim=1, keepdim=True) + noise * (x.std(dim=1, keepdim=True, correction=0) + 0.1)
    elif kind == "far away":
        start = start + noise * 1e3
    batch_weights = None if weights is None else weights.reshape(*batch, n)
    return Problem(x.reshape(*batch, n, width), batch_weights, start.reshape(*batch, k, width))


def sqdist_rtol(dtype, width):
    """Relative error when comparing two squared distances: each a difference, a square and `width` - 1 additions."""
    return (width + 5) * torch.finfo(dtype).eps


def check_labels(points, centers, labels, dtype):
    """No center is nearer than the labeled one by more than rounding."""
    for point, label, (_, best) in zip(points, labels, oracle.nearest(points, centers), strict=True):
        assert oracle.sqdist(point, centers[label]) <= best * (1 + sqdist_rtol(dtype, len(point)))


def check_move(points, weights, centers, labels, moved, dtype):
    """New centers are means of the points that remain after empty clusters have moved to worst-served points."""
    # The mean is computed in float64 relative to the lowest coordinate, which doubles the magnitude of values at most:
    # the difference, its product with the weight and the quotient are rounded. Then the lowest coordinate is added, and
    # the sum is rounded to the dtype.
    eps, eps_64 = torch.finfo(dtype).eps, torch.finfo(torch.float64).eps
    tolerance = (4 * eps_64 + eps) * max(abs(value) for point in points for value in point)
    served = [oracle.sqdist(point, centers[label]) for point, label in zip(points, labels, strict=True)]
    labels, taken = list(labels), []
    for j, total in enumerate(oracle.sums(points, weights, labels, len(centers))[0]):
        if total == 0 and moved[j] != centers[j]:
            row = points.index(moved[j])
            assert oracle.can_move(points, weights, labels, row)
            taken.append(served[row])
            for other in oracle.equal_rows(points, row):
                labels[other] = j
    expected = oracle.means(points, weights, labels, len(centers))
    for mean, old, new in zip(expected, centers, moved, strict=True):
        assert new == (old if mean is None else pytest.approx(mean, rel=0, abs=tolerance))
    # The points that could still move are served no worse, and there are none while a cluster is empty.
    rtol = sqdist_rtol(dtype, len(points[0]))
    for row, distance in enumerate(served):
        if oracle.can_move(points, weights, labels, row) and distance > 0:
            assert None not in expected
            assert not taken or distance <= min(taken) * (1 + rtol)


@pytest.mark.parametrize(("engine", "dtype"), PAIRS)
class TestEachIteration:
    @few_examples
    @given(problem=problems())
    def test_labels_cluster_weights_and_inertia_are_those_of_the_oracle_at_the_centers(self, engine, dtype, problem):
        for max_iter in (1, ITERATIONS):
            result = problem.run(dtype, max_iter=max_iter, engine=engine)
            found = problem.each(dtype, result.centers, result.labels, result.cluster_weights, result.inertia)
            for points, weights, _, centers, labels, cluster_weights, inertia in found:
                check_labels(points, centers, labels, dtype)
                assert cluster_weights == pytest.approx(
                    oracle.sums(points, weights, labels, len(centers))[0], rel=1e-12
                )
                # Distances round in the dtype, and terms to fixed point: the largest possible term, at most 2**20 times
                # the largest one, has 2**61 units over the total weight, some 12 * 24 times the least one.
                tolerance = sqdist_rtol(dtype, len(points[0])) + 24 * 12 * 24 * 2.0**-41
                assert inertia == pytest.approx(oracle.inertia(points, weights, centers), rel=tolerance, abs=0)

    @few_examples
    @given(problem=problems())
    def test_centers_move_to_the_means_of_the_oracle(self, engine, dtype, problem):
        start = problem.start.to(dtype)
        before, labels = start, assign(problem.x.to(dtype), start, engine=engine).labels
        for n in range(1, ITERATIONS + 1):
            result = problem.run(dtype, max_iter=n, engine=engine)
            steps = problem.each(dtype, before, labels, result.centers, result.n_iter)
            for points, weights, _, centers, own, moved, n_iter in steps:
                if n_iter == n:
                    check_move(points, weights, centers, own, moved, dtype)
                else:
                    assert moved == centers
            before, labels = result.centers, result.labels


@pytest.mark.parametrize("engine", ON_THE_CPU)
class TestAllIterations:
    @few_examples
    @given(
        problem=problems(
            kinds=("scattered", "collinear", "far from the origin", "one far outlier"),
            starts=("near points", "anywhere", "far away"),
        ),
        max_iter=st.integers(1, 6),
    )
    def test_centers_labels_and_inertia_are_those_of_the_oracle(self, engine, problem, max_iter):
        result = problem.run(torch.float64, max_iter=max_iter, engine=engine)
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
        assume(compared)  # hypothesis fails if this holds too rarely


@pytest.mark.parametrize(("engine", "dtype"), PAIRS)
@few_examples
@given(problem=problems())
def test_assign_reaches_the_distances_of_the_oracle(engine, dtype, problem):
    found = assign(problem.x.to(dtype), problem.start.to(dtype), engine=engine)
    for points, _, centers, labels, sqdist in problem.each(dtype, found.labels, found.sqdist):
        check_labels(points, centers, labels, dtype)
        best = [distance for _, distance in oracle.nearest(points, centers)]
        assert sqdist == pytest.approx(best, rel=sqdist_rtol(dtype, len(points[0])), abs=0)
        for label in set(labels):  # the lowest index of equal centers
            assert centers.index(centers[label]) == label


@pytest.mark.parametrize("engine", ON_THE_CPU)
@few_examples
@given(problem=problems())
def test_shared_centers_apply_to_each_problem_of_a_batch(engine, problem):
    centers = problem.start.reshape(-1, *problem.start.shape[-2:])[0]
    found = assign(problem.x, centers, engine=engine)
    for points, _, _, labels in problem.each(torch.float64, found.labels):
        check_labels(points, centers.tolist(), labels, torch.float64)


COSINE_PROBLEMS = problems(
    kinds=("scattered", "duplicates", "in a cone", "far from the origin"), starts=("near points", "anywhere")
)


@pytest.mark.parametrize(("engine", "dtype"), PAIRS)
class TestCosine:
    @few_examples
    @given(problem=COSINE_PROBLEMS)
    def test_each_iteration_is_that_of_the_oracle(self, engine, dtype, problem):
        eps = torch.finfo(dtype).eps
        width = problem.x.shape[-1]
        # A unit vector has one rounding error per coordinate, and the cosine of two has one more per term.
        tolerance = 4 * (width + 2) * eps
        start = problem.start.to(dtype)
        labels = assign(problem.x.to(dtype), start, metric="cosine", engine=engine).labels
        before = torch.nn.functional.normalize(start, dim=-1)
        for n in range(1, ITERATIONS + 1):
            result = problem.run(dtype, max_iter=n, metric="cosine", engine=engine)
            outputs = (before, labels, result.centers, result.labels, result.inertia, result.n_iter)
            for points, weights, _, old, own, centers, reached, inertia, n_iter in problem.each(dtype, *outputs):
                rows = [oracle.unit(point) for point in points]
                for row, label, (_, best) in zip(rows, reached, oracle.nearest(rows, centers), strict=True):
                    assert oracle.sqdist(row, centers[label]) <= best + 2 * tolerance
                expected = oracle.inertia(rows, weights, centers) / 2
                assert inertia == pytest.approx(expected, rel=0, abs=tolerance * sum(weights))
                assert [sum(value**2 for value in center) for center in centers] == pytest.approx([1] * len(centers))
                if n_iter == n:
                    check_directions(rows, weights, old, own, centers, tolerance)
            before, labels = result.centers, result.labels

    # In a cone no sums cancel, and near the origin no angles are so small that rounding is large relative to them.
    @few_examples
    @given(problem=problems(kinds=("in a cone",), starts=("near points", "anywhere")), max_iter=st.integers(1, 6))
    def test_all_iterations_are_those_of_the_oracle(self, engine, dtype, problem, max_iter):
        result = problem.run(dtype, max_iter=max_iter, metric="cosine", engine=engine)
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
            # |u - c|² = 2 - 2 cos for unit vectors, and computed this way it does not cancel.
            expected, reached = trace[-1], oracle.inertia(rows, weights, trace[-1]) / 2
            for mine, other in zip(centers, expected, strict=True):
                assert mine == pytest.approx(other, rel=0, abs=100 * torch.finfo(dtype).eps)
            assert inertia == pytest.approx(reached, rel=0, abs=100 * torch.finfo(dtype).eps * sum(weights))
        assume(compared)


def check_directions(rows, weights, centers, labels, moved, tolerance):
    """New centers have the directions of the sums of their rows, those of empty clusters that of worst-served rows."""
    served = [
        oracle.sqdist(row, centers[label]) if weight else -1.0
        for row, label, weight in zip(rows, labels, weights, strict=True)
    ]
    totals, sums = oracle.sums(rows, weights, labels, len(centers))
    left = set()
    # The last rows of a cluster do not move, so as many different rows as clusters may be considered.
    different = sorted(dict(zip(map(tuple, rows), served, strict=True)).values())
    worst = [row for row, d in enumerate(served) if d >= different[-len(centers) :][0] - tolerance]
    for total, old, new in zip(totals, centers, moved, strict=True):
        if total == 0 and new != pytest.approx(old, rel=0, abs=tolerance):
            near = [row for row in worst if oracle.sqdist(new, rows[row]) <= tolerance**2]
            assert near
            left |= {labels[row] for row in near}
    for j, (total, row, new) in enumerate(zip(totals, sums, moved, strict=True)):
        length = sum(value**2 for value in row) ** 0.5
        if total and j not in left and length > 0.1 * total:  # otherwise the sum cancels
            assert new == pytest.approx(oracle.unit(row), rel=0, abs=tolerance * total / length)
