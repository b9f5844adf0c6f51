import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans
from test_points import seeded

from gpukmeans import assign, kmeans, unique_colors
from gpukmeans.engine_torch import TorchEngine
from gpukmeans.points import TensorPoints

FIELDS = ("centers", "labels", "totals", "inertia", "n_iter", "converged")


def blobs(n=300, width=3, seed=0, dtype=torch.float32):
    generator = seeded(seed)
    means = torch.randn(5, width, generator=generator, dtype=dtype) * 10
    return means.repeat(n // 5, 1) + torch.randn(n, width, generator=generator, dtype=dtype)


def assert_same(first, second):
    for name in FIELDS:
        assert torch.equal(getattr(first, name), getattr(second, name)), name


def test_a_toy_by_hand():
    result = kmeans(torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]]), 2)
    order = result.centers[:, 0].argsort()
    assert result.centers[order].tolist() == [[0, 1], [9, 9]]
    assert result.totals[order].tolist() == [2, 1]
    assert result.labels.tolist() == [order[0], order[0], order[1]]
    assert result.inertia.item() == 2
    assert result.converged.item()


@pytest.mark.parametrize("max_iter", [1, 2, 100])
@pytest.mark.parametrize("init", ["k-means++", "random"])
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64]
)
def test_labels_totals_and_inertia_fit_the_centers_however_the_loop_ended(max_iter, init, dtype):
    x = (blobs() * 3 + 120).to(dtype)
    weights = torch.rand(300, generator=seeded())
    result = kmeans(x, 7, weights=weights, init=init, max_iter=max_iter)
    labels, sqdist = assign(x, result.centers)
    assert torch.equal(labels, result.labels)
    totals = torch.zeros(7, dtype=torch.float64).scatter_add_(0, labels, weights.double())
    torch.testing.assert_close(result.totals, totals)
    torch.testing.assert_close(result.inertia, (sqdist.double() * weights).sum())
    assert result.converged.item() or result.n_iter.item() == max_iter < 100


@pytest.mark.parametrize("name", ["china", "flower"])
@pytest.mark.parametrize("k", [20, 64])
def test_ten_rounds_over_a_photo_are_those_of_scikit_learn(name, k, request):
    histogram = unique_colors(request.getfixturevalue(name))
    x = histogram.colors.double()
    # Off the integers, so that no exact ties decide.
    start = x[torch.randperm(len(x), generator=seeded())[:k]] + torch.rand(k, 3, generator=seeded()) * 0.5
    result = kmeans(x, k, weights=histogram.counts, init=start, max_iter=10, tol=0.0)
    peer = SklearnKMeans(k, init=start.numpy(), n_init=1, max_iter=10, tol=0.0, algorithm="lloyd")
    peer.fit(x.numpy(), sample_weight=histogram.counts.numpy())
    np.testing.assert_allclose(result.centers.numpy(), peer.cluster_centers_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result.inertia.item(), peer.inertia_, rtol=1e-7)
    assert (result.labels.numpy() == peer.labels_).mean() > 0.9999


def test_distinct_colors_with_counts_are_the_pixels(china):
    pixels = china.reshape(-1, 3)
    histogram = unique_colors(china)
    start = histogram.colors[::9000].float()
    by_pixel = kmeans(pixels, len(start), init=start, max_iter=5)
    by_color = kmeans(histogram.colors, len(start), weights=histogram.counts, init=start, max_iter=5)
    assert torch.equal(by_color.centers, by_pixel.centers)
    assert torch.equal(by_color.totals, by_pixel.totals)
    assert torch.equal(by_color.labels[histogram.lookup(china).flatten()], by_pixel.labels)


@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 2**31))
def test_a_weight_of_two_is_a_point_twice(n, k, seed):
    x = torch.randn(n, 2, generator=seeded(seed))
    weights = torch.randint(1, 4, (n,), generator=seeded(seed))
    once = kmeans(x, min(k, n), weights=weights)
    repeated = kmeans(x.repeat_interleave(weights, dim=0), min(k, n))
    assert torch.equal(once.centers, repeated.centers)
    assert torch.equal(once.totals, repeated.totals)
    assert torch.equal(once.inertia, repeated.inertia)


