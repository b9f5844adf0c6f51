"""What is true of K-means whatever the engine, device, dtype, with or without a batch and weights: a case is these."""

import itertools
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from helpers.problems import seeded

from gpukmeans import ENGINES, SEEDINGS, KMeans, assign, kmeans

FIELDS = ("centers", "labels", "totals", "inertia", "n_iter", "converged")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
N, K = 120, 5

# Rounds enough where bits are compared, which come of every round.
SOME = {"max_iter": 3}

# Corners of the box of 8-bit values that are far apart: row i of `Case.blobs` is scattered around mean i % 5.
MEANS = torch.tensor([[20, 20, 25], [225, 40, 30], [40, 215, 60], [200, 200, 225], [30, 60, 210]])


@dataclass(frozen=True)
class Case:
    """One way to hand over points. Every value it makes fits all of `DTYPES`, within their rounding."""

    engine: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    batch: tuple[int, ...] = ()
    weighted: bool = False

    def __str__(self):
        words = [self.engine, self.device, str(self.dtype).removeprefix("torch.")]
        return "-".join([*words, *(["batch"] if self.batch else []), *(["weights"] if self.weighted else [])])

    def cloud(self, n=N, *, top=255.0, seed=0):
        """Points (*batch, n, 3) without clusters, so that the loop has something to do and bits have a say."""
        x = torch.rand(*self.batch, n, 3, generator=seeded(seed), dtype=torch.float64) * top
        return x.to(self.device, self.dtype)

    def blobs(self, n=N, *, top=255.0, whole=False):
        """Points (*batch, n, 3) in five clusters so far apart that no rounding moves a label."""
        scatter = torch.randn(*self.batch, n, 3, generator=seeded(), dtype=torch.float64).clamp(-3, 3)
        x = (MEANS.double()[torch.arange(n) % K] + 5 * scatter) * (top / 255)
        return (x.round() if whole else x).to(self.device, self.dtype)

    def weights(self, n=N):
        """None, or weights (*batch, n) from 0.25 to 2.25."""
        if not self.weighted:
            return None
        return (torch.rand(*self.batch, n, generator=seeded(9)) * 2 + 0.25).to(self.device)

    def mass(self, n=N):
        """The weights as a tensor: 1 where there are none."""
        weights = self.weights(n)
        return torch.ones(*self.batch, n, device=self.device) if weights is None else weights

    def run(self, x, k=K, **options):
        return kmeans(x, k, engine=self.engine, **({"weights": self.weights(x.shape[-2])} | options))

    def assign(self, x, centers):
        return assign(x, centers, engine=self.engine)

    def model(self, **options):
        return KMeans(K, engine=self.engine, **options)

    def problems(self):
        """The index of each problem of the batch; of the only one where there is none."""
        return list(itertools.product(*map(range, self.batch)))


@cache
def obstacle(engine, device, dtype):
    """What the engine has against such points, in its own words."""
    probe = torch.tensor([[0], [1]], dtype=dtype, device=device)
    try:
        assign(probe, probe, engine=engine)
    except ValueError as error:
        if "cannot take these points" not in str(error):
            raise
        return str(error)
    return None


# The engines that are held to the plain one by tests of their own see two dtypes, and kernels only what they are for.
KINDS = [
    (engine, device, dtype)
    for engine, device, dtype in itertools.product(ENGINES, DEVICES, DTYPES)
    if (engine == "torch" or dtype in (torch.uint8, torch.float32)) and (engine != "triton" or device == "cuda")
]

# Batch and weights. Two neighbors have nothing in common, and three of them have all there is.
LAYOUTS = [((), False), ((2,), True), ((2,), False), ((), True)]

# Not the product of all choices but enough of it for every pair: each engine and dtype with two layouts that have
# nothing in common, and each engine with all four. What meets only in a case of three choices is left out.
CASES = [Case(*kind, *layout) for i, kind in enumerate(KINDS) for layout in (LAYOUTS[:2] if i % 2 else LAYOUTS[2:])]


def rotated(kinds, values, layouts=LAYOUTS):
    """Each kind with each value, and one layout for both: the next one for the next kind and for the next value."""
    return [
        (Case(*kind, *layouts[(i + j) % len(layouts)]), value)
        for i, kind in enumerate(kinds)
        for j, value in enumerate(values)
    ]


