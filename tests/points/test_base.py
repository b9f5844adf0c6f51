import pytest
import torch
from helpers.problems import points_of, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans.engines.plain import PlainEngine
from gpukmeans.points.base import scale_random
from gpukmeans.points.tensor import TensorNearest, tensor_points


def fractions(samples, values):
    """The fraction of each of the values among the samples (n, 1) of one run."""
    return (samples == torch.tensor(values, dtype=samples.dtype)).double().mean(dim=0)


@given(
    st.integers(1, 50),
    st.sampled_from([torch.float32, torch.float64]),
    st.floats(-1e9, 1e9),
    st.floats(1e-9, 1e9),
    st.integers(0, 2**31),
)
def test_no_total_overflows_at_the_limits_of_fixed_point(n, dtype, offset, extent, seed):
    x = torch.rand(n, 2, generator=seeded(seed), dtype=dtype) * extent + offset
    weights = torch.rand(n, generator=seeded(seed + 1), dtype=dtype) + 1e-3
    points = points_of(x, weights)
    # The worst case: each point has the largest distance from its center that the range allows.
    low, high = torch.aminmax(x, dim=0)
    far = torch.where(x > (low + high) / 2, low, high)[None, :1]
    moments = points.measure(far, points.sqdist_bound(far))
    total = weights.double().sum()
    expected = (weights.double()[:, None] * x.double()).sum(dim=0) / total
    torch.testing.assert_close(moments.means()[0, 0], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moments.cluster_weights()[0, 0], total, rtol=1e-9, atol=0)
    inertia = (points.assign(far).sqdist.double() * weights).sum().item()
    assert moments.weighted_sqdist().item() == pytest.approx(inertia, rel=1e-9)


def test_the_bound_is_the_squared_diagonal_of_a_box_around_points_and_centers():
    points = points_of(torch.tensor([[0.0, 5.0], [1.0, 5.0]]))
    assert points.sqdist_bound(torch.tensor([[[0.5, 5.0]]])).tolist() == [1]
    assert points.sqdist_bound(torch.tensor([[[-3.0, 9.0]]])).tolist() == [16 + 16]
    both = points.select(torch.tensor([0, 0])).sqdist_bound(torch.tensor([[[0.5, 5.0]], [[-3.0, 9.0]]]))
    assert both.tolist() == [1, 32]


# Four standard deviations of a fraction of 20,000 samples are less than 0.0142.
FOUR_SIGMA = {"rtol": 0, "atol": 0.0142}


def test_points_are_sampled_by_weight():
    x = torch.arange(4.0)[:, None]
    samples = points_of(x, torch.tensor([1.0, 2.0, 0.5, 6.5])).sample(20_000, seeded())[0]
    expected = torch.tensor([0.1, 0.2, 0.05, 0.65]).double()
    torch.testing.assert_close(fractions(samples, [0, 1, 2, 3]), expected, **FOUR_SIGMA)


@given(st.integers(1, 50), st.integers(0, 2**31))
def test_without_weights_the_samples_are_those_of_weights_of_1(n, seed):
    x = torch.arange(2.0 * n).reshape(2, n, 1)
    plain, ones = points_of(x), points_of(x, torch.ones(2, n, dtype=torch.int64))
    nearest = plain.assign(x[:, :1])
    for name, state in (("sample", ()), ("sample_uncovered", (nearest,)), ("sample_d2", (nearest,))):
        samples = (getattr(points, name)(7, seeded(seed), *state) for points in (plain, ones))
        assert torch.equal(*samples), name


def test_d2_samples_are_by_weight_times_squared_distance():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    points = points_of(x, torch.tensor([100, 4, 1, 1]))
    nearest = points.assign(torch.tensor([[[0.0]]]))
    assert nearest.sqdist.tolist() == [[0, 1, 4, 9]]
    samples = points.sample_d2(20_000, seeded(), nearest)[0]
    expected = torch.tensor([0, 4, 4, 9]).double() / 17
    torch.testing.assert_close(fractions(samples, [0, 1, 2, 3]), expected, **FOUR_SIGMA)


