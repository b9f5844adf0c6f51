import contextlib
import itertools

import pytest
import torch
from helpers.native import without_native
from helpers.problems import BATCH, RESULTS, assert_same_results, blobs, points_of, problem_of, seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpukmeans import METRICS, SEEDINGS, kmeans, unique_colors
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.refinement import merge, refined


@pytest.fixture(params=[contextlib.nullcontext, without_native], ids=["native", "plain"])
def each_way(request):
    """Merges by native kernels, where there are any, and by operations of torch."""
    with request.param():
        yield


def merged_by_hand(centers, totals, k):
    """Merges of the cheapest pair, one at a time, with the costs of all pairs computed each time."""
    clusters = list(zip(totals, centers, strict=True))
    while len(clusters) > k:
        costs = {}
        for (i, (a, x)), (j, (b, y)) in itertools.combinations(enumerate(clusters), 2):
            costs[i, j] = a * b / (a + b) * sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) if a + b else 0.0
        i, j = min(costs, key=lambda pair: costs[pair])
        (a, x), (b, y) = clusters[i], clusters[j]
        mean = [(a * p + b * q) / (a + b) if a + b else p for p, q in zip(x, y, strict=True)]
        clusters[i] = (a + b, mean)
        del clusters[j]
    return torch.tensor([mean for _, mean in clusters], dtype=torch.float64)


@pytest.mark.usefixtures("each_way")
def test_the_pair_that_adds_least_to_the_inertia_is_merged_into_its_mean():
    centers = torch.tensor([[[0.0], [3.0], [10.0], [14.0]]], dtype=torch.float64)
    totals = torch.tensor([[100.0, 100.0, 1.0, 3.0]], dtype=torch.float64)
    # A merge of the first two costs 50·9, of the last two 3/4·16.
    assert merge(centers, totals, 3).tolist() == [[[0], [3], [13]]]


@pytest.mark.usefixtures("each_way")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 12), st.integers(1, 3), st.integers(0, 2**31))
def test_up_to_four_merges_are_those_of_the_cheapest_pair_one_at_a_time(n, width, seed):
    # A quarter of the merges are done at a time, so of up to four merges one.
    generator = seeded(seed)
    centers = torch.randn(2, n, width, generator=generator, dtype=torch.float64)
    totals = torch.rand(2, n, generator=generator, dtype=torch.float64)
    k = int(torch.randint(max(1, n - 4), n + 1, (), generator=generator))
    merged = merge(centers, totals, k)
    for run in range(2):
        expected = merged_by_hand(centers[run].tolist(), totals[run].tolist(), k)
        torch.testing.assert_close(merged[run], expected)
        assert torch.equal(merge(centers[run, None], totals[run, None], k)[0], merged[run])


@pytest.mark.usefixtures("each_way")
def test_more_merges_are_almost_always_those_of_the_cheapest_pair_one_at_a_time():
    n_equal = 0
    for seed in range(100):
        generator = seeded(seed)
        centers = torch.randn(1, 12, 1 + seed % 3, generator=generator, dtype=torch.float64)
        totals = torch.rand(1, 12, generator=generator, dtype=torch.float64)
        merged, expected = merge(centers, totals, 3)[0], merged_by_hand(centers[0].tolist(), totals[0].tolist(), 3)
        n_equal += torch.allclose(merged, expected)
    assert n_equal >= 97


def test_no_merge_depends_on_the_size_of_blocks(monkeypatch):
    centers, totals = torch.randn(2, 20, 3, generator=seeded()).double(), torch.rand(2, 20, generator=seeded()).double()
    with without_native():
        whole = merge(centers, totals, 5)
        monkeypatch.setattr("gpukmeans.refinement._BLOCK", 7)
        assert torch.equal(merge(centers, totals, 5), whole)


@pytest.mark.usefixtures("each_way")
def test_centers_without_weight_are_merged_first_and_without_nan():
    centers = torch.tensor([[[0.0], [7.0], [8.0], [1.0]]], dtype=torch.float64)
    totals = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    assert merge(centers, totals, 2).tolist() == [[[0], [1]]]
    assert not merge(centers, torch.zeros_like(totals), 1).isnan().any()


@pytest.mark.usefixtures("each_way")
def test_merge_does_not_change_its_arguments():
    centers, totals = torch.rand(1, 6, 2, generator=seeded()).double(), torch.rand(1, 6, generator=seeded()).double()
    kept = centers.clone(), totals.clone()
    merge(centers, totals, 2)
    assert torch.equal(centers, kept[0])
    assert torch.equal(totals, kept[1])


