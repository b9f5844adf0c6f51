"""Properties of K-means that hold for every engine, device and dtype, with and without a batch and weights."""

import itertools
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from helpers.problems import seeded

from gpukmeans import ENGINES, SEEDINGS, KMeans, assign, kmeans

FIELDS = ("centers", "labels", "cluster_weights", "inertia", "n_iter", "converged")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
N, K = 120, 5

# Enough iterations to compare bits, to which every iteration contributes.
FEW_ITERATIONS = {"max_iter": 3}

# Means far apart in the range of 8-bit values. Row i of `Case.blobs` is scattered around mean i % 5.
MEANS = torch.tensor([[20, 20, 25], [225, 40, 30], [40, 215, 60], [200, 200, 225], [30, 60, 210]])


@dataclass(frozen=True)
class Case:
    """A combination of engine, device, dtype, batch and weights. Its points are within the range of all `DTYPES`."""

    engine: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    batch: tuple[int, ...] = ()
    weighted: bool = False

    def __str__(self):
        names = [self.engine, self.device, str(self.dtype).removeprefix("torch.")]
        return "-".join([*names, *(["batch"] if self.batch else []), *(["weights"] if self.weighted else [])])

    def uniform(self, n=N, *, top=255.0, seed=0):
        """Uniform points (*batch, n, 3) without clusters, so that the loop takes many iterations."""
        x = torch.rand(*self.batch, n, 3, generator=seeded(seed), dtype=torch.float64) * top
        return x.to(self.device, self.dtype)

    def blobs(self, n=N, *, top=255.0, integers=False):
        """Points (*batch, n, 3) in five clusters so far apart that rounding changes no label."""
        scatter = torch.randn(*self.batch, n, 3, generator=seeded(), dtype=torch.float64).clamp(-3, 3)
        x = (MEANS.double()[torch.arange(n) % K] + 5 * scatter) * (top / 255)
        return (x.round() if integers else x).to(self.device, self.dtype)

    def weights(self, n=N):
        """None, or weights (*batch, n) from 0.25 to 2.25."""
        if not self.weighted:
            return None
        return (torch.rand(*self.batch, n, generator=seeded(9)) * 2 + 0.25).to(self.device)

    def weights_or_ones(self, n=N):
        """The weights as a tensor, ones if the case has none."""
        weights = self.weights(n)
        return torch.ones(*self.batch, n, device=self.device) if weights is None else weights

    def run(self, x, k=K, **options):
        return kmeans(x, k, engine=self.engine, **({"weights": self.weights(x.shape[-2])} | options))

    def assign(self, x, centers):
        return assign(x, centers, engine=self.engine)

    def model(self, **options):
        return KMeans(K, engine=self.engine, **options)

    def problems(self):
        """Index of each problem of the batch, and () if there is no batch."""
        return list(itertools.product(*map(range, self.batch)))


@cache
def unsupported_reason(engine, device, dtype):
    """Why the engine cannot take such points, or None."""
    probe = torch.tensor([[0], [1]], dtype=dtype, device=device)
    try:
        assign(probe, probe, engine=engine)
    except ValueError as error:
        if "cannot take these points" not in str(error):
            raise
        return str(error)
    return None


# Other engines than the plain one, to which their own tests compare them, get two dtypes, and kernels only a GPU.
KINDS = [
    (engine, device, dtype)
    for engine, device, dtype in itertools.product(ENGINES, DEVICES, DTYPES)
    if (engine == "plain" or dtype in (torch.uint8, torch.float32)) and (engine != "triton" or device == "cuda")
]

# Batch and weights. The first two differ in both, and so do the last two.
LAYOUTS = [((), False), ((2,), True), ((2,), False), ((), True)]

# Pairwise combinations instead of the full product: each engine and dtype with two layouts that differ in both, and
# each engine with all four.
CASES = [Case(*kind, *layout) for i, kind in enumerate(KINDS) for layout in (LAYOUTS[:2] if i % 2 else LAYOUTS[2:])]


def rotated(kinds, values, layouts=LAYOUTS):
    """Each kind with each value. The layout rotates: the next one for the next kind and for the next value."""
    return [
        (Case(*kind, *layouts[(i + j) % len(layouts)]), value)
        for i, kind in enumerate(kinds)
        for j, value in enumerate(values)
    ]


def each_case(name, rows):
    """Parametrizes a test by the cases of the rows and, under this name, their values."""
    return pytest.mark.parametrize(("case", name), rows, ids=str, indirect=["case"])


# Every seeding with every engine and three dtypes.
SEEDED = rotated([kind for kind in KINDS if kind[2] in (torch.uint8, torch.float32, torch.float64)], SEEDINGS)
each_seeding = each_case("init", SEEDED)