def test_uncovered_samples_are_by_weight_and_never_equal_a_center():
    points = points_of(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([100, 3, 1]))
    samples = points.sample_uncovered(20_000, seeded(), points.assign(torch.tensor([[[0.0]]])))[0]
    torch.testing.assert_close(fractions(samples, [0, 1, 5]), torch.tensor([0, 0.75, 0.25]).double(), **FOUR_SIGMA)


def test_if_all_points_equal_centers_all_are_sampled_by_weight():
    points = points_of(torch.tensor([[1.0], [2.0]]), torch.tensor([3, 1]))
    nearest = points.assign(torch.tensor([[[2.0], [1.0]]]))
    for sample in (points.sample_d2, points.sample_uncovered):
        samples = sample(20_000, seeded(), nearest)[0]
        torch.testing.assert_close(fractions(samples, [1, 2]), torch.tensor([0.75, 0.25]).double(), **FOUR_SIGMA)


def test_points_nearer_than_a_fixed_point_unit_are_sampled_by_weight():
    # Squared distances of 1e-305 are less than the smallest fixed-point unit, 2**-1000.
    x = torch.tensor([[0.0], [3e-153], [6e-153], [1.0]], dtype=torch.float64)
    points = points_of(x, torch.tensor([100, 3, 1, 100]))
    samples = points.sample_d2(20_000, seeded(), points.assign(x[None, [0, 3]]))[0]
    expected = torch.tensor([0, 0.75, 0.25, 0]).double()
    torch.testing.assert_close(fractions(samples, x.flatten().tolist()), expected, **FOUR_SIGMA)


def test_samples_reach_rows_past_the_limit_of_multinomial():
    rows = 2**24 + 3
    weights = torch.ones(rows, dtype=torch.uint8)
    x = torch.zeros(rows, 1)
    x[-1] = 7
    points = points_of(x, weights)
    nearest = TensorNearest(
        points.source, points.problems, 1, torch.zeros(1, 1, dtype=torch.int64).expand(1, rows), x.mT
    )
    assert points.sample_uncovered(1, seeded(), nearest).item() == 7


def test_potentials_are_the_inertia_with_an_additional_center():
    x = torch.tensor([[0.0], [1.0], [4.0]])
    points = points_of(x, torch.tensor([1, 2, 3]))
    nearest = points.assign(torch.tensor([[[0.0]]]))
    potentials = points.potentials(nearest, torch.tensor([[[4.0], [1.0], [9.0]]]))[0]
    assert (potentials / potentials[0] * 2).tolist() == [2, 27, 2 + 48]


def test_cluster_weights_are_those_of_the_points_nearest_to_each_center():
    x = torch.tensor([[[0.0], [1.0], [4.0]], [[5.0], [5.0], [0.0]]])
    centers = torch.tensor([[[0.0], [4.0], [9.0]], [[5.0], [0.0], [5.0]]])
    for weights, expected in [
        (None, [[2, 1, 0], [2, 1, 0]]),
        (torch.tensor([[1, 2, 3], [1, 0, 7]]), [[3, 3, 0], [1, 7, 0]]),
        (torch.tensor([[0.5, 0.25, 1e-3], [1.0, 0.5, 0.0]]).double(), [[0.75, 1e-3, 0], [1.5, 0, 0]]),
    ]:
        points = points_of(x, weights)
        found = points.cluster_weights(points.assign(centers))
        torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=1e-15, atol=0)


def test_centers_as_points_have_the_given_weights():
    points = points_of(torch.rand(2, 5, 1))
    centers = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    found = points.centers_as_points(centers, torch.tensor([[5, 0], [1, 4]]))
    assert torch.equal(found.source.x, centers)
    assert found.fixed_point.lowest.tolist() == [[1], [3]]
    assert found.fixed_point.highest.tolist() == [[1], [4]]  # without the points of weight 0
    assert found.sample(50, seeded())[0].unique().tolist() == [1]
    assert found.sample(50, seeded())[1].unique().tolist() == [3, 4]