def each(name, rows):
    """The test once for each case and value of the rows, the value by this name."""
    return pytest.mark.parametrize(("case", name), rows, ids=str, indirect=["case"])


# Every seeding with every kind of three dtypes.
SOWN = rotated([kind for kind in KINDS if kind[2] in (torch.uint8, torch.float32, torch.float64)], SEEDINGS)
sown = each("init", SOWN)


def plain(name, values):
    """Every value with every kind, without weights."""
    return each(name, rotated(KINDS, values, [layout for layout in LAYOUTS if not layout[1]]))


def given(request):
    if why := obstacle(request.param.engine, request.param.device, request.param.dtype):
        pytest.skip(why)
    return request.param


@pytest.fixture(params=CASES, ids=str)
def case(request):
    """Every case."""
    return given(request)


@pytest.fixture(params=[Case(*kind) for kind in KINDS], ids=str)
def kind(request):
    """Every engine and dtype, where the test itself makes the batch."""
    return given(request)


SINGLE = [Case(*kind, *layout) for kind in KINDS if kind[2] == torch.float32 for layout in LAYOUTS]


@pytest.fixture(params=SINGLE, ids=str)
def single(request):
    """Every case in float32, where the test itself goes through dtypes or these do not matter."""
    return given(request)


@pytest.fixture(params=[case for case in SINGLE if not case.batch], ids=str)
def one(request):
    """Every case in float32 of one problem, where the test itself makes the batch."""
    return given(request)


def assert_same(first, second, *, but=()):
    for name in FIELDS:
        if name not in but:
            assert torch.equal(getattr(first, name), getattr(second, name)), name


def assert_same_but_for_steps(first, second, *, but=()):
    """The same bits, or for float64 the same within the rounding of its terms to the steps of a grid.

    Products of float32 are whole steps, so they add up to the same however they come; those of float64 are not.
    """
    if first.centers.dtype == torch.float32:
        assert_same(first, second, but=but)
    else:
        assert_same(first, second, but=[*but, "centers", "inertia"])
        for name in {"centers", "inertia"} - set(but):
            torch.testing.assert_close(getattr(first, name), getattr(second, name), rtol=1e-14, atol=0)


def own_centers(result):
    """The center of each point (*batch, N, D), float64."""
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
    @plain("init", SEEDINGS)
    def test_a_weight_is_so_many_equal_points(self, case, init):
        x = case.cloud()
        times = torch.randint(1, 4, (N,), generator=seeded()).to(case.device)
        once = case.run(x, weights=times.expand(*case.batch, N), init=init, **SOME)
        repeated = case.run(x.repeat_interleave(times, dim=-2), init=init, **SOME)
        assert_same_but_for_steps(once, repeated, but=["labels"])
        assert torch.equal(once.labels.repeat_interleave(times, dim=-1), repeated.labels)

    def test_twice_the_weight_is_every_point_twice(self, case):
        x, weights = case.cloud(), case.mass()
        once = case.run(x, weights=weights * 2)
        repeated = case.run(x.repeat_interleave(2, dim=-2), weights=weights.repeat_interleave(2, dim=-1))
        assert_same_but_for_steps(once, repeated, but=["labels"])
        assert torch.equal(once.labels, repeated.labels[..., ::2])

    @sown
    def test_weights_times_a_power_of_two_change_nothing_but_totals_and_inertia(self, case, init):
        x, weights, factor = case.cloud(), case.mass(), 2.0**-20
        first, scaled = (case.run(x, weights=w, init=init, **SOME) for w in (weights, weights * factor))
        assert_same(first, scaled, but=["totals", "inertia"])
        assert torch.equal(first.totals * factor, scaled.totals)
        assert torch.equal(first.inertia * factor, scaled.inertia)

    def test_three_times_the_weight_is_three_times_the_inertia(self, case):
        x, weights = case.blobs(), case.mass()
        first, scaled = (case.run(x, weights=w, init=x[..., :K, :]) for w in (weights, weights * 3))
        assert torch.equal(first.labels, scaled.labels)
        torch.testing.assert_close(scaled.totals, first.totals * 3, rtol=1e-6, atol=0)
        torch.testing.assert_close(scaled.inertia, first.inertia * 3, rtol=1e-6, atol=0)

    @plain("init", SEEDINGS)
    def test_weights_of_one_are_no_weights(self, case, init):
        x = case.cloud()
        ones = torch.ones(*case.batch, N, dtype=torch.int64, device=case.device)
        assert_same(case.run(x, init=init, weights=ones, **SOME), case.run(x, init=init, **SOME))

    @plain("weight", [1.0, 0.7, 1e6])
    def test_equal_weights_are_no_weights(self, case, weight):
        x = case.blobs()
        weights = torch.full((*case.batch, N), weight, dtype=torch.float64, device=case.device)
        equal, none = case.run(x, init=x[..., :K, :], weights=weights), case.run(x, init=x[..., :K, :])
        assert torch.equal(equal.labels, none.labels)
        torch.testing.assert_close(equal.centers, none.centers, rtol=2 * rounding(none), atol=0)
        torch.testing.assert_close(equal.inertia, none.inertia * weight, rtol=4 * rounding(none), atol=0)

    @sown
    def test_a_point_of_weight_zero_is_absent_but_has_a_label(self, case, init):
        x = case.cloud()
        # Another number of them in each problem, and outliers: they would widen every grid and be drawn at once.
        absent = (torch.rand(*case.batch, N, generator=seeded(3)) < 0.3).to(case.device)
        weights = (case.mass() if case.weighted else torch.ones_like(absent, dtype=torch.int64)).masked_fill(absent, 0)
        x[absent] = 255 if case.dtype == torch.uint8 else 5000
        result = case.run(x, weights=weights, init=init, **SOME)
        assert torch.equal(result.labels, case.assign(x, result.centers).labels)
        for problem in case.problems():
            kept = ~absent[problem]
            without = case.run(
                x[problem][kept], weights=weights[problem][kept] if case.weighted else None, init=init, **SOME
            )
            for name in ("centers", "totals", "inertia", "n_iter", "converged"):
                assert torch.equal(getattr(result, name)[problem], getattr(without, name)), name
            assert torch.equal(result.labels[problem][kept], without.labels)


