"""Empty clusters move to the worst-served points, with the same bits wherever the points are."""

import numpy as np
import pytest
import torch
from helpers import rank_cases
from helpers.problems import points_of, seeded
from helpers.rank_processes import on_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans

from gpukmeans import kmeans
from gpukmeans.engines import choose
from gpukmeans.engines.fused.engine import TritonEngine
from gpukmeans.lloyd import lloyd
from gpukmeans.points.tensor import tensor_points


def next_centers(x, centers, weights=None, n_fixed=0):
    """Centers (K, D) after one iteration from centers (K, D)."""
    x, centers = torch.tensor(x), torch.tensor(centers)
    weights = None if weights is None else torch.tensor(weights)
    fit = lloyd(points_of(x, weights), centers[None], max_iter=1, tol=0.0, n_fixed=n_fixed)
    return fit.centers[0].tolist()


def test_an_empty_cluster_moves_to_the_worst_served_point_which_leaves_the_mean_of_its_cluster():
    assert next_centers([[0.0], [2.0], [100.0]], [[1.0], [-500.0]]) == [[1], [100]]


def test_all_empty_clusters_move_in_an_iteration_to_different_points_the_farthest_first():
    x = [[0.0], [10.0], [13.0], [30.0]]
    assert next_centers(x, [[10.0], [-500.0], [-600.0]]) == [[11.5], [30], [0]]


def test_of_equally_badly_served_points_the_lowest_row_is_the_first():
    x = [[-5.0], [5.0], [4.0], [-4.0], [0.0]]
    assert next_centers(x, [[0.0], [900.0], [900.0], [900.0]])[1:] == [[-5], [5], [4]]


def test_equal_points_fill_one_cluster_and_leave_their_old_one_together():
    x = [[9.0], [0.0], [9.0], [1.0], [9.0], [-8.0]]
    assert next_centers(x, [[0.0], [500.0], [600.0]]) == [[0.5], [9], [-8]]


def test_points_that_are_all_that_is_left_of_their_cluster_do_not_move():
    # Both points at 9 are alone in their cluster, far from its center. The next ones are 3 and 2; then 0 is alone.
    x = [[9.0], [9.0], [0.0], [2.0], [3.0]]
    assert next_centers(x, [[20.0], [0.5], [500.0], [600.0], [700.0]]) == [[9], [0], [3], [2], [700]]


def test_a_point_at_the_origin_is_no_candidate_unless_it_is_badly_served():
    x = [[1.0], [1.0], [1.0], [5.5], [4.5], [0.0]]
    centers = [[1.0], [5.0], [0.0], [900.0], [901.0], [902.0]]
    assert next_centers(x, centers) == [[1], [4.5], [0], [5.5], [901], [902]]


def test_points_so_near_that_their_squared_distance_underflows_are_not_equal():
    x = [[5.0], [5.0], [5.0], [0.0], [1e-25], [1e-25], [-3.0]]
    assert next_centers(x, [[-3.0], [500.0], [600.0], [700.0]])[:2] == [[-1], [5]]


def test_integers_that_are_equal_as_floats_fill_one_cluster():
    x = torch.cat([torch.arange(40)[:, None] + 2**60, torch.tensor([[0], [1 << 50], [1 << 51], [1 << 52], [1 << 55]])])
    init = torch.tensor([[0.0], [-(2.0**40)], [-(2.0**41)], [-(2.0**42)]], dtype=torch.float64)
    result = kmeans(x, 4, init=init, max_iter=1)
    assert result.centers[1:].flatten().tolist() == [2.0**60, 2.0**55, 2.0**52]
    assert torch.equal(kmeans([*x.split(1)], 4, init=init, max_iter=1).centers, result.centers)


@pytest.mark.parametrize("block", [1, 3, 1 << 18])
def test_ties_and_equal_points_in_any_block_change_no_bit(block, monkeypatch):
    x = torch.randint(2, (300, 6), generator=seeded()).float()
    centers = torch.cat([torch.full((1, 6), 0.5), torch.full((19, 6), 70.0)])
    expected = lloyd(points_of(x), centers[None], max_iter=1, tol=0.0).centers
    monkeypatch.setattr("gpukmeans.points.worst_served._BLOCK", block)
    monkeypatch.setattr("gpukmeans.points.tensor._BLOCK", block)
    assert torch.equal(lloyd(points_of(x), centers[None], max_iter=1, tol=0.0).centers, expected)
    assert len(expected[0].unique(dim=0)) == 20