@pytest.mark.parametrize("factor", [2.0, 0.125, 2.0**40])
def test_weights_scaled_by_a_power_of_two_change_nothing_but_totals_and_inertia(factor):
    weights = torch.rand(300, generator=seeded()) + 0.1
    first, scaled = (kmeans(blobs(), 6, weights=w) for w in (weights, weights * factor))
    assert torch.equal(first.centers, scaled.centers)
    assert torch.equal(first.labels, scaled.labels)
    assert torch.equal(first.totals * factor, scaled.totals)
    assert torch.equal(first.inertia * factor, scaled.inertia)


def test_a_point_of_weight_zero_is_absent_but_has_a_label():
    x = blobs()
    weights = torch.ones(300)
    weights[::3] = 0
    x[0] = 1e6  # would be the worst-served point, widen the grid and be the first choice of k-means++
    with_absent = kmeans(x, 7, weights=weights)
    without = kmeans(x[weights > 0], 7, weights=weights[weights > 0])
    for name in ("centers", "totals", "inertia", "n_iter"):
        assert torch.equal(getattr(with_absent, name), getattr(without, name)), name
    assert torch.equal(with_absent.labels[weights > 0], without.labels)
    assert torch.equal(with_absent.labels, assign(x, with_absent.centers).labels)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_the_same_generator_state_gives_the_same_bits(init):
    first, again = (kmeans(blobs(), 6, init=init, n_init=3, generator=seeded(7)) for _ in range(2))
    assert_same(first, again)
    assert_same(kmeans(blobs(), 6, init=init), kmeans(blobs(), 6, init=init, generator=seeded(0)))


@given(st.integers(1, 400))
def test_no_bit_depends_on_the_size_of_blocks(tile):
    assert_same(kmeans(blobs(100), 6, engine=TorchEngine(tile)), kmeans(blobs(100), 6))


