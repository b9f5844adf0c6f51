import doctest

import pytest
import torch
from helpers.problems import seeded

import gpukmeans
from gpukmeans import textbook


def test_the_example_of_the_docstring_is_right():
    result = doctest.testmod(textbook, globs={**vars(textbook)})
    assert (result.attempted, result.failed) == (3, 0)


@pytest.mark.parametrize(("n", "width", "k"), [(60, 1, 3), (500, 2, 5), (2000, 3, 20), (1000, 16, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_the_library_finds_the_centers_and_labels_of_the_textbook(n, width, k, seed):
    x = torch.randint(0, 256, (n, width), generator=seeded(seed)).float()
    centers, labels = textbook.kmeans(x, k, seeded(seed))
    assert len(labels.unique()) == k  # what becomes of an empty cluster is up to each
    found = gpukmeans.kmeans(x, k, init=textbook.random_points(x, k, seeded(seed)), tol=0.0)
    assert torch.equal(found.labels, labels)
    assert torch.equal(found.centers, centers)


def test_photos_have_the_centers_of_the_textbook(china):
    x = china[::4, ::4].flatten(0, 1).float()
    first = textbook.random_points(x, 20, seeded())
    centers, labels = textbook.kmeans(x, 20, seeded(), max_iter=400)
    found = gpukmeans.kmeans(x, 20, init=first, tol=0.0, max_iter=400)
    assert torch.equal(found.labels, labels)
    assert torch.equal(found.centers, centers)


def test_an_empty_cluster_keeps_its_center():
    x = torch.tensor([[0.0], [2.0]])
    centers = torch.tensor([[1.0], [50.0]])
    assert textbook.means(x, textbook.nearest(x, centers), centers).tolist() == [[1], [50]]
