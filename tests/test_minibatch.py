import copy
import io

import numpy as np
import pandas
import pytest
import torch
from helpers import rank_cases
from helpers.problems import blobs, seeded
from helpers.rank_processes import on_ranks
from sklearn.cluster import MiniBatchKMeans

from gpukmeans import METRICS, KMeans, kmeans
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.minibatch import RUNNING_FIELDS

SIZES = (60, 25, 90, 7, 1, 120)
STATE = ("centers", *RUNNING_FIELDS)


def batches(sizes=SIZES, width=3, dtype=torch.float32, seed=0):
    """Batches of points in five clusters, with weights."""
    x = blobs(5 * sum(sizes), width, seed, dtype)[torch.randperm(5 * sum(sizes), generator=seeded(seed))]
    weights = torch.rand(len(x), generator=seeded(seed + 1), dtype=dtype) + 0.1
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [(x[end - size : end], weights[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def fitted(model, parts, weighted=True):
    for x, weights in parts:
        model.partial_fit(x, sample_weight=weights if weighted else None)
    return model


def assert_same_state(one, other):
    for name in STATE:
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.inertia_ == other.inertia_
    assert torch.equal(one.labels_, other.labels_)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sequence_of_batches_has_the_centers_of_scikit_learn(dtype, weighted):
    parts = batches(dtype=dtype)
    init = parts[0][0][:5]
    model, peer = KMeans(5, init=init), MiniBatchKMeans(5, init=init.numpy(), n_init=1)
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    for step, (x, weights) in enumerate(parts, 1):
        model.partial_fit(x, sample_weight=weights if weighted else None)
        peer.partial_fit(x.numpy(), sample_weight=weights.numpy() if weighted else None)
        np.testing.assert_allclose(model.cluster_centers_, peer.cluster_centers_, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(model.running_counts, peer._counts, rtol=rtol)
        assert np.array_equal(model.labels_, peer.labels_)
        assert model.inertia_ == pytest.approx(peer.inertia_, rel=rtol)
        assert model.n_steps_ == peer.n_steps_ == step


def test_a_center_is_the_mean_of_the_points_that_were_nearest_to_it():
    model = KMeans(2, init=torch.tensor([[0.0], [10.0]]))
    model.partial_fit(torch.tensor([[1.0], [3.0], [9.0]]))
    assert model.cluster_centers_.tolist() == [[2], [9]]
    model.partial_fit(torch.tensor([[5.0]]), sample_weight=torch.tensor([2.0]))  # (1 + 3 + 5 + 5) / 4
    assert model.cluster_centers_.tolist() == [[3.5], [9]]
    assert model.running_counts.tolist() == [4, 1]
    assert (model.labels_.tolist(), model.inertia_) == ([0], 4.5)


def test_an_initial_center_far_off_does_not_take_digits_from_the_mean():
    x = torch.tensor([[1.0], [1.1]], dtype=torch.float64)
    model = KMeans(1, init=torch.tensor([[1e17]], dtype=torch.float64)).partial_fit(x)
    assert model.cluster_centers_.item() == pytest.approx(1.05, rel=1e-15)


@pytest.mark.parametrize("engine", ["matmul", PlainEngine(tile=1000)])
@pytest.mark.parametrize("metric", METRICS)
def test_a_sequence_of_batches_has_the_same_bits_on_every_engine(engine, metric):
    options = {"metric": metric, "init": "random"}
    expected = fitted(KMeans(40, engine="plain", **options), batches())
    assert_same_state(fitted(KMeans(40, engine=engine, **options), batches()), expected)


@pytest.mark.parametrize(("bounds", "kind"), [([0, 0, 15, 40], "floats"), ([0, 10, 40], "none")], ids=str)
def test_ranks_add_their_rows_to_one_batch(bounds, kind):
    options = {"n_clusters": 9, "n_init": 2}
    found = on_ranks(len(bounds) - 1, rank_cases.partial_fit, bounds, (200, 3, kind), options)
    expected = rank_cases.partial_fit(None, [0, 40], (200, 3, kind), options)
    for result in found:
        if isinstance(result, Exception):
            raise result
        assert all(np.array_equal(result[name], expected[name]) for name in STATE)
        assert result["inertia"] == expected["inertia"]


@pytest.mark.parametrize(
    ("what", "message"),
    [("state", "running_counts must be the same on every rank"), ("stream", "partial_fit takes one batch")],
)
def test_a_wrong_batch_of_one_rank_is_an_error_on_all(what, message):
    for error in on_ranks(2, rank_cases.partial_fit_wrongly, what):
        assert message in str(error)


def test_data_parallel_keeps_the_batches_of_all_ranks_with_a_group_and_those_of_rank_0_without():
    x, _ = rank_cases.points(120, 3, "none")
    of_all = KMeans(3).partial_fit(torch.cat([x[20:40], x[:20]])).partial_fit(torch.cat([x[80:], x[40:80]]))
    of_rank_0 = KMeans(3).partial_fit(x[20:40]).partial_fit(x[80:])
    for states in on_ranks(2, rank_cases.partial_fit_in_data_parallel):
        for state, expected in zip(states, (of_all, of_rank_0), strict=True):
            assert all(np.array_equal(state[name], getattr(expected, name).numpy()) for name in STATE)


@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}, {"fixed": torch.ones(2, 3)}, {"init": "random"}])
def test_a_saved_run_continues_to_the_same_bits(options):
    parts = batches()
    whole = fitted(KMeans(30, **options), parts)
    stopped, buffer = fitted(KMeans(30, **options), parts[:3]), io.BytesIO()
    torch.save(stopped.state_dict(), buffer)
    buffer.seek(0)
    resumed = KMeans(30, **options)
    resumed.load_state_dict(torch.load(buffer))
    assert_same_state(fitted(resumed, parts[3:]), whole)
    assert_same_state(fitted(copy.deepcopy(stopped), parts[3:]), whole)


def test_the_generator_is_advanced_by_the_first_batch_alone():
    generator = seeded(3)
    model = KMeans(5, random_state=generator).partial_fit(*batches()[0][:1])
    before = generator.get_state()
    fitted(model, batches())
    assert torch.equal(generator.get_state(), before)
    assert not torch.equal(before, seeded(3).get_state())


def test_every_problem_of_a_batch_has_the_bits_that_it_has_alone():
    parts = [batches(seed=seed) for seed in (0, 1, 2)]
    masked = [weights.where(torch.arange(len(weights)) != 2, 0) for _, weights in parts[1]]
    parts[1] = [(x, weights) for (x, _), weights in zip(parts[1], masked, strict=True)]
    together, alone = KMeans(20), [KMeans(20) for _ in parts]
    for step in range(4):
        together.partial_fit(
            torch.stack([part[step][0] for part in parts]), None, torch.stack([part[step][1] for part in parts])
        )
        for index, (model, part) in enumerate(zip(alone, parts, strict=True)):
            x, weights = part[step]
            model.partial_fit(x[weights > 0], None, weights[weights > 0])
            assert torch.equal(together.centers[index], model.centers)
            assert torch.equal(together.running_counts[index], model.running_counts)
            assert together.inertia_[index].item() == model.inertia_
    assert together.labels_.shape == (3, SIZES[3])


def test_centers_without_points_move_to_points_with_the_counts_of_scikit_learn():
    x, _ = batches([200])[0]
    init = torch.cat([x[:5], torch.full((6, 3), 1e4) + torch.arange(6)[:, None]])
    model, peer = KMeans(11, init=init).partial_fit(x), MiniBatchKMeans(11, init=init.numpy(), n_init=1)
    peer.partial_fit(x.numpy())
    assert model.running_counts.tolist() == peer._counts.tolist()
    moved = model.cluster_centers_[5:]
    assert (moved[:, None] == x).all(dim=2).any(dim=1).all()
    assert len(moved.unique(dim=0)) == 6
    before = model.running_counts
    assert (model.partial_fit(x).running_counts > before)[5:].all()


@pytest.mark.parametrize("n", [5, 4, 1])
def test_at_most_half_as_many_centers_move_as_the_batch_has_points(n):
    init = torch.cat([torch.tensor([[2.0]]), 1e3 + torch.arange(4.0)[:, None]])
    model = KMeans(5)
    model.load_state_dict({"centers": init})
    model.partial_fit(torch.arange(5.0)[:n, None])
    moved = model.cluster_centers_[1:] < 1e3
    assert moved.flatten().tolist() == [index < n // 2 for index in range(4)]


def test_centers_of_low_count_move_when_scikit_learn_moves_them():
    first, later = torch.arange(8.0).repeat(4)[:30, None], torch.arange(7.0).repeat(5)[:30, None]
    weights = torch.full((30,), 100.0)
    model = KMeans(8, init=first[:8]).partial_fit(first)
    peer = MiniBatchKMeans(8, init=first[:8].numpy(), n_init=1).partial_fit(first.numpy())
    counts_of_last = []
    for _ in range(3):
        model.partial_fit(later, sample_weight=weights)
        peer.partial_fit(later.numpy(), sample_weight=weights.numpy())
        assert model.running_counts.tolist() == peer._counts.tolist()
        counts_of_last.append(model.running_counts[7].item())
    assert counts_of_last == [3, 3, 1203]  # 80 rows after the first batch, to the count of the lowest other


def test_a_fixed_center_without_points_moves_no_other_center_earlier():
    first, later = torch.arange(8.0).repeat(4)[:30, None], torch.arange(7.0).repeat(5)[:30, None]
    model = KMeans(9, fixed=torch.tensor([[1e4]]), init=first[:8]).partial_fit(first)
    counts_of_last = []
    for _ in range(3):
        model.partial_fit(later, sample_weight=torch.full((30,), 100.0))
        counts_of_last.append(model.running_counts[8].item())
    assert counts_of_last == [3, 3, 1203]


def test_a_center_moves_to_a_point_that_is_not_at_a_center():
    x = torch.tensor([0.0] * 98 + [8.0, 10.0])[:, None]
    model = KMeans(3, init=torch.tensor([[9.0], [0.0], [1e3]])).partial_fit(x)
    assert model.cluster_centers_[:2].tolist() == [[9], [0]]
    assert model.cluster_centers_[2].item() in (8, 10)


def test_the_points_that_centers_move_to_depend_on_the_generator_and_the_step():
    x, _ = batches([200])[0]
    init = torch.cat([x[:1], torch.full((1, 3), 1e4)])
    models = [KMeans(2, init=init, random_state=seeded(seed)).partial_fit(x) for seed in (1, 1, 2)]
    places = [model.cluster_centers_[1].clone() for model in models]
    assert torch.equal(places[0], places[1])
    assert not torch.equal(places[0], places[2])
    models[0].centers.copy_(init)
    models[0].running_counts[1] = 0
    assert not torch.equal(models[0].partial_fit(x).cluster_centers_[1], places[0])


@pytest.mark.parametrize("metric", METRICS)
def test_fixed_centers_stay_and_are_never_moved_to_points(metric):
    fixed = torch.tensor([[3.0, 4.0, 0.0], [1e3, 0.0, 0.0]])
    expected = METRICS[metric].prepare(fixed, torch.float32)
    model = fitted(KMeans(12, fixed=fixed, metric=metric), batches())
    assert torch.equal(model.cluster_centers_[:2], expected)
    assert len(model.predict(batches()[5][0]).unique()) > 4
    alone = fitted(KMeans(2, fixed=fixed, metric=metric), batches())
    assert torch.equal(alone.cluster_centers_, expected)


def test_cosine_centers_are_the_directions_of_the_means():
    parts = batches()
    model = fitted(KMeans(4, metric="cosine", init=parts[0][0][:4]), parts)
    assert model.cluster_centers_.norm(dim=1).tolist() == pytest.approx([1] * 4)
    torch.testing.assert_close(
        model.cluster_centers_.double(), torch.nn.functional.normalize(model.running_means), rtol=1e-6, atol=1e-7
    )
    assert (model.running_means.norm(dim=1) < 1).all()


def test_partial_fit_after_fit_continues_with_the_weights_of_the_clusters():
    x, more = blobs(), blobs(seed=1)[:40]
    model = KMeans(5).fit(x)
    centers, counts = model.cluster_centers_.double(), model.result_.cluster_weights
    labels = model.predict(more)
    model.partial_fit(more)
    sums = torch.zeros_like(centers).index_add_(0, labels, more.double())
    added = labels.bincount(minlength=5)
    expected = (centers * counts[:, None] + sums) / (counts + added)[:, None]
    torch.testing.assert_close(model.cluster_centers_, expected.float(), rtol=1e-6, atol=1e-6)
    assert model.n_steps_ == 1


def test_fit_after_partial_fit_starts_anew():
    model = fitted(KMeans(5), batches()).fit(blobs())
    assert torch.equal(model.cluster_centers_, KMeans(5).fit(blobs()).cluster_centers_)
    assert model.state_dict().keys() == {"centers"}
    assert_same_state(model.partial_fit(blobs()), KMeans(5).fit(blobs()).partial_fit(blobs()))


def test_loaded_centers_without_a_running_state_are_initial_centers():
    x, _ = batches()[0]
    model = fitted(KMeans(5), batches())
    model.load_state_dict({"centers": x[:5]})
    expected = KMeans(5, init=x[:5]).partial_fit(x)
    assert torch.equal(model.partial_fit(x).cluster_centers_, expected.cluster_centers_)
    assert model.n_steps_ == 1


def test_changed_centers_keep_their_counts():
    parts = batches()
    model = fitted(KMeans(5), parts)
    model.centers[2] = 100
    before = model.running_counts.clone()
    model.partial_fit(torch.full((1, 3), 101.0))
    assert model.centers[2].tolist() == pytest.approx([100 + 1 / (before[2].item() + 1)] * 3)


def test_predict_transform_and_score_use_the_centers_of_the_last_batch():
    model, (x, _) = fitted(KMeans(5), batches(), weighted=False), batches()[-1]
    assert torch.equal(model.predict(x), model.labels_)
    assert torch.equal(model.transform(x).argmin(dim=1), model.labels_)
    assert model.score(x) == pytest.approx(-model.inertia_)


def test_batches_are_arrays_memory_maps_and_data_frames_too(tmp_path):
    parts = batches()
    expected = fitted(KMeans(5), parts)
    of_arrays = fitted(KMeans(5), [(x.numpy(), weights.numpy()) for x, weights in parts])
    assert np.array_equal(of_arrays.cluster_centers_, expected.centers.numpy())
    assert isinstance(of_arrays.labels_, np.ndarray)
    np.save(tmp_path / "rows.npy", torch.cat([x for x, _ in parts]).numpy())
    rows, of_rows, start = np.load(tmp_path / "rows.npy", mmap_mode="r"), KMeans(5), 0
    for _, weights in parts:
        of_rows.partial_fit(rows[start : start + len(weights)], sample_weight=weights)
        start += len(weights)
    assert torch.equal(of_rows.centers, expected.centers)
    frames = [pandas.DataFrame(x.numpy(), columns=["a", "b", "c"]) for x, _ in parts]
    of_frames = KMeans(5).partial_fit(frames[0]).partial_fit(frames[1])
    assert list(of_frames.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names should match"):
        of_frames.partial_fit(frames[2].rename(columns={"a": "d"}))


def test_classes_are_ignored_and_floats_in_their_place_are_a_warning():
    x, weights = batches()[0]
    expected = KMeans(5).partial_fit(x)
    assert torch.equal(KMeans(5).partial_fit(x, torch.arange(len(x))).centers, expected.centers)
    with pytest.warns(UserWarning, match="pass weights of points as sample_weight"):
        assert torch.equal(KMeans(5).partial_fit(x, weights).centers, expected.centers)


def test_the_number_of_batches_is_missing_without_batches():
    for model in (KMeans(5), KMeans(5).fit(blobs())):
        with pytest.raises(AttributeError, match=r"n_steps_: 'partial_fit' was not called|is not fitted yet"):
            _ = model.n_steps_


def test_a_module_fitted_in_inference_mode_continues_outside():
    with torch.inference_mode():
        model = fitted(KMeans(5), batches())
    assert_same_state(fitted(model, batches()), fitted(fitted(KMeans(5), batches()), batches()))


def test_a_cast_of_the_module_keeps_the_running_state():
    model = fitted(KMeans(5), batches())
    other = copy.deepcopy(model).half()
    assert other.centers.dtype == torch.float16
    assert all(getattr(other, name).dtype == getattr(model, name).dtype for name in RUNNING_FIELDS)
    assert fitted(other, batches()).centers.dtype == torch.float32


def test_the_compute_dtype_is_that_of_the_batch():
    model = fitted(KMeans(5), batches())
    means = model.running_means.clone()
    assert model.centers.dtype == torch.float32
    model.partial_fit(means[:1])
    assert model.centers.dtype == torch.float64
    assert torch.equal(model.centers[1:], means[1:])


def test_centers_in_float32_have_means_in_float64():
    x = batches([100])[0][0]
    model = KMeans(1)
    for row in x.split(1):
        model.partial_fit(row)
    torch.testing.assert_close(model.running_means[0], x.double().mean(dim=0), rtol=1e-13, atol=1e-13)
    assert torch.equal(model.centers, model.running_means.float())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(4, 3), "n_samples=4 should be >= n_clusters=5"),
        (torch.rand(0, 3), "x must have shape .* at least 1, got .0, 3."),
        (
            [torch.rand(9, 3)],
            "partial_fit takes one batch, a tensor or an array, got a stream: call it once for each batch",
        ),
        (torch.full((9, 3), torch.nan), "x must be finite"),
    ],
)
def test_a_wrong_first_batch_is_an_error(x, message, unchecked):
    model = KMeans(5)
    with pytest.raises((TypeError, ValueError), match=message):
        model.partial_fit(x)
    assert model.centers is None


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(4, 2), "X has 2 features, but KMeans is expecting 3 features as input"),
        (torch.rand(2, 4, 3), r"x must have shape \(N, 3\) on cpu, like the centers, got \(2, N, 3\) on cpu"),
        (torch.rand(0, 3), "x must have shape .* at least 1, got .0, 3."),
    ],
)
def test_a_wrong_later_batch_is_an_error_and_changes_nothing(x, message):
    model = fitted(KMeans(5), batches())
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(x)
    assert_same_state(model, before)


