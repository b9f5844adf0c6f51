import numpy as np
import pytest
import torch
from helpers.problems import seeded
from sklearn.datasets import load_wine, make_blobs
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

from gpukmeans import Batches, Checkpoint, compare_n_clusters, kmeans
from gpukmeans.engines.fused.engine import TritonEngine


def blobs(n_clusters, width, seed=0, n=600):
    x, _ = make_blobs(n, width, centers=n_clusters, cluster_std=0.7, random_state=seed)
    return torch.tensor(x, dtype=torch.float32)


def simplified_silhouette(x, result, weights=None):
    """The definition in NumPy, with the table of all distances, in float64."""
    x, centers, labels = (np.asarray(part) for part in (x.double(), result.centers.double(), result.labels))
    weights = np.ones(len(x)) if weights is None else weights.double().numpy()
    table = np.sqrt(((x[:, None] - centers) ** 2).sum(axis=2))
    table[:, result.cluster_weights.numpy() == 0] = np.inf
    own = table[np.arange(len(x)), labels]
    table[np.arange(len(x)), labels] = np.inf
    other = table.min(axis=1)
    silhouettes = np.divide(other - own, other, out=np.zeros(len(x)), where=other > 0)
    silhouettes[np.bincount(labels, weights > 0)[labels] == 1] = 0
    return (weights * silhouettes).sum() / weights.sum()


@pytest.mark.parametrize("width", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_figures_are_those_of_the_definition(width, weighted):
    x = torch.randn(500, width, generator=seeded(width))
    weights = torch.rand(500, generator=seeded(1)).round(decimals=1) if weighted else None
    compared = compare_n_clusters(x, [2, 3, 7, 40], weights=weights)
    for row, k in enumerate([2, 3, 7, 40]):
        result = kmeans(x, k, weights=weights)
        assert compared.n_clusters[row] == k
        assert compared.inertia[row] == result.inertia
        expected = simplified_silhouette(x, result, weights)
        assert compared.silhouette[row].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("absent", [11.5, 11.0, 0.5])
def test_a_hand_worked_example(absent):
    x, weights = torch.tensor([[0.0], [2.0], [11.0], [absent]]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    (silhouette,) = compare_n_clusters(x, [2], weights=weights).silhouette
    # Centers are 1 and 11: the first two points have (11 - 1) / 11 and (9 - 1) / 9, the third is alone.
    assert silhouette.item() == pytest.approx((10 / 11 + 8 / 9 + 0) / 3)


@pytest.mark.parametrize("n_clusters", [2, 3, 5, 8])
def test_the_number_of_well_separated_blobs_is_the_best(n_clusters):
    centers = 20 * torch.eye(8)[:n_clusters]
    x = (centers[:, None] + torch.randn(n_clusters, 60, 8, generator=seeded(0))).flatten(0, 1)
    compared = compare_n_clusters(x, range(1, 10), n_init=3)
    assert compared.best == n_clusters
    assert compared.result.centers.shape == (n_clusters, 8)
    assert compared.silhouette.max() > 0.8


def test_the_classes_of_the_wine_data_are_found():
    x = torch.tensor(StandardScaler().fit_transform(load_wine().data))
    assert compare_n_clusters(x, range(1, 7), n_init=5).best == 3


@pytest.mark.parametrize("seed", range(2))
def test_the_simplified_silhouette_ranks_numbers_as_that_of_scikit_learn_on_blobs(seed):
    x = blobs(4, 3, seed)
    compared = compare_n_clusters(x, range(2, 8))
    full = [silhouette_score(x.numpy(), kmeans(x, k).labels.numpy()) for k in range(2, 8)]
    assert np.corrcoef(compared.silhouette.numpy(), full)[0, 1] > 0.95


def test_uniform_points_have_a_low_silhouette_for_every_number():
    x = torch.rand(2000, 8, generator=seeded(0))
    assert compare_n_clusters(x, range(2, 11)).silhouette.max() < 0.25


def test_one_cluster_has_a_silhouette_of_0_and_is_best_only_alone():
    x = torch.rand(50, 2, generator=seeded(0))
    assert compare_n_clusters(x, [1]).best == 1
    compared = compare_n_clusters(x, [1, 2])
    assert compared.silhouette[0] == 0
    assert compared.best == 2


def test_numbers_are_compared_in_any_order_and_the_smallest_of_equal_ones_is_best():
    x = blobs(3, 2)
    up, down = compare_n_clusters(x, range(2, 6)), compare_n_clusters(x, iter([5, 4, 3, 2]))
    assert torch.equal(up.n_clusters, down.n_clusters.flip(0))
    assert torch.equal(up.inertia, down.inertia.flip(0))
    assert torch.equal(up.silhouette, down.silhouette.flip(0))
    assert up.best == down.best
    apart = torch.tensor([[0.0], [1.0]])
    assert [compare_n_clusters(apart, numbers).best for numbers in ([2, 1], [1, 2])] == [1, 1]  # both have 0


@pytest.mark.filterwarnings("ignore:x has only 2 distinct points")
def test_empty_clusters_do_not_count():
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert compare_n_clusters(x, [2, 3, 4]).silhouette.tolist() == [1.0, 1.0, 1.0]
    assert compare_n_clusters(torch.zeros(4, 1), [1]).silhouette.tolist() == [0.0]


def test_points_without_weight_do_not_count():
    x, weights = blobs(3, 2), torch.ones(600)
    weights[::3] = 0
    given, alone = compare_n_clusters(x, [2, 3, 4], weights=weights), compare_n_clusters(x[weights > 0], [2, 3, 4])
    assert torch.equal(given.inertia, alone.inertia)
    assert torch.equal(given.silhouette, alone.silhouette)


def test_an_integer_weight_is_a_number_of_equal_points():
    x, weights = blobs(3, 2), torch.randint(1, 4, (600,), generator=seeded(0))
    options = {"init": x[:3], "tol": 0.0}
    given = compare_n_clusters(x, [3], weights=weights, **options)
    repeated = compare_n_clusters(x.repeat_interleave(weights, dim=0), [3], **options)
    assert given.silhouette.item() == pytest.approx(repeated.silhouette.item(), rel=1e-12)


INTERPRETED = pytest.param(
    TritonEngine(device="cpu"), marks=pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled")
)


@pytest.mark.parametrize("engine", ["matmul", INTERPRETED])
def test_engines_and_blocks_have_equal_bits(engine, monkeypatch):
    x, weights = blobs(4, 3, n=60), torch.rand(60, generator=seeded(0))
    expected = compare_n_clusters(x, [3, 4], weights=weights, engine="plain", max_iter=2)
    monkeypatch.setattr("gpukmeans.model_selection._BLOCK", 111)
    found = compare_n_clusters(x, [3, 4], weights=weights, engine=engine, max_iter=2)
    assert torch.equal(found.silhouette, expected.silhouette)
    assert torch.equal(found.inertia, expected.inertia)


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_stream_has_the_bits_of_a_tensor(rows, weighted):
    x = blobs(4, 3, n=40)
    weights = torch.rand(40, generator=seeded(0)) if weighted else None
    source = [(x[i : i + rows], weights[i : i + rows]) if weighted else x[i : i + rows] for i in range(0, 40, rows)]
    stream = compare_n_clusters(Batches(source, weighted=weighted), [1, 3], metric="cosine", max_iter=2)
    expected = compare_n_clusters(x, [1, 3], weights=weights, init="k-means||", metric="cosine", max_iter=2)
    assert torch.equal(stream.silhouette, expected.silhouette)
    assert torch.equal(stream.inertia, expected.inertia)
    assert stream.best == expected.best
    assert stream.result.labels is None


def test_the_cosine_metric_takes_distances_between_unit_vectors():
    x = blobs(4, 3) + 3
    compared = compare_n_clusters(x, [3], metric="cosine")
    expected = simplified_silhouette(torch.nn.functional.normalize(x.double()), kmeans(x, 3, metric="cosine"))
    assert compared.silhouette.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.uint8, torch.int64])
