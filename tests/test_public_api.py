import inspect

import pytest

import gpukmeans

PUBLIC = {
    "COLOR_SPACES",
    "DITHERINGS",
    "ENGINES",
    "METRICS",
    "SEEDINGS",
    "Batches",
    "Checkpoint",
    "ColorHistogram",
    "IndexedImage",
    "KMeans",
    "KMeansResult",
    "QuantizeColors",
    "apply_palette",
    "assign",
    "kmeans",
    "quantize",
    "unique_colors",
}


def test_the_public_names_are_these_and_no_others():
    assert set(gpukmeans.__all__) == PUBLIC
    assert set(dir(gpukmeans)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - {"COLOR_SPACES", "DITHERINGS", "ENGINES", "METRICS", "SEEDINGS"}))
def test_every_public_name_says_what_it_is(name):
    thing = getattr(gpukmeans, name)
    assert len(inspect.getdoc(thing) or "") > 20
    methods = (
        [member for key, member in vars(thing).items() if callable(member) and key[0] != "_"]
        if inspect.isclass(thing)
        else []
    )
    assert all(inspect.getdoc(method) for method in methods)


@pytest.mark.parametrize(
    ("function", "leading"),
    [
        ("kmeans", ["x", "n_clusters"]),
        ("assign", ["x", "centers"]),
        ("quantize", ["image", "n_colors"]),
        ("apply_palette", ["image", "palette"]),
        ("QuantizeColors", ["n_colors"]),
    ],
)
def test_data_comes_first_and_options_by_name(function, leading):
    parameters = inspect.signature(getattr(gpukmeans, function)).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == leading
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in list(parameters)[len(leading) :])


def test_the_estimator_takes_the_options_of_kmeans():
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(gpukmeans.kmeans).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "weights"  # which belong to fit
    }
    estimator = inspect.signature(gpukmeans.KMeans).parameters
    assert {name: p.default for name, p in estimator.items() if name != "n_clusters"} == options


def test_a_choice_is_a_dict_of_names_and_the_things_themselves():
    assert list(gpukmeans.SEEDINGS) == ["k-means++", "k-means||", "random"]
    assert all(callable(seeding) for seeding in gpukmeans.SEEDINGS.values())
    assert list(gpukmeans.METRICS) == ["euclidean", "cosine"]
    assert list(gpukmeans.ENGINES) == ["triton", "cells", "matmul", "torch"]