@pytest.mark.parametrize(("k", "gain"), [(4, 0.0), (32, 0.005)])
def test_refined_clusters_are_better_on_a_photo(china, k, gain):
    histogram = unique_colors(china[::4, ::4])
    inertia = {
        refine: sum(
            kmeans(histogram.colors, k, weights=histogram.counts, refine=refine, generator=seeded(seed)).inertia.item()
            for seed in range(4)
        )
        for refine in (0, 4)
    }
    assert inertia[4] <= (1 - gain) * inertia[0]


def test_refinement_finds_the_blobs_from_the_worst_start():
    x = blobs()
    assert kmeans(x, 5, init=x[:1].expand(5, 3) + torch.arange(5.0)[:, None] * 1e-3).inertia > 1500
    found = kmeans(x, 5, init=x[:1].expand(5, 3) + torch.arange(5.0)[:, None] * 1e-3, refine=4)
    assert found.inertia < 1000


def test_each_problem_of_a_batch_has_the_result_of_the_problem_alone():
    weights = torch.rand(3, 60, generator=seeded())
    weights[1, 20:] = 0
    for metric in METRICS:
        together = kmeans(BATCH, 7, weights=weights, refine=2, n_init=2, metric=metric)
        for index in range(3):
            alone = kmeans(BATCH[index], 7, weights=weights[index], refine=2, n_init=2, metric=metric)
            assert_same_results(problem_of(together, index), alone)
    without = kmeans(BATCH[1, :20], 7, weights=weights[1, :20], refine=2, n_init=2, metric="cosine")
    for name in set(RESULTS) - {"labels"}:
        assert torch.equal(getattr(without, name), getattr(together, name)[1]), name


@pytest.mark.parametrize("init", SEEDINGS)
def test_refined_clusters_are_repeatable_and_do_not_depend_on_the_size_of_blocks(init):
    first, again = (kmeans(blobs(), 9, init=init, refine=3, engine=engine) for engine in ("plain", PlainEngine(100)))
    assert_same_results(first, again)


def test_fewer_distinct_points_than_clusters_can_be_refined():
    x = torch.tensor([[1.0], [5.0], [5.0], [1.0]])
    with pytest.warns(UserWarning, match="only 2 distinct points"):
        result = kmeans(x, 4, refine=3)
    assert not result.centers.isnan().any()
    assert result.inertia == 0


def test_refinement_returns_the_best_state_of_all_cycles(china):
    points = points_of(china.reshape(-1, 3)[::200])
    start = points.sample(9, seeded())
    sqdist = [points.assign(refined(points, start, n, seeded(1))).sqdist.double().sum().item() for n in range(6)]
    assert sqdist == sorted(sqdist, reverse=True)
    assert sqdist[-1] < sqdist[0]


def test_given_first_centers_can_be_refined_by_several_runs():
    x = torch.rand(200, 2, generator=seeded())
    inertia = [kmeans(x, 12, init=x[:12], n_init=n, refine=1).inertia.item() for n in (1, 2, 8)]
    assert inertia == sorted(inertia, reverse=True)
    assert inertia[-1] < inertia[0]


@pytest.mark.usefixtures("each_way")
def test_a_fixed_center_does_not_move_when_another_is_merged_into_it():
    centers = torch.tensor([[[0.0], [1.0], [10.0], [14.0]]], dtype=torch.float64)
    totals = torch.tensor([[1.0, 8.0, 3.0, 3.0]], dtype=torch.float64)
    # A merge of the second center into the fixed one costs 8·1, of the last two 9/6·16.
    assert merge(centers, totals, 3, n_fixed=1).tolist() == [[[0], [10], [14]]]
    assert merge(centers, totals, 2, n_fixed=1).tolist() == [[[0], [12]]]


@pytest.mark.usefixtures("each_way")
def test_fixed_centers_are_never_merged_with_each_other():
    centers = torch.tensor([[[5.0], [5.0], [0.0], [1.0], [90.0]]], dtype=torch.float64)
    totals = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    assert merge(centers, totals, 4, n_fixed=2).tolist() == [[[5], [5], [0.5], [90]]]
    assert merge(centers, totals, 3, n_fixed=2).tolist() == [[[5], [5], [90]]]


@pytest.mark.parametrize("metric", METRICS)
def test_refinement_does_not_move_fixed_centers_and_lowers_the_inertia(metric, china):
    points = points_of(METRICS[metric].prepare(china.reshape(-1, 3)[::200] + 1.0, torch.float32))
    start = points.sample(12, seeded())
    project = METRICS[metric].project
    found = [refined(points, start, n, seeded(1), project, n_fixed=4) for n in (0, 1, 4)]
    assert all(torch.equal(centers[:, :4], start[:, :4]) for centers in found)
    sqdist = [points.assign(centers).sqdist.double().sum().item() for centers in found]
    assert sqdist == sorted(sqdist, reverse=True)
    assert sqdist[-1] < sqdist[0]
