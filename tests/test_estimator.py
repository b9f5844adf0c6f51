import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import sklearn.base
import sklearn.exceptions
import torch
from helpers.problems import blobs, seeded

from gpukmeans import ENGINES, METRICS, KMeans, assign, kmeans

RESULTS = ["cluster_centers_", "labels_", "inertia_", "n_iter_", "n_features_in_", "feature_names_in_", "result_"]
NOT_FITTED = (
    "^This KMeans instance is not fitted yet. Call 'fit' with appropriate arguments before using this estimator.$"
)


def test_a_fit_has_the_results_of_kmeans_as_attributes_of_scikit_learn():
    x, weights = blobs(), torch.rand(300, generator=seeded())
    options = {"init": "random", "n_init": 2, "max_iter": 7, "tol": 0.0}
    model = KMeans(6, **options, random_state=seeded(3)).fit(x, sample_weight=weights)
    result = kmeans(x, 6, weights=weights, **options, generator=seeded(3))
    assert torch.equal(model.cluster_centers_, result.centers)
    assert torch.equal(model.labels_, result.labels)
    assert model.inertia_ == result.inertia.item()
    assert model.n_iter_ == result.n_iter.item() <= 7


def test_predict_forward_and_fit_predict_agree_on_the_fitted_points():
    x = blobs()
    model = KMeans(5)
    labels = model.fit_predict(x)
    assert torch.equal(model.predict(x), labels)
    assert torch.equal(model(x), labels)
    assert torch.equal(model.labels_, labels)


def test_a_floating_point_y_is_ignored_with_a_warning_and_other_y_without():
    x, classes = blobs(), torch.arange(300) % 3
    expected = KMeans(4).fit(x)
    for y in (classes, classes.numpy(), classes.tolist(), None):
        model = KMeans(4).fit(x, y)
        assert torch.equal(model.cluster_centers_, expected.cluster_centers_)
        assert model.score(x, y) == expected.score(x)
        assert torch.equal(model.fit_predict(x, y), expected.labels_)
        assert torch.equal(model.fit_transform(x, y), expected.transform(x))
    floats = classes.double()
    for y in (floats, floats.numpy(), floats.tolist(), pd.DataFrame(floats.numpy())):
        for method in ("fit", "fit_predict", "score"):
            with pytest.warns(
                UserWarning, match="y has floats and is ignored: pass weights of points as sample_weight"
            ):
                getattr(model, method)(x, y)
        assert torch.equal(model.cluster_centers_, expected.cluster_centers_)


def test_sample_weight_is_the_third_argument_as_in_scikit_learn():
    x, weights = blobs(), torch.rand(300, generator=seeded())
    expected = KMeans(4).fit(x, sample_weight=weights)
    assert torch.equal(KMeans(4).fit(x, None, weights).cluster_centers_, expected.cluster_centers_)
    assert torch.equal(KMeans(4).fit_predict(x, None, weights), expected.labels_)
    assert torch.equal(KMeans(4).fit_transform(x, None, weights), expected.transform(x))
    assert expected.score(x, None, weights) == expected.score(x, sample_weight=weights) != expected.score(x)


@pytest.mark.parametrize("name", RESULTS)
def test_there_are_no_results_before_fit(name):
    model = KMeans(3)
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=NOT_FITTED) as caught:
        getattr(model, name)
    assert type(caught.value) is sklearn.exceptions.NotFittedError


@pytest.mark.parametrize("method", ["predict", "transform", "score", "forward"])
def test_use_before_fit_is_an_error(method):
    with pytest.raises(sklearn.exceptions.NotFittedError, match=NOT_FITTED):
        getattr(KMeans(3), method)(blobs())


def test_a_name_that_no_estimator_has_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="'KMeans' object has no attribute 'centroids'"):
        _ = KMeans(3).centroids


def test_transform_returns_distances_to_all_centers():
    model = KMeans(2, init=torch.tensor([[0.0, 0.0], [9.0, 0.0]])).fit(torch.tensor([[0.0, 0.0], [9.0, 0.0]]))
    assert model.transform(torch.tensor([[0.0, 4.0], [5.0, 3.0]]))[1].tolist() == pytest.approx([34**0.5, 5])
    assert model.transform(torch.tensor([[0, 4]]))[0, 0] == 4


def test_saved_centers_load_into_a_module_that_was_never_fitted():
    fitted = KMeans(5).fit(blobs())
    fresh = KMeans(5)
    fresh.load_state_dict(fitted.state_dict())
    assert torch.equal(fresh.predict(blobs()), fitted.labels_)
    nested = torch.nn.Sequential(KMeans(5))
    nested.load_state_dict(torch.nn.Sequential(fitted).state_dict())
    assert torch.equal(nested(blobs()), fitted.labels_)