def test_points_of_every_dtype_are_compared(dtype):
    x = (blobs(3, 2).abs() * 10).to(dtype)
    compared = compare_n_clusters(x, [2, 3])
    expected = simplified_silhouette(x, kmeans(x, 3))
    assert compared.silhouette[1].item() == pytest.approx(expected, rel=1e-5)


def test_arrays_have_the_figures_of_tensors():
    x, weights = blobs(3, 2, n=60), torch.rand(60, generator=seeded(0))
    expected = compare_n_clusters(x, [2, 3], weights=weights)
    found = compare_n_clusters(x.numpy(), np.array([2, 3]), weights=weights.numpy(), n_init=np.int64(1))
    assert torch.equal(found.silhouette, expected.silhouette)
    assert found.best == expected.best
    masked = compare_n_clusters(x.numpy(), [3], weights=(weights > 0.5).numpy())
    assert torch.equal(masked.silhouette, compare_n_clusters(x[weights > 0.5], [3]).silhouette)


def test_each_number_has_the_result_of_kmeans_with_the_same_state_of_the_generator():
    x = torch.rand(200, 2, generator=seeded(0))
    compared = compare_n_clusters(x, [6, 3, 5], init="random", generator=seeded(7))
    assert compared.inertia.tolist() == [
        kmeans(x, k, init="random", generator=seeded(7)).inertia.item() for k in (6, 3, 5)
    ]
    best = kmeans(x, compared.best, init="random", generator=seeded(7))
    assert torch.equal(compared.result.centers, best.centers)
    assert torch.equal(compared.result.labels, best.labels)


@pytest.mark.parametrize(
    ("x", "n_clusters", "options", "error", "message"),
    [
        (torch.rand(9, 2), 3, {}, TypeError, r"n_clusters must be several ints, such as range\(2, 11\), got int"),
        (torch.rand(9, 2), [], {}, ValueError, "n_clusters must have at least one number, got none"),
        (torch.rand(9, 2), [2, 0], {}, ValueError, "n_clusters must be at least 1, got 0"),
        (torch.rand(9, 2), [2, 2.5], {}, TypeError, "n_clusters must be an int, got float"),
        (torch.rand(9, 2), [10], {}, ValueError, "n_clusters must be at most the number of points with weight, 9"),
        (torch.rand(4, 9, 2), [2], {}, ValueError, r"x must be \(N, D\), or a stream, got a batch of problems"),
        (torch.rand(9, 2), [2], {"checkpoint": Checkpoint(print)}, ValueError, "checkpoint must be None to compare"),
        (torch.rand(9, 2), [2], {"group": object()}, ValueError, "group must be None to compare numbers of clusters"),
        (torch.rand(9, 2), [2], {"metric": "bogus"}, ValueError, "metric must be one of"),
    ],
)
def test_wrong_arguments_are_refused(x, n_clusters, options, error, message, unchecked):
    with pytest.raises(error, match=message):
        compare_n_clusters(x, n_clusters, **options)


def test_the_repr_is_a_table():
    x = torch.tensor([[0.0], [1.0], [20.0], [21.0]])
    assert repr(compare_n_clusters(x, [1, 2])).splitlines() == [
        "n_clusters      inertia  silhouette",
        "         1          401      0.0000",
        "         2            1      0.9750",
        "best: 2",
    ]
