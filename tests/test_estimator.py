import copy
import io

import pytest
import sklearn.base
import torch
from helpers.problems import blobs, seeded

from gpukmeans import METRICS, KMeans, assign, kmeans


def test_a_fit_has_the_results_of_kmeans_as_attributes_of_scikit_learn():
    x, weights = blobs(), torch.rand(300, generator=seeded())
    options = {"init": "random", "n_init": 2, "max_iter": 7, "tol": 0.0}
    model = KMeans(6, **options, generator=seeded(3)).fit(x, weights)
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


@pytest.mark.parametrize("use", [lambda m: m.predict(blobs()), lambda m: m.labels_, lambda m: m.cluster_centers_])
def test_use_before_fit_is_an_error(use):
    with pytest.raises(RuntimeError, match=r"call fit\(x\) first"):
        use(KMeans(3))


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
    model = KMeans(4, metric=metric).fit(x, weights)
    assert model.score(x, weights) == pytest.approx(-model.inertia_, rel=1e-12)
    assert model.score(x) == pytest.approx(-assign(x, model.centers, metric=metric).sqdist.double().sum().item())
    assert isinstance(model.score(x), float)


def test_transform_returns_one_minus_the_cosine_for_the_cosine_metric():
    model = KMeans(4, metric="cosine").fit(blobs())
    cosines = torch.nn.functional.cosine_similarity(blobs()[:, None], model.centers, dim=2)
    torch.testing.assert_close(model.transform(blobs()), 1 - cosines, rtol=1e-4, atol=1e-6)


def test_transform_has_gradients():
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
    with pytest.raises(ValueError, match=r"options are n_clusters, init, .* got n_inits"):
        model.set_params(n_inits=3)


def test_a_scikit_learn_clone_has_the_options_and_no_centers():
    model = KMeans(3, init=blobs()[:3], generator=seeded(4)).fit(blobs())
    cloned = sklearn.base.clone(model)
    assert cloned.get_params() == model.get_params()
    assert cloned.centers is None


def test_a_fitted_module_can_be_copied_and_saved():
    model = KMeans(5, generator=seeded(2)).fit(blobs())
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(blobs()), model.labels_)
        assert torch.equal(other.labels_, model.labels_)


def test_loading_centers_removes_the_result_of_the_previous_fit():
    model, other = KMeans(5).fit(blobs()), KMeans(5).fit(blobs(seed=1))
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.predict(blobs()), other.predict(blobs()))
    with pytest.raises(RuntimeError, match=r"call fit\(x\) first"):
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
    model = KMeans(4, metric=metric).fit(x, weights)
    padded = torch.cat([x, torch.zeros(60, 3)]), torch.cat([weights, torch.zeros(60)])
    assert model.score(*padded) == model.score(x, weights)


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