@pytest.mark.parametrize("metric", METRICS)
def test_the_score_is_minus_the_inertia(metric):
    x, weights = blobs(), torch.rand(300, generator=seeded())
    model = KMeans(4, metric=metric).fit(x, sample_weight=weights)
    assert model.score(x, sample_weight=weights) == pytest.approx(-model.inertia_, rel=1e-12)
    assert model.score(x) == pytest.approx(-assign(x, model.centers, metric=metric).sqdist.double().sum().item())
    assert isinstance(model.score(x), float)


def test_transform_returns_one_minus_the_cosine_for_the_cosine_metric():
    model = KMeans(4, metric="cosine").fit(blobs())
    cosines = torch.nn.functional.cosine_similarity(blobs()[:, None], model.centers, dim=2)
    torch.testing.assert_close(model.transform(blobs()), 1 - cosines, rtol=1e-4, atol=1e-6)


def test_transformed_points_have_gradients():
    model = KMeans(4).fit(blobs())
    x = blobs().requires_grad_()
    assert torch.autograd.grad(model.transform(x).sum(), x)[0].abs().sum() > 0


def test_a_batch_is_fitted_problem_by_problem():
    x = torch.stack([blobs(seed=1), blobs(seed=2)])
    model = KMeans(4).fit(x)
    single = KMeans(4).fit(x[1])
    assert torch.equal(model.predict(x)[1], single.labels_)
    assert torch.equal(model.transform(x)[1], single.transform(x[1]))
    assert (model.inertia_[1].item(), model.n_iter_[1].item()) == (single.inertia_, single.n_iter_)
    assert model.score(x)[1].item() == single.score(x[1])


def test_points_of_a_batch_are_labelled_by_shared_centers():
    model = KMeans(4).fit(blobs())
    assert torch.equal(model(blobs().reshape(10, 30, 3)), model.labels_.reshape(10, 30))


def test_options_are_read_and_set_by_name():
    model = KMeans(3, n_init=2)
    assert model.get_params()["n_init"] == 2
    assert KMeans(**model.get_params()).get_params() == model.get_params()
    assert model.set_params(n_init=5, tol=0.0) is model
    assert (model.n_init, model.tol) == (5, 0)
    with pytest.raises(ValueError, match=r"parameters are n_clusters, init, .* got n_inits"):
        model.set_params(n_inits=3)


def test_a_scikit_learn_clone_has_the_options_and_no_centers():
    model = KMeans(3, init=blobs()[:3], random_state=seeded(4)).fit(blobs())
    cloned = sklearn.base.clone(model)
    expected = model.get_params()
    assert cloned.get_params() == expected | {"random_state": cloned.random_state}
    assert not hasattr(cloned, "cluster_centers_")


def test_clones_do_not_share_a_generator_and_fit_alike():
    model = KMeans(4, init="random", random_state=seeded(4))
    first, second = sklearn.base.clone(model), sklearn.base.clone(model)
    assert torch.equal(first.fit(blobs()).labels_, second.fit(blobs()).labels_)
    assert torch.equal(model.random_state.get_state(), seeded(4).get_state())


@pytest.mark.parametrize("seed", [7, np.int64(7), seeded(7), np.uint8(7)], ids=lambda seed: type(seed).__name__)
def test_random_state_is_the_seed_of_the_generator(seed):
    model = KMeans(6, init="random", max_iter=1, random_state=seed).fit(blobs())
    expected = kmeans(blobs(), 6, init="random", max_iter=1, generator=seeded(7))
    assert torch.equal(model.cluster_centers_, expected.centers)


def test_no_random_state_is_seed_0_in_each_fit():
    model = KMeans(6, init="random", max_iter=1)
    first = model.fit(blobs()).cluster_centers_
    assert torch.equal(model.fit(blobs()).cluster_centers_, first)
    assert torch.equal(model.set_params(random_state=0).fit(blobs()).cluster_centers_, first)
    assert not torch.equal(model.set_params(random_state=1).fit(blobs()).cluster_centers_, first)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (np.random.RandomState(0), TypeError, "an int, a torch.Generator or None, got RandomState"),
        (np.random.default_rng(0), TypeError, "an int, a torch.Generator or None, got Generator"),
        (True, TypeError, "an int, a torch.Generator or None, got bool"),
        (0.5, TypeError, "an int, a torch.Generator or None, got float"),
        (-1, ValueError, "at least 0, got -1"),
    ],
)
def test_another_random_state_is_an_error(wrong, error, message):
    with pytest.raises(error, match=f"random_state must be {message}"):
        KMeans(2).set_params(random_state=wrong).fit(blobs())