def test_directions_are_relocated_for_the_cosine_metric():
    x = torch.tensor([[1.0, 0.1], [2.0, 0.0], [0.0, 3.0], [-5.0, 0.0]])
    init = torch.tensor([[1.0, 0.0]]).expand(3, 2)
    result = kmeans(x, 3, metric="cosine", init=init, max_iter=1)
    # All points are in the first cluster. The direction opposite to it is the worst served, then that at 90°.
    assert result.centers[1:].tolist() == [[-1, 0], [0, 1]]
    assert result.labels.tolist() == [0, 0, 2, 1]


def test_a_point_of_a_fixed_cluster_may_be_the_last_one():
    assert next_centers([[0.0], [7.0]], [[1.0], [500.0], [600.0]], n_fixed=1) == [[1], [7], [0]]


def test_a_fixed_cluster_stays_empty():
    assert next_centers([[0.0], [1.0], [7.0]], [[-50.0], [0.0], [90.0]], n_fixed=1) == [[-50], [0.5], [7]]


def test_points_of_weight_0_are_no_candidates_and_their_copies_are():
    x = [[50.0], [9.0], [9.0], [0.0], [1.0]]
    assert next_centers(x, [[0.0], [500.0], [600.0]], weights=[0, 0, 1, 1, 1]) == [[0], [9], [1]]


def test_runs_side_by_side_are_relocated_as_each_alone():
    x = torch.tensor([[[0.0], [2.0], [100.0]], [[0.0], [4.0], [5.0]], [[1.0], [1.0], [1.0]]])
    centers = torch.tensor([[[1.0], [-500.0], [-600.0]], [[0.0], [4.0], [5.0]], [[1.0], [-7.0], [8.0]]])
    fit = lloyd(points_of(x), centers, max_iter=1, tol=0.0)
    # No cluster of the second run is empty, and no point of the third is off its center.
    assert fit.centers.tolist() == [[[2], [100], [0]], [[0], [4], [5]], [[1], [-7], [8]]]


def test_a_tolerance_does_not_end_the_loop_while_a_cluster_is_empty():
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    result = kmeans(x, 4, init=torch.tensor([[1.5], [-100.0], [-200.0], [-300.0]]), tol=1.0)
    assert sorted(result.centers.squeeze(1).tolist()) == [0, 1, 2, 3]
    assert result.converged


@pytest.mark.parametrize("max_iter", [1, 2, 10])
def test_far_off_initial_centers_are_used_as_soon_as_those_of_sklearn(max_iter):
    x = torch.randn(2000, 10, generator=seeded())
    init = torch.cat([x[:50], torch.randn(250, 10, generator=seeded(1)) + 1000])
    result = kmeans(x, 300, init=init, max_iter=max_iter, tol=0.0)
    expected = SklearnKMeans(300, init=init.numpy(), n_init=1, max_iter=max_iter, tol=0).fit(x.numpy())
    assert int((result.cluster_weights > 0).sum()) == len(np.unique(expected.labels_)) == 300
    assert result.inertia.item() <= 1.01 * expected.inertia_


@pytest.mark.parametrize("init", ["random", "far"])
def test_with_as_many_clusters_as_points_each_point_is_a_center(init):
    x = torch.rand(1000, 25, generator=seeded())
    init = torch.rand(1000, 25, generator=seeded(1)) if init == "far" else init
    result = kmeans(x, 1000, init=init, max_iter=300)
    assert torch.equal(result.cluster_weights, torch.ones(1000, dtype=torch.float64))
    assert result.inertia == 0


@given(n=st.integers(2, 12), k=st.integers(2, 12), width=st.integers(1, 3), seed=st.integers(0, 2**31))
@settings(max_examples=50)
def test_an_integer_weight_equals_repeated_points_also_with_empty_clusters(n, k, width, seed):
    x = torch.randint(6, (n, width), generator=seeded(seed)).float()
    weights = torch.randint(0, 4, (n,), generator=seeded(seed + 1))
    weights[0] += k
    centers = torch.randint(-90, 90, (1, k, width), generator=seeded(seed + 2)).float()
    repeated = x.repeat_interleave(weights, dim=0)
    once, all_rows = (
        lloyd(points, centers, max_iter=4, tol=0.0) for points in (points_of(x, weights), points_of(repeated))
    )
    assert torch.equal(once.centers, all_rows.centers)
    assert torch.equal(once.cluster_weights, all_rows.cluster_weights)


