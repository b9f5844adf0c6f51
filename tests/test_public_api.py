import inspect
import typing

import pytest

import gpukmeans
from gpukmeans.images.rate_distortion import RATES

PUBLIC = {
    "BEST_QUALITY",
    "COLOR_SPACES",
    "DITHERINGS",
    "ENGINES",
    "METRICS",
    "SEEDINGS",
    "Assignment",
    "Batches",
    "Callback",
    "Checkpoint",
    "CheckpointState",
    "ColorHistogram",
    "ColorSpace",
    "ColorSpaceName",
    "Dithering",
    "DitheringName",
    "Engine",
    "EngineName",
    "IndexedImage",
    "InitName",
    "KMeans",
    "KMeansOptions",
    "KMeansResult",
    "Metric",
    "MetricName",
    "NClustersComparison",
    "Palette",
    "Points",
    "QuantizeColors",
    "RateName",
    "Seeding",
    "apply_palette",
    "assign",
    "clear_transparent_pixels",
    "compare_n_clusters",
    "fit_palette",
    "flat_counts",
    "has_alpha",
    "kmeans",
    "map_to_palette",
    "mean_squared_error",
    "mean_visible_error",
    "palette_orders",
    "png_scanlines",
    "quantize",
    "unique_colors",
    "with_transparent_color",
}

CHOICES = {"BEST_QUALITY", "COLOR_SPACES", "DITHERINGS", "ENGINES", "METRICS", "SEEDINGS"}


def test_the_public_names_are_these_and_no_others():
    assert set(gpukmeans.__all__) == PUBLIC
    assert set(dir(gpukmeans)) >= PUBLIC


NAMES = {
    "ColorSpaceName": gpukmeans.COLOR_SPACES,
    "DitheringName": gpukmeans.DITHERINGS,
    "EngineName": ["auto", *gpukmeans.ENGINES],
    "InitName": ["auto", *gpukmeans.SEEDINGS],
    "MetricName": gpukmeans.METRICS,
    "RateName": RATES,
}
ALIASES = {"Callback", "CheckpointState", "Dithering", "Seeding", *NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_type_of_a_name_has_the_keys_of_its_dictionary(name):
    assert list(typing.get_args(getattr(gpukmeans, name))) == list(NAMES[name])


@pytest.mark.parametrize("name", sorted(PUBLIC - CHOICES - ALIASES))
def test_every_public_name_has_a_docstring(name):
    value = getattr(gpukmeans, name)
    assert len(inspect.getdoc(value) or "") > 20
    methods = (
        [member for key, member in vars(value).items() if callable(member) and key[0] != "_"]
        if inspect.isclass(value)
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
def test_data_is_positional_and_options_are_keywords(function, leading):
    parameters = inspect.signature(getattr(gpukmeans, function)).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == leading
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in list(parameters)[len(leading) :])


def test_the_estimator_has_the_options_of_kmeans():
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(gpukmeans.kmeans).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "weights"  # an argument of fit
    }
    estimator = inspect.signature(gpukmeans.KMeans).parameters
    options["random_state"] = options.pop("generator")  # scikit-learn's name
    assert {name: p.default for name, p in estimator.items() if name != "n_clusters"} == options


def test_choices_are_dicts_from_names_to_objects():
    assert list(gpukmeans.SEEDINGS) == ["k-means++", "k-means||", "random"]
    assert all(callable(seeding) for seeding in gpukmeans.SEEDINGS.values())
    assert list(gpukmeans.METRICS) == ["euclidean", "cosine"]
    assert list(gpukmeans.ENGINES) == ["triton", "screened", "native", "matmul", "plain"]