def each_unweighted(name, values):
    """Parametrizes a test by every value with every kind, without weights."""
    return each_case(name, rotated(KINDS, values, [layout for layout in LAYOUTS if not layout[1]]))


def supported(request):
    if reason := unsupported_reason(request.param.engine, request.param.device, request.param.dtype):
        pytest.skip(reason)
    return request.param


@pytest.fixture(params=CASES, ids=str)
def case(request):
    """Every case."""
    return supported(request)


@pytest.fixture(params=[Case(*kind) for kind in KINDS], ids=str)
def kind(request):
    """Every engine and dtype, for tests that make the batch."""
    return supported(request)


FLOAT32_CASES = [Case(*kind, *layout) for kind in KINDS if kind[2] == torch.float32 for layout in LAYOUTS]


@pytest.fixture(params=FLOAT32_CASES, ids=str)
def float32_case(request):
    """Every case in float32."""
    return supported(request)


@pytest.fixture(params=[case for case in FLOAT32_CASES if not case.batch], ids=str)
def unbatched_case(request):
    """Every case in float32 without a batch, for tests that make the batch."""
    return supported(request)


def assert_same(first, second, *, except_for=()):
    for name in FIELDS:
        if name not in except_for:
            assert torch.equal(getattr(first, name), getattr(second, name)), name


def assert_same_up_to_fixed_point(first, second, *, except_for=()):
    """The same bits; for float64 the same up to the rounding of terms to fixed point.

    Products of float32 are integers in fixed-point units, so their sums are exact; those of float64 are rounded.
    """
    if first.centers.dtype == torch.float32:
        assert_same(first, second, except_for=except_for)
    else:
        assert_same(first, second, except_for=[*except_for, "centers", "inertia"])
        for name in {"centers", "inertia"} - set(except_for):
            torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-14, atol=0)


def own_centers(result):
    """Center of each point (*batch, N, D), float64."""
    width = result.centers.shape[-1]
    return result.centers.double().gather(-2, result.labels[..., None].expand(*result.labels.shape, width))


def own_sqdist(x, result):
    return (x.double() - own_centers(result)).square().sum(-1)


def per_cluster(terms, labels, k):
    """Sums (*batch, k, ...) of terms (*batch, N, ...) by label."""
    member = torch.nn.functional.one_hot(labels, k).double()
    return member.mT @ terms.double() if terms.ndim > labels.ndim else (member * terms.double()[..., None]).sum(-2)


def rounding(result):
    return torch.finfo(result.centers.dtype).eps


class TestWeights:
    @each_unweighted("init", SEEDINGS)
    def test_an_integer_weight_is_that_number_of_equal_points(self, case, init):
        x = case.uniform()
        times = torch.randint(1, 4, (N,), generator=seeded()).to(case.device)
        once = case.run(x, weights=times.expand(*case.batch, N), init=init, **FEW_ITERATIONS)
        repeated = case.run(x.repeat_interleave(times, dim=-2), init=init, **FEW_ITERATIONS)
        assert_same_up_to_fixed_point(once, repeated, except_for=["labels"])
        assert torch.equal(once.labels.repeat_interleave(times, dim=-1), repeated.labels)

    def test_doubled_weights_equal_repeated_points(self, case):
        x, weights = case.uniform(), case.weights_or_ones()
        once = case.run(x, weights=weights * 2)
        repeated = case.run(x.repeat_interleave(2, dim=-2), weights=weights.repeat_interleave(2, dim=-1))
        assert_same_up_to_fixed_point(once, repeated, except_for=["labels"])
        assert torch.equal(once.labels, repeated.labels[..., ::2])

    @each_seeding
    def test_weights_times_a_power_of_two_change_only_cluster_weights_and_inertia(self, case, init):
        x, weights, factor = case.uniform(), case.weights_or_ones(), 2.0**-20
        first, scaled = (case.run(x, weights=w, init=init, **FEW_ITERATIONS) for w in (weights, weights * factor))
        assert_same(first, scaled, except_for=["cluster_weights", "inertia"])
        assert torch.equal(first.cluster_weights * factor, scaled.cluster_weights)
        assert torch.equal(first.inertia * factor, scaled.inertia)

    def test_weights_times_three_triple_cluster_weights_and_inertia(self, case):
        x, weights = case.blobs(), case.weights_or_ones()
        first, scaled = (case.run(x, weights=w, init=x[..., :K, :]) for w in (weights, weights * 3))
        assert torch.equal(first.labels, scaled.labels)
        torch.testing.assert_close(scaled.cluster_weights, first.cluster_weights * 3, rtol=1e-6, atol=0)
        torch.testing.assert_close(scaled.inertia, first.inertia * 3, rtol=1e-6, atol=0)

    @each_unweighted("init", SEEDINGS)
    def test_weights_of_one_equal_no_weights(self, case, init):
        x = case.uniform()
        ones = torch.ones(*case.batch, N, dtype=torch.int64, device=case.device)
        assert_same(case.run(x, init=init, weights=ones, **FEW_ITERATIONS), case.run(x, init=init, **FEW_ITERATIONS))

    @each_unweighted("weight", [1.0, 0.7, 1e6])
    def test_equal_weights_give_the_centers_of_no_weights(self, case, weight):
        x = case.blobs()
        weights = torch.full((*case.batch, N), weight, dtype=torch.float64, device=case.device)
        equal, none = case.run(x, init=x[..., :K, :], weights=weights), case.run(x, init=x[..., :K, :])
        assert torch.equal(equal.labels, none.labels)
        torch.testing.assert_close(equal.centers, none.centers, rtol=2 * rounding(none), atol=0)
        torch.testing.assert_close(equal.inertia, none.inertia * weight, rtol=4 * rounding(none), atol=0)

    @each_seeding
    def test_a_point_of_weight_zero_has_a_label_and_no_influence(self, case, init):
        x = case.uniform()
        # A different number in each problem, and outliers: with influence they would be drawn as initial centers.
        absent = (torch.rand(*case.batch, N, generator=seeded(3)) < 0.3).to(case.device)
        weights = (case.weights_or_ones() if case.weighted else torch.ones_like(absent, dtype=torch.int64)).masked_fill(
            absent, 0
        )
        x[absent] = 255 if case.dtype == torch.uint8 else 5000
        result = case.run(x, weights=weights, init=init, **FEW_ITERATIONS)
        assert torch.equal(result.labels, case.assign(x, result.centers).labels)
        for problem in case.problems():
            kept = ~absent[problem]
            without = case.run(
                x[problem][kept], weights=weights[problem][kept] if case.weighted else None, init=init, **FEW_ITERATIONS
            )
            for name in ("centers", "cluster_weights", "inertia", "n_iter", "converged"):
                assert torch.equal(getattr(result, name)[problem], getattr(without, name)), name
            assert torch.equal(result.labels[problem][kept], without.labels)


