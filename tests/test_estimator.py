import copy

import pytest
import torch
from test_clustering import blobs
from test_points import seeded

from gpukmeans import KMeans, kmeans


def test_a_fit_has_the_results_of_kmeans_under_the_names_of_scikit_learn():
    x, weights = blobs(), torch.rand(300, generator=seeded())
    options = {"init": "random", "n_init": 2, "max_iter": 7, "tol": 0.0}
    model = KMeans(6, **options, generator=seeded(3)).fit(x, weights)
    result = kmeans(x, 6, weights=weights, **options, generator=seeded(3))
    assert torch.equal(model.cluster_centers_, result.centers)
    assert torch.equal(model.labels_, result.labels)
    assert model.inertia_ == result.inertia.item()
    assert model.n_iter_ == result.n_iter.item() <= 7


def test_predict_forward_and_fit_predict_agree_on_the_points_fitted():
    x = blobs()
    model = KMeans(5)
    labels = model.fit_predict(x)
    assert torch.equal(model.predict(x), labels)
    assert torch.equal(model(x), labels)
    assert torch.equal(model.labels_, labels)


@pytest.mark.parametrize("use", [lambda m: m.predict(blobs()), lambda m: m.labels_, lambda m: m.cluster_centers_])
def test_use_before_fit_says_so(use):
    with pytest.raises(RuntimeError, match=r"call fit\(x\) first"):
        use(KMeans(3))


def test_transform_gives_distances_to_all_centers():
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


def test_centers_move_and_are_saved_with_the_module():
    model = KMeans(5).fit(blobs())
    assert model.state_dict().keys() == {"centers"}
    assert copy.deepcopy(model).double().cluster_centers_.dtype == torch.float64
    assert torch.equal(copy.deepcopy(model).predict(blobs()), model.predict(blobs()))
