import pytest
import torch
from helpers.problems import random_image

from gpukmeans import fit_palette, kmeans, quantize, unique_colors


def test_the_repr_of_a_result_has_shapes_and_the_outcome_but_no_values():
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0], [9.0, 9.5]])
    assert repr(kmeans(x, 2)).splitlines() == [
        "KMeansResult(",
        "    centers=float32 (2, 2) on cpu,",
        "    labels=int64 (4,) on cpu,",
        "    cluster_weights=float64 (2,) on cpu,",
        "    inertia=2.125,",
        "    n_iter=2,",
        "    converged=True,",
        ")",
    ]
    assert "labels=None" in repr(kmeans([x], 2))


def test_the_repr_of_a_batch_has_the_shape_of_its_outcomes():
    shown = repr(kmeans(torch.rand(3, 50, 2), 2))
    assert "inertia=float64 (3,) on cpu" in shown
    assert "converged=bool (3,) on cpu" in shown


@pytest.mark.parametrize("name", ["ColorHistogram", "Palette", "IndexedImage"])
def test_the_reprs_of_images_and_palettes_are_short(name):
    image = random_image(64, 64, 3, 4096, 0)
    histogram = unique_colors(image)
    values = {"ColorHistogram": histogram, "Palette": fit_palette(histogram, 256), "IndexedImage": quantize(image, 256)}
    shown = repr(values[name])
    assert shown.startswith(f"{name}(\n    ")
    assert "uint8 (" in shown
    assert len(shown) < 250
