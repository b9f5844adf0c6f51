import numpy as np
import pytest
import torch
from helpers.problems import random_image

from gpukmeans.images.colorspace import COLOR_SPACES, hide_invisible
from gpukmeans.images.histogram import ColorHistogram, unique_colors
from gpukmeans_cli.report.color_pca import SIDE, drawn_rows, fit_plane


def histogram_of(colors, counts=None):
    colors = torch.tensor(colors, dtype=torch.uint8)
    counts = torch.ones(len(colors), dtype=torch.int64) if counts is None else torch.tensor(counts)
    return ColorHistogram(colors=colors, counts=counts)


def test_colors_lie_along_the_axes_on_which_they_differ_most():
    # Green varies most, then blue, red not at all.
    histogram = histogram_of([[9, 0, 0], [9, 0, 30], [9, 100, 0], [9, 100, 30], [9, 50, 15]])
    plane = fit_plane(histogram, "srgb")
    assert plane.axes.numpy() == pytest.approx(np.array([[0, 1, 0], [0, 0, 1]]), abs=1e-9)
    assert plane.share == pytest.approx(1)
    assert plane.place(histogram.colors).tolist() == [[0, 0], [0, SIDE], [SIDE, 0], [SIDE, SIDE], [500, 500]]
    assert plane.place(torch.tensor([[200, 25, 255]], dtype=torch.uint8)).tolist() == [[250, SIDE]]  # at the edge


def test_a_color_weighs_as_many_pixels_as_wear_it():
    colors = [[0, 0, 0], [0, 0, 90], [0, 100, 0]]
    assert fit_plane(histogram_of(colors, [50, 1, 50]), "srgb").axes[0, 1] > 0.99  # green
    assert fit_plane(histogram_of(colors, [50, 50, 1]), "srgb").axes[0, 2] > 0.99  # blue


@pytest.mark.parametrize("space", COLOR_SPACES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_axes_are_the_principal_ones_whatever_the_space_and_the_channels(space, channels):
    histogram = unique_colors(hide_invisible(random_image(12, 12, channels, 60, channels)))
    plane = fit_plane(histogram, space)
    x = COLOR_SPACES[space].encode(histogram.colors).double().numpy()
    covariance = np.cov(x, rowvar=False, ddof=0, aweights=histogram.counts.numpy())
    variances = np.linalg.eigvalsh(covariance)[::-1]
    along = np.einsum("ad,de,ae->a", plane.axes.numpy(), covariance, plane.axes.numpy())
    assert along == pytest.approx(variances[:2], rel=1e-9, abs=1e-9 * variances[0])
    assert plane.share == pytest.approx(variances[:2].sum() / variances.sum())
    assert (plane.axes.gather(1, plane.axes.abs().argmax(dim=1, keepdim=True)) > 0).all()
    places = plane.place(histogram.colors)
    assert (places.min(axis=0)[0], places.max(axis=0)[0]) == (0, SIDE)


def test_what_has_no_extent_lies_amid():
    assert fit_plane(histogram_of([[7, 8, 9]]), "srgb").place(
        torch.tensor([[7, 8, 9]], dtype=torch.uint8)
    ).tolist() == [[500, 500]]
    line = fit_plane(histogram_of([[0], [50], [100]]), "srgb")
    assert line.place(torch.tensor([[0], [50], [100]], dtype=torch.uint8)).tolist() == [
        [0, 500],
        [500, 500],
        [1000, 500],
    ]
    assert fit_plane(histogram_of([[7, 8, 9]]), "srgb").share == 1


def test_no_more_colors_than_are_to_be_drawn_are_all_drawn():
    rows, times = drawn_rows(torch.tensor([5, 1, 9]), 3)
    assert (rows.tolist(), times.tolist()) == ([0, 1, 2], [1, 1, 1])


def test_of_more_those_of_evenly_spaced_pixels_are_drawn():
    # Ten pixels, of which the middles of four stretches of 2.5 are 1, 3, 6 and 8.
    rows, times = drawn_rows(torch.tensor([1, 1, 1, 4, 1, 1, 1]), 4)
    assert (rows.tolist(), times.tolist()) == ([1, 3, 5], [1, 2, 1])


def test_a_color_is_drawn_as_often_as_pixels_wear_it():
    counts = torch.from_numpy(np.random.default_rng(0).integers(1, 5000, 3000))
    rows, times = drawn_rows(counts, 2000)
    assert times.sum() == 2000
    assert len(rows) == len(set(rows.tolist())) < 2000
    expected = counts.numpy() * 2000 / counts.sum().item()
    assert abs(times - expected[rows]).max() < 1
    left_out = np.setdiff1d(np.arange(3000), rows)
    assert expected[left_out].max() < 1