@pytest.mark.parametrize("kind", ["none", "integers", "floats"])
@pytest.mark.parametrize("engine", ["matmul", TritonEngine(device="cpu")], ids=lambda e: getattr(e, "name", e))
def test_engines_relocate_with_equal_bits(engine, kind):
    x, weights, centers = rank_cases.with_far_centers(3, kind)
    points = [
        tensor_points(x[None], None if weights is None else weights[None], each, torch.float32)
        for each in (choose("plain", x), choose(engine, x))
    ]
    expected, found = (lloyd(each, centers[None], max_iter=3, tol=0.0) for each in points)
    assert (expected.cluster_weights > 0).all()
    for name in ("centers", "cluster_weights", "inertia"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("kind", ["none", "floats"])
@pytest.mark.parametrize("engine", ["plain", "matmul"])
@pytest.mark.parametrize("width", [3, 10])
@pytest.mark.parametrize("size", [1, 7, 120])
def test_streams_relocate_with_equal_bits(size, width, engine, kind):
    x, weights, centers = rank_cases.with_far_centers(width, kind)
    options = {"init": centers, "max_iter": 3, "engine": engine}
    expected = kmeans(x, 12, weights=weights, **options)
    assert (expected.cluster_weights > 0).all()
    found = kmeans(rank_cases.batches_of(x, weights, size), 12, **options)
    for name in ("centers", "cluster_weights", "inertia", "n_iter"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("bounds", [[0, 120], [0, 50, 120], [0, 0, 61, 120]], ids=str)
@pytest.mark.parametrize(("width", "kind"), [(3, "floats"), (10, "none")])
def test_ranks_relocate_with_equal_bits(width, kind, bounds):
    x, weights, centers = rank_cases.with_far_centers(width, kind)
    expected = rank_cases.as_arrays(kmeans(x, 12, weights=weights, init=centers, max_iter=3))
    for result in on_ranks(len(bounds) - 1, rank_cases.fit_with_far_centers, bounds, width, kind):
        for name in ("centers", "cluster_weights", "inertia", "n_iter"):
            assert np.array_equal(result[name], expected[name]), name


X_AROUND_0 = torch.tensor([[-10.5], [-10.0], [10.0], [10.5]])
FAR_OFF = torch.tensor([[0.0], [500.0], [600.0]])


def test_a_fit_that_ends_with_empty_clusters_at_max_iter_has_a_warning_of_them():
    # The mean of the points that remain is 0, and each of them is nearer to a relocated center.
    with pytest.warns(UserWarning, match="1 of 3 clusters of x are empty after 1 iterations: more iterations may fill"):
        assert kmeans(X_AROUND_0, 3, init=FAR_OFF, max_iter=1).cluster_weights.tolist() == [0, 2, 2]
    assert kmeans(X_AROUND_0, 3, init=FAR_OFF).cluster_weights.min() > 0


def test_a_callback_that_ends_the_fit_has_the_same_warning():
    with pytest.warns(UserWarning, match="1 of 3 clusters of x are empty after 1 iterations"):
        kmeans(X_AROUND_0, 3, init=FAR_OFF, callback=lambda *_: True)


def test_the_warning_counts_directions_for_the_cosine_metric_and_points_with_weight():
    x = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [1.0, 0.0]])
    with pytest.warns(UserWarning, match="x has only 2 distinct directions, so 1 of 3 clusters stay empty"):
        kmeans(x, 3, metric="cosine")
    x = torch.tensor([[1.0], [1.0], [2.0], [3.0], [4.0]])
    with pytest.warns(UserWarning, match="x has only 2 distinct points with weight, so 1 of 3 clusters stay empty"):
        kmeans(x, 3, weights=torch.tensor([1, 1, 1, 0, 0]))


def test_points_that_differ_by_less_than_rounding_have_a_warning_that_says_so():
    x = torch.tensor([[0.0], [1e-20], [0.1], [1 / 3], [1.0]]).repeat(200, 1)
    with pytest.warns(UserWarning, match="distinct points, up to rounding, so [1-9] of 9 clusters stay empty"):
        kmeans(x, 9, init=torch.linspace(0, 1, 9)[:, None])