# Ways in which the loop ends.
ENDS = {
    "tolerance": {"tol": 0.05},
    "fixed point": {"tol": 0.0, "max_iter": 300},
    "one iteration": {"tol": 0.0, "max_iter": 1},
    "callback": {"tol": 0.0, "callback": lambda n_iter, inertia, shift: n_iter >= 2},
}


class TestTheLoop:
    @pytest.mark.parametrize("end", ENDS)
    def test_labels_cluster_weights_and_inertia_are_those_of_the_centers_for_every_end(self, case, end):
        x, weights = case.uniform(), case.weights_or_ones()
        result = case.run(x, **ENDS[end])
        assert torch.equal(result.labels, case.assign(x, result.centers).labels)
        totals = per_cluster(weights, result.labels, K)
        torch.testing.assert_close(result.cluster_weights, totals, rtol=1e-12, atol=0)
        inertia = (weights.double() * own_sqdist(x, result)).sum(-1)
        torch.testing.assert_close(result.inertia, inertia, rtol=4 * rounding(result), atol=0)

    def test_the_loop_ends_in_these_ways(self, float32_case):
        ended = {end: float32_case.run(float32_case.uniform(), **options) for end, options in ENDS.items()}
        assert ended["tolerance"].converged.all()
        assert ended["fixed point"].converged.all()
        assert (ended["tolerance"].n_iter < ended["fixed point"].n_iter).all()
        assert not ended["one iteration"].converged.any()
        assert (ended["one iteration"].n_iter == 1).all()
        assert (ended["callback"].n_iter == 2).all()

    def test_a_callback_changes_no_bit(self, float32_case):
        x, calls = float32_case.uniform(), []
        result = float32_case.run(x, tol=0.0, callback=lambda n_iter, inertia, shift: calls.append(n_iter))
        assert_same(result, float32_case.run(x, tol=0.0))
        assert len(calls) >= result.n_iter.max() - 1 > 1

    def test_converged_centers_are_a_fixed_point(self, case):
        x = case.uniform()
        found = case.run(x, tol=0.0, max_iter=300)
        again = case.run(x, tol=0.0, init=found.centers)
        assert (found.n_iter > 1).all()
        assert (again.n_iter == 1).all()
        assert torch.equal(found.centers, again.centers)
        assert_same_up_to_fixed_point(found, again, except_for=["n_iter"])

    def test_converged_centers_are_the_means_of_their_points(self, case):
        x, weights = case.uniform(), case.weights_or_ones()
        found = case.run(x, tol=0.0, max_iter=300)
        assert found.converged.all()
        sums = per_cluster(weights.double()[..., None] * x.double(), found.labels, K)
        means = sums / per_cluster(weights, found.labels, K)[..., None]
        # The reference adds up to N terms in float64, and each addition rounds.
        tolerance = rounding(found) + 2 * N * torch.finfo(torch.float64).eps
        torch.testing.assert_close(found.centers.double(), means, rtol=tolerance, atol=0)

    def test_more_iterations_never_raise_the_inertia(self, case):
        x = case.uniform()
        inertias = torch.stack([case.run(x, init=x[..., :K, :], tol=0.0, max_iter=n).inertia for n in (1, 2, 3, 6, 40)])
        assert (inertias.diff(dim=0) <= rounding(case.run(x, max_iter=1)) * inertias[1:]).all()
        assert (inertias[-1] < 0.99 * inertias[0]).all()

    def test_one_more_center_lowers_the_inertia(self, case):
        x = case.uniform()
        centers = x[..., :1, :]
        found = []
        for k in range(1, 6):
            result = case.run(x, k, init=centers, tol=0.0, max_iter=6)
            found.append(result.inertia)
            worst = own_sqdist(x, result).argmax(-1, keepdim=True)[..., None].expand(*case.batch, 1, 3)
            centers = torch.cat([result.centers, x.gather(-2, worst).to(result.centers.dtype)], dim=-2)
        assert (torch.stack(found).diff(dim=0) < 0).all()

    def test_more_runs_never_raise_the_inertia(self, case):
        x = case.uniform()
        options = {"init": "random", "max_iter": 1}
        found = torch.stack([case.run(x, 8, n_init=n, **options).inertia for n in (1, 2, 20)])
        assert (found.diff(dim=0) <= 0).all()
        assert (found[-1] < found[0]).any()

    def test_more_runs_begin_with_the_random_numbers_of_fewer(self):
        drawn = {2: [], 5: []}
        x = Case("plain").uniform()

        for n, found in drawn.items():

            def first(points, k, generator, found=found):
                found.append(torch.randint(1 << 40, (), generator=generator).item())
                return x[:k]

            kmeans(x, K, init=first, n_init=n, generator=seeded(4))
        assert drawn[2] == drawn[5][:2]
        assert len(set(drawn[5])) == 5


