import gc
import itertools
import warnings
import weakref

import pytest
import torch
from helpers.batch_sources import BatchIterable, no_reader_is_left
from helpers.problems import seeded
from helpers.rank_cases import batches_of, points
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from gpukmeans import METRICS, Batches, KMeans, assign, kmeans
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.points.base import NearestState, PointSource, SampleBy, points_from_source
from gpukmeans.points.streaming import BatchSource, PointSpec
from gpukmeans.points.tensor import tensor_points


def assert_same(found, expected):
    """Equal bits, except for labels, which a stream does not have."""
    for name in ("centers", "cluster_weights", "inertia", "n_iter", "converged"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.labels is None


@pytest.mark.parametrize("init", ["k-means||", "k-means++", "random"])
@pytest.mark.parametrize(("width", "kind"), [(3, "none"), (3, "floats"), (2, "integers"), (20, "floats")])
@pytest.mark.parametrize("size", [1, 7, 150])
def test_a_stream_has_the_bits_of_one_tensor_of_its_rows(size, width, kind, init):
    n = 60 if size == 1 else 150
    x, weights = points(n, width, kind)
    assert_same(
        kmeans(batches_of(x, weights, size), 5, init=init, max_iter=8),
        kmeans(x, 5, weights=weights, init=init, max_iter=8),
    )


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("kind", ["none", "floats"])
def test_runs_have_the_samples_of_a_tensor_for_any_block_size(kind, block, monkeypatch):
    monkeypatch.setattr("gpukmeans.points.streaming._BLOCK", block)
    x, weights = points(150, 3, kind)
    spec = PointSpec(3, torch.float32, torch.device("cpu"), None if weights is None else weights.dtype)
    stream = BatchSource(batches_of(x, weights, 40), spec, PlainEngine(), torch.float32, METRICS["euclidean"])
    runs = torch.tensor([0, 0, 0])
    in_memory = tensor_points(x[None], None if weights is None else weights[None], PlainEngine(), torch.float32)
    found, expected = ([], [])
    for all_points, results in ((points_from_source(stream), found), (in_memory, expected)):
        own = all_points.select(runs)
        # The centers of the first run are points; those of the last are all equal.
        nearest = own.assign(torch.stack([x[:20], x[:1].expand(20, -1) + 50, x[:1].expand(20, -1)]))
        for seed in range(3):
            samples = own.sample_d2(9, seeded(seed), nearest)
            results += [samples, own.sample_uncovered(9, seeded(seed), nearest), own.sample(9, seeded(seed))]
            results.append(own.potentials(nearest, samples))
            nearest = nearest.update(samples)
        results.append(own.cluster_weights(nearest).double())
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_d2_sample_costs_one_pass_and_the_blocks_of_the_samples(monkeypatch):
    monkeypatch.setattr("gpukmeans.points.streaming._BLOCK", 8)
    x, _ = points(4000, 3, "none")
    rows = []

    class Counting(PlainEngine):
        def bind(self, x, weights):
            rows.append(x.shape[1])
            return super().bind(x, weights)

    spec = PointSpec(3, torch.float32, torch.device("cpu"), None)
    stream = points_from_source(BatchSource(Batches(x, 1000), spec, Counting(), torch.float32, METRICS["euclidean"]))
    nearest = stream.assign(x[None, :5])
    nearest = nearest.update(stream.sample_d2(5, seeded(), nearest))
    rows.clear()
    stream.sample_d2(5, seeded(1), nearest)
    assert sum(rows[:4]) == 4000
    assert sum(rows[4:]) <= 5 * 8


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "cosine"},
        {"n_init": 3},
        {"refine": 2, "init": "random"},
        {"fixed": torch.zeros(2, 3)},
        {"init": torch.arange(5.0)[:, None] * torch.full((5, 3), 1e3)},
        {"engine": "plain"},
        {"engine": "matmul"},
    ],
    ids=lambda options: next(iter(options)) + str(options.get("engine", "")),
)
def test_a_stream_has_the_bits_of_one_tensor_for_all_options(options):
    x, weights = points(400, 3, "floats")
    options = {"init": "k-means||", **options}
    assert_same(kmeans(batches_of(x, weights, 90), 5, **options), kmeans(x, 5, weights=weights, **options))


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any),
    kind=st.sampled_from(["none", "integers", "floats"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.uint8]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_batches_have_any_sizes_also_without_weight_or_rows(sizes, kind, dtype, seed):
    x, weights = points(sum(sizes), 2, kind, seed)
    x = (x.abs() * 9).to(dtype)
    if weights is not None:
        weights[0] = 1
        weights[sizes[0] : sum(sizes[:2])] = 0  # the second batch
        weights[0] = 1
    stream = x.split(sizes)
    if weights is not None:
        stream = Batches(list(zip(stream, weights.split(sizes), strict=True)), weighted=True)
    k = min(3, int((weights > 0).sum()) if weights is not None else len(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning about empty clusters
        assert_same(kmeans(stream, k), kmeans(x, k, weights=weights, init="k-means||"))


def test_the_default_seeding_of_a_stream_is_kmeans_parallel():
    x, _ = points(200, 3, "none")
    assert_same(kmeans(x.split(50), 4), kmeans(x, 4, init="k-means||"))
    assert torch.equal(kmeans(x, 4).centers, kmeans(x, 4, init="k-means++").centers)


def test_labels_of_a_stream_are_those_of_its_batches():
    x, _ = points(300, 3, "none")
    result = kmeans(DataLoader(TensorDataset(x), batch_size=64), 4)
    labels = [assign(batch, result.centers).labels for batch in x.split(64)]
    whole = kmeans(x, 4, init="k-means||")
    assert torch.equal(torch.cat(labels), whole.labels)
    assert torch.equal(torch.cat(labels).bincount(minlength=4).double(), result.cluster_weights)


def test_each_round_reads_the_stream_once():
    x, _ = points(200, 3, "none")
    passes = []

    class Counted:
        def __iter__(self):
            passes.append(1)
            return iter(x.split(60))

    rounds = []
    result = kmeans(Counted(), 4, init=x[:4], callback=lambda *_: rounds.append(len(passes)))
    assert len(rounds) == result.n_iter
    # A last round that moves nothing needs no pass.
    assert [after - before for before, after in itertools.pairwise(rounds)][:-1] == [1] * (len(rounds) - 2)


def test_at_most_two_batches_are_in_memory():
    alive, most = weakref.WeakSet(), []

    class Tracked(torch.Tensor):
        pass

    class Source:
        def __iter__(self):
            for number in range(6):
                batch = (points(50, 2, "none")[0] + number).as_subclass(Tracked)
                alive.add(batch)
                gc.collect()
                most.append(len(alive))
                yield batch
                del batch

    gc.freeze()  # so that a collection visits only the objects of this test
    kmeans(Source(), 3, max_iter=3)
    gc.unfreeze()
    assert max(most) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda x: [x.flip(0)], "got another first row .is the source shuffled"),
        (lambda x: [x[:-1]], "got 99 rows in batch 0, unlike the first pass"),
        (lambda x: [x, x], "got 100 rows in batch 1, unlike the first pass"),
        (lambda x: [], "got 0 batches after 1 in the first pass"),
    ],
)
def test_a_stream_that_changes_between_two_passes_is_an_error(changed, message):
    x, _ = points(100, 2, "none")
    passes = []

    class Changing:
        def __iter__(self):
            passes.append(1)
            return iter([x] if len(passes) < 4 else changed(x))

    with pytest.raises(ValueError, match=f"the same rows in the same order each time it is read, {message}"):
        kmeans(Changing(), 3)