@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=50)
def test_an_updated_state_is_that_of_all_centers(k, more, width, seed):
    # Few levels, so that several centers are equally nearest.
    x = torch.randint(3, (2, 40, width), generator=seeded(seed)) / 3
    centers = torch.randint(3, (2, k + more, width), generator=seeded(seed + 1)) / 3
    points = points_of(x)
    previous = points.assign(centers[:, :k])
    copies = previous.labels.clone(), previous.sqdist.clone()
    found, expected = previous.update(centers[:, k:]), points.assign(centers)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.sqdist, expected.sqdist)
    assert all(map(torch.equal, (previous.labels, previous.sqdist), copies))


def test_the_block_size_changes_no_sample_and_no_potential(monkeypatch, china):
    points = points_of(china.reshape(-1, 3)[:5000].view(2, 2500, 3))
    candidates = points.sample(4, seeded())
    nearest = points.assign(candidates[:, :1])

    def found():
        updated = nearest.update(candidates[:, 1:2])
        samples = points.sample_d2(9, seeded(), updated)
        return points.potentials(nearest, candidates), updated.labels, updated.sqdist, samples

    whole = found()
    for size in (60, 3 * 4 * 2500):
        monkeypatch.setattr("gpukmeans.points.tensor._BLOCK", size)
        assert all(map(torch.equal, found(), whole))


TOTALS = st.integers(1, 2**62 - 1) | st.sampled_from([1, 2, 3, 2**31 - 1, 2**31, 2**31 + 1, 2**61, 2**62 - 1])
RANDOM = st.integers(0, 2**62 - 1) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**61, 2**62 - 2, 2**62 - 1])


