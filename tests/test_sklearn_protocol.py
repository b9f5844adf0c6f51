"""`KMeans` as an estimator of scikit-learn: its own checks, meta-estimators, kinds of input and output."""

import copy
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import torch
from helpers.array_libraries import NamespaceArray
from helpers.problems import blobs, seeded
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone, is_clusterer
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from gpukmeans import Batches, KMeans

X = blobs(dtype=torch.float64)
FRAME = pd.DataFrame(X.numpy(), columns=["red", "green", "blue"], index=range(1000, 1300))
EXPECTED_TO_FAIL = {
    "check_no_attributes_set_in_init": "nn.Module sets `training`",
    "check_sample_weight_equivalence_on_dense_data": "other rows become initial centers when rows are shuffled,"
    " as in scikit-learn's KMeans, which fails it as well",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("unchecked")
def test_the_checks_of_scikit_learn_pass_but_for_those_listed():
    results = check_estimator(KMeans(2), expected_failed_checks=EXPECTED_TO_FAIL, on_skip=None)
    assert {result["check_name"] for result in results if result["status"] == "xfail"} == EXPECTED_TO_FAIL.keys()
    assert sum(result["status"] == "passed" for result in results) >= 50


def test_the_library_loads_neither_scikit_learn_nor_pandas():
    code = """
import sys, torch, gpukmeans
model = gpukmeans.KMeans(2)
try:
    model.labels_
except AttributeError as error:
    print(type(error).__name__, error)
model.fit(torch.rand(9, 2).numpy()).transform(torch.rand(9, 2))
print(model, sorted({"sklearn", "pandas", "scipy", "joblib"} & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    error, last = run.stdout.splitlines()
    assert error.startswith("AttributeError This KMeans instance is not fitted yet. Call 'fit' with appropriate")
    assert last == "KMeans(n_clusters=2) []"


def test_it_is_a_clusterer_that_is_fitted_after_fit():
    model = KMeans(3)
    assert is_clusterer(model)
    with pytest.raises(NotFittedError, match="This KMeans instance is not fitted yet"):
        check_is_fitted(model)
    check_is_fitted(model.fit(X))


@pytest.mark.parametrize(
    ("x", "kind"),
    [
        (X, torch.Tensor),
        (X.numpy(), np.ndarray),
        (FRAME, np.ndarray),
        (X.tolist(), np.ndarray),
        (X.numpy().astype(object), np.ndarray),
        (np.asfortranarray(X.numpy())[::-1][::-1], np.ndarray),
    ],
    ids=["tensor", "array", "frame", "list", "objects", "strides"],
)
def test_results_are_of_the_kind_of_the_points(x, kind):
    expected = KMeans(4).fit(X)
    model = KMeans(4).fit(x)
    for name in ("cluster_centers_", "labels_"):
        assert type(getattr(model, name)) is kind
        assert np.array_equal(getattr(model, name), getattr(expected, name))
    assert type(model.inertia_) is float
    assert (model.inertia_, model.n_iter_, model.n_features_in_) == (expected.inertia_, expected.n_iter_, 3)
    other = KMeans(4).fit(X)
    for method in ("predict", "transform", "fit_predict", "fit_transform"):
        assert type(getattr(model, method)(x)) is kind
        assert np.array_equal(getattr(model, method)(x), getattr(other, method)(X))
    assert model.score(x) == expected.score(X)


def test_predict_and_transform_follow_their_points_and_attributes_the_last_fit():
    model = KMeans(4).fit(X.numpy())
    assert isinstance(model.predict(X), torch.Tensor)
    assert isinstance(model.transform(X), torch.Tensor)
    assert isinstance(model.labels_, np.ndarray)
    model.fit(X)
    assert isinstance(model.predict(X.numpy()), np.ndarray)
    assert isinstance(model.labels_, torch.Tensor)


def test_an_array_of_another_library_has_results_of_that_library_also_after_pickling():
    model, expected = KMeans(4).fit(NamespaceArray(X)), KMeans(4).fit(X)
    for each in (model, pickle.loads(pickle.dumps(model))):
        assert isinstance(each.labels_, NamespaceArray)
        assert torch.equal(each.labels_.values, expected.labels_)
        assert torch.equal(each.transform(NamespaceArray(X)).values, expected.transform(X))


def test_a_batch_of_problems_is_an_array_of_results():
    x = torch.stack([X, X + 1])
    model, expected = KMeans(4).fit(x.numpy()), KMeans(4).fit(x)
    for name in ("cluster_centers_", "labels_", "inertia_", "n_iter_"):
        assert np.array_equal(getattr(model, name), getattr(expected, name).numpy())
    assert np.array_equal(model.score(x.numpy()), expected.score(x).numpy())


def test_edits_of_an_array_of_centers_are_edits_of_the_buffer_and_drop_the_results():
    model = KMeans(4).fit(X.numpy())
    model.cluster_centers_[0] = 5
    assert model.centers[0].tolist() == [5, 5, 5]
    assert not hasattr(model, "labels_")


@pytest.mark.parametrize(
    "kind", [np.asarray, list, pd.Series, torch.Tensor.float], ids=["array", "list", "series", "f32"]
)
def test_weights_are_of_any_kind(kind):
    weights = torch.rand(300, dtype=torch.float32, generator=seeded())
    expected = KMeans(4).fit(X, sample_weight=weights)
    given = kind(weights if kind is torch.Tensor.float else weights.numpy())
    assert np.array_equal(KMeans(4).fit(X.numpy(), sample_weight=given).cluster_centers_, expected.cluster_centers_)
    assert expected.score(X, sample_weight=given) == expected.score(X, sample_weight=weights)


def test_initial_and_fixed_centers_may_be_arrays():
    model = KMeans(4, init=X[:3].numpy(), fixed=X[3:4].numpy()).fit(X.numpy())
    expected = KMeans(4, init=X[:3], fixed=X[3:4]).fit(X)
    assert np.array_equal(model.cluster_centers_, expected.cluster_centers_)
    again = KMeans(4, init=model.cluster_centers_).fit(X.numpy())
    assert again.inertia_ <= model.inertia_


@pytest.mark.parametrize("container", [scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_points_are_an_error(container):
    model = KMeans(2).fit(X)
    for method in ("fit", "fit_predict", "predict", "transform", "score"):
        with pytest.raises(TypeError, match=f"X must be dense, got a sparse {container.__name__}"):
            getattr(model, method)(container(X.numpy()))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[0], r"X must have shape \(N, D\) or \(..., N, D\), got \(3,\). Reshape your data: X\[None\] is one point"),
        (X[0, 0], r"X must have shape \(N, D\) or \(..., N, D\), got \(\)."),
        (X[:, :2], "X has 2 features, but KMeans is expecting 3 features as input"),
        (X[:, :0], r"Found array with 0 feature\(s\) \(shape=\(300, 0\)\) while a minimum of 1 is required"),
        (X + 1j, "Complex data not supported: X must be real, got torch.complex128"),
        (X * torch.nan, "x must be finite, got NaN or infinity"),
    ],
    ids=["1-D", "0-D", "width", "empty", "complex", "nan"],
)
@pytest.mark.parametrize("method", ["predict", "transform", "score"])
def test_other_points_are_an_error(method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(KMeans(2).fit(X), method)(x.numpy())


def test_fewer_points_than_clusters_are_an_error_in_the_words_of_scikit_learn():
    with pytest.raises(ValueError, match="n_samples=2 should be >= n_clusters=3"):
        KMeans(3).fit(X[:2])
    assert KMeans(3, fixed=X[2:3]).fit(X[:2]).cluster_centers_.shape == (3, 3)


def test_a_memory_map_is_a_stream_in_fit_and_an_array_in_predict(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    model = KMeans(4).fit(mapped)
    expected = KMeans(4).fit(Batches(X, 100))
    assert np.array_equal(model.cluster_centers_, expected.cluster_centers_)
    assert not hasattr(model, "labels_")
    assert np.array_equal(model.predict(mapped), expected.predict(X))
    assert model.score(mapped) == expected.score(X)


def test_names_of_columns_are_kept_and_compared():
    model = KMeans(4).fit(FRAME)
    assert model.feature_names_in_.tolist() == ["red", "green", "blue"]
    assert model.predict(FRAME).shape == (300,)
    for method in ("predict", "transform", "score"):
        with pytest.raises(ValueError, match="Feature names must be in the same order as they were in fit"):
            getattr(model, method)(FRAME[["blue", "green", "red"]])
        with pytest.warns(UserWarning, match="X does not have valid feature names, but KMeans was fitted with"):
            getattr(model, method)(X)
    with pytest.raises(TypeError, match="only supported if all input features have string names"):
        model.fit(FRAME.rename(columns={"red": 0}))
    model.fit(X)
    assert not hasattr(model, "feature_names_in_")
    with pytest.raises(AttributeError, match="has no feature_names_in_: it was fitted without names of features"):
        _ = model.feature_names_in_
    with pytest.warns(UserWarning, match="X has feature names, but KMeans was fitted without feature names"):
        model.predict(FRAME)
    assert not hasattr(KMeans(4).fit(FRAME.rename(columns={"red": 0, "green": 1, "blue": 2})), "feature_names_in_")


def test_names_of_columns_are_gone_with_the_centers():
    model, narrow = KMeans(4).fit(FRAME), KMeans(4).fit(X[:, :2])
    model.load_state_dict(narrow.state_dict())
    assert not hasattr(model, "feature_names_in_")
    assert model.predict(X[:, :2]).shape == (300,)


def test_names_of_distances_are_numbered():
    with pytest.raises(NotFittedError):
        KMeans(3).get_feature_names_out()
    assert KMeans(3).fit(FRAME).get_feature_names_out().tolist() == ["kmeans0", "kmeans1", "kmeans2"]
    with pytest.raises(ValueError, match="input_features is not equal to feature_names_in_"):
        KMeans(3).fit(FRAME).get_feature_names_out(["a", "b", "c"])


@pytest.mark.parametrize("x", [FRAME, X.numpy(), X.clone().requires_grad_()], ids=["frame", "array", "tensor"])
def test_the_result_of_transform_is_the_container_that_is_set(x):
    model = KMeans(3).set_output(transform="pandas").fit(x)
    distances = model.transform(x)
    assert distances.columns.tolist() == ["kmeans0", "kmeans1", "kmeans2"]
    assert distances.index.tolist() == list(FRAME.index if x is FRAME else range(300))
    assert np.array_equal(distances, clone(model).set_output(transform="default").fit(X).transform(X))
    assert isinstance(clone(model).fit_transform(x), pd.DataFrame)
    assert isinstance(pickle.loads(pickle.dumps(model)).transform(x), pd.DataFrame)
    assert isinstance(model.predict(x), np.ndarray | torch.Tensor)
    assert model.set_output() is model
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(KMeans(3).fit(x).transform(x), pd.DataFrame)
        assert not isinstance(KMeans(3).set_output(transform="default").fit(x).transform(x), pd.DataFrame)
    with pytest.raises(ValueError, match=r"output config must be in .*, got numpy"):
        model.set_output(transform="numpy").transform(x)


def test_it_is_a_step_of_a_pipeline():
    pipeline = make_pipeline(StandardScaler(), KMeans(4)).fit(FRAME, np.arange(300) % 4)
    scaled = StandardScaler().fit_transform(FRAME)
    expected = KMeans(4).fit(scaled)
    assert np.array_equal(pipeline.predict(FRAME), expected.labels_)
    assert np.array_equal(pipeline.transform(FRAME), expected.transform(scaled))
    assert pipeline.score(FRAME, np.arange(300) % 4) == expected.score(scaled)
    weights = np.arange(300.0)
    weighted = Pipeline([("kmeans", KMeans(4))]).fit(X.numpy(), kmeans__sample_weight=weights)
    assert np.array_equal(weighted[-1].labels_, KMeans(4).fit(X, sample_weight=torch.from_numpy(weights)).labels_)
    assert "KMeans(n_clusters=4)" in repr(pipeline)
    assert "KMeans" in sklearn.utils.estimator_html_repr(pipeline)


def test_the_estimator_transforms_columns_and_unions():
    columns = ColumnTransformer([("km", KMeans(2), ["red", "green"])], remainder="passthrough")
    columns.set_output(transform="pandas")
    frame = columns.fit_transform(FRAME)
    assert frame.columns.tolist() == ["km__kmeans0", "km__kmeans1", "remainder__blue"]
    assert np.array_equal(frame.iloc[:, :2], KMeans(2).fit_transform(X[:, :2].numpy()))
    union = FeatureUnion([("two", KMeans(2)), ("three", KMeans(3))]).fit(X.numpy())
    assert union.get_feature_names_out().tolist() == [
        *("two__kmeans0", "two__kmeans1", "three__kmeans0", "three__kmeans1", "three__kmeans2")
    ]


def test_a_grid_of_cluster_numbers_is_searched_in_processes():
    search = GridSearchCV(KMeans(random_state=0), {"n_clusters": [1, 2, 5]}, cv=2, n_jobs=1).fit(X.numpy())
    assert search.best_params_ == {"n_clusters": 5}
    assert np.array_equal(search.predict(X.numpy()), KMeans(5, random_state=0).fit_predict(X.numpy()))
    try:
        with joblib.parallel_backend("loky"):
            parallel = clone(search).set_params(n_jobs=2).fit(X.numpy())
    finally:
        get_reusable_executor().shutdown(wait=True)
    assert np.array_equal(parallel.cv_results_["mean_test_score"], search.cv_results_["mean_test_score"])
    assert np.array_equal(parallel.best_estimator_.labels_, search.best_estimator_.labels_)


def test_scores_of_a_cross_validation_are_those_of_its_parts():
    scores = cross_val_score(KMeans(4), X.numpy(), np.arange(300) % 2, cv=[(range(200), range(200, 300))])
    assert scores.tolist() == [KMeans(4).fit(X[:200]).score(X[200:])]


def test_the_repr_shows_numbers_of_numpy_as_numbers():
    assert repr(KMeans(np.int64(5), tol=np.float64(0.5), random_state=np.int64(3))) == (
        "KMeans(n_clusters=5, tol=0.5, random_state=3)"
    )


class WithKeywords(KMeans):
    def __init__(self, n_clusters=4, *, factor=2.0, **options):
        super().__init__(n_clusters, **options)
        self.factor = factor


def test_a_subclass_that_passes_keywords_on_has_the_parameters_of_both():
    model = WithKeywords(3, factor=1.5, tol=0.5)
    assert repr(model) == "WithKeywords(n_clusters=3, tol=0.5, factor=1.5)"
    copy = clone(model.set_params(n_init=2))
    assert (copy.n_clusters, copy.tol, copy.factor, copy.n_init) == (3, 0.5, 1.5, 2)


@pytest.mark.parametrize(
    "y",
    [[0.5] * 300, [[1.5]] * 300, [np.float32(1.5)] * 300, np.array([1.5] * 300, dtype=object), np.ones(300)],
    ids=["list", "nested", "scalars", "objects", "array"],
)
def test_floats_of_any_kind_in_y_are_warned_of(y):
    with pytest.warns(UserWarning, match="y has floats and is ignored: pass weights of points as sample_weight"):
        KMeans(2).fit(X, y)


@pytest.mark.parametrize("y", [[1] * 300, ["a"] * 300, [True] * 300, np.array(["a"] * 300, dtype=object), None])
def test_labels_of_any_kind_in_y_have_no_warning(y):
    KMeans(2).fit(X, y)


def test_a_column_may_have_any_name():
    frame = pd.DataFrame({"nnz": [1.0, 2.0, 8.0], "shape": [1.0, 2.0, 8.0]})
    assert KMeans(2).fit(frame).labels_.tolist() == KMeans(2).fit(frame.to_numpy()).labels_.tolist()


def attributes_of_a_fit(x, weights):
    model = KMeans(3).fit(x, sample_weight=weights)
    return model.cluster_centers_, model.labels_


def test_large_arrays_have_the_same_result_in_processes_of_joblib():
    x, weights = np.random.default_rng(0).normal(size=(3000, 3)), np.ones(3000)
    # From 1 kB on joblib passes memory maps.
    with joblib.Parallel(2, max_nbytes="1K") as parallel:
        (found,) = parallel([joblib.delayed(attributes_of_a_fit)(x, weights)])
    get_reusable_executor().shutdown(wait=True)
    for values, expected in zip(found, attributes_of_a_fit(x, weights), strict=True):
        assert np.array_equal(values, expected)


class WithHead(KMeans):
    def __init__(self, n_clusters=8, *, head=None):
        super().__init__(n_clusters)
        self.head = head


def test_a_module_that_is_a_parameter_of_a_subclass_is_registered():
    model = WithHead(2, head=torch.nn.Linear(3, 3)).fit(X)
    assert {"centers", "head.weight", "head.bias"} <= model.state_dict().keys()
    assert model.get_params()["head"] is model.head
    assert model.double().head.weight.dtype == torch.float64


def test_a_copy_is_fitted_on_its_own():
    model = KMeans(3).fit(X)
    labels = model.predict(X)
    copy.copy(model).fit(X + 50)
    assert torch.equal(model.predict(X), labels)
    assert torch.equal(model.labels_, labels)


def test_the_target_of_a_regression_on_distances_has_no_warning():
    pipeline = make_pipeline(KMeans(3), Ridge()).fit(X.numpy(), X[:, 0].numpy())
    assert pipeline.predict(X.numpy()).shape == (300,)


@pytest.mark.parametrize(
    ("x", "error"), [([[1, 2], [3]], ValueError), ([[1, None], [3, 4]], TypeError), ([[10**400, 1]], OverflowError)]
)
def test_nested_lists_that_are_no_points_are_an_error(x, error):
    with pytest.raises(error, match="nested lists must contain numbers and have equal lengths, got others"):
        KMeans(1).fit(x)


def test_a_list_of_rows_is_an_error_that_says_how_to_make_points_of_it():
    with pytest.raises(
        ValueError, match=r"batch 0 of x must have shape \(N, D\), got \(3,\); arrays in a list are batc"
    ):
        KMeans(2).fit([*X.numpy()])


def test_a_batch_of_problems_has_no_data_frame():
    model = KMeans(2).fit(torch.stack([X, X])).set_output(transform="pandas")
    with pytest.raises(
        ValueError, match=r"X must be \(N, D\) for the output that set_output selects, got \(2, 300, 3\)"
    ):
        model.transform(torch.stack([X, X]))
