import functools

import numpy as np
import pytest
import torch
from helpers.array_libraries import DLPackArray, Frame
from helpers.problems import BATCH, RESULTS, assert_same_results, blobs, problem_of, seeded
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans
from torch.utils.data import DataLoader, TensorDataset

from gpukmeans import METRICS, SEEDINGS, Batches, assign, kmeans, unique_colors
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.points.base import Points


def test_a_small_example_worked_by_hand():
    result = kmeans(torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]]), 2)
    order = result.centers[:, 0].argsort()
    assert result.centers[order].tolist() == [[0, 1], [9, 9]]
    assert result.cluster_weights[order].tolist() == [2, 1]
    assert result.labels.tolist() == [order[0], order[0], order[1]]
    assert result.inertia.item() == 2
    assert result.converged.item()


@pytest.mark.filterwarnings("ignore:.* clusters of x are empty after")
@pytest.mark.parametrize("max_iter", [1, 2, 100])
@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64]
)
def test_labels_weights_and_inertia_belong_to_the_centers_for_any_end_of_the_loop(max_iter, init, dtype):
    x = (blobs() * 3 + 120).to(dtype)
    weights = torch.rand(300, generator=seeded())
    result = kmeans(x, 7, weights=weights, init=init, max_iter=max_iter)
    labels, sqdist = assign(x, result.centers)
    assert torch.equal(labels, result.labels)
    expected = torch.zeros(7, dtype=torch.float64).scatter_add_(0, labels, weights.double())
    torch.testing.assert_close(result.cluster_weights, expected)
    torch.testing.assert_close(result.inertia, (sqdist.double() * weights).sum())
    assert result.converged.item() or result.n_iter.item() == max_iter < 100


@pytest.mark.parametrize("name", ["china", "flower"])
@pytest.mark.parametrize("k", [20, 64])
def test_ten_rounds_over_a_photo_equal_those_of_scikit_learn(name, k, request):
    histogram = unique_colors(request.getfixturevalue(name))
    x = histogram.colors.double()
    # Not integers, so that there are no exact ties.
    start = x[torch.randperm(len(x), generator=seeded())[:k]] + torch.rand(k, 3, generator=seeded()) * 0.5
    result = kmeans(x, k, weights=histogram.counts, init=start, max_iter=10, tol=0.0)
    peer = SklearnKMeans(k, init=start.numpy(), n_init=1, max_iter=10, tol=0.0, algorithm="lloyd")
    peer.fit(x.numpy(), sample_weight=histogram.counts.numpy())
    np.testing.assert_allclose(result.centers.numpy(), peer.cluster_centers_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.inertia.item(), peer.inertia_, rtol=1e-7)
    assert (result.labels.numpy() == peer.labels_).mean() > 0.9999


def test_distinct_colors_with_counts_have_the_result_of_the_pixels(china):
    pixels = china.reshape(-1, 3)
    histogram = unique_colors(china)
    start = histogram.colors[::9000].float()
    by_pixel = kmeans(pixels, len(start), init=start, max_iter=5)
    by_color = kmeans(histogram.colors, len(start), weights=histogram.counts, init=start, max_iter=5)
    assert torch.equal(by_color.centers, by_pixel.centers)
    assert torch.equal(by_color.cluster_weights, by_pixel.cluster_weights)
    assert torch.equal(by_color.labels[histogram.lookup(china).flatten()], by_pixel.labels)


@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 2**31))
def test_an_integer_weight_equals_repeated_points(n, k, seed):
    x = torch.randn(n, 2, generator=seeded(seed))
    weights = torch.randint(1, 4, (n,), generator=seeded(seed))
    once = kmeans(x, min(k, n), weights=weights)
    repeated = kmeans(x.repeat_interleave(weights, dim=0), min(k, n))
    assert torch.equal(once.centers, repeated.centers)
    assert torch.equal(once.cluster_weights, repeated.cluster_weights)
    assert torch.equal(once.inertia, repeated.inertia)


@pytest.mark.parametrize("factor", [2.0, 0.125, 2.0**40])
def test_weights_scaled_by_a_power_of_two_scale_only_cluster_weights_and_inertia(factor):
    weights = torch.rand(300, generator=seeded()) + 0.1
    first, scaled = (kmeans(blobs(), 6, weights=w) for w in (weights, weights * factor))
    assert torch.equal(first.centers, scaled.centers)
    assert torch.equal(first.labels, scaled.labels)
    assert torch.equal(first.cluster_weights * factor, scaled.cluster_weights)
    assert torch.equal(first.inertia * factor, scaled.inertia)


