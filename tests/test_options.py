import dataclasses
import inspect
import typing

import pytest
import torch
from helpers.problems import points_of, seeded

from gpukmeans import METRICS, Checkpoint, KMeans, KMeansOptions, kmeans
from gpukmeans.options import KMeansKeywords

X = torch.rand(6, 3, generator=seeded())


def defaults_of(function):
    parameters = inspect.signature(function).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def test_defaults_equal_those_of_kmeans_and_of_the_estimator():
    defaults = {field.name: field.default for field in dataclasses.fields(KMeansOptions) if field.name != "n_clusters"}
    by_name = {"x", "n_clusters", "weights"}
    assert {name: value for name, value in defaults_of(kmeans).items() if name not in by_name} == defaults
    defaults["random_state"] = defaults.pop("generator")
    assert {name: value for name, value in defaults_of(KMeans).items() if name not in by_name} == defaults


def test_options_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        KMeansOptions(3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_clusters": 0}, ValueError, "n_clusters must be at least 1, got 0"),
        ({"n_clusters": 2.0}, TypeError, "n_clusters must be an int, got float"),
        ({"n_init": 0}, ValueError, "n_init must be at least 1, got 0"),
        ({"max_iter": True}, TypeError, "max_iter must be an int, got bool"),
        ({"refine": -1}, ValueError, "refine must be at least 0, got -1"),
        ({"tol": -1.0}, ValueError, "tol must be at least 0, got -1"),
        ({"tol": float("nan")}, ValueError, "tol must be at least 0, got nan"),
        ({"tol": "x"}, TypeError, "tol must be a number, got str"),
        ({"init": "kmeans"}, ValueError, "init must be one of auto, k-means.., k-means.., random, .* got 'kmeans'"),
        ({"init": 3}, TypeError, "init must be a name, a tensor of centers or a function, got int"),
        ({"init": X[:2], "n_init": 2}, ValueError, "n_init must be 1 when init gives the initial centers, .* got 2"),
        ({"metric": "manhattan"}, ValueError, "metric must be one of euclidean, cosine or a metric, got 'manhattan'"),
        ({"metric": 2}, TypeError, "metric must be a name or a metric, got int"),
        ({"callback": 3}, TypeError, "callback must be a function, got int"),
        ({"generator": 0}, TypeError, "generator must be a torch.Generator, got int"),
        ({"checkpoint": print}, TypeError, "checkpoint must be a Checkpoint, got builtin_function_or_method"),
        ({"checkpoint": Checkpoint(print, 0)}, ValueError, "checkpoint.every must be at least 1, got 0"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_option_is_an_error_with_the_expected_and_the_received_value(options, error, message):
    with pytest.raises(error, match=message):
        KMeansOptions(**{"n_clusters": 2, **options})


def test_first_centers_can_be_refined_in_several_runs():
    assert KMeansOptions(n_clusters=2, init=X[:2], n_init=2, refine=1).n_init == 2


def test_free_centers_are_those_that_are_not_fixed():
    options = KMeansOptions(n_clusters=5, fixed=X[:2])
    assert (options.n_fixed, options.n_free) == (2, 3)
    assert (KMeansOptions(n_clusters=5).n_fixed, KMeansOptions(n_clusters=5).n_free) == (0, 5)
    assert KMeansOptions(n_clusters=5, fixed=torch.rand(4, 2, 3)).n_fixed == 2


def test_fixed_and_first_centers_must_match_the_points():
    KMeansOptions(n_clusters=5, fixed=X[:2], init=X[:3]).check_shapes(X)
    with pytest.raises(ValueError, match=r"init must have shape \(3, 3\) on cpu, got shape \(5, 3\)"):
        KMeansOptions(n_clusters=5, fixed=X[:2], init=X[:5]).check_shapes(X)
    with pytest.raises(ValueError, match=r"fixed must have shape \(F, 2\) on cpu, like x, got shape \(2, 3\)"):
        KMeansOptions(n_clusters=5, fixed=X[:2]).check_shapes(X[:, :2])


@pytest.mark.usefixtures("unchecked")
def test_options_that_ranks_compare_exclude_functions_engines_and_generators():
    options = KMeansOptions(
        n_clusters=3,
        init=lambda points, k, generator: X[:k],
        tol=1,  # becomes a float, to equal 1.0 on another rank
        metric=METRICS["cosine"],
        callback=print,
        engine="plain",
        generator=seeded(),
        checkpoint=Checkpoint(print, 7, {"a": X}),
    )
    assert options.comparable() == {
        "n_clusters": 3,
        "init": "a function",
        "fixed": None,
        "n_init": 1,
        "max_iter": 100,
        "tol": 1.0,
        "metric": "a metric",
        "refine": 0,
        "checkpoint": 7,
    }


def test_names_and_tensors_are_compared_as_they_are():
    comparable = KMeansOptions(n_clusters=3, init=X[:1], fixed=X[1:3], metric="cosine").comparable()
    assert torch.equal(comparable["init"], X[:1])
    assert torch.equal(comparable["fixed"], X[1:3])
    assert (comparable["metric"], comparable["checkpoint"]) == ("cosine", None)
    assert KMeansOptions(n_clusters=3).comparable()["init"] == "auto"


def test_the_identity_of_a_checkpoint_depends_on_points_and_options():
    identity = KMeansOptions(n_clusters=2, tol=0.5).identity(points_of(X), None)
    assert identity["the number of points"].tolist() == [6]
    assert identity["the dtype computed in"].dtype == identity["fixed"].dtype == torch.float32
    assert (identity["n_clusters"], identity["n_init"], identity["tol"]) == (2, 1, 0.5)
    assert bytes(identity["metric"].tolist()) == b"euclidean"
    cosine = KMeansOptions(n_clusters=2, metric=METRICS["cosine"]).identity(points_of(X), None)
    assert bytes(cosine["metric"].tolist()) == b"cosine"
    fixed = X[None, :1]
    assert KMeansOptions(n_clusters=2, fixed=X[:1]).identity(points_of(X), fixed)["fixed"] is fixed


def test_type_checkers_know_the_keyword_arguments_of_kmeans():
    parameters = inspect.signature(kmeans).parameters.values()
    keywords = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    assert typing.get_type_hints(KMeansKeywords).keys() == keywords