def test_a_fitted_module_can_be_copied_and_saved():
    model = KMeans(5, random_state=seeded(2)).fit(blobs())
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(blobs()), model.labels_)
        assert torch.equal(other.labels_, model.labels_)


def test_loading_centers_removes_the_result_of_the_previous_fit():
    model, other = KMeans(5).fit(blobs()), KMeans(5).fit(blobs(seed=1))
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.predict(blobs()), other.predict(blobs()))
    with pytest.raises(AttributeError, match="has no inertia_: its centers were loaded or changed after 'fit'"):
        _ = model.inertia_


def test_another_number_of_saved_centers_is_refused():
    with pytest.raises(
        RuntimeError, match=r"centers must be floats of shape \(..., 4, D\), got float32 of shape \(5, 3\)"
    ):
        KMeans(4).load_state_dict(KMeans(5).fit(blobs()).state_dict())


def test_an_unfitted_module_in_a_model_is_saved_and_loaded_without_centers():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), KMeans(4))
    fresh = torch.nn.Sequential(torch.nn.Linear(3, 3), KMeans(4))
    keys = fresh.load_state_dict(model.state_dict())
    assert (keys.missing_keys, keys.unexpected_keys) == ([], [])
    assert fresh[1].centers is None


def test_loading_centers_does_not_change_an_earlier_result():
    model, other = KMeans(5).fit(blobs()), KMeans(5).fit(blobs(seed=1))
    result, before = model.result_, model.centers.clone()
    model.load_state_dict(other.state_dict())
    assert torch.equal(result.centers, before)


@pytest.mark.parametrize("wrong", [torch.ones(2), torch.ones(2, 3, dtype=torch.complex64), torch.ones(3, 3)])
def test_a_wrong_state_is_refused_and_does_not_change_the_module(wrong):
    model = KMeans(2).fit(blobs())
    before = model.centers.clone()
    with pytest.raises(RuntimeError, match="centers must be floats"):
        model.load_state_dict({"centers": wrong})
    assert torch.equal(model.centers, before)
    assert model.labels_ is not None


def test_a_parameter_given_as_option_is_not_registered():
    model = KMeans(2, init=torch.nn.Parameter(blobs()[:2]))
    assert not list(model.parameters())
    assert model.set_params(init="random").init == "random"


@pytest.mark.parametrize("metric", METRICS)
def test_points_of_weight_zero_change_no_bit_of_a_score(metric):
    x, weights = blobs(dtype=torch.float64), torch.rand(300, generator=seeded())
    model = KMeans(4, metric=metric).fit(x, sample_weight=weights)
    padded = torch.cat([x, torch.zeros(60, 3)]), torch.cat([weights, torch.zeros(60)])
    assert model.score(padded[0], sample_weight=padded[1]) == model.score(x, sample_weight=weights)


def test_predict_returns_the_labels_of_a_cosine_fit():
    generator = seeded(14)
    directions = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    x = torch.cat([directions * length for length in (1, 3, 7, 0.1)])
    model = KMeans(4, metric="cosine").fit(x)
    assert torch.equal(model.predict(x), model.labels_)


def test_centers_move_and_are_saved_with_the_module():
    model = KMeans(5).fit(blobs())
    assert model.state_dict().keys() == {"centers"}
    assert copy.deepcopy(model).double().cluster_centers_.dtype == torch.float64
    assert torch.equal(copy.deepcopy(model).predict(blobs()), model.predict(blobs()))


def changed_by_load(model):
    model.load_state_dict({"centers": model.centers + 1})


def changed_in_place(model):
    model.cluster_centers_[0] += 1


def changed_by_numpy(model):
    model.centers.numpy()[0] += 1


def changed_to_half(model):
    model.half()


def changed_to_double(model):
    model.double()  # equal centers, but distances round otherwise


def replaced(model):
    model.centers = model.centers + 1


@pytest.mark.parametrize(
    "change", [changed_by_load, changed_in_place, changed_by_numpy, changed_to_half, changed_to_double, replaced]
)
def test_results_of_other_centers_are_gone(change):
    model = KMeans(5).fit(blobs())
    change(model)
    for name in ("labels_", "inertia_", "n_iter_", "result_"):
        assert not hasattr(model, name)
        with pytest.raises(AttributeError, match=f"^This KMeans instance has no {name}: its centers were loaded or"):
            getattr(model, name)
    assert model.cluster_centers_ is model.centers
    assert model.predict(blobs().to(model.centers.dtype)).shape == (300,)
    model.fit(blobs())
    assert torch.equal(model.labels_, model.predict(blobs()))