# How the loop comes to its end.
ENDS = {
    "tolerance": {"tol": 0.05},
    "standstill": {"tol": 0.0, "max_iter": 300},
    "one round": {"tol": 0.0, "max_iter": 1},
    "callback": {"tol": 0.0, "callback": lambda n_iter, inertia, shift: n_iter >= 2},
}


class TestTheLoop:
    @pytest.mark.parametrize("end", ENDS)
    def test_labels_totals_and_inertia_belong_to_the_centers_however_the_loop_ends(self, case, end):
        x, weights = case.cloud(), case.mass()
        result = case.run(x, **ENDS[end])
        assert torch.equal(result.labels, case.assign(x, result.centers).labels)
        totals = per_cluster(weights, result.labels, K)
        torch.testing.assert_close(result.totals, totals, rtol=1e-12, atol=0)
        inertia = (weights.double() * own_sqdist(x, result)).sum(-1)
        torch.testing.assert_close(result.inertia, inertia, rtol=4 * rounding(result), atol=0)

    def test_these_are_the_ends_of_the_loop(self, single):
        ended = {end: single.run(single.cloud(), **options) for end, options in ENDS.items()}
        assert ended["tolerance"].converged.all()
        assert ended["standstill"].converged.all()
        assert (ended["tolerance"].n_iter < ended["standstill"].n_iter).all()
        assert not ended["one round"].converged.any()
        assert (ended["one round"].n_iter == 1).all()
        assert (ended["callback"].n_iter == 2).all()

    def test_a_callback_that_only_watches_changes_no_bit(self, single):
        x, seen = single.cloud(), []
        watched = single.run(x, tol=0.0, callback=lambda n_iter, inertia, shift: seen.append(n_iter))
        assert_same(watched, single.run(x, tol=0.0))
        assert len(seen) >= watched.n_iter.max() - 1 > 1

    def test_found_centers_are_a_fixed_point(self, case):
        x = case.cloud()
        found = case.run(x, tol=0.0, max_iter=300)
        again = case.run(x, tol=0.0, init=found.centers)
        assert (found.n_iter > 1).all()
        assert (again.n_iter == 1).all()
        assert torch.equal(found.centers, again.centers)
        assert_same_but_for_steps(found, again, but=["n_iter"])

    def test_centers_that_stand_still_are_the_means_of_their_points(self, case):
        x, weights = case.cloud(), case.mass()
        found = case.run(x, tol=0.0, max_iter=300)
        assert found.converged.all()
        sums = per_cluster(weights.double()[..., None] * x.double(), found.labels, K)
        means = sums / per_cluster(weights, found.labels, K)[..., None]
        # The reference adds up to N terms in float64, each sum rounded.
        off = rounding(found) + 2 * N * torch.finfo(torch.float64).eps
        torch.testing.assert_close(found.centers.double(), means, rtol=off, atol=0)

    def test_more_rounds_never_raise_the_inertia(self, case):
        x = case.cloud()
        rounds = torch.stack([case.run(x, init=x[..., :K, :], tol=0.0, max_iter=n).inertia for n in (1, 2, 3, 6, 40)])
        assert (rounds.diff(dim=0) <= rounding(case.run(x, max_iter=1)) * rounds[1:]).all()
        assert (rounds[-1] < 0.99 * rounds[0]).all()

    def test_one_more_center_lowers_the_inertia(self, case):
        x = case.cloud()
        centers = x[..., :1, :]
        found = []
        for k in range(1, 6):
            result = case.run(x, k, init=centers, tol=0.0, max_iter=6)
            found.append(result.inertia)
            worst = own_sqdist(x, result).argmax(-1, keepdim=True)[..., None].expand(*case.batch, 1, 3)
            centers = torch.cat([result.centers, x.gather(-2, worst).to(result.centers.dtype)], dim=-2)
        assert (torch.stack(found).diff(dim=0) < 0).all()

    def test_more_restarts_are_never_worse(self, case):
        x = case.cloud()
        options = {"init": "random", "max_iter": 1}
        found = torch.stack([case.run(x, 8, n_init=n, **options).inertia for n in (1, 2, 20)])
        assert (found.diff(dim=0) <= 0).all()
        assert (found[-1] < found[0]).any()

    def test_more_restarts_begin_with_the_draws_of_fewer(self):
        drawn = {2: [], 5: []}
        x = Case("torch").cloud()

        for n, found in drawn.items():

            def first(points, k, generator, found=found):
                found.append(torch.randint(1 << 40, (), generator=generator).item())
                return x[:k]

            kmeans(x, K, init=first, n_init=n, generator=seeded(4))
        assert drawn[2] == drawn[5][:2]
        assert len(set(drawn[5])) == 5