def test_the_global_random_state_is_neither_read_nor_written():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = kmeans(blobs(), 6, n_init=2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert_same(first, kmeans(blobs(), 6, n_init=2))


def test_deterministic_algorithms_may_be_required():
    torch.use_deterministic_algorithms(True)
    try:
        result = kmeans(blobs(), 6, weights=torch.rand(300, generator=seeded()))
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(result, kmeans(blobs(), 6, weights=torch.rand(300, generator=seeded())))


def test_of_several_runs_the_best_is_kept_and_more_runs_are_never_worse():
    x = torch.rand(200, 2, generator=seeded())
    inertia = [kmeans(x, 12, init="random", n_init=n).inertia.item() for n in (1, 2, 4, 8, 16)]
    assert inertia == sorted(inertia, reverse=True)
    assert inertia[0] > inertia[-1]


def test_runs_whose_first_centers_lie_in_other_ranges_are_compared_by_their_inertia():
    starts = iter([blobs()[:5], torch.randn(5, 3, generator=seeded()) * 1e6] * 2)
    best = kmeans(blobs(), 5, init=lambda points, k, generator: next(starts), n_init=2, max_iter=1)
    first = kmeans(blobs(), 5, init=blobs()[:5], max_iter=1)
    assert best.inertia <= first.inertia


def test_a_default_device_of_the_caller_changes_nothing():
    with torch.device("meta"):
        result = kmeans(X, 2)
    assert_same(result, kmeans(X, 2))


def test_arguments_are_left_as_they_were():
    x, weights = blobs(dtype=torch.float64), torch.rand(300, generator=seeded(), dtype=torch.float64)
    start = x[:6].clone()
    kept = [tensor.clone() for tensor in (x, weights, start)]
    kmeans(x, 6, weights=weights, init=start)
    kmeans(x, 6, weights=weights)
    for tensor, copy in zip((x, weights, start), kept, strict=True):
        assert torch.equal(tensor, copy)


def test_centers_that_stand_still_at_once_are_not_the_tensor_given():
    start = torch.tensor([[1.0], [4.0]])
    result = kmeans(torch.tensor([[1.0], [4.0]]), 2, init=start)
    result.centers.zero_()
    assert start.tolist() == [[1], [4]]


def test_first_centers_may_be_a_tensor_far_outside_the_points():
    x = blobs()
    result = kmeans(x, 3, init=torch.tensor([[1e8, 0.0, 0.0], [0.0, -1e8, 0.0], [0.0, 0.0, 0.0]]))
    assert (result.totals > 0).all()
    assert result.centers.abs().max() <= x.abs().max()
    torch.testing.assert_close(result.inertia, assign(x, result.centers).sqdist.double().sum(), rtol=1e-12, atol=0)


def test_first_centers_may_come_from_a_function():
    x = blobs()

    def first_rows(points, n_clusters, generator):
        assert isinstance(points, TensorPoints)
        return points.x[:n_clusters]

    assert_same(kmeans(x, 4, init=first_rows), kmeans(x, 4, init=x[:4]))


def test_float32_and_float64_agree():
    x = blobs()
    start = x[:5].double()
    single, double = kmeans(x, 5, init=start.float()), kmeans(x.double(), 5, init=start)
    assert (single.centers.dtype, double.centers.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.centers.double(), double.centers, rtol=1e-5, atol=1e-5)
    assert torch.equal(single.labels, double.labels)


def test_far_from_the_origin_the_clusters_are_found_all_the_same():
    x = blobs()
    near, far = kmeans(x, 5, init=x[:5]), kmeans(x + 1e4, 5, init=x[:5] + 1e4)
    assert torch.equal(near.labels, far.labels)
    torch.testing.assert_close(far.centers - 1e4, near.centers, rtol=0, atol=2e-3)


@pytest.mark.parametrize("k", [1, 7, 301])
def test_odd_sizes(k):
    x = torch.randn(301, 5, generator=seeded())
    result = kmeans(x, k)
    assert (result.totals > 0).all()
    assert result.totals.sum() == 301
    if k == 1:
        torch.testing.assert_close(result.centers[0], x.mean(dim=0), rtol=1e-4, atol=1e-6)
    if k == 301:
        assert result.inertia == 0


def test_one_point_is_its_own_center():
    result = kmeans(torch.tensor([[3.25, -1.0]]), 1)
    assert result.centers.tolist() == [[3.25, -1]]
    assert result.labels.tolist() == [0]


def test_fewer_distinct_points_than_clusters_are_all_centers_and_a_warning_says_so():
    x = torch.tensor([[1.0], [5.0], [5.0], [1.0]])
    with pytest.warns(UserWarning, match="only 2 distinct points, so 1 of 3 clusters stay empty"):
        result = kmeans(x, 3)
    assert not result.centers.isnan().any()
    assert sorted(result.centers[result.totals > 0].squeeze(1).tolist()) == [1, 5]
    assert result.inertia == 0


def test_many_equal_points_have_the_right_total_and_mean():
    # A float32 total would stop at 2**24.
    n = 2**24 + 2**20
    result = kmeans(torch.full((1, 1), 0.1).expand(n, 1), 1)
    assert result.totals.item() == n
    assert result.centers.item() == torch.tensor(0.1).item()


def test_assign_computes_in_the_wider_dtype():
    x = torch.tensor([[1.0]])
    assert assign(x, torch.tensor([[1 + 1e-12]], dtype=torch.float64)).sqdist.item() == pytest.approx(1e-24, rel=1e-3)
    assert assign(x, torch.tensor([[2]])).sqdist.dtype == torch.float64
    assert assign(x.half(), torch.tensor([[2]], dtype=torch.uint8)).sqdist.dtype == torch.float32


X = torch.rand(6, 3)
NAN = torch.tensor([[0.0, float("nan")]])
WRONG_CALLS = [
    ((X[0], 2), {}, ValueError, r"x must have shape \(N, D\), .* got \(3,\)"),
    ((X[:0], 2), {}, ValueError, r"x must have shape .* got \(0, 3\)"),
    ((X.tolist(), 2), {}, TypeError, "x must be a tensor, got list"),
    ((X > 0, 2), {}, TypeError, "x must be of dtype float16, .* got bool"),
    ((X + 1j, 2), {}, TypeError, "got complex64"),
    ((NAN, 1), {}, ValueError, "x must be finite"),
    ((-NAN.nan_to_num(1) / 0, 1), {}, ValueError, "x must be finite"),
    ((X, 0), {}, ValueError, "n_clusters must be at least 1, got 0"),
    ((X, 7), {}, ValueError, "n_clusters must be at most the number of points of weight, 6, got 7"),
    ((X, 2.0), {}, TypeError, "n_clusters must be an int, got float"),
    ((X, True), {}, TypeError, "n_clusters must be an int, got bool"),
    ((X, 2), {"n_init": 0}, ValueError, "n_init must be at least 1"),
    ((X, 2), {"max_iter": 0}, ValueError, "max_iter must be at least 1"),
    ((X, 2), {"tol": -1.0}, ValueError, "tol must be at least 0, got -1"),
    ((X, 2), {"tol": float("nan")}, ValueError, "tol must be at least 0, got nan"),
    ((X, 2), {"init": "kmeans"}, ValueError, "init must be one of k-means.., random, .* got 'kmeans'"),
    ((X, 2), {"init": 3}, TypeError, "init must be a name, a tensor of centers or a function, got int"),
    ((X, 2), {"init": X}, ValueError, r"init must have shape \(2, 3\) on cpu, got shape \(6, 3\)"),
    ((X, 2), {"init": X[:2], "n_init": 2}, ValueError, "n_init must be 1"),
    ((X, 2), {"init": X[:2] / 0}, ValueError, "init must be finite"),
    ((X, 2), {"init": lambda points, k, generator: X}, ValueError, r"init must return a tensor of shape \(2, 3\)"),
    ((X, 2), {"init": lambda points, k, generator: None}, ValueError, "init must return .* got NoneType"),
    (
        (X, 2),
        {"weights": torch.ones(5)},
        ValueError,
        r"weights must have shape \(6,\) on cpu, like x, got shape \(5,\)",
    ),
    ((X, 2), {"weights": [1.0] * 6}, TypeError, "weights must be a tensor, got list"),
    ((X, 2), {"weights": X[:, 0] > 0}, TypeError, "weights must be of dtype .* got bool"),
    ((X, 2), {"weights": torch.zeros(6)}, ValueError, "weights must be finite, at least 0 and not all 0"),
    ((X, 2), {"weights": -torch.ones(6)}, ValueError, "got values from -1.0 to -1.0"),
    ((X, 2), {"weights": torch.ones(6) / 0}, ValueError, "got values from inf to inf"),
    ((X, 2), {"weights": torch.eye(6)[0]}, ValueError, "at most the number of points of weight, 1, got 2"),
    ((X, 2), {"engine": "warp"}, ValueError, "engine must be one of auto, torch"),
    ((X * 1e30, 2), {}, ValueError, "scale them down"),
    ((X * 1e-30, 2), {}, ValueError, "scale them up"),
    ((X, 2), {"tol": "x"}, TypeError, "tol must be a number, got str"),
    ((X, 2), {"generator": 0}, TypeError, "generator must be a torch.Generator, got int"),
    ((X, 2), {"engine": TorchEngine}, TypeError, "a name or an engine, got type"),
    ((X, 2), {"init": X[:2] * 1e30}, ValueError, "x and centers go from .* scale them down"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG_CALLS)
def test_a_wrong_call_says_what_was_wanted_and_what_came(args, options, error, message, unchecked):
    with pytest.raises(error, match=message):
        kmeans(*args, **options)


@pytest.mark.parametrize(
    ("x", "centers", "message"),
    [
        (X, X[:, :2], r"centers must be points of 3 coordinates on cpu, like x, got shape \(6, 2\)"),
        (X, X[:0], r"centers must have shape"),
        (X, NAN.expand(2, 2), "centers must be finite"),
        (X, X * 1e30, "x and centers go from .* scale them down"),
    ],
)
def test_centers_that_do_not_fit_the_points_are_refused(x, centers, message, unchecked):
    with pytest.raises(ValueError, match=message):
        assign(x, centers)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_generator_on_another_device_is_refused():
    with pytest.raises(ValueError, match="generator must be on the CPU"):
        kmeans(X, 2, generator=torch.Generator(device="cuda"))
