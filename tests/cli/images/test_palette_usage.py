import numpy as np
import pytest
import torch
from helpers.color_profiles import save_linear
from PIL import Image

from gpukmeans.images.histogram import unique_colors
from gpukmeans_cli.images import palette_usage
from gpukmeans_cli.images.palette_usage import PaletteUsage, count_image, find_palette_usage
from gpukmeans_cli.system.atomic_files import ImageError

CPU = torch.device("cpu")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def histogram(pixels):
    return unique_colors(torch.from_numpy(np.array(pixels, dtype=np.uint8)))


def test_each_count_is_the_number_of_pixels_nearest_to_the_color():
    pixels = noise(23, 17, 3)
    usage = find_palette_usage(histogram(pixels), 5)
    assert usage.colors.shape == (5, 3)
    sqdist = np.square(pixels.reshape(-1, 1, 3).astype(int) - usage.colors.astype(int)).sum(axis=2)
    nearest = sqdist == sqdist.min(axis=1, keepdims=True)
    unique = nearest & (nearest.sum(axis=1, keepdims=True) == 1)  # a tie may count for either color
    assert (unique.sum(axis=0) <= usage.counts).all()
    assert (usage.counts <= nearest.sum(axis=0)).all()
    assert unique.sum() > 380
    assert usage.counts.sum() == 23 * 17
    assert sum(usage.fractions) == pytest.approx(1)


def test_colors_are_sorted_by_count_and_ties_by_color():
    pixels = [[[9, 9, 9], [3, 0, 0], [2, 0, 0], [9, 9, 9], [1, 0, 0], [1, 0, 0]]]
    usage = find_palette_usage(histogram(pixels), 8)
    assert usage.colors.tolist() == [[1, 0, 0], [9, 9, 9], [2, 0, 0], [3, 0, 0]]
    assert usage.counts.tolist() == [2, 2, 1, 1]
    assert usage.fractions == [2 / 6, 2 / 6, 1 / 6, 1 / 6]


def test_colors_are_those_that_are_shown(tmp_path):
    path = save_linear(np.full((4, 5, 3), 128, np.uint8), tmp_path / "linear.png")
    assert find_palette_usage(count_image(path, CPU)[0], 2).colors.tolist() == [[188, 188, 188]]


def test_grey_becomes_rgb_and_alpha_is_kept():
    assert find_palette_usage(histogram([[[5], [5], [6]]]), 2).colors.tolist() == [[5, 5, 5], [6, 6, 6]]
    assert find_palette_usage(histogram([[[5, 7], [6, 8], [6, 8]]]), 2).colors.tolist() == [[6, 6, 6, 8], [5, 5, 5, 7]]


def test_more_than_max_pixels_are_an_error(tmp_path):
    Image.fromarray(noise(5, 7, 3)).save(tmp_path / "in.png")
    counted, _ = count_image(tmp_path / "in.png", CPU, max_pixels=35)
    assert counted.counts.sum() == 35
    with pytest.raises(ImageError, match="has 35 pixels, the limit is 34"):
        count_image(tmp_path / "in.png", CPU, max_pixels=34)


def test_equal_seeds_give_equal_palettes():
    pixels = histogram(noise(40, 40, 3))
    one, again, other = (find_palette_usage(pixels, 9, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.colors, again.colors)
    assert np.array_equal(one.counts, again.counts)
    assert not np.array_equal(one.colors, other.colors)


def test_all_transparent_pixels_of_an_image_count_as_one_color(tmp_path):
    pixels = np.array([[[9, 9, 9, 0], [8, 8, 8, 0], [1, 2, 3, 255]]], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    counted, frames = count_image(tmp_path / "a.png", CPU)
    assert (counted.colors.tolist(), counted.counts.tolist()) == ([[0, 0, 0, 0], [1, 2, 3, 255]], [2, 1])
    assert frames == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to"), "cpu is out of memory; use --device cpu"),
        (MemoryError(), "out of memory; use a smaller image"),
        (RuntimeError("[enforce fail] not enough memory: you tried to"), "out of memory; use a smaller image"),
    ],
)
def test_running_out_of_memory_is_an_image_error(monkeypatch, error, sentence):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(palette_usage, "fit_palette", fail)
    with pytest.raises(ImageError, match=f"^{sentence}$"):
        find_palette_usage(histogram([[[1]]]), 1)


def test_other_errors_are_raised_unchanged(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(palette_usage, "fit_palette", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        find_palette_usage(histogram([[[1]]]), 1)


def test_fractions_are_relative_to_all_pixels():
    assert PaletteUsage(colors=np.zeros((2, 3), dtype=np.uint8), counts=np.array([3, 1])).fractions == [0.75, 0.25]