def test_another_number_of_clusters_is_an_error_until_the_next_fit():
    model = fitted(KMeans(5), batches()).set_params(n_clusters=6)
    with pytest.raises(ValueError, match="n_clusters must stay 5 until the next fit, got 6"):
        model.partial_fit(blobs())
    assert model.fit(blobs()).partial_fit(blobs()).centers.shape == (6, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"running_counts": torch.ones(4)}, r"running_counts must be float64 of shape \(5,\), got float32 of shape"),
        ({"seed": None}, r"seed must be int64 of shape \(\), got none"),
    ],
)
def test_a_wrong_running_state_is_refused_and_changes_nothing(change, message):
    model = fitted(KMeans(5), batches())
    before = copy.deepcopy(model)
    state = {name: value for name, value in {**model.state_dict(), **change}.items() if value is not None}
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict(state)
    assert_same_state(model, before)


def test_batches_of_the_pixels_of_a_photo_reach_the_inertia_of_a_fit(china):
    pixels = china.reshape(-1, 3)[::3]
    shuffled = pixels[torch.randperm(len(pixels), generator=seeded())]
    model = KMeans(16)
    for batch in shuffled.split(2048):
        model.partial_fit(batch)
    assert -model.score(pixels) < 1.05 * kmeans(pixels, 16).inertia.item()


@pytest.mark.parametrize(("name", "value"), [("running_counts", -1.0), ("running_means", torch.nan), ("n_steps", -1)])
def test_a_running_state_of_impossible_values_is_not_loaded(name, value):
    state = KMeans(2).partial_fit(blobs()).state_dict()
    state[name] = torch.full_like(state[name], value)
    with pytest.raises(RuntimeError, match=f"{name} must be finite"):
        KMeans(2).load_state_dict(state)
