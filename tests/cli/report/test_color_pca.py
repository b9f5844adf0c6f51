import numpy as np
import pytest
import torch
from helpers.problems import random_image

from gpukmeans.images.colorspace import COLOR_SPACES, clear_transparent_pixels
from gpukmeans.images.histogram import ColorHistogram, unique_colors
from gpukmeans_cli.report.color_pca import MAX_COORDINATE, fit_color_pca, sample_rows


def histogram_of(colors, counts=None):
    colors = torch.tensor(colors, dtype=torch.uint8)
    counts = torch.ones(len(colors), dtype=torch.int64) if counts is None else torch.tensor(counts)
    return ColorHistogram(colors=colors, counts=counts)


def test_the_components_are_the_axes_with_the_largest_variance():
    # Green varies most, then blue, red not at all.
    histogram = histogram_of([[9, 0, 0], [9, 0, 30], [9, 100, 0], [9, 100, 30], [9, 50, 15]])
    pca = fit_color_pca(histogram, "srgb")
    assert pca.components.numpy() == pytest.approx(np.array([[0, 1, 0], [0, 0, 1]]), abs=1e-9)
    assert pca.explained_variance_ratio == pytest.approx(1)
    assert pca.project(histogram.colors).tolist() == [
        [0, 0],
        [0, MAX_COORDINATE],
        [MAX_COORDINATE, 0],
        [MAX_COORDINATE, MAX_COORDINATE],
        [500, 500],
    ]
    assert pca.project(torch.tensor([[200, 25, 255]], dtype=torch.uint8)).tolist() == [[250, MAX_COORDINATE]]  # clamped


def test_colors_are_weighted_by_their_pixel_counts():
    colors = [[0, 0, 0], [0, 0, 90], [0, 100, 0]]
    assert fit_color_pca(histogram_of(colors, [50, 1, 50]), "srgb").components[0, 1] > 0.99  # green
    assert fit_color_pca(histogram_of(colors, [50, 50, 1]), "srgb").components[0, 2] > 0.99  # blue


@pytest.mark.parametrize("space", COLOR_SPACES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_components_are_those_of_the_covariance_matrix_in_every_space_and_number_of_channels(space, channels):
    histogram = unique_colors(clear_transparent_pixels(random_image(12, 12, channels, 60, channels)))
    pca = fit_color_pca(histogram, space)
    x = COLOR_SPACES[space].encode(histogram.colors).double().numpy()
    covariance = np.cov(x, rowvar=False, ddof=0, aweights=histogram.counts.numpy())
    variances = np.linalg.eigvalsh(covariance)[::-1]
    along = np.einsum("ad,de,ae->a", pca.components.numpy(), covariance, pca.components.numpy())
    assert along == pytest.approx(variances[:2], rel=1e-9, abs=1e-9 * variances[0])
    assert pca.explained_variance_ratio == pytest.approx(variances[:2].sum() / variances.sum())
    assert (pca.components.gather(1, pca.components.abs().argmax(dim=1, keepdim=True)) > 0).all()
    coordinates = pca.project(histogram.colors)
    assert (coordinates.min(axis=0)[0], coordinates.max(axis=0)[0]) == (0, MAX_COORDINATE)


def test_colors_without_variance_are_in_the_middle():
    assert fit_color_pca(histogram_of([[7, 8, 9]]), "srgb").project(
        torch.tensor([[7, 8, 9]], dtype=torch.uint8)
    ).tolist() == [[500, 500]]
    line = fit_color_pca(histogram_of([[0], [50], [100]]), "srgb")
    assert line.project(torch.tensor([[0], [50], [100]], dtype=torch.uint8)).tolist() == [
        [0, 500],
        [500, 500],
        [1000, 500],
    ]
    assert fit_color_pca(histogram_of([[7, 8, 9]]), "srgb").explained_variance_ratio == 1


def test_all_colors_are_drawn_once_if_they_are_few():
    rows, draws = sample_rows(torch.tensor([5, 1, 9]), 3)
    assert (rows.tolist(), draws.tolist()) == ([0, 1, 2], [1, 1, 1])


def test_many_colors_are_drawn_at_evenly_spaced_pixels():
    # Ten pixels: the middle pixels of four intervals of 2.5 are 1, 3, 6 and 8.
    rows, draws = sample_rows(torch.tensor([1, 1, 1, 4, 1, 1, 1]), 4)
    assert (rows.tolist(), draws.tolist()) == ([1, 3, 5], [1, 2, 1])


def test_a_color_is_drawn_in_proportion_to_its_pixels():
    counts = torch.from_numpy(np.random.default_rng(0).integers(1, 5000, 3000))
    rows, draws = sample_rows(counts, 2000)
    assert draws.sum() == 2000
    assert len(rows) == len(set(rows.tolist())) < 2000
    expected = counts.numpy() * 2000 / counts.sum().item()
    assert abs(draws - expected[rows]).max() < 1
    not_drawn = np.setdiff1d(np.arange(3000), rows)
    assert expected[not_drawn].max() < 1
