import numpy as np
import pytest
import torch
from PIL import Image

from gpukmeans.images.histogram import unique_colors
from gpukmeans_cli.images import palette_usage as shares
from gpukmeans_cli.images.palette_usage import Shares, count_picture, find_shares
from gpukmeans_cli.system.atomic_files import ImageError

CPU = torch.device("cpu")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def histogram(pixels):
    return unique_colors(torch.from_numpy(np.array(pixels, dtype=np.uint8)))


def test_the_counts_are_those_of_the_pixels_nearest_to_each_color():
    pixels = noise(23, 17, 3)
    found = find_shares(histogram(pixels), 5)
    assert found.colors.shape == (5, 3)
    sqdist = np.square(pixels.reshape(-1, 1, 3).astype(int) - found.colors.astype(int)).sum(axis=2)
    nearest = sqdist == sqdist.min(axis=1, keepdims=True)
    alone = nearest & (nearest.sum(axis=1, keepdims=True) == 1)  # equally near ones may go to either
    assert (alone.sum(axis=0) <= found.counts).all()
    assert (found.counts <= nearest.sum(axis=0)).all()
    assert alone.sum() > 380
    assert found.counts.sum() == 23 * 17
    assert sum(found.shares) == pytest.approx(1)


def test_the_color_that_serves_most_is_first_and_the_lower_one_of_equals():
    pixels = [[[9, 9, 9], [3, 0, 0], [2, 0, 0], [9, 9, 9], [1, 0, 0], [1, 0, 0]]]
    found = find_shares(histogram(pixels), 8)
    assert found.colors.tolist() == [[1, 0, 0], [9, 9, 9], [2, 0, 0], [3, 0, 0]]
    assert found.counts.tolist() == [2, 2, 1, 1]
    assert found.shares == [2 / 6, 2 / 6, 1 / 6, 1 / 6]


def test_grey_becomes_three_channels_and_alpha_stays():
    assert find_shares(histogram([[[5], [5], [6]]]), 2).colors.tolist() == [[5, 5, 5], [6, 6, 6]]
    assert find_shares(histogram([[[5, 7], [6, 8], [6, 8]]]), 2).colors.tolist() == [[6, 6, 6, 8], [5, 5, 5, 7]]


def test_the_limit_of_pixels_is_heeded(tmp_path):
    Image.fromarray(noise(5, 7, 3)).save(tmp_path / "in.png")
    counted, _ = count_picture(tmp_path / "in.png", CPU, max_pixels=35)
    assert counted.counts.sum() == 35
    with pytest.raises(ImageError, match="has 35 pixels, the limit is 34"):
        count_picture(tmp_path / "in.png", CPU, max_pixels=34)


def test_the_seed_decides_where_there_is_something_to_decide():
    pixels = histogram(noise(40, 40, 3))
    one, again, other = (find_shares(pixels, 9, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.colors, again.colors)
    assert np.array_equal(one.counts, again.counts)
    assert not np.array_equal(one.colors, other.colors)


def test_a_picture_is_counted_with_its_invisible_pixels_as_one_color(tmp_path):
    pixels = np.array([[[9, 9, 9, 0], [8, 8, 8, 0], [1, 2, 3, 255]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    counted, frames = count_picture(tmp_path / "a.png", CPU)
    assert (counted.colors.tolist(), counted.counts.tolist()) == ([[0, 0, 0, 0], [1, 2, 3, 255]], [2, 1])
    assert frames == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to"), "cpu is out of memory; use --device cpu"),
        (MemoryError(), "out of memory; use a smaller picture"),
        (RuntimeError("[enforce fail] not enough memory: you tried to"), "out of memory; use a smaller picture"),
    ],
)
def test_memory_that_runs_out_is_a_sentence(monkeypatch, error, sentence):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(shares, "fit_palette", fail)
    with pytest.raises(ImageError, match=f"^{sentence}$"):
        find_shares(histogram([[[1]]]), 1)


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(shares, "fit_palette", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        find_shares(histogram([[[1]]]), 1)


def test_shares_are_of_all_pixels():
    assert Shares(colors=np.zeros((2, 3), dtype=np.uint8), counts=np.array([3, 1])).shares == [0.75, 0.25]