class TestNumberOfClusters:
    def test_one_cluster_has_its_center_at_the_mean(self, case):
        x, weights = case.uniform(), case.weights_or_ones()
        result = case.run(x, 1)
        total = weights.double().sum(-1)
        mean = (weights.double()[..., None] * x.double()).sum(-2) / total[..., None]
        torch.testing.assert_close(result.centers.squeeze(-2).double(), mean, rtol=rounding(result), atol=0)
        torch.testing.assert_close(result.cluster_weights.squeeze(-1), total, rtol=1e-12, atol=0)
        assert (result.labels == 0).all()

    @each_seeding
    def test_as_many_clusters_as_points_leave_no_inertia(self, case, init):
        n = 13
        result = case.run(case.uniform(n), n, init=init)
        # The mean of one point differs from it by rounding at most, and at most N of these add up, in three channels.
        assert (result.inertia <= 3 * n * 2.25 * (255 * torch.finfo(torch.float64).eps) ** 2).all()
        assert torch.equal(result.labels.sort(-1).values, torch.arange(n, device=case.device).expand(*case.batch, n))
        torch.testing.assert_close(
            result.cluster_weights.gather(-1, result.labels), case.weights_or_ones(n).double(), rtol=1e-12, atol=0
        )

    @each_seeding
    def test_fewer_distinct_points_than_clusters_are_all_found_with_a_warning(self, case, init):
        x = case.blobs()[..., :3, :].repeat_interleave(10, dim=-2)
        with pytest.warns(UserWarning, match="3 distinct points"):
            result = case.run(x, K, init=init)
        assert not result.centers.isnan().any()
        assert ((result.cluster_weights > 0).sum(-1) == 3).all()
        assert (result.inertia < 1e-18).all()
        torch.testing.assert_close(own_centers(result), x.double(), rtol=rounding(result), atol=0)

    def test_a_problem_with_too_few_distinct_points_does_not_change_the_other(self, unbatched_case):
        x = torch.stack([unbatched_case.uniform(30)] * 2)
        x[1] = x[1, :3].repeat(10, 1)
        with pytest.warns(UserWarning, match="3 distinct points"):
            result = kmeans(x, K, engine=unbatched_case.engine)
        other = kmeans(x[0], K, engine=unbatched_case.engine)
        for name in FIELDS:
            assert torch.equal(getattr(result, name)[0], getattr(other, name)), name

    @each_case("init", [row for row in SEEDED if row[1] != "random"])
    def test_centers_of_clusters_far_apart_are_found(self, case, init):
        result = case.run(case.blobs(), n_init=4, init=init)
        labels = result.labels.unflatten(-1, (N // K, K))
        assert (labels == labels[..., :1, :]).all()
        assert torch.equal(
            labels[..., 0, :].sort(-1).values, torch.arange(K, device=case.device).expand(*case.batch, K)
        )
        found = own_centers(result)[..., :K, :]
        # 24 points of standard deviation 5: five is above four standard deviations of their mean, also if weighted.
        torch.testing.assert_close(found, MEANS.double().to(found.device).expand_as(found), rtol=0, atol=5)


class TestTransformedPoints:
    def test_rows_in_another_order_change_no_bit_of_the_centers(self, case):
        # From given centers and without empty clusters: only random draws and ties of worst-served points depend on the
        # order of the rows.
        x, weights = case.uniform(), case.weights()
        order = torch.randperm(N, generator=seeded(2)).to(case.device)
        for max_iter in (2, 300):
            options = {"init": x[..., :K, :], "tol": 0.0, "max_iter": max_iter}
            first = case.run(x, weights=weights, **options)
            reordered = case.run(x[..., order, :], weights=None if weights is None else weights[..., order], **options)
            assert (first.cluster_weights > 0).all()
            assert_same(first, reordered, except_for=["labels"])
            assert torch.equal(first.labels[..., order], reordered.labels)

    def test_reordered_coordinates_reorder_those_of_the_centers(self, case):
        # Reordered sums of three squares round differently, but rounding changes no label of these points.
        x = case.blobs()
        first = case.run(x, init=x[..., :K, :], tol=0.0)
        reordered = case.run(x.flip(-1), init=x[..., :K, :].flip(-1), tol=0.0)
        assert torch.equal(first.centers.flip(-1), reordered.centers)
        assert torch.equal(first.labels, reordered.labels)

    def test_translated_points_have_translated_centers(self, case):
        x = case.blobs(top=127, integers=True)
        first = case.run(x, init=x[..., :K, :], tol=0.0)
        moved = case.run(x + 100, init=x[..., :K, :] + 100, tol=0.0)
        assert_same(first, moved, except_for=["centers", "inertia"])
        torch.testing.assert_close(moved.centers, first.centers + 100, rtol=2 * rounding(first), atol=0)
        torch.testing.assert_close(moved.inertia, first.inertia, rtol=1000 * rounding(first), atol=0)

    @pytest.mark.parametrize("offset", [2**16, -(2**20)])
    def test_points_translated_far_have_translated_centers(self, float32_case, offset):
        x = float32_case.blobs(integers=True)
        first = float32_case.run(x, init=x[..., :K, :], tol=0.0)
        moved = float32_case.run(x + offset, init=x[..., :K, :] + offset, tol=0.0)
        assert_same(first, moved, except_for=["centers", "inertia"])
        torch.testing.assert_close(moved.centers, first.centers + offset, rtol=rounding(first), atol=0)

    @each_seeding
    def test_points_times_a_power_of_two_scale_everything_exactly(self, case, init):
        x, factor = case.uniform(top=31), 8
        first, scaled = (case.run(points, init=init, **FEW_ITERATIONS) for points in (x, x * factor))
        assert_same(first, scaled, except_for=["centers", "inertia"])
        assert torch.equal(first.centers * factor, scaled.centers)
        assert torch.equal(first.inertia * factor**2, scaled.inertia)


# Dtypes that hold the same integers.
PAIRS = [
    (torch.uint8, torch.float16),
    (torch.uint8, torch.float32),
    (torch.int8, torch.float32),
    (torch.int16, torch.float32),
    (torch.int64, torch.float64),
]


class TestArguments:
    def test_labels_and_centers_in_float32_and_float64_agree(self, case):
        x = case.blobs()
        results = [case.run(points, init=points[..., :K, :], tol=0.0) for points in (x, x.float(), x.double())]
        for other in results[1:]:
            assert torch.equal(results[0].labels, other.labels)
            torch.testing.assert_close(
                results[0].centers.double(), other.centers.double(), rtol=torch.finfo(torch.float32).eps, atol=0
            )

    @pytest.mark.parametrize("init", SEEDINGS)
    @each_case("pair", rotated([kind for kind in KINDS if kind[2] == torch.float32], PAIRS))
    def test_integers_and_floats_of_the_same_values_give_the_same_bits(self, case, pair, init):
        x = case.uniform(top=127).round()
        assert_same(*(case.run(x.to(dtype), init=init, **FEW_ITERATIONS) for dtype in pair))

    def test_arguments_are_not_changed_and_share_no_memory_with_results(self, case):
        x, weights, k = case.uniform(), case.weights_or_ones(), 6
        # In the compute dtype, and once with centers that are converged: the case where the input could be returned.
        start = x[..., :k, :].to(torch.float64 if case.dtype == torch.float64 else torch.float32)
        for points, own_weights in ((x, weights), (start, weights[..., :k].contiguous())):
            inputs = (points, own_weights, start)
            copies = [tensor.clone() for tensor in inputs]
            result = case.run(points, k, weights=own_weights, init=start, tol=0.0)
            for name in FIELDS:
                getattr(result, name).zero_()
            for tensor, copy in zip(inputs, copies, strict=True):
                assert torch.equal(tensor, copy)

    @pytest.mark.parametrize("layout", ["every other row", "columns of a table", "transposed", "first axis last"])
    def test_the_layout_in_memory_changes_no_bit(self, case, layout):
        x, weights = case.uniform(), case.weights_or_ones()

        def other(tensor):
            if layout == "every other row":
                return torch.stack([tensor, torch.zeros_like(tensor)], dim=-2).flatten(-3, -2)[..., ::2, :]
            if layout == "columns of a table":
                return torch.cat([torch.zeros_like(tensor), tensor], dim=-1)[..., tensor.shape[-1] :]
            if layout == "transposed":
                return tensor.mT.contiguous().mT
            return tensor.movedim(0, -1).contiguous().movedim(-1, 0)

        views = other(x), torch.stack([weights, weights * 7], dim=-1)[..., 0], other(x[..., :K, :])
        assert not any(view.is_contiguous() for view in views)
        assert torch.equal(views[0], x)
        result = case.run(x, weights=weights, init=x[..., :K, :], **FEW_ITERATIONS)
        assert_same(case.run(views[0], weights=views[1], init=views[2], **FEW_ITERATIONS), result)
        assert torch.equal(case.assign(views[0], result.centers).labels, result.labels)

    def test_an_expanded_tensor_gives_the_result_of_its_copy(self, case):
        x = case.uniform()[..., :1].expand(*case.batch, N, 3)
        weights = torch.full((1,), 0.5, device=case.device).expand(*case.batch, N)
        assert_same(
            case.run(x, weights=weights, **FEW_ITERATIONS),
            case.run(x.clone(), weights=weights.clone(), **FEW_ITERATIONS),
        )


class TestCosine:
    """Spherical K-means: only the directions of rows count."""

    @staticmethod
    def rows(case):
        """Points (*batch, N, 3), none of them zero, of even integers, which can be halved in uint8."""
        return (case.uniform(top=126).double().round() * 2 + 2).to(case.dtype)

    @staticmethod
    def cosines(x, result):
        return torch.nn.functional.cosine_similarity(x.double(), own_centers(result), dim=-1)

    @pytest.mark.parametrize("max_iter", [1, 100])
    def test_labels_cluster_weights_and_inertia_are_those_of_the_unit_centers(self, case, max_iter):
        x, weights = self.rows(case), case.weights_or_ones()
        result = case.run(x, metric="cosine", max_iter=max_iter)
        tolerance = 8 * rounding(result)
        torch.testing.assert_close(
            result.centers.double().norm(dim=-1), torch.ones_like(result.cluster_weights), rtol=tolerance, atol=0
        )
        own = assign(x, result.centers, metric="cosine", engine=case.engine)
        assert torch.equal(own.labels, result.labels)
        torch.testing.assert_close(result.cluster_weights, per_cluster(weights, result.labels, K), rtol=1e-12, atol=0)
        inertia = (weights.double() * (1 - self.cosines(x, result))).sum(-1)
        assert ((result.inertia - inertia).abs() <= tolerance * weights.double().sum(-1)).all()
        products = x.double() @ result.centers.double().mT
        best = products.amax(-1) / x.double().norm(dim=-1)
        assert (self.cosines(x, result) >= best - tolerance).all()

    def test_the_center_of_one_cluster_is_the_direction_of_the_sum_of_unit_rows(self, case):
        x, weights = self.rows(case), case.weights_or_ones().double()[..., None]
        result = case.run(x, 1, metric="cosine")
        direction = torch.nn.functional.normalize(
            (weights * torch.nn.functional.normalize(x.double(), dim=-1)).sum(-2), dim=-1
        )
        tolerance = 4 * rounding(result)
        torch.testing.assert_close(result.centers.squeeze(-2).double(), direction, rtol=tolerance, atol=tolerance)

    @each_seeding
    def test_the_length_of_a_row_has_no_influence(self, case, init):
        # Powers of two, which do not round.
        x = self.rows(case)
        factors = torch.where(torch.rand(N, 1, generator=seeded(6)) < 0.5, 0.5, 1.0).to(case.device)
        shorter = (x.double() * factors).to(case.dtype)
        options = {"metric": "cosine", "init": init, **FEW_ITERATIONS}
        first, other = case.run(x, **options), case.run(shorter, **options)
        assert_same(first, other)
        assert not torch.equal(case.run(x, init=init, **FEW_ITERATIONS).labels, first.labels)

    def test_converged_centers_are_a_fixed_point(self, case):
        x = self.rows(case)
        found = case.run(x, metric="cosine", tol=0.0, max_iter=300)
        again = case.run(x, metric="cosine", tol=0.0, init=found.centers)
        assert torch.equal(again.labels, found.labels)
        tolerance = 4 * rounding(found)
        torch.testing.assert_close(again.centers, found.centers, rtol=tolerance, atol=tolerance)

    def test_the_module_fits_and_predicts_with_the_metric(self, case):
        x = self.rows(case)
        model = case.model(metric="cosine", **FEW_ITERATIONS).fit(x, sample_weight=case.weights())
        assert_same(model.result_, case.run(x, metric="cosine", **FEW_ITERATIONS))
        assert torch.equal(model.predict(x), model.labels_)

    def test_a_row_of_zeros_has_no_direction(self, case, unchecked):
        x, weights = self.rows(case), case.weights_or_ones()
        x[..., 3, :] = 0
        with pytest.raises(ValueError, match="zero"):
            case.run(x, metric="cosine")
        weights[..., 3] = 0
        absent = case.run(x, weights=weights, metric="cosine", init=x[..., 4 : 4 + K, :])
        kept = torch.arange(N, device=case.device) != 3
        without = case.run(x[..., kept, :], weights=weights[..., kept], metric="cosine", init=x[..., 4 : 4 + K, :])
        assert_same(absent, without, except_for=["labels"])
        assert torch.equal(absent.labels[..., kept], without.labels)


def test_the_lowest_index_of_equally_near_centers_is_the_label(case):
    x = case.blobs(integers=True)
    twice = torch.cat([x[..., :K, :], x[..., :K, :]], dim=-2)
    assert (case.assign(x, twice).labels < K).all()
    # A point equally far from the last three centers.
    middle = torch.tensor([[60, 60, 60]], device=case.device).expand(*case.batch, 1, 3).to(case.dtype)
    aside = torch.tensor([[9, 9, 9], [50, 60, 60], [70, 60, 60], [60, 50, 60]], device=case.device).to(case.dtype)
    assert (case.assign(middle, aside).labels == 1).all()
    assert (case.assign(middle, aside.flip(0)).labels == 0).all()


class TestTheModule:
    def test_predict_returns_the_labels_of_the_fit(self, case):
        x = case.uniform()
        model = case.model(**FEW_ITERATIONS).fit(x, sample_weight=case.weights())
        assert torch.equal(model.predict(x), model.labels_)
        assert torch.equal(case.model(**FEW_ITERATIONS).fit_predict(x, sample_weight=case.weights()), model.labels_)
        assert_same(model.result_, case.run(x, **FEW_ITERATIONS))

    def test_the_smallest_distance_of_transform_is_at_the_label(self, case):
        # A uniform point may be equally far from two centers up to rounding.
        x = case.blobs()
        model = case.model(n_init=3).fit(x, sample_weight=case.weights())
        distances = model.transform(x)
        assert distances.shape == (*case.batch, N, K)
        assert torch.equal(distances.argmin(-1), model.labels_)
        own = own_sqdist(x, model.result_).sqrt()
        torch.testing.assert_close(distances.double().amin(-1), own, rtol=4 * rounding(model.result_), atol=0)

    def test_the_score_of_the_fitted_points_is_minus_the_inertia(self, case):
        x, weights = case.uniform(), case.weights()
        model = case.model().fit(x, sample_weight=weights)
        score = torch.as_tensor(model.score(x, sample_weight=weights), dtype=torch.float64)
        torch.testing.assert_close(score, -model.result_.inertia, rtol=4 * rounding(model.result_), atol=0)

    def test_a_module_made_from_the_parameters_has_the_same_result(self, float32_case):
        x = float32_case.uniform()
        model = float32_case.model(init="random", n_init=2, tol=0.0).fit(x)
        assert_same(KMeans(**model.get_params()).fit(x).result_, model.result_)
        assert not torch.equal(KMeans(**model.get_params()).set_params(n_clusters=3).fit(x).labels_, model.labels_)


class TestBatches:
    """Each problem of a batch has the result it has alone, to the bit."""

    @staticmethod
    def uneven(case, batch, n=60):
        """Different problems, whose loops take different numbers of iterations: clusters, uniform points, a line."""
        count = torch.Size(batch).numel()
        case = replace(case, batch=())
        kinds = [case.blobs(n), case.uniform(n), case.uniform(n, top=40), case.uniform(n)[:, :1].expand(n, 3)]
        problems = [kinds[i] if i < 4 else case.uniform(n, seed=i) for i in range(count)]
        return torch.stack(problems).reshape(*batch, n, 3)

    def check(self, case, x, k=K, **options):
        """The result of the batch, after comparing each field of each problem with the result of the problem alone."""
        batch, init = x.shape[:-2], options.get("init")
        weights = (torch.rand(x.shape[:-1], generator=seeded(8)) + 0.25).to(x.device) if case.weighted else None
        many = kmeans(x, k, weights=weights, engine=case.engine, **options)
        for problem in itertools.product(*map(range, batch)):
            own = {"weights": None if weights is None else weights[problem]}
            if isinstance(init, torch.Tensor) and init.ndim > 2:
                own["init"] = init[problem]
            single = kmeans(x[problem], k, engine=case.engine, **(options | own))
            for name in FIELDS:
                assert torch.equal(getattr(many, name)[problem], getattr(single, name)), (problem, name)
        return many

    @pytest.mark.parametrize("init", SEEDINGS)
    @pytest.mark.parametrize("batch", [(1,), (2, 3)], ids=str)
    def test_a_batch_with_seeding_equals_its_problems_alone(self, unbatched_case, batch, init):
        self.check(unbatched_case, self.uneven(unbatched_case, batch, n=40), n_init=2, init=init)

    def test_a_batch_with_a_generator_equals_its_problems_alone(self, unbatched_case):
        x = self.uneven(unbatched_case, (3,))
        states = [seeded(11) for _ in range(4)]
        many = kmeans(x, K, n_init=2, engine=unbatched_case.engine, generator=states[3])
        for problem in range(3):
            alone = kmeans(x[problem], K, n_init=2, engine=unbatched_case.engine, generator=states[problem])
            for name in FIELDS:
                assert torch.equal(getattr(many, name)[problem], getattr(alone, name)), (problem, name)
            assert torch.equal(states[problem].get_state(), states[3].get_state())

    def test_a_batch_of_every_dtype_equals_its_problems_alone(self, kind):
        many = self.check(kind, self.uneven(kind, (4,)), tol=0.0)
        assert len(set(many.n_iter.tolist())) > 1  # so that an iteration for all of them would be noticed

    @pytest.mark.parametrize("max_iter", [1, 3, 100])
    def test_a_batch_from_centers_of_each_problem_equals_its_problems_alone(self, unbatched_case, max_iter):
        x = self.uneven(unbatched_case, (2, 2))
        self.check(unbatched_case, x, init=x[..., :K, :], max_iter=max_iter)

    def test_a_batch_from_centers_for_all_problems_equals_its_problems_alone(self, unbatched_case):
        x = self.uneven(unbatched_case, (4,))
        self.check(unbatched_case, x, init=x[1, :K])

    def test_a_batch_from_centers_of_a_function_equals_its_problems_alone(self, unbatched_case):
        self.check(
            unbatched_case,
            self.uneven(unbatched_case, (3,)),
            init=lambda points, k, generator: points.sample(k, generator),
            n_init=2,
        )

    def test_a_batch_whose_clusters_become_empty_equals_its_problems_alone(self, unbatched_case):
        far = torch.tensor(
            [[0.0, 0, 0], [1e6, 0, 0], [0, 1e6, 0], [0, 0, -1e6], [9, 9, 9]], device=unbatched_case.device
        )
        many = self.check(unbatched_case, self.uneven(unbatched_case, (3,)), init=far, tol=0.0)
        assert (many.cluster_weights > 0).all()

    @pytest.mark.parametrize("init", SEEDINGS)
    def test_a_batch_by_cosine_equals_its_problems_alone(self, unbatched_case, init):
        # Moved off the origin, so that the points of the line have different directions.
        x = self.uneven(unbatched_case, (4,)) + torch.tensor([1.0, 2, 40], device=unbatched_case.device)
        self.check(unbatched_case, x, n_init=2, init=init, metric="cosine")

    def test_a_batch_of_one_point_per_problem_equals_its_problems_alone(self, unbatched_case):
        self.check(unbatched_case, self.uneven(unbatched_case, (3,))[:, 7:8], k=1)

    def test_a_batch_of_the_same_points_in_one_expanded_tensor_has_equal_labels(self, unbatched_case):
        x = self.uneven(unbatched_case, (2,))[1].expand(3, 60, 3)
        many = (
            self.check(unbatched_case, x, n_init=2)
            if not unbatched_case.weighted
            else kmeans(x, K, engine=unbatched_case.engine)
        )
        assert (many.labels == many.labels[0]).all()

    @pytest.mark.parametrize("shared", [False, True])
    def test_nearest_centers_of_a_batch_equal_those_of_its_problems_alone(self, kind, shared):
        x = self.uneven(kind, (2, 2))
        centers = x[0, 0, ::9] if shared else x[..., ::9, :]
        labels, sqdist = assign(x, centers, engine=kind.engine)
        for problem in itertools.product(range(2), range(2)):
            own = assign(x[problem], centers if shared else centers[problem], engine=kind.engine)
            assert torch.equal(labels[problem], own.labels)
            assert torch.equal(sqdist[problem], own.sqdist)