def test_results_stay_when_the_same_centers_are_loaded():
    model = KMeans(5).fit(blobs())
    model.load_state_dict(model.state_dict())
    assert torch.equal(model.labels_, model.predict(blobs()))


def test_loading_copies_into_the_buffer_where_the_shapes_agree():
    model, other = KMeans(5).fit(blobs(dtype=torch.float64)), KMeans(5).fit(blobs(seed=1))
    buffer = model.centers
    model.load_state_dict(other.state_dict())
    assert model.centers is buffer
    assert buffer.dtype == torch.float64
    assert torch.equal(buffer.float(), other.centers)
    batch = KMeans(5).fit(torch.stack([blobs(), blobs(seed=1)]))
    model.load_state_dict(batch.state_dict())
    assert torch.equal(model.centers, batch.centers)


def test_a_module_that_was_fitted_in_inference_mode_is_usable_outside():
    expected = KMeans(5).fit(blobs())
    with torch.inference_mode():
        model = KMeans(5).fit(blobs())
        loaded = KMeans(5)
        loaded.load_state_dict(expected.state_dict())
    for each in (model, loaded):
        assert not each.centers.is_inference()
        x = blobs().requires_grad_()
        assert torch.autograd.grad(each.transform(x).sum(), x)[0].shape == x.shape
        assert torch.equal(each.predict(blobs()), expected.labels_)
    assert not any(value.is_inference() for value in vars(model.result_).values())
    model.load_state_dict(KMeans(5).fit(blobs(seed=1)).state_dict())
    assert not hasattr(model, "labels_")


@pytest.mark.parametrize("engine", [name for name in ENGINES if name not in ("triton", "screened")])
def test_threads_predict_the_same_labels(engine):
    model = KMeans(5, engine=engine).fit(blobs())
    inputs = [blobs(n=300 + 50 * number, seed=number) for number in range(8)]
    expected = [model.predict(x) for x in inputs]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            for labels, alone in zip(threads.map(model.predict, inputs), expected, strict=True):
                assert torch.equal(labels, alone)


def report(n_iter, inertia, shift):
    return False


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (KMeans(), "KMeans()"),
        (KMeans(3, n_init=2, metric="cosine"), "KMeans(n_clusters=3, n_init=2, metric='cosine')"),
        (KMeans(3, init=blobs()[:3], callback=report), "KMeans(n_clusters=3, init=Tensor(3, 3), callback=report)"),
        (KMeans(init=blobs()[:8].numpy(), random_state=1), "KMeans(init=ndarray(8, 3), random_state=1)"),
    ],
)
def test_the_representation_has_the_parameters_that_differ_from_the_defaults(model, text):
    assert repr(model) == text
    assert repr(torch.nn.Sequential(model)) == f"Sequential(\n  (0): {text}\n)"


def test_a_fit_continues_from_the_centers_of_another():
    first = KMeans(5, max_iter=2, init="random").fit(blobs())
    second = KMeans(5, init=first.cluster_centers_).fit(blobs())
    assert second.inertia_ <= first.inertia_
    assert torch.equal(second.cluster_centers_, kmeans(blobs(), 5, init=first.result_.centers).centers)


def test_a_subclass_with_parameters_of_its_own_is_an_estimator():
    class Scaled(KMeans):
        def __init__(self, n_clusters=8, scale=1.0):
            super().__init__(n_clusters)
            self.scale = scale

    model = sklearn.base.clone(Scaled(3, scale=2.0))
    assert model.get_params() == {"n_clusters": 3, "scale": 2.0}
    assert repr(model.fit(blobs())) == "Scaled(n_clusters=3, scale=2.0)"


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_no_points_have_results_without_rows(metric):
    model = KMeans(3, metric=metric).fit(blobs())
    assert model.predict(blobs()[:0]).shape == (0,)
    assert model(blobs()[:0]).dtype == torch.int64
    assert model.transform(blobs()[:0]).shape == (0, 3)
    assert [part.shape for part in assign(torch.zeros(2, 0, 3), model.centers)] == [(2, 0), (2, 0)]
    head = torch.nn.Linear(3, 3)
    assign(head(torch.zeros(0, 3)), model.centers).sqdist.sum().backward()
    assert torch.equal(head.weight.grad, torch.zeros(3, 3))


def test_a_wrong_number_of_coordinates_of_a_model_is_an_error_of_the_points():
    model = torch.nn.Sequential(KMeans(3).fit(blobs()))
    with pytest.raises(ValueError, match=r"x must have 3 coordinates, like the centers, got shape \(300, 2\)"):
        model(blobs()[:, :2])