def test_a_shuffled_loader_is_an_error():
    x, _ = points(100, 2, "none")
    with pytest.raises(ValueError, match="is the source shuffled"):
        kmeans(DataLoader(TensorDataset(x), batch_size=10, shuffle=True), 3)


X = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
NAN = torch.full((1, 2), torch.nan)


@pytest.mark.parametrize(
    ("stream", "options", "error", "message"),
    [
        ([X, NAN], {}, ValueError, r"batch 1 of x must be finite, got NaN or infinity among its \(1, 2\) values"),
        (
            [X, X[:, :1]],
            {},
            ValueError,
            r"batch 1 of x must be like the first batch with rows, \(N, 2\) of float32 on cpu without weights",
        ),
        ([X, X.double()], {}, ValueError, r"got \(N, 2\) of float64 on cpu without weights"),
        (
            Batches([(X, X[:, 0].double()), (X, X[:, 0])], weighted=True),
            {},
            ValueError,
            "got .* on cpu with weights of float32",
        ),
        ([X, X[0]], {}, ValueError, "batch 1 of x must have shape"),
        ([X[None]], {}, ValueError, r"batch 0 of x must have shape \(N, D\), got \(1, 6, 2\)"),
        ([X.bool()], {}, TypeError, "batch 0 of x must be of dtype"),
        (Batches([(X, X)], weighted=True), {}, ValueError, r"the weights of batch 0 of x must have shape \(6,\)"),
        (
            Batches([(X, -X[:, 0])], weighted=True),
            {},
            ValueError,
            "weights must be finite, at least 0 and not all zero",
        ),
        (
            [X],
            {"weights": X[:, 0]},
            TypeError,
            r"weights .* in its batches: use Batches\(source, weighted=True\) of pairs",
        ),
        ([], {}, ValueError, "x must have at least one row, got none"),
        ([X[:0]], {}, ValueError, "x must have at least one row, got none"),
        ([X[:1], X[1:2]], {"n_clusters": 3}, ValueError, "at most the number of points with weight, 2, got 3"),
        ([X, X * 0], {"metric": "cosine"}, ValueError, "batch 1 of x must have no zero row .* got row 0"),
        ([X, X * 1e30], {}, ValueError, "squared distances must stay below"),
        (iter([X]), {}, TypeError, "batches that can be read again"),
        (3, {}, TypeError, "x must be a tensor, an array, or batches"),
        ([X], {"init": X[:2, :1]}, ValueError, r"init must have shape \(2, 2\)"),
        ([X], {"engine": "triton"}, ValueError, "engine 'triton' cannot take these points"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_stream_is_an_error_with_the_expected_and_the_received_value(stream, options, error, message):
    with pytest.raises(error, match=message):
        kmeans(stream, **{"n_clusters": 2, **options})


def test_an_interrupted_run_leaves_no_thread_behind():
    x, _ = points(200, 3, "none")

    def interrupt(n_iter, inertia, shift):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kmeans(x.split(20), 4, callback=interrupt)
    assert no_reader_is_left()


def test_the_estimator_is_fitted_to_a_stream_without_labels():
    x, _ = points(200, 3, "none")
    model = KMeans(4).fit(x.split(70))
    assert torch.equal(model.cluster_centers_, kmeans(x, 4, init="k-means||").centers)
    with pytest.raises(
        AttributeError, match=r"has no labels_, because it was fitted to a stream: call predict\(batch\)"
    ):
        _ = model.labels_
    assert model.score(x.split(70)) == model.score(x) == -model.inertia_


@pytest.mark.usefixtures("unchecked")
def test_fit_predict_of_a_stream_is_an_error_before_the_fit():
    with pytest.raises(TypeError, match="X must be a tensor or an array, because a stream has no labels, got list"):
        KMeans(4).fit_predict([X])


def source_of(batches, width):
    spec = PointSpec(width, torch.float32, torch.device("cpu"), None)
    source = BatchSource(batches, spec, PlainEngine(), torch.float32, METRICS["euclidean"])
    points_from_source(source)
    return source


def test_the_classes_follow_the_protocols():
    source = source_of(Batches([X]), 2)
    assert isinstance(source, PointSource)
    assert isinstance(source.assign(torch.zeros(1, 1, 2), [0]), NearestState)


@pytest.mark.parametrize("by", SampleBy)
def test_positions_are_in_the_order_of_the_batches(by):
    x = torch.tensor([[1.0], [0.0], [2.0], [-0.0], [1.0]])
    source = source_of(Batches(x, 2), 1)
    sampler = source.assign(torch.zeros(1, 1, 1), [0]).sampler(by, torch.ones(1).double())
    rows = {SampleBy.WEIGHT: [0, 1, 2, 3, 4], SampleBy.UNCOVERED: [0, 2, 4], SampleBy.D2: [0, 2, 2, 2, 2, 4]}[by]
    assert sampler.totals.tolist() == [[len(rows)]]
    found = sampler.rows_at(torch.arange(len(rows)).flip(0)[None])
    assert torch.equal(found.view(torch.int32), x[rows].flip(0)[None].view(torch.int32))


def test_an_iterable_without_length_can_be_clustered():
    assert kmeans(BatchIterable(), 2).cluster_weights.sum() == 10