def test_a_point_of_weight_0_has_no_effect_but_a_label():
    x = blobs()
    weights = torch.ones(300)
    weights[::3] = 0
    x[0] = 1e6  # with weight the worst-served point, the highest of the range and the first choice of k-means++
    with_absent = kmeans(x, 7, weights=weights)
    without = kmeans(x[weights > 0], 7, weights=weights[weights > 0])
    for name in ("centers", "cluster_weights", "inertia", "n_iter"):
        assert torch.equal(getattr(with_absent, name), getattr(without, name)), name
    assert torch.equal(with_absent.labels[weights > 0], without.labels)
    assert torch.equal(with_absent.labels, assign(x, with_absent.centers).labels)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_the_same_generator_state_gives_the_same_bits(init):
    first, again = (kmeans(blobs(), 6, init=init, n_init=3, generator=seeded(7)) for _ in range(2))
    assert_same_results(first, again)
    assert_same_results(kmeans(blobs(), 6, init=init), kmeans(blobs(), 6, init=init, generator=seeded(0)))


@given(st.integers(1, 400))
def test_the_block_size_changes_no_bit(tile):
    assert_same_results(kmeans(blobs(100), 6, engine=PlainEngine(tile)), kmeans(blobs(100), 6))


def test_the_global_random_state_is_not_used():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = kmeans(blobs(), 6, n_init=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert_same_results(first, kmeans(blobs(), 6, n_init=2))


def test_torch_can_require_deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        result = kmeans(blobs(), 6, weights=torch.rand(300, generator=seeded()))
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_results(result, kmeans(blobs(), 6, weights=torch.rand(300, generator=seeded())))


def test_the_result_is_the_best_of_several_runs_and_more_runs_are_never_worse():
    x = torch.rand(200, 2, generator=seeded())
    inertia = [kmeans(x, 12, init="random", n_init=n).inertia.item() for n in (1, 2, 4, 8, 16)]
    assert inertia == sorted(inertia, reverse=True)
    assert inertia[0] > inertia[-1]


def test_runs_with_first_centers_of_different_ranges_are_compared_by_inertia():
    starts = iter([blobs()[:5], torch.randn(5, 3, generator=seeded()) * 1e6] * 2)
    best = kmeans(blobs(), 5, init=lambda points, k, generator: next(starts), n_init=2, max_iter=1)
    first = kmeans(blobs(), 5, init=blobs()[:5], max_iter=1)
    assert best.inertia <= first.inertia


def test_a_default_device_of_the_caller_has_no_effect():
    x = blobs(60)
    for init in SEEDINGS:
        with torch.device("meta"):
            result = kmeans(x, 4, init=init, n_init=2, weights=torch.ones(60, device="cpu"))
        assert_same_results(result, kmeans(x, 4, init=init, n_init=2, weights=torch.ones(60)))


def test_arguments_are_not_modified():
    x, weights = blobs(dtype=torch.float64), torch.rand(300, generator=seeded(), dtype=torch.float64)
    start = x[:6].clone()
    copies = [tensor.clone() for tensor in (x, weights, start)]
    kmeans(x, 6, weights=weights, init=start)
    kmeans(x, 6, weights=weights)
    for tensor, copy in zip((x, weights, start), copies, strict=True):
        assert torch.equal(tensor, copy)


def test_centers_that_never_move_do_not_share_memory_with_init():
    start = torch.tensor([[1.0], [4.0]])
    result = kmeans(torch.tensor([[1.0], [4.0]]), 2, init=start)
    result.centers.zero_()
    assert start.tolist() == [[1], [4]]


def test_first_centers_can_be_far_from_the_points():
    x = blobs()
    result = kmeans(x, 3, init=torch.tensor([[1e8, 0.0, 0.0], [0.0, -1e8, 0.0], [0.0, 0.0, 0.0]]))
    assert (result.cluster_weights > 0).all()
    assert result.centers.abs().max() <= x.abs().max()
    torch.testing.assert_close(result.inertia, assign(x, result.centers).sqdist.double().sum(), rtol=1e-12, atol=0)


def test_first_centers_can_come_from_a_function():
    x = blobs()

    def first_rows(points, n_clusters, generator):
        assert isinstance(points, Points)
        return points.source.x[0, :n_clusters]

    assert_same_results(kmeans(x, 4, init=first_rows), kmeans(x, 4, init=x[:4]))


def test_clusterings_in_float32_and_float64_agree():
    x = blobs()
    start = x[:5].double()
    single, double = kmeans(x, 5, init=start.float()), kmeans(x.double(), 5, init=start)
    assert (single.centers.dtype, double.centers.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.centers.double(), double.centers, rtol=1e-5, atol=1e-5)
    assert torch.equal(single.labels, double.labels)


def test_an_offset_from_the_origin_does_not_change_the_clusters():
    x = blobs()
    centered, offset = kmeans(x, 5, init=x[:5]), kmeans(x + 1e4, 5, init=x[:5] + 1e4)
    assert torch.equal(centered.labels, offset.labels)
    torch.testing.assert_close(offset.centers - 1e4, centered.centers, rtol=0, atol=2e-3)


@pytest.mark.parametrize("k", [1, 7, 301])
def test_odd_numbers_of_points_and_clusters_are_clustered(k):
    x = torch.randn(301, 5, generator=seeded())
    result = kmeans(x, k)
    assert (result.cluster_weights > 0).all()
    assert result.cluster_weights.sum() == 301
    if k == 1:
        torch.testing.assert_close(result.centers[0], x.mean(dim=0), rtol=1e-4, atol=1e-6)
    if k == 301:
        assert result.inertia == 0


def test_one_point_is_its_own_center():
    result = kmeans(torch.tensor([[3.25, -1.0]]), 1)
    assert result.centers.tolist() == [[3.25, -1]]
    assert result.labels.tolist() == [0]


def test_fewer_distinct_points_than_clusters_are_all_centers_with_a_warning():
    x = torch.tensor([[1.0], [5.0], [5.0], [1.0]])
    with pytest.warns(UserWarning, match="only 2 distinct points, so 1 of 3 clusters stay empty"):
        result = kmeans(x, 3)
    assert not result.centers.isnan().any()
    assert sorted(result.centers[result.cluster_weights > 0].squeeze(1).tolist()) == [1, 5]
    assert result.inertia == 0


def test_many_equal_points_have_an_exact_weight_and_mean():
    # A float32 sum would stop at 2**24.
    n = 2**25
    result = kmeans(torch.full((1, 1), 0.1).expand(n, 1), 1)
    assert result.cluster_weights.item() == n
    assert result.centers.item() == torch.tensor(0.1).item()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("init", SEEDINGS)
@pytest.mark.parametrize("n_init", [1, 3])
def test_each_problem_of_a_batch_has_the_result_it_has_alone(init, n_init, metric):
    weights = torch.rand(3, 60, generator=seeded())
    batched = kmeans(BATCH, 11, weights=weights, init=init, n_init=n_init, metric=metric)
    for index in range(3):
        alone = kmeans(BATCH[index], 11, weights=weights[index], init=init, n_init=n_init, metric=metric)
        assert_same_results(problem_of(batched, index), alone)


def test_each_problem_of_a_batch_ends_by_itself():
    n_iter = kmeans(BATCH, 11, init="random", tol=0.0).n_iter.tolist()
    assert len(set(n_iter)) > 1
    assert n_iter == [kmeans(x, 11, init="random", tol=0.0).n_iter.item() for x in BATCH]


def test_a_batch_can_have_several_dimensions_or_one_problem():
    x = torch.rand(2, 3, 40, 2, generator=seeded())
    result = kmeans(x, 4)
    shapes = [tuple(getattr(result, name).shape) for name in RESULTS]
    assert shapes == [(2, 3, 4, 2), (2, 3, 40), (2, 3, 4), (2, 3), (2, 3), (2, 3)]
    assert_same_results(problem_of(problem_of(result, 1), 2), kmeans(x[1, 2], 4))
    assert_same_results(problem_of(kmeans(x[0, :1], 4), 0), kmeans(x[0, 0], 4))


def test_problems_of_unequal_size_are_padded_with_rows_of_weight_0():
    x, weights = BATCH.clone(), torch.ones(3, 60)
    x[0, 40:], weights[0, 40:] = 0, 0
    x[2, 10:], weights[2, 10:] = -1e6, 0
    batched = kmeans(x, 5, weights=weights)
    for index, n in enumerate([40, 60, 10]):
        alone = kmeans(x[index, :n], 5)
        for name in ("centers", "cluster_weights", "inertia", "n_iter", "converged"):
            assert torch.equal(getattr(batched, name)[index], getattr(alone, name)), name
        assert torch.equal(batched.labels[index, :n], alone.labels)


@pytest.mark.parametrize("tile", [1, 50, 1000])
def test_the_block_size_changes_no_bit_of_a_batch(tile):
    options = {"weights": torch.rand(3, 60, generator=seeded()), "n_init": 2}
    assert_same_results(kmeans(BATCH, 5, engine=PlainEngine(tile), **options), kmeans(BATCH, 5, **options))


def test_first_centers_are_given_for_each_problem_or_for_all():
    for_all, for_each = BATCH[0, :5], BATCH[:, :5]
    assert_same_results(problem_of(kmeans(BATCH, 5, init=for_all), 2), kmeans(BATCH[2], 5, init=for_all))
    assert_same_results(problem_of(kmeans(BATCH, 5, init=for_each), 2), kmeans(BATCH[2], 5, init=for_each[2]))


def test_the_warning_has_the_number_of_the_problem_with_fewer_distinct_points():
    x = BATCH.clone()
    x[1] = x[1, :1]
    with pytest.warns(UserWarning, match="problem 1 of x has only 1 distinct points, so 3 of 4 clusters stay empty"):
        result = kmeans(x, 4)
    assert not result.centers.isnan().any()
    assert_same_results(problem_of(result, 0), kmeans(x[0], 4))


def test_a_seeding_can_be_given_as_a_function():
    for init, seeding in SEEDINGS.items():
        assert_same_results(kmeans(BATCH, 5, init=init), kmeans(BATCH, 5, init=seeding))
    few = functools.partial(SEEDINGS["k-means||"], oversampling=0.5, rounds=2)
    assert kmeans(BATCH, 5, init=few).converged.all()


def frame(x):
    return Frame(x.numpy()) if x.ndim == 2 else Frame(x.numpy()[:, None]).column(0)


@pytest.mark.parametrize("kind", [torch.Tensor.numpy, DLPackArray, frame], ids=["NumPy", "DLPack", "frame"])
def test_arrays_of_other_libraries_have_the_result_of_tensors(kind):
    x, weights = blobs(), torch.rand(300, generator=seeded())
    options = {"init": x[:4], "fixed": x[10:12]}
    expected = kmeans(x, 6, weights=weights, **options)
    arrays = {name: kind(value) for name, value in options.items()}
    assert_same_results(kmeans(kind(x), 6, weights=kind(weights), **arrays), expected)


def test_an_array_of_more_dimensions_is_a_batch_of_problems():
    assert_same_results(kmeans(BATCH.numpy(), 5), kmeans(BATCH, 5))


def test_a_mask_as_weights_excludes_points():
    x, mask = blobs(), torch.arange(300) % 3 > 0
    expected = kmeans(x, 6, weights=mask.float())
    assert_same_results(kmeans(x, 6, weights=mask), expected)
    assert_same_results(kmeans(x.numpy(), 6, weights=mask.numpy()), expected)
    assert torch.equal(kmeans(x[mask], 6).centers, expected.centers)


def test_a_memory_map_is_a_stream_and_can_be_weights_and_first_centers(tmp_path):
    x = blobs()
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    stream, expected = kmeans(mapped, 6), kmeans(x, 6, init="k-means||")
    assert stream.labels is None
    assert torch.equal(stream.centers, expected.centers)
    options = {"weights": x[:, 0].abs(), "init": x[:6]}
    assert_same_results(kmeans(x, 6, weights=np.abs(mapped[:, 0]), init=mapped[:6]), kmeans(x, 6, **options))


def test_batches_that_are_pairs_have_weights_only_if_they_are_asked_for():
    x, classes = blobs(), torch.arange(300) % 5
    pairs = DataLoader(TensorDataset(x, classes), batch_size=70)
    without = kmeans(pairs, 6)
    expected = kmeans(x, 6, init="k-means||")
    assert torch.equal(without.centers, expected.centers)
    assert torch.equal(without.cluster_weights, expected.cluster_weights)
    weighted = kmeans(Batches(pairs, weighted=True), 6)
    expected = kmeans(x, 6, weights=classes, init="k-means||")
    assert torch.equal(weighted.centers, expected.centers)
    assert torch.equal(weighted.cluster_weights, expected.cluster_weights)


def test_numbers_of_numpy_are_numbers():
    numbers = {"n_init": np.int64(2), "max_iter": np.uint8(3), "tol": np.float32(0.5), "refine": np.int32(1)}
    expected = kmeans(blobs(), 6, n_init=2, max_iter=3, tol=0.5, refine=1)
    assert_same_results(kmeans(blobs(), np.int64(6), **numbers), expected)


def test_a_function_for_first_centers_can_return_an_array():
    x = blobs()
    result = kmeans(x, 4, init=lambda points, k, generator: x[:k].numpy())
    assert_same_results(result, kmeans(x, 4, init=x[:4]))


def test_the_result_does_not_share_memory_with_an_array():
    x = blobs(dtype=torch.float64).numpy()
    before = x.copy()
    result = kmeans(x, 6, init=x[:6], fixed=x[:0])
    result.centers.zero_()
    assert np.array_equal(x, before)


def test_a_metric_can_be_given_as_an_object():
    assert_same_results(kmeans(BATCH, 5, metric=METRICS["cosine"]), kmeans(BATCH, 5, metric="cosine"))


def test_the_callback_is_called_each_round():
    calls = []
    result = kmeans(blobs(), 7, callback=lambda *state: calls.append(state))
    assert [n_iter for n_iter, _, _ in calls] == list(range(1, result.n_iter + 1))
    inertia = [value.item() for _, value, _ in calls]
    assert inertia == sorted(inertia, reverse=True)
    assert inertia[-1] == result.inertia
    for n_iter, value, shift in calls:
        previous, current = (kmeans(blobs(), 7, max_iter=n, tol=0.0) for n in (max(1, n_iter - 1), n_iter))
        assert value == current.inertia
        if n_iter > 1:
            moved = (current.centers - previous.centers).double().square().sum(dim=1).max().sqrt()
            assert shift.item() == pytest.approx(moved.item(), rel=1e-12)


def test_the_callback_receives_the_best_run_of_each_problem():
    calls = []
    result = kmeans(BATCH, 5, n_init=4, callback=lambda *state: calls.append(state))
    assert len(calls) >= result.n_iter.max()
    assert torch.equal(calls[-1][1], result.inertia)
    assert calls[-1][2].shape == (3,)


def test_a_callback_that_returns_true_ends_the_clustering():
    result = kmeans(blobs(), 7, init="random", callback=lambda n_iter, inertia, shift: n_iter == 2)
    assert (result.n_iter.item(), result.converged.item()) == (2, False)
    assert_same_results(result, kmeans(blobs(), 7, init="random", max_iter=2))


def test_an_error_of_the_callback_is_raised_by_kmeans():
    def fail(*state):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        kmeans(blobs(), 3, callback=fail)


def test_the_cosine_metric_clusters_directions_with_an_inertia_of_cosines():
    angles = torch.tensor([0.0, 0.1, 0.2, 2.0, 2.1, 2.2])
    lengths = torch.tensor([[1.0], [100.0], [0.01], [7.0], [1e-3], [1e6]])
    x = torch.stack([angles.cos(), angles.sin()], dim=1) * lengths
    result = kmeans(x, 2, metric="cosine")
    found = torch.atan2(result.centers[:, 1], result.centers[:, 0]).sort().values
    torch.testing.assert_close(found, torch.tensor([0.1, 2.1]))
    torch.testing.assert_close(result.centers.norm(dim=1), torch.ones(2))
    assert result.inertia.item() == pytest.approx(4 * (1 - np.cos(0.1)), rel=1e-5)
    assert set(result.cluster_weights.tolist()) == {3}


def test_rounds_of_the_cosine_metric_equal_a_direct_computation():
    x = torch.randn(200, 4, generator=seeded(), dtype=torch.float64)
    weights = torch.rand(200, generator=seeded(), dtype=torch.float64)
    unit = torch.nn.functional.normalize(x, dim=1)
    centers = unit[:6]
    result = kmeans(x, 6, weights=weights, init=x[:6], metric="cosine", max_iter=5, tol=0.0)
    for _ in range(5):
        labels = (unit @ centers.T).argmax(dim=1)
        sums = torch.zeros(6, 4, dtype=torch.float64).index_add_(0, labels, unit * weights[:, None])
        centers = torch.nn.functional.normalize(sums, dim=1)
    torch.testing.assert_close(result.centers, centers)
    cosines = (unit @ centers.T).max(dim=1).values
    torch.testing.assert_close(result.inertia, (weights * (1 - cosines)).sum())


def test_a_center_does_not_move_if_its_unit_vectors_cancel():
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    result = kmeans(x, 1, init=torch.tensor([[0.0, 3.0]]), metric="cosine")
    assert result.centers.tolist() == [[0, 1]]
    assert result.inertia == 2


def test_a_zero_row_of_weight_0_is_not_an_error_for_the_cosine_metric():
    x = blobs(60)
    padded = torch.cat([x, torch.zeros(5, 3)])
    weights = torch.cat([torch.ones(60), torch.zeros(5)])
    assert torch.equal(
        kmeans(padded, 4, weights=weights, metric="cosine").centers, kmeans(x, 4, metric="cosine").centers
    )


@pytest.mark.parametrize("mode", [torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad()])
def test_a_mode_of_torch_has_no_effect(mode):
    with mode:
        result = kmeans(blobs(), 5)
    assert_same_results(result, kmeans(blobs(), 5))


def test_points_and_weights_that_require_gradients_have_the_same_result():
    x, weights = blobs().requires_grad_(), torch.ones(300, requires_grad=True)
    result = kmeans(x, 5, weights=weights, init=x[:5])
    assert not result.centers.requires_grad
    assert_same_results(result, kmeans(x.detach(), 5, weights=weights.detach(), init=x[:5].detach()))


FIXED = torch.tensor([[1.5, -2.0, 0.25], [300.0, 0.0, 1.0], [1.5, -2.0, 0.25]])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("init", SEEDINGS)
@pytest.mark.parametrize("refine", [0, 2])
def test_fixed_centers_are_the_first_of_the_result_and_do_not_move(init, metric, refine):
    x = blobs()
    result = kmeans(x, 9, fixed=FIXED, init=init, metric=metric, refine=refine, n_init=2, tol=0.0)
    assert torch.equal(result.centers[:3], METRICS[metric].prepare(FIXED, torch.float32))
    assert torch.equal(result.labels, assign(x, result.centers, metric=metric).labels)
    assert result.cluster_weights[2] == 0  # a repetition of the first
    assert (result.cluster_weights[3:] > 0).all()
    assert result.converged
    # The others are the means of their clusters, so they do not move again.
    again = kmeans(x, 9, fixed=FIXED, init=result.centers[3:], metric=metric, tol=0.0)
    assert torch.equal(again.centers, result.centers)
    assert again.n_iter == 1


def test_a_small_example_with_a_fixed_center_worked_by_hand():
    x = torch.tensor([[0.0], [2.0], [9.0], [11.0], [30.0]])
    result = kmeans(x, 3, fixed=torch.tensor([[3.0]]), init=torch.tensor([[8.0], [31.0]]))
    assert result.centers.tolist() == [[3], [10], [30]]
    assert result.labels.tolist() == [0, 0, 1, 1, 2]
    assert result.cluster_weights.tolist() == [2, 2, 1]
    assert result.inertia == 9 + 1 + 1 + 1


def test_a_fixed_center_without_points_has_no_effect_on_the_others(china):
    x = china.reshape(-1, 3)[::300]
    start = x[:6].float()
    far = torch.full((1, 3), -1e4)
    without, with_fixed = kmeans(x, 6, init=start), kmeans(x, 7, init=start, fixed=far)
    assert torch.equal(with_fixed.centers, torch.cat([far, without.centers]))
    assert torch.equal(with_fixed.labels, without.labels + 1)
    assert torch.equal(with_fixed.n_iter, without.n_iter)
    assert with_fixed.cluster_weights[0] == 0


@pytest.mark.parametrize("n_init", [1, 3])
@pytest.mark.parametrize("refine", [0, 2])
def test_no_center_moves_if_all_are_fixed(refine, n_init):
    calls = []
    x = blobs()
    result = kmeans(x, 3, fixed=FIXED, refine=refine, n_init=n_init, callback=lambda *state: calls.append(state))
    assert torch.equal(result.centers, FIXED)
    assert torch.equal(result.labels, assign(x, FIXED).labels)
    torch.testing.assert_close(result.inertia, assign(x, FIXED).sqdist.double().sum())
    assert (result.n_iter.item(), result.converged.item()) == (1, True)
    assert [shift.item() for _, _, shift in calls] == [0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("init", SEEDINGS)
@pytest.mark.parametrize("refine", [0, 2])
def test_each_problem_of_a_batch_with_fixed_centers_has_the_result_it_has_alone(init, metric, refine):
    weights = torch.rand(3, 60, generator=seeded())
    weights[1, 20:] = 0
    fixed = torch.stack([FIXED, FIXED * 9, FIXED + 1e4])
    options = {"init": init, "n_init": 2, "metric": metric, "refine": refine}
    for_each = kmeans(BATCH, 11, weights=weights, fixed=fixed, **options)
    for_all = kmeans(BATCH, 11, weights=weights, fixed=FIXED, **options)
    for index in range(3):
        alone = kmeans(BATCH[index], 11, weights=weights[index], fixed=fixed[index], **options)
        assert_same_results(problem_of(for_each, index), alone)
        alone = kmeans(BATCH[index], 11, weights=weights[index], fixed=FIXED, **options)
        assert_same_results(problem_of(for_all, index), alone)


@pytest.mark.parametrize("init", SEEDINGS)
def test_the_block_size_changes_no_bit_with_fixed_centers(init):
    options = {"fixed": FIXED, "init": init, "n_init": 2, "refine": 1}
    whole, blocked = (kmeans(blobs(), 9, engine=engine, **options) for engine in ("plain", PlainEngine(100)))
    assert_same_results(whole, blocked)
    assert_same_results(whole, kmeans(blobs(), 9, **options))


# The sums of clusters of integers without fixed centers, from the version before there were fixed centers.
PINNED = {
    "k-means++": [[104, 255], [365, 102], [52, 99], [510, 495]],
    "k-means||": [[129, 278], [510, 495], [340, 79], [52, 99]],
    "random": [[52, 99], [510, 495], [365, 102], [104, 255]],
}


@pytest.mark.parametrize("init", SEEDINGS)
@pytest.mark.parametrize("none", [None, torch.zeros(0, 2)])
def test_results_without_fixed_centers_are_unchanged(init, none):
    x = torch.randint(50, (40, 2), generator=seeded(5))
    result = kmeans(x, 4, init=init, refine=1, n_init=2, fixed=none)
    assert (result.centers * result.cluster_weights[:, None]).round().tolist() == PINNED[init]
    assert_same_results(result, kmeans(x, 4, init=init, refine=1, n_init=2))


def test_there_can_be_more_centers_than_points_if_enough_are_fixed():
    x = torch.tensor([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    result = kmeans(x, 5, fixed=FIXED)
    assert torch.equal(result.centers[:3], FIXED)
    assert sorted(result.centers[3:].tolist()) == x.tolist()


def test_the_warning_counts_the_points_that_are_not_at_a_fixed_center():
    x = torch.tensor([[1.0], [5.0], [5.0], [1.0], [8.0]])
    message = "only 1 distinct points that are at no fixed center, so 2 of 3 clusters stay empty"
    with pytest.warns(UserWarning, match=message):
        result = kmeans(x, 5, fixed=torch.tensor([[5.0], [1.0]]))
    assert result.inertia == 0
    assert result.centers[:2].tolist() == [[5], [1]]


def test_a_function_returns_the_first_centers_that_are_not_fixed():
    def first_rows(points, n_clusters, generator, fixed):
        assert torch.equal(fixed, FIXED[None])
        return points.source.x[0, :n_clusters]

    assert_same_results(
        kmeans(blobs(), 8, init=first_rows, fixed=FIXED), kmeans(blobs(), 8, init=blobs()[:5], fixed=FIXED)
    )


def test_fixed_centers_are_not_modified_and_have_no_gradient():
    fixed = FIXED.clone().requires_grad_()
    result = kmeans(blobs(), 5, fixed=fixed)
    assert not result.centers.requires_grad
    result.centers.zero_()
    assert torch.equal(fixed, FIXED)
