from collections import Counter
from functools import partial

import pytest
import torch
from helpers.problems import points_of, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

import gpukmeans.seeding as seeding_module
from gpukmeans import kmeans
from gpukmeans.images.histogram import unique_colors
from gpukmeans.points.base import Points
from gpukmeans.points.tensor import TensorNearest
from gpukmeans.seeding import SEEDINGS, extended, kmeans_parallel, kmeans_plus_plus, random


def chosen(seeding, points, k, seed=0):
    """The centers (K, D) of one run, by a seeding given as a function or by name."""
    return SEEDINGS.get(seeding, seeding)(points, k, seeded(seed))[0]


def inertia_after(seeding, points, k, seed):
    return points.assign(chosen(seeding, points, k, seed)[None]).sqdist.sum().item()


@pytest.mark.parametrize("name", SEEDINGS)
class TestEverySeeding:
    @given(st.integers(1, 12), st.integers(0, 2**31))
    def test_centers_are_points_and_differ(self, name, k, seed):
        x = torch.randint(0, 4, (60, 2), generator=seeded(seed)).float()
        rows = {tuple(row) for row in x.tolist()}
        found = [tuple(row) for row in chosen(name, points_of(x), min(k, len(rows)), seed).tolist()]
        assert set(found) <= rows
        assert len(set(found)) == len(found) == min(k, len(rows))

    def test_as_many_centers_as_points_are_all_of_them(self, name):
        x = torch.arange(30.0).reshape(10, 3)
        assert sorted(chosen(name, points_of(x), 10).tolist()) == x.tolist()

    def test_fewer_than_k_distinct_points_are_all_chosen_and_then_repeated(self, name):
        x = torch.tensor([[1.0], [2.0], [2.0], [1.0], [3.0]])
        centers = chosen(name, points_of(x), 5).squeeze(1).tolist()
        assert len(centers) == 5
        assert set(centers[:3]) == {1, 2, 3} == set(centers)

    def test_equal_generators_give_equal_centers_and_different_ones_different_centers(self, name, china):
        points = points_of(china.reshape(-1, 3)[::100])
        first, again, other = (chosen(name, points, 8, seed) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_an_integer_weight_is_a_number_of_equal_points(self, name):
        x = torch.randn(20, 3, generator=seeded())
        weights = torch.randint(1, 4, (20,), generator=seeded())
        once = chosen(name, points_of(x, weights), 6, 5)
        repeated = chosen(name, points_of(x.repeat_interleave(weights, dim=0)), 6, 5)
        assert torch.equal(once, repeated)

    def test_the_global_random_state_is_neither_read_nor_written(self, name):
        points = points_of(torch.randn(50, 2, generator=seeded()))
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = chosen(name, points, 5)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(chosen(name, points, 5), first)

    def test_the_other_points_are_chosen_if_one_point_has_nearly_all_weight(self, name):
        x = torch.tensor([[0.0], [1.0], [2.0]])
        centers = chosen(name, points_of(x, torch.tensor([2**50, 1, 1])), 3)
        assert sorted(centers.squeeze(1).tolist()) == [0, 1, 2]

    def test_as_many_centers_as_points_of_extreme_weights_are_all_of_them(self, name):
        x = torch.randn(20, 2, generator=seeded())
        weights = 2.0 ** torch.linspace(0, -45, 20)[torch.randperm(20, generator=seeded())]
        assert sorted(chosen(name, points_of(x, weights), 20).tolist()) == sorted(x.tolist())

    @given(
        problems=st.just([0, 0, 1]) | st.lists(st.integers(0, 2), min_size=1, max_size=5),
        k=st.integers(1, 12),
        levels=st.sampled_from([2, 4, 100]),
        weighted=st.booleans(),
        seed=st.integers(0, 2**31),
    )
    @settings(max_examples=25)
    def test_each_run_of_a_batch_has_the_result_of_the_run_alone(self, name, problems, k, levels, weighted, seed):
        # Few levels, so that some problems have fewer than K distinct points.
        x = torch.randint(levels, (3, 15, 2), generator=seeded(seed)).float()
        x[2] = x[2, :2].repeat_interleave(8, dim=0)[:15]
        weights = torch.rand(3, 15, generator=seeded(seed)) if weighted else None
        if weighted:
            weights[:, 1:].mul_(torch.randint(2, (3, 14), generator=seeded(seed)))  # many of weight 0
        centers = SEEDINGS[name](points_of(x, weights).select(torch.tensor(problems)), k, seeded(seed))
        for run, problem in enumerate(problems):
            own = points_of(x[problem], None if weights is None else weights[problem])
            assert torch.equal(centers[run], chosen(name, own, k, seed))

    @given(st.integers(1, 8), st.sampled_from([1.0, 1e10]), st.integers(0, 2**31))
    @settings(max_examples=25)
    def test_rows_of_weight_0_are_never_chosen_and_change_no_bit(self, name, k, out, seed):
        x = torch.randint(-3, 4, (20, 2), generator=seeded(seed)).float()
        weights = torch.rand(20, generator=seeded(seed + 1)) + 0.1
        weights[5:15] *= torch.randint(2, (10,), generator=seeded(seed + 2))
        present = weights > 0
        x[~present] *= out
        padded = chosen(name, points_of(x, weights), k, seed)
        assert torch.equal(padded, chosen(name, points_of(x[present], weights[present]), k, seed))

    def test_runs_over_the_same_points_get_the_same_centers(self, name):
        x = torch.randn(20, 3, generator=seeded())
        centers = SEEDINGS[name](points_of(x).select(torch.tensor([0, 0])), 6, seeded())
        assert torch.equal(centers[0], centers[1])


def test_random_pairs_have_the_probabilities_of_sampling_one_by_one():
    points = points_of(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([2, 1, 1]))
    n = 2000
    pairs = Counter(tuple(chosen(random, points, 2, seed).squeeze(1).tolist()) for seed in range(n))
    expected = {(0, 1): 1 / 4, (0, 2): 1 / 4, (1, 0): 1 / 6, (1, 2): 1 / 12, (2, 0): 1 / 6, (2, 1): 1 / 12}
    assert set(pairs) == set(expected)
    # Chi-squared with 5 degrees of freedom is below 20.5 in 999 of 1000 cases.
    assert sum((pairs[pair] - n * p) ** 2 / (n * p) for pair, p in expected.items()) < 20.5


def test_the_second_center_is_sampled_by_squared_distance(monkeypatch):
    # One candidate at a time, so that the odds are simple: 1 : 16 from 0; by distance they would be 1 : 4.
    monkeypatch.setattr("gpukmeans.seeding._n_candidates", lambda n_clusters: 1)
    points = points_of(torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([2**40, 1, 1]))
    n = 600
    second = Counter(chosen(kmeans_plus_plus, points, 2, seed)[1].item() for seed in range(n))
    assert set(second) == {1, 4}
    assert abs(second[1] - n / 17) < 4 * (n * 16 / 17**2) ** 0.5


def test_the_candidate_of_lowest_inertia_is_chosen():
    # From 0, the single point at 10 is sampled most often, but a center at the five points at 8 has a lower inertia.
    x = torch.cat([torch.zeros(1, 1), torch.full((1, 1), 10.0), torch.full((5, 1), 8.0)])
    points = points_of(x, torch.tensor([2**40, 4, 1, 1, 1, 1, 1]))
    greedy = Counter(chosen(kmeans_plus_plus, points, 2, seed)[1].item() for seed in range(300))
    # Inertia 4·(10-8)² = 16 with a center at 8, 5·4 = 20 with one at 10; odds of 320 : 400 for each of two candidates.
    assert greedy[8.0] > 170  # 207 are expected, 133 for one candidate


def test_k_means_seedings_are_better_than_random(china):
    points = points_of(china.reshape(-1, 3)[::10])
    inertia = {name: sum(inertia_after(name, points, 20, seed) for seed in range(5)) for name in SEEDINGS}
    assert inertia["k-means++"] < 0.9 * inertia["random"]
    assert inertia["k-means||"] < 0.9 * inertia["random"]


def test_centers_are_extended_by_points_at_a_distance_from_all_of_them():
    x = torch.tensor([[0.0], [1.0], [4.0], [9.0]])
    given_centers = torch.tensor([[[0.0], [9.0]], [[1.0], [4.0]]])
    points = points_of(x).select(torch.tensor([0, 0]))
    for seed in range(20):
        centers = extended(points, given_centers, 4, seeded(seed))
        assert torch.equal(centers[:, :2], given_centers)
        assert centers.sort(dim=1).values.tolist() == [x.tolist()] * 2
    assert torch.equal(extended(points, given_centers, 2, seeded()), given_centers)


def one_sample_per_round(points, k, generator):
    return kmeans_parallel(points, k, generator, oversampling=1 / k, rounds=1)


def test_kmeans_parallel_samples_by_weight_times_squared_distance():
    # The point at 0 and another one, with odds of 4·1 : 1·16; by distance they would be 4·1 : 1·4.
    points = points_of(torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([2**40, 4, 1]))
    n = 250
    other = Counter(chosen(one_sample_per_round, points, 2, seed).amax().item() for seed in range(n))
    assert set(other) == {1, 4}
    assert abs(other[1] - n / 5) < 4 * (n * 4 / 25) ** 0.5


def test_kmeans_parallel_weights_sampled_points_by_the_points_nearest_to_them():
    # All points are sampled, and then the first center by weight: the first point with probability 3/4.
    points = points_of(torch.tensor([[0.0], [1.0]]), torch.tensor([3, 1]))
    n = 200
    first = Counter(chosen(kmeans_parallel, points, 2, seed)[0].item() for seed in range(n))
    assert abs(first[0.0] - n * 3 / 4) < 4 * (n * 3 / 16) ** 0.5


@pytest.fixture
def calls(monkeypatch):
    """Calls of methods of points of at least 2000 rows: the name of each method and the shape of its result."""
    recorded = []

    def record(kind, name):
        method = getattr(kind, name)

        def recording(self, *args):
            result = method(self, *args)
            if self.source.x.shape[1] >= 2000:
                recorded.append((name, tuple(result.shape) if isinstance(result, torch.Tensor) else None))
            return result

        monkeypatch.setattr(kind, name, recording)

    for name in ("assign", "sample", "sample_uncovered", "sample_d2", "potentials", "cluster_weights"):
        record(Points, name)
    record(TensorNearest, "update")
    return recorded


def test_the_number_of_passes_of_kmeans_parallel_does_not_depend_on_k(calls, monkeypatch):
    monkeypatch.setattr("gpukmeans.seeding.extended_by_kernels", lambda *args: None)
    points = points_of(torch.randn(2000, 3, generator=seeded()))
    kmeans_parallel(points, 200, seeded())
    assert Counter(name for name, _ in calls) == {
        "sample": 1,
        "assign": 1,
        "sample_d2": 5,
        "update": 5,
        "cluster_weights": 1,
    }
    calls.clear()
    kmeans_plus_plus(points, 200, seeded())
    assert Counter(name for name, _ in calls)["update"] == 199


@pytest.mark.parametrize(
    ("oversampling", "rounds", "n_drawn"), [(1.0, 1, 60), (2.0, 3, 120), (0.5, 8, 30), (0.501, 4, 31)]
)
def test_each_round_of_kmeans_parallel_samples_oversampling_times_k_points(oversampling, rounds, n_drawn, calls):
    # More rows than are sampled, all distinct: K are found after the rounds.
    points = points_of(torch.randn(5000, 3, generator=seeded()))
    kmeans_parallel(points, 60, seeded(), oversampling=oversampling, rounds=rounds)
    drawn = [shape for name, shape in calls if name == "sample_d2"]
    assert drawn[:rounds] == [(1, n_drawn, 3)] * rounds
    assert len(drawn) <= rounds + 1  # one more if a point was sampled twice


def test_more_samples_of_kmeans_parallel_are_better_than_few(china):
    points = points_of(china.reshape(-1, 3)[::50])

    def mean_inertia(oversampling, rounds):
        seeding = partial(kmeans_parallel, oversampling=oversampling, rounds=rounds)
        return sum(inertia_after(seeding, points, 20, seed) for seed in range(6)) / 6

    few = mean_inertia(1.0, 1)
    assert mean_inertia(4.0, 1) < 0.95 * few
    assert mean_inertia(1.0, 4) < 0.95 * few


@pytest.mark.parametrize("name", ["china", "flower"])
def test_kmeans_parallel_is_as_good_as_kmeans_plus_plus(name, request):
    colors = unique_colors(request.getfixturevalue(name)[::4, ::4])
    points = points_of(colors.colors.float(), colors.counts)
    means = {
        seeding: sum(weighted_inertia(seeding, points, 32, seed) for seed in range(6)) / 6
        for seeding in ("k-means++", "k-means||")
    }
    assert means["k-means||"] < 1.04 * means["k-means++"]


def weighted_inertia(seeding, points, k, seed):
    centers = chosen(seeding, points, k, seed)[None]
    return points.measure(centers, points.sqdist_bound(centers)).weighted_sqdist().item()


@pytest.mark.parametrize("oversampling", [0.0, -1.0, float("nan"), float("inf")])
def test_a_wrong_oversampling_is_refused(oversampling):
    with pytest.raises(ValueError, match="oversampling must be a number above 0"):
        kmeans_parallel(points_of(torch.rand(9, 2)), 3, seeded(), oversampling=oversampling)


@pytest.mark.parametrize("rounds", [0, -1, 1.5])
def test_a_wrong_number_of_rounds_is_refused(rounds, unchecked):
    with pytest.raises(ValueError, match="rounds an int of at least 1"):
        kmeans_parallel(points_of(torch.rand(9, 2)), 3, seeded(), rounds=rounds)


@pytest.mark.parametrize("oversampling", [0.01, 0.3, 1.0, 7.0])
def test_kmeans_parallel_adds_rounds_until_it_has_k_distinct_points(oversampling):
    x = torch.arange(12.0)[:, None].repeat(3, 1)
    seeding = partial(kmeans_parallel, oversampling=oversampling, rounds=1)
    for seed in range(5):
        assert sorted(chosen(seeding, points_of(x), 12, seed).squeeze(1).tolist()) == [*range(12)]


def test_a_run_with_more_rounds_does_not_change_a_run_with_fewer():
    # Two samples in each of two rounds: they find four points sooner if no point has nearly all weight.
    x = torch.arange(8.0)[:, None].repeat(2, 1, 1)
    weights = torch.ones(2, 8)
    weights[1, 1:] = 1e-6
    few = partial(kmeans_parallel, oversampling=0.5, rounds=2)
    for seed in range(20):
        centers = few(points_of(x, weights), 4, seeded(seed))
        for run in range(2):
            assert torch.equal(centers[run], chosen(few, points_of(x[run], weights[run]), 4, seed))


@pytest.mark.parametrize("name", SEEDINGS)
def test_a_run_whose_distances_vanish_does_not_change_the_other_runs(name):
    # In the first problem squared distances vanish, though its coordinates differ.
    for seed in range(12):
        x = torch.randn(2, 6, 1, generator=seeded(seed))
        x[0] *= 1e-30
        centers = SEEDINGS[name](points_of(x), 4, seeded(seed))
        for run in range(2):
            assert torch.equal(centers[run], chosen(name, points_of(x[run]), 4, seed))


@pytest.mark.parametrize("name", SEEDINGS)
class TestWithFixedCenters:
    def test_no_point_at_a_fixed_center_is_chosen_while_others_remain(self, name):
        x = torch.tensor([[0.0], [0.0], [0.0], [0.0], [1.0], [5.0]])
        for seed in range(20):
            more = SEEDINGS[name](points_of(x), 2, seeded(seed), fixed=torch.zeros(1, 1, 1))
            assert sorted(more[0].tolist()) == [[1], [5]]

    def test_points_are_repeated_if_all_are_at_fixed_centers(self, name):
        x = torch.tensor([[0.0], [3.0], [3.0]])
        more = SEEDINGS[name](points_of(x), 2, seeded(), fixed=torch.tensor([[[0.0], [3.0]]]))
        assert more.shape == (1, 2, 1)
        assert set(more.flatten().tolist()) <= {0, 3}

    @given(k=st.integers(1, 9), levels=st.sampled_from([2, 4, 100]), weighted=st.booleans(), seed=st.integers(0, 999))
    @settings(max_examples=15)
    def test_each_run_of_a_batch_has_the_result_of_the_run_alone(self, name, k, levels, weighted, seed):
        x = torch.randint(levels, (3, 15, 2), generator=seeded(seed)).float()
        x[2] = x[2, :1]
        weights = torch.rand(3, 15, generator=seeded(seed)) if weighted else None
        fixed = torch.randint(levels, (3, 4, 2), generator=seeded(seed + 1)).float()
        fixed[2, 1] = x[2, 0]
        together = SEEDINGS[name](points_of(x, weights), k, seeded(seed), fixed=fixed)
        for run in range(3):
            alone = points_of(x[run], None if weights is None else weights[run])
            assert torch.equal(SEEDINGS[name](alone, k, seeded(seed), fixed=fixed[run, None])[0], together[run])


def test_k_means_plus_plus_samples_by_the_distances_to_fixed_centers():
    x = torch.tensor([[0.0], [1.0], [3.0], [50.0]])
    fixed = torch.tensor([[[0.0], [50.0]]])
    # One sample is one candidate, without the greedy choice.
    near = points_of(x).assign(fixed)
    drawn = points_of(x).sample_d2(4000, seeded(), near)[0].flatten()
    assert (drawn == 3).double().mean().item() == pytest.approx(0.9, abs=0.02)
    # Greedy: 3 is better than 1, so it is chosen if it is a candidate.
    found = Counter(kmeans_plus_plus(points_of(x), 1, seeded(seed), fixed=fixed).item() for seed in range(50))
    assert found[3.0] > 45


def test_kmeans_parallel_does_not_count_the_weight_of_points_nearest_to_a_fixed_center():
    # The heavy point lies beside a fixed center: its weight must not attract another center.
    x = torch.tensor([[0.1], [7.0], [9.0], [20.0]])
    weights = torch.tensor([10.0, 1.0, 1.0, 1.0])
    for seed in range(20):
        more = kmeans_parallel(points_of(x, weights), 2, seeded(seed), fixed=torch.zeros(1, 1, 1))
        assert 20 in more
        assert 0.1 not in more.numpy().round(3)


class TestAutomatic:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch):
        monkeypatch.setattr(seeding_module, "_MANY_POINTS", 40)
        monkeypatch.setattr(seeding_module, "_MANY_CLUSTERS", 5)

    @pytest.mark.parametrize(
        ("n", "width", "k", "name"),
        [
            (40, 9, 5, "k-means||"),
            (39, 9, 5, "k-means++"),
            (40, 8, 5, "k-means++"),
            (40, 9, 4, "k-means++"),
        ],
    )
    def test_many_points_of_many_coordinates_and_clusters_are_seeded_by_k_means_parallel(self, n, width, k, name):
        x = torch.rand(n, width, generator=seeded())
        assert torch.equal(kmeans(x, k).centers, kmeans(x, k, init=name).centers)
        # Rows of weight 0 do not count.
        weights = torch.arange(n + 9) < n
        padded = torch.cat([x, x[:9]])
        found, expected = (kmeans(padded, k, weights=weights, init=init) for init in ("auto", name))
        assert torch.equal(found.centers, expected.centers)

    def test_each_problem_of_a_batch_has_the_centers_that_it_has_alone(self):
        x = torch.rand(3, 45, 9, generator=seeded())
        weights = torch.ones(3, 45)
        weights[1, 30:] = 0
        weights[2, 5] = 0
        found = kmeans(x, 5, weights=weights, n_init=2)
        for problem in range(3):
            alone = kmeans(x[problem], 5, weights=weights[problem], n_init=2)
            assert torch.equal(found.centers[problem], alone.centers)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", SEEDINGS)
def test_runs_that_are_seeded_side_by_side_are_those_of_single_calls(name, weighted):
    x = torch.rand(2, 60, 2, generator=seeded())
    weights = torch.randint(0, 4, (2, 60), generator=seeded(1)) if weighted else None
    options = {"weights": weights, "init": name, "max_iter": 2}
    found, generator = kmeans(x, 7, n_init=4, generator=seeded(3), **options), seeded(3)
    singles = [kmeans(x, 7, generator=generator, **options) for _ in range(4)]
    for problem in range(2):
        best = min(singles, key=lambda single: single.inertia[problem].item())
        assert torch.equal(found.centers[problem], best.centers[problem])
    assert len({single.inertia[0].item() for single in singles}) > 1