class TestHowMany:
    def test_one_cluster_has_its_center_at_the_mean(self, case):
        x, weights = case.cloud(), case.mass()
        result = case.run(x, 1)
        total = weights.double().sum(-1)
        mean = (weights.double()[..., None] * x.double()).sum(-2) / total[..., None]
        torch.testing.assert_close(result.centers.squeeze(-2).double(), mean, rtol=rounding(result), atol=0)
        torch.testing.assert_close(result.totals.squeeze(-1), total, rtol=1e-12, atol=0)
        assert (result.labels == 0).all()

    @sown
    def test_as_many_clusters_as_points_leave_no_inertia(self, case, init):
        n = 13
        result = case.run(case.cloud(n), n, init=init)
        # The mean of one point is off it by rounding at most, and at most N of these add up, each in three channels.
        assert (result.inertia <= 3 * n * 2.25 * (255 * torch.finfo(torch.float64).eps) ** 2).all()
        assert torch.equal(result.labels.sort(-1).values, torch.arange(n, device=case.device).expand(*case.batch, n))
        torch.testing.assert_close(result.totals.gather(-1, result.labels), case.mass(n).double(), rtol=1e-12, atol=0)

    @sown
    def test_fewer_distinct_points_than_clusters_are_all_found_with_a_warning(self, case, init):
        x = case.blobs()[..., :3, :].repeat_interleave(10, dim=-2)
        with pytest.warns(UserWarning, match="3 distinct points"):
            result = case.run(x, K, init=init)
        assert not result.centers.isnan().any()
        assert ((result.totals > 0).sum(-1) == 3).all()
        assert (result.inertia < 1e-18).all()
        torch.testing.assert_close(own_centers(result), x.double(), rtol=rounding(result), atol=0)

    def test_one_problem_with_too_few_distinct_points_does_not_touch_the_other(self, one):
        x = torch.stack([one.cloud(30)] * 2)
        x[1] = x[1, :3].repeat(10, 1)
        with pytest.warns(UserWarning, match="3 distinct points"):
            result = kmeans(x, K, engine=one.engine)
        other = kmeans(x[0], K, engine=one.engine)
        for name in FIELDS:
            assert torch.equal(getattr(result, name)[0], getattr(other, name)), name

    @each("init", [row for row in SOWN if row[1] != "random"])
    def test_centers_of_clusters_far_apart_are_found(self, case, init):
        result = case.run(case.blobs(), n_init=4, init=init)
        labels = result.labels.unflatten(-1, (N // K, K))
        assert (labels == labels[..., :1, :]).all()
        assert torch.equal(
            labels[..., 0, :].sort(-1).values, torch.arange(K, device=case.device).expand(*case.batch, K)
        )
        found = own_centers(result)[..., :K, :]
        # 24 points with a deviation of 5: four deviations of their mean, weights that make them fewer included.
        torch.testing.assert_close(found, MEANS.double().to(found.device).expand_as(found), rtol=0, atol=5)


class TestMovedPoints:
    def test_rows_in_another_order_change_no_bit_of_the_centers(self, case):
        # From given centers and while no cluster gets empty: only draws and the choice of an equally badly served
        # point know of rows.
        x, weights = case.cloud(), case.weights()
        order = torch.randperm(N, generator=seeded(2)).to(case.device)
        for max_iter in (2, 300):
            options = {"init": x[..., :K, :], "tol": 0.0, "max_iter": max_iter}
            first = case.run(x, weights=weights, **options)
            mixed = case.run(x[..., order, :], weights=None if weights is None else weights[..., order], **options)
            assert (first.totals > 0).all()
            assert_same(first, mixed, but=["labels"])
            assert torch.equal(first.labels[..., order], mixed.labels)

    def test_coordinates_in_another_order_reorder_those_of_the_centers(self, case):
        # Sums of three squares round otherwise in another order, so only where no label hangs on that.
        x = case.blobs()
        first = case.run(x, init=x[..., :K, :], tol=0.0)
        mixed = case.run(x.flip(-1), init=x[..., :K, :].flip(-1), tol=0.0)
        assert torch.equal(first.centers.flip(-1), mixed.centers)
        assert torch.equal(first.labels, mixed.labels)

    def test_moving_all_points_moves_the_centers(self, case):
        x = case.blobs(top=127, whole=True)
        first = case.run(x, init=x[..., :K, :], tol=0.0)
        moved = case.run(x + 100, init=x[..., :K, :] + 100, tol=0.0)
        assert_same(first, moved, but=["centers", "inertia"])
        torch.testing.assert_close(moved.centers, first.centers + 100, rtol=2 * rounding(first), atol=0)
        torch.testing.assert_close(moved.inertia, first.inertia, rtol=1000 * rounding(first), atol=0)

    @pytest.mark.parametrize("offset", [2**16, -(2**20)])
    def test_moving_all_points_far_moves_the_centers(self, single, offset):
        x = single.blobs(whole=True)
        first = single.run(x, init=x[..., :K, :], tol=0.0)
        moved = single.run(x + offset, init=x[..., :K, :] + offset, tol=0.0)
        assert_same(first, moved, but=["centers", "inertia"])
        torch.testing.assert_close(moved.centers, first.centers + offset, rtol=rounding(first), atol=0)

    @sown
    def test_points_times_a_power_of_two_scale_everything_exactly(self, case, init):
        x, factor = case.cloud(top=31), 8
        first, scaled = (case.run(points, init=init, **SOME) for points in (x, x * factor))
        assert_same(first, scaled, but=["centers", "inertia"])
        assert torch.equal(first.centers * factor, scaled.centers)
        assert torch.equal(first.inertia * factor**2, scaled.inertia)


# Dtypes that hold the same whole numbers.
PAIRS = [
    (torch.uint8, torch.float16),
    (torch.uint8, torch.float32),
    (torch.int8, torch.float32),
    (torch.int16, torch.float32),
    (torch.int64, torch.float64),
]


class TestArguments:
    def test_float32_and_float64_agree(self, case):
        x = case.blobs()
        results = [case.run(points, init=points[..., :K, :], tol=0.0) for points in (x, x.float(), x.double())]
        for other in results[1:]:
            assert torch.equal(results[0].labels, other.labels)
            torch.testing.assert_close(
                results[0].centers.double(), other.centers.double(), rtol=torch.finfo(torch.float32).eps, atol=0
            )

    @pytest.mark.parametrize("init", SEEDINGS)
    @each("pair", rotated([kind for kind in KINDS if kind[2] == torch.float32], PAIRS))
    def test_integers_and_floats_of_the_same_values_give_the_same_bits(self, case, pair, init):
        x = case.cloud(top=127).round()
        assert_same(*(case.run(x.to(dtype), init=init, **SOME) for dtype in pair))

    def test_arguments_are_left_as_they_were_and_no_result_is_part_of_them(self, case):
        x, weights, k = case.cloud(), case.mass(), 6
        # In the dtype computed in, and one that stands still at once: the last chance to hand back what was given.
        start = x[..., :k, :].to(torch.float64 if case.dtype == torch.float64 else torch.float32)
        for points, mass in ((x, weights), (start, weights[..., :k].contiguous())):
            given = (points, mass, start)
            kept = [tensor.clone() for tensor in given]
            result = case.run(points, k, weights=mass, init=start, tol=0.0)
            for name in FIELDS:
                getattr(result, name).zero_()
            for tensor, copy in zip(given, kept, strict=True):
                assert torch.equal(tensor, copy)

    @pytest.mark.parametrize("layout", ["every other row", "columns of a table", "transposed", "first axis last"])
    def test_the_layout_in_memory_changes_no_bit(self, case, layout):
        x, weights = case.cloud(), case.mass()

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
        result = case.run(x, weights=weights, init=x[..., :K, :], **SOME)
        assert_same(case.run(views[0], weights=views[1], init=views[2], **SOME), result)
        assert torch.equal(case.assign(views[0], result.centers).labels, result.labels)

    def test_an_expanded_tensor_is_as_good_as_its_copy(self, case):
        x = case.cloud()[..., :1].expand(*case.batch, N, 3)
        weights = torch.full((1,), 0.5, device=case.device).expand(*case.batch, N)
        assert_same(case.run(x, weights=weights, **SOME), case.run(x.clone(), weights=weights.clone(), **SOME))


class TestCosine:
    """K-means on the sphere: rows count by their direction."""

    @staticmethod
    def rows(case):
        """Points in five directions or so, none of them 0, even so that uint8 can be halved."""
        return (case.cloud(top=126).double().round() * 2 + 2).to(case.dtype)

    @staticmethod
    def cosines(x, result):
        return torch.nn.functional.cosine_similarity(x.double(), own_centers(result), dim=-1)

    @pytest.mark.parametrize("max_iter", [1, 100])
    def test_labels_totals_and_inertia_belong_to_centers_of_length_one(self, case, max_iter):
        x, weights = self.rows(case), case.mass()
        result = case.run(x, metric="cosine", max_iter=max_iter)
        off = 8 * rounding(result)
        torch.testing.assert_close(
            result.centers.double().norm(dim=-1), torch.ones_like(result.totals), rtol=off, atol=0
        )
        own = assign(x, result.centers, metric="cosine", engine=case.engine)
        assert torch.equal(own.labels, result.labels)
        torch.testing.assert_close(result.totals, per_cluster(weights, result.labels, K), rtol=1e-12, atol=0)
        inertia = (weights.double() * (1 - self.cosines(x, result))).sum(-1)
        assert ((result.inertia - inertia).abs() <= off * weights.double().sum(-1)).all()
        every = x.double() @ result.centers.double().mT
        best = every.amax(-1) / x.double().norm(dim=-1)
        assert (self.cosines(x, result) >= best - off).all()

    def test_the_center_of_one_cluster_is_the_direction_of_the_sum_of_unit_rows(self, case):
        x, weights = self.rows(case), case.mass().double()[..., None]
        result = case.run(x, 1, metric="cosine")
        direction = torch.nn.functional.normalize(
            (weights * torch.nn.functional.normalize(x.double(), dim=-1)).sum(-2), dim=-1
        )
        off = 4 * rounding(result)
        torch.testing.assert_close(result.centers.squeeze(-2).double(), direction, rtol=off, atol=off)

    @sown
    def test_the_length_of_a_row_has_no_say(self, case, init):
        # Powers of two, another one for each row, so that no rounding tells.
        x = self.rows(case)
        factors = torch.where(torch.rand(N, 1, generator=seeded(6)) < 0.5, 0.5, 1.0).to(case.device)
        shorter = (x.double() * factors).to(case.dtype)
        options = {"metric": "cosine", "init": init, **SOME}
        first, other = case.run(x, **options), case.run(shorter, **options)
        assert_same(first, other)
        assert not torch.equal(case.run(x, init=init, **SOME).labels, first.labels)

    def test_found_centers_are_a_fixed_point(self, case):
        x = self.rows(case)
        found = case.run(x, metric="cosine", tol=0.0, max_iter=300)
        again = case.run(x, metric="cosine", tol=0.0, init=found.centers)
        assert torch.equal(again.labels, found.labels)
        off = 4 * rounding(found)
        torch.testing.assert_close(again.centers, found.centers, rtol=off, atol=off)

    def test_the_module_clusters_and_predicts_by_it(self, case):
        x = self.rows(case)
        model = case.model(metric="cosine", **SOME).fit(x, case.weights())
        assert_same(model.result_, case.run(x, metric="cosine", **SOME))
        assert torch.equal(model.predict(x), model.labels_)

    def test_a_row_of_zeros_has_no_direction(self, case, unchecked):
        x, weights = self.rows(case), case.mass()
        x[..., 3, :] = 0
        with pytest.raises(ValueError, match="zero"):
            case.run(x, metric="cosine")
        weights[..., 3] = 0
        absent = case.run(x, weights=weights, metric="cosine", init=x[..., 4 : 4 + K, :])
        kept = torch.arange(N, device=case.device) != 3
        without = case.run(x[..., kept, :], weights=weights[..., kept], metric="cosine", init=x[..., 4 : 4 + K, :])
        assert_same(absent, without, but=["labels"])
        assert torch.equal(absent.labels[..., kept], without.labels)


def test_of_equally_near_centers_the_lowest_index_is_the_label(case):
    x = case.blobs(whole=True)
    twice = torch.cat([x[..., :K, :], x[..., :K, :]], dim=-2)
    assert (case.assign(x, twice).labels < K).all()
    # Halfway between two centers, to either side of the third.
    middle = torch.tensor([[60, 60, 60]], device=case.device).expand(*case.batch, 1, 3).to(case.dtype)
    aside = torch.tensor([[9, 9, 9], [50, 60, 60], [70, 60, 60], [60, 50, 60]], device=case.device).to(case.dtype)
    assert (case.assign(middle, aside).labels == 1).all()
    assert (case.assign(middle, aside.flip(0)).labels == 0).all()


class TestTheModule:
    def test_it_predicts_the_labels_it_was_fitted_with(self, case):
        x = case.cloud()
        model = case.model(**SOME).fit(x, case.weights())
        assert torch.equal(model.predict(x), model.labels_)
        assert torch.equal(case.model(**SOME).fit_predict(x, case.weights()), model.labels_)
        assert_same(model.result_, case.run(x, **SOME))

    def test_the_nearest_by_its_distances_is_the_label(self, case):
        # In the cloud a point may be equally far from two centers within rounding.
        x = case.blobs()
        model = case.model(n_init=3).fit(x, case.weights())
        distances = model.transform(x)
        assert distances.shape == (*case.batch, N, K)
        assert torch.equal(distances.argmin(-1), model.labels_)
        own = own_sqdist(x, model.result_).sqrt()
        torch.testing.assert_close(distances.double().amin(-1), own, rtol=4 * rounding(model.result_), atol=0)

    def test_the_score_of_the_points_fitted_is_minus_the_inertia(self, case):
        x, weights = case.cloud(), case.weights()
        model = case.model().fit(x, weights)
        score = torch.as_tensor(model.score(x, weights=weights), dtype=torch.float64)
        torch.testing.assert_close(score, -model.result_.inertia, rtol=4 * rounding(model.result_), atol=0)

    def test_its_parameters_make_another_one_of_the_same_bits(self, single):
        x = single.cloud()
        model = single.model(init="random", n_init=2, tol=0.0).fit(x)
        assert_same(KMeans(**model.get_params()).fit(x).result_, model.result_)
        assert not torch.equal(KMeans(**model.get_params()).set_params(n_clusters=3).fit(x).labels_, model.labels_)


class TestBatches:
    """Each problem of a batch has the bits it would have alone."""

    @staticmethod
    def uneven(case, batch, n=60):
        """Problems of another kind each: clusters far apart, clouds, a line. Their loops end in other rounds."""
        count = torch.Size(batch).numel()
        case = replace(case, batch=())
        kinds = [case.blobs(n), case.cloud(n), case.cloud(n, top=40), case.cloud(n)[:, :1].expand(n, 3)]
        problems = [kinds[i] if i < 4 else case.cloud(n, seed=i) for i in range(count)]
        return torch.stack(problems).reshape(*batch, n, 3)

    def agree(self, case, x, k=K, **options):
        """The result of the batch, each field of each problem compared with what the problem gives alone."""
        batch, init = x.shape[:-2], options.get("init")
        weights = (torch.rand(x.shape[:-1], generator=seeded(8)) + 0.25).to(x.device) if case.weighted else None
        many = kmeans(x, k, weights=weights, engine=case.engine, **options)
        for problem in itertools.product(*map(range, batch)):
            own = {"weights": None if weights is None else weights[problem]}
            if isinstance(init, torch.Tensor) and init.ndim > 2:
                own["init"] = init[problem]
            alone = kmeans(x[problem], k, engine=case.engine, **(options | own))
            for name in FIELDS:
                assert torch.equal(getattr(many, name)[problem], getattr(alone, name)), (problem, name)
        return many

    @pytest.mark.parametrize("init", SEEDINGS)
    @pytest.mark.parametrize("batch", [(1,), (2, 3)], ids=str)
    def test_with_draws(self, one, batch, init):
        self.agree(one, self.uneven(one, batch, n=40), n_init=2, init=init)

    def test_with_draws_of_a_generator_of_the_caller(self, one):
        x = self.uneven(one, (3,))
        states = [seeded(11) for _ in range(4)]
        many = kmeans(x, K, n_init=2, engine=one.engine, generator=states[3])
        for problem in range(3):
            alone = kmeans(x[problem], K, n_init=2, engine=one.engine, generator=states[problem])
            for name in FIELDS:
                assert torch.equal(getattr(many, name)[problem], getattr(alone, name)), (problem, name)
            assert torch.equal(states[problem].get_state(), states[3].get_state())

    def test_of_every_dtype(self, kind):
        many = self.agree(kind, self.uneven(kind, (4,)), tol=0.0)
        assert len(set(many.n_iter.tolist())) > 1  # or nothing would tell a loop that goes on for all of them

    @pytest.mark.parametrize("max_iter", [1, 3, 100])
    def test_from_given_centers_of_each_problem(self, one, max_iter):
        x = self.uneven(one, (2, 2))
        self.agree(one, x, init=x[..., :K, :], max_iter=max_iter)

    def test_from_given_centers_for_all_problems(self, one):
        x = self.uneven(one, (4,))
        self.agree(one, x, init=x[1, :K])

    def test_from_centers_of_a_function(self, one):
        self.agree(one, self.uneven(one, (3,)), init=lambda points, k, generator: points.draw(k, generator), n_init=2)

    def test_with_centers_so_far_off_that_clusters_get_empty(self, one):
        far = torch.tensor([[0.0, 0, 0], [1e6, 0, 0], [0, 1e6, 0], [0, 0, -1e6], [9, 9, 9]], device=one.device)
        many = self.agree(one, self.uneven(one, (3,)), init=far, tol=0.0)
        assert (many.totals > 0).all()

    @pytest.mark.parametrize("init", SEEDINGS)
    def test_by_cosine(self, one, init):
        # Moved off the origin, so that the points of the line have directions of their own.
        x = self.uneven(one, (4,)) + torch.tensor([1.0, 2, 40], device=one.device)
        self.agree(one, x, n_init=2, init=init, metric="cosine")

    def test_with_one_point_a_problem(self, one):
        self.agree(one, self.uneven(one, (3,))[:, 7:8], k=1)

    def test_of_the_same_points_in_one_expanded_tensor(self, one):
        x = self.uneven(one, (2,))[1].expand(3, 60, 3)
        many = self.agree(one, x, n_init=2) if not one.weighted else kmeans(x, K, engine=one.engine)
        assert (many.labels == many.labels[0]).all()

    @pytest.mark.parametrize("shared", [False, True])
    def test_nearest_centers(self, kind, shared):
        x = self.uneven(kind, (2, 2))
        centers = x[0, 0, ::9] if shared else x[..., ::9, :]
        labels, sqdist = assign(x, centers, engine=kind.engine)
        for problem in itertools.product(range(2), range(2)):
            own = assign(x[problem], centers if shared else centers[problem], engine=kind.engine)
            assert torch.equal(labels[problem], own.labels)
            assert torch.equal(sqdist[problem], own.sqdist)
