import numpy as np
import pytest
import torch
from helpers.problems import random_image

from gpukmeans import COLOR_SPACES, ENGINES, fit_palette, flat_counts, mean_squared_error, quantize, unique_colors
from gpukmeans.images import vivid_areas

RED, GREEN, BLUE = (239, 68, 68), (34, 197, 94), (59, 130, 246)
BADGES = {RED: (4, 6), GREEN: (40, 30), BLUE: (60, 80)}


def with_badges(photo, colors):
    """The photo (H, W, 3), made smaller, with badges of 12 x 8 pixels."""
    image = photo[::4, ::4].clone()
    for color, (top, left) in zip(colors, BADGES.values(), strict=True):
        image[top : top + 8, left : left + 12] = torch.tensor(color, dtype=torch.uint8)
    return image


def distances(image, palette):
    """The distance in levels between each badge and the nearest color of the palette."""
    return [float((palette.double() - torch.tensor(color)).square().sum(dim=1).min().sqrt()) for color in BADGES]


@pytest.fixture
def badges(flower):
    return with_badges(flower, BADGES)


# Counts


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (13, 17)])
@pytest.mark.parametrize("block", [1, 40, 1 << 17])
def test_flat_pixels_differ_by_less_than_24_levels_from_their_neighbors(monkeypatch, height, width, channels, block):
    monkeypatch.setattr(vivid_areas, "_BLOCK", block)
    image = random_image(height, width, channels, levels=26, seed=0)
    image[:, : width // 2] //= 2
    histogram = unique_colors(image)
    expected = torch.zeros(len(histogram.colors), dtype=torch.int64)
    padded = np.pad(image.numpy().astype(int), ((1, 1), (1, 1), (0, 0)), mode="edge")
    for y in range(height):
        for x in range(width):
            around = padded[y : y + 3, x : x + 3]
            if np.ptp(around, axis=(0, 1)).max() < 24:
                expected[histogram.lookup(image)[y, x]] += 1
    assert torch.equal(flat_counts(image, histogram), expected)


def test_counts_of_images_in_one_histogram_add(china, flower):
    images = [china[:40, :60], flower[:40, :60]]
    histogram = sum(unique_colors(image) for image in images)
    counts = [flat_counts(image, histogram) for image in images]
    expected = [flat_counts(image, unique_colors(image)).sum() for image in images]
    assert [count.sum() for count in counts] == expected


def test_the_image_of_counts_has_no_other_colors():
    histogram = unique_colors(torch.zeros(3, 3, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="no other colors than the histogram"):
        flat_counts(torch.full((3, 3, 3), 9, dtype=torch.uint8), histogram)


# Palettes


@pytest.mark.parametrize("n_colors", [8, 12])
def test_a_small_vivid_area_keeps_a_color_for_a_small_rise_of_the_error(badges, n_colors):
    plain, kept = (quantize(badges, n_colors, keep_vivid=keep_vivid) for keep_vivid in (False, True))
    assert max(distances(badges, plain.palette)) > 80
    assert sum(distances(badges, kept.palette)) < sum(distances(badges, plain.palette)) - 150
    assert mean_squared_error(badges, kept) <= 1.045 * mean_squared_error(badges, plain)


@pytest.mark.parametrize("n_colors", [3, 4, 5, 6])
def test_the_squared_error_rises_by_at_most_4_percent(badges, n_colors):
    plain, kept = (quantize(badges, n_colors, keep_vivid=keep_vivid) for keep_vivid in (False, True))
    assert mean_squared_error(badges, kept) <= 1.045 * mean_squared_error(badges, plain)


def test_no_area_gets_the_color_of_another(china):
    image = with_badges(china, BADGES)
    assert sum(distances(image, quantize(image, 10).palette)) > 200
    assert sum(distances(image, quantize(image, 10, keep_vivid=True).palette)) < 100


@pytest.mark.parametrize("space", list(COLOR_SPACES))
def test_a_vivid_area_keeps_a_color_in_each_space_with_alpha_and_beside_fixed_colors(badges, space):
    image = torch.cat([badges, torch.full_like(badges[..., :1], 255)], dim=2)
    image[-20:, :, 3] = 0
    fixed = torch.tensor([[9, 9, 9, 255]], dtype=torch.uint8)
    options = {"space": space, "fixed": fixed}
    plain, kept = (quantize(image, 12, **options, keep_vivid=keep_vivid) for keep_vivid in (False, True))
    assert kept.palette[0].tolist() == [9, 9, 9, 255]
    assert sum(distances(badges, kept.palette[:, :3])) <= sum(distances(badges, plain.palette[:, :3]))
    assert (kept.pixels()[..., 3] == image[..., 3]).all()


def test_flat_areas_without_chroma_need_no_color(flower):
    image = with_badges(flower, [(250, 250, 250), (5, 5, 5), (128, 128, 128)])
    for n_colors in (9, 10):
        assert torch.equal(quantize(image, n_colors, keep_vivid=True).palette, quantize(image, n_colors).palette)


@pytest.mark.parametrize("image", ["grey photo", "small areas", "dull areas", "noise"])
def test_without_a_lost_vivid_area_the_palette_is_that_of_kmeans(china, badges, image):
    images = {
        "grey photo": china[::4, ::4, :1],
        "small areas": badges.where(torch.arange(badges.shape[1])[:, None] % 2 == 0, badges // 2),
        "dull areas": badges // 4 + 96,
        "noise": random_image(40, 50, 3, levels=256, seed=0),
    }
    plain, kept = (quantize(images[image], 8, keep_vivid=keep_vivid) for keep_vivid in (False, True))
    assert torch.equal(plain.palette, kept.palette)
    assert torch.equal(plain.indices, kept.indices)


def test_the_palette_has_the_same_bits_on_every_engine_and_for_every_block(badges, monkeypatch):
    histogram = unique_colors(badges)
    flat = flat_counts(badges, histogram)
    expected = fit_palette(histogram, 12, flat=flat)
    assert not torch.equal(expected.colors, fit_palette(histogram, 12).colors)
    monkeypatch.setattr(vivid_areas, "_TABLE", 40)
    for name, engine in ENGINES.items():
        if engine.unsupported_reason(histogram.colors.float()) is None:
            found = fit_palette(histogram, 12, flat=flat, engine=name)
            assert torch.equal(found.colors, expected.colors)
            assert torch.equal(found.labels, expected.labels)


def test_a_batch_has_the_palettes_of_its_images(badges):
    batch = torch.stack([badges, badges.flip(2)])
    palettes = quantize(batch, 12, keep_vivid=True).palette
    assert torch.equal(palettes, torch.stack([quantize(image, 12, keep_vivid=True).palette for image in batch]))


def test_an_image_of_few_colors_stays_without_loss():
    image = torch.tensor([[RED, GREEN, BLUE] * 20] * 20, dtype=torch.uint8)
    assert torch.equal(quantize(image, 3, keep_vivid=True).pixels(), image)
    for n_colors in (1, 2):
        assert len(quantize(image, n_colors, keep_vivid=True).palette) == n_colors


@pytest.mark.parametrize(
    ("flat", "error", "sentence"),
    [
        ([1, 2], TypeError, "flat must be a tensor, from flat_counts, got list"),
        (
            torch.zeros(3, dtype=torch.int64),
            ValueError,
            r"flat must be int64 \(2,\) on cpu, .*, got torch.int64 \(3,\)",
        ),
        (torch.zeros(2), ValueError, "got torch.float32"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_counts_are_an_error(flat, error, sentence):
    histogram = unique_colors(torch.tensor([[[1], [5]]], dtype=torch.uint8))
    with pytest.raises(error, match=sentence):
        fit_palette(histogram, 1, flat=flat)