@given(st.lists(RANDOM, min_size=1, max_size=4), st.lists(TOTALS, min_size=1, max_size=4))
def test_a_scaled_random_number_is_the_exact_floor_of_random_times_total(random, totals):
    found = scale_random(torch.tensor(random), torch.tensor(totals)[:, None])
    assert found.tolist() == [[number * total // 2**62 for number in random] for total in totals]
    assert all(0 <= value < total for row, total in zip(found.tolist(), totals, strict=True) for value in row)


@given(TOTALS, st.data())
def test_each_integer_below_the_total_has_the_same_number_of_random_numbers_up_to_one(total, data):
    which = data.draw(st.integers(0, total - 1))
    # The first random number that becomes this integer, and the first that becomes a larger one.
    first, after = (-(-number * 2**62 // total) for number in (which, which + 1))
    found = scale_random(torch.tensor([first, after - 1]), torch.tensor([[total]]))
    assert found.tolist() == [[which, which]]
    assert after - first in (2**62 // total, 2**62 // total + 1)
    if which:
        assert scale_random(torch.tensor([first - 1]), torch.tensor([[total]])).item() == which - 1


def test_samples_are_uniform_for_a_total_that_no_power_of_two_divides():
    # The remainder of 62 random bits would have the last point with probability 2/8 instead of 1/3.
    points = points_of(torch.tensor([[0.0], [1.0], [2.0]]), torch.full((3,), 2**59 + 1))
    samples = points.sample(20_000, seeded())[0]
    torch.testing.assert_close(fractions(samples, [0, 1, 2]), torch.full((3,), 1 / 3).double(), **FOUR_SIGMA)


def batch(generator, n, width, dtype=torch.float32, *, weighted=True):
    """Three problems with repeated points. The second has a large range, the third a small one."""
    factors = torch.tensor([1.0, 100.0, 1e-2], dtype=dtype)[:, None, None]
    x = torch.randint(-3, 4, (3, n, width), generator=generator) * factors
    weights = torch.rand(3, n, generator=generator, dtype=dtype)
    weights[:, 1:].mul_(torch.randint(2, (3, n - 1), generator=generator))  # many of weight 0
    return (x, weights) if weighted else (x, None)


def results_of(points, centers, seed):
    """The result of each method of `Points`, with a new generator for each sample."""
    nearest = points.assign(centers)
    candidates = points.sample_d2(5, seeded(seed), nearest)
    updated = nearest.update(candidates)
    moments = points.measure(centers, points.sqdist_bound(centers))
    worst_served = points.worst_served(centers, 4)
    return {
        "bound": points.sqdist_bound(centers),
        "labels": nearest.labels,
        "sqdist": nearest.sqdist,
        "sample": points.sample(4, seeded(seed)),
        "sample_uncovered": points.sample_uncovered(4, seeded(seed), nearest),
        "sample_d2": candidates,
        "sample_d2 updated": points.sample_d2(4, seeded(seed + 1), updated),
        "sample_uncovered updated": points.sample_uncovered(4, seeded(seed + 1), updated),
        "labels updated": updated.labels,
        "sqdist updated": updated.sqdist,
        "potentials": points.potentials(nearest, candidates),
        "cluster_weights": points.cluster_weights(updated).double(),
        "sums": moments.sums,
        "means": moments.means(),
        "weights": moments.cluster_weights(),
        "inertia": moments.weighted_sqdist(),
        "worst_sqdist": moments.worst_sqdist,
        "worst_served sqdist": worst_served.sqdist,
        "worst_served labels": worst_served.labels,
        "worst_served x": worst_served.x,
        "totals_of_equal": points.totals_of_equal(worst_served.x),
    }


@given(
    problems=st.just([0, 0, 1]) | st.lists(st.integers(0, 2), min_size=1, max_size=5),
    n=st.integers(1, 15),
    k=st.integers(1, 5),
    width=st.sampled_from([1, 3, 10]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50)
def test_each_run_of_a_batch_has_the_result_it_has_alone(problems, n, k, width, dtype, weighted, seed):
    generator = seeded(seed)
    x, weights = batch(generator, n, width, dtype, weighted=weighted)
    centers = x[problems][:, torch.randint(n, (k,), generator=generator)]
    found = results_of(points_of(x, weights).select(torch.tensor(problems)), centers, seed)
    for run, problem in enumerate(problems):
        own = points_of(x[problem], None if weights is None else weights[problem])
        for name, expected in results_of(own, centers[run, None], seed).items():
            assert torch.equal(found[name][run].nan_to_num(), expected[0].nan_to_num()), name


@given(
    n=st.integers(1, 15),
    k=st.integers(1, 5),
    width=st.sampled_from([1, 3, 10]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    integers=st.booleans(),
    factor=st.sampled_from([1.0, 100.0, 1e12]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50)
def test_rows_of_weight_0_change_no_bit_of_other_results(n, k, width, dtype, integers, factor, seed):
    generator = seeded(seed)
    x, weights = batch(generator, n, width, dtype)
    x, weights = x[0], weights[0]
    if integers:
        weights = (weights * 10).ceil().long()
    present = weights > 0
    centers = x[present][torch.randint(int(present.sum()), (1, k), generator=generator)]
    x[~present] *= factor
    found, expected = (
        results_of(points_of(x, weights), centers, seed),
        results_of(points_of(x[present], weights[present]), centers, seed),
    )
    rows = present.nonzero().squeeze(1)
    for name in ("labels", "sqdist", "labels updated", "sqdist updated"):
        found[name] = found[name][:, rows]
    for name in expected:
        assert torch.equal(found[name].nan_to_num(), expected[name].nan_to_num()), name


def test_a_far_row_of_weight_0_does_not_reduce_the_precision_of_distances():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [1e15]])
    points = points_of(x, torch.tensor([100, 4, 1, 1, 0]))
    nearest = points.assign(torch.tensor([[[0.0]]]))
    samples = points.sample_d2(20_000, seeded(), nearest)[0]
    expected = torch.tensor([0, 4, 4, 9, 0]).double() / 17
    torch.testing.assert_close(fractions(samples, x.flatten().tolist()), expected, **FOUR_SIGMA)
    potentials = points.potentials(nearest, torch.tensor([[[3.0], [0.0]]]))[0].double()
    assert (potentials / potentials[1]).tolist() == [(4 + 1) / (4 + 4 + 9), 1]


@pytest.mark.parametrize("row", [0, 2, 4])
def test_a_row_of_weight_0_is_never_sampled_or_worst_served_or_in_the_range(row):
    x, weights = torch.tensor([[1.0], [2.0], [2.0], [3.0]]), torch.tensor([1.0, 2.0, 1.0, 0.5])
    x = torch.cat([x[:row], torch.tensor([[50.0]]), x[row:]])
    points = points_of(x, torch.cat([weights[:row], torch.zeros(1), weights[row:]]))
    nearest = points.assign(torch.tensor([[[1.0]]]))
    for samples in (
        points.sample(1000, seeded()),
        points.sample_uncovered(1000, seeded(), nearest),
        points.sample_d2(1000, seeded(), nearest),
        points.sample_uncovered(1000, seeded(), points.assign(x[None])),
        points.sample_d2(1000, seeded(), points.assign(x[None])),
    ):
        assert set(samples.flatten().tolist()) <= {1, 2, 3}
    assert points.fixed_point.lowest.tolist() == [[1]]
    assert points.fixed_point.highest.tolist() == [[3]]
    centers = torch.tensor([[[1.0]]])
    assert points.sqdist_bound(centers).tolist() == [4]
    assert points.worst_served(centers, 3).x.tolist() == [[[3], [2], [0]]]
    assert points.measure(centers, points.sqdist_bound(centers)).worst_sqdist.tolist() == [4]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
@pytest.mark.parametrize("size", [1, 7, 1 << 18])
def test_the_range_is_that_of_rows_with_weight_for_any_block_size(size, dtype, monkeypatch):
    monkeypatch.setattr("gpukmeans.points.tensor._BLOCK", size)
    x = torch.randint(256, (3, 11, 2), generator=seeded()).to(dtype)
    weights = torch.randint(2, (3, 11), generator=seeded())
    points = points_of(x, weights)
    for problem in range(3):
        rows = x[problem][weights[problem] > 0].double()
        assert torch.equal(points.stats.lowest[problem], rows.amin(dim=0))
        assert torch.equal(points.stats.highest[problem], rows.amax(dim=0))


@pytest.mark.parametrize(
    ("runs", "problems"),
    [
        (torch.tensor([0, 0, 1]), [2, 2, 0]),
        (torch.tensor([3]), [1]),
        (torch.tensor([True, False, False, True]), [2, 1]),
    ],
    ids=str,
)
def test_the_points_of_some_of_the_runs_are_those_of_their_problems(runs, problems):
    x, weights = batch(seeded(), 8, 2)
    points = points_of(x, weights).select(torch.tensor([2, 0, 0, 1]))
    selected = points.select(runs)
    assert list(selected.problems) == problems
    assert torch.equal(selected.fixed_point.sum, points_of(x, weights).fixed_point.sum[problems])
    assert selected.sample(1, seeded()).shape == (len(problems), 1, 2)
    assert torch.equal(selected.assign(x[problems]).labels, points_of(x, weights).assign(x).labels[problems])


def test_an_engine_is_bound_once_for_all_selections_of_its_points():
    bound = []

    class Counting(PlainEngine):
        def bind(self, x, weights):
            bound.append(x)
            return super().bind(x, weights)

    points = tensor_points(torch.rand(2, 5, 1), None, Counting(), torch.float32)
    for selected in (points.select(torch.tensor([0, 0, 1])), points, points.select(torch.tensor([1]))):
        selected.assign(torch.rand(len(selected.problems), 2, 1))
    assert len(bound) == 1
