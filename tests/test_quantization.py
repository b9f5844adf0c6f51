import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_histogram import random_image
from test_points import seeded

from gpukmeans import IndexedImage, quantize, unique_colors
from gpukmeans.colorspace import encode, hide_invisible
from gpukmeans.engines import choose
from gpukmeans.quantization import fit_palette


def nearest_by_hand(pixels, palette):
    return ((pixels[:, None].int() - palette[None].int()) ** 2).sum(dim=2).argmin(dim=1)


def test_a_photo_has_the_colors_asked_for_each_pixel_the_nearest(china):
    palette, indices = quantize(china, 20)
    assert (palette.shape, palette.dtype) == ((20, 3), torch.uint8)
    assert (indices.shape, indices.dtype) == (china.shape[:2], torch.uint8)
    assert torch.equal(nearest_by_hand(china.reshape(-1, 3), palette), indices.flatten().long())


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_an_image_of_few_colors_comes_back_lossless(channels, height, width, seed):
    image = random_image(height, width, channels, 3, seed)
    if channels in (2, 4):
        image[..., -1] += 1  # nothing invisible
    result = quantize(image, min(256, height * width))
    assert torch.equal(result.pixels(), image)
    assert len(result.palette) == len(unique_colors(image).colors)


def test_one_color_more_than_asked_for_is_clustered():
    image = torch.tensor([[[0, 0, 0], [0, 0, 2], [200, 0, 0]]], dtype=torch.uint8)
    assert quantize(image, 3).palette.tolist() == [[0, 0, 0], [0, 0, 2], [200, 0, 0]]
    assert quantize(image, 2).palette.tolist() == [[0, 0, 1], [200, 0, 0]]


def test_centers_are_rounded_and_not_truncated():
    image = torch.tensor([[[0, 0, 0], [3, 3, 3], [2, 2, 2]]], dtype=torch.uint8)
    assert quantize(image, 1).palette.tolist() == [[2, 2, 2]]  # the mean is 1.67


def test_centers_that_round_to_one_color_are_merged():
    # Black, and three colors whose mean of 1/3 in each channel is black too when rounded.
    image = torch.tensor([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]], dtype=torch.uint8)
    start = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.3, 0.3]])
    palette = fit_palette(unique_colors(image), 2, init=lambda points, k, generator: start, refine=0)
    assert palette.colors.tolist() == [[0, 0, 0]]
    assert palette.labels.tolist() == [0, 0, 0, 0]
    assert palette.mse == 3 / 4


def test_a_color_that_no_pixel_wears_is_not_in_the_palette():
    # Two clusters are empty at first, and one round moves only one of them.
    image = torch.tensor([[[0, 0, 0], [5, 0, 0], [0, 9, 0], [0, 0, 7]]], dtype=torch.uint8)
    start = torch.tensor([[0.0, 0.0, 0.0], [900.0, 0.0, 0.0], [990.0, 0.0, 0.0]])
    palette = fit_palette(unique_colors(image), 3, init=lambda points, k, generator: start, refine=0, max_iter=1)
    assert not palette.converged
    assert palette.colors.tolist() == [[0, 9, 0], [1, 2, 2]]
    assert palette.labels.tolist() == [1, 1, 0, 1]


def test_as_many_colors_as_asked_for_need_no_clustering():
    palette = fit_palette(unique_colors(torch.tensor([[[3], [9]]], dtype=torch.uint8)), 2)
    assert (palette.n_iter, palette.converged, palette.mse) == (0, True, 0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 20, 256])
def test_the_palette_is_ordered_distinct_and_used(channels, k):
    image = random_image(60, 50, channels, 256, channels)
    palette, indices = quantize(image, k, max_iter=3)
    assert torch.equal(palette, palette.unique(dim=0))
    assert torch.equal(indices.unique(), torch.arange(len(palette)).to(torch.uint8))
    assert len(palette) <= k


def test_mse_is_that_of_the_pixels(china):
    histogram = unique_colors(china)
    palette = fit_palette(histogram, 20)
    pixels = quantize(china, 20).pixels()
    assert palette.mse == ((pixels.double() - china.double()) ** 2).sum(dim=2).mean().item()


def test_mse_with_alpha_is_of_premultiplied_colors_and_alpha(china):
    image = hide_invisible(torch.cat([china, china.flip(0)[..., :1]], dim=2)[::4, ::4])
    result = quantize(image, 20)

    def premultiplied(pixels):
        alpha = pixels[..., 3:].double()
        return torch.cat([pixels[..., :3] * alpha / 255, alpha], dim=2)

    expected = ((premultiplied(result.pixels()) - premultiplied(image)) ** 2).sum(dim=2).mean().item()
    assert fit_palette(unique_colors(image), 20).mse == pytest.approx(expected, rel=1e-12)


def test_grey_is_measured_as_three_channels():
    image = torch.tensor([[[0], [2]]], dtype=torch.uint8)
    palette = fit_palette(unique_colors(image), 1)
    assert palette.colors.tolist() == [[1]]
    assert palette.mse == 3


def test_invisible_colors_take_one_entry_together():
    image = random_image(30, 30, 4, 256, 0)
    image[:20, :, 3] = 0
    image[20:, :, 3] = 255
    image[20:, :, :3] //= 128  # 8 visible colors
    palette, indices = quantize(image, 9)
    assert len(palette) == 9
    assert palette[0].tolist() == [0, 0, 0, 0]
    assert (indices[:20] == 0).all()
    assert torch.equal(IndexedImage(palette, indices).pixels()[20:], image[20:])


def test_transparency_weighs_colors_less():
    # The faint reds are many and far apart, but hardly seen: the two greys deserve the palette.
    faint = torch.tensor([[200 + i, 0, 0, 1] for i in range(50)], dtype=torch.uint8)
    solid = torch.tensor([[0, 0, 0, 255], [90, 90, 90, 255]], dtype=torch.uint8)
    palette, _ = quantize(torch.cat([faint, solid])[None], 3)
    assert solid.tolist() == palette[palette[:, 3] == 255].tolist()


def test_the_same_input_gives_the_same_palette_and_seeds_differ(china):
    first, again, other = (quantize(china, 16, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.palette, again.palette)
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(quantize(china, 16).palette, first.palette)
    assert not torch.equal(first.palette, other.palette)


def test_one_palette_over_two_images_is_fit_to_the_sum_of_their_histograms(china, flower):
    both = unique_colors(china) + unique_colors(flower)
    apart = unique_colors(torch.cat([china, flower]))
    assert torch.equal(fit_palette(both, 8).colors, fit_palette(apart, 8).colors)


@pytest.mark.parametrize(
    ("n_colors", "error", "message"),
    [(0, ValueError, "from 1 to 256, got 0"), (257, ValueError, "got 257"), (2.0, TypeError, "an int, got float")],
)
def test_a_wrong_number_of_colors_is_refused(n_colors, error, message, unchecked):
    with pytest.raises(error, match=message):
        quantize(torch.zeros(1, 1, 3, dtype=torch.uint8), n_colors)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"init": "bogus"}, "init must be"), ({"n_init": -3}, "n_init must"), ({"engine": "warp"}, "engine must")],
)
def test_a_wrong_option_is_refused_even_if_no_clustering_is_needed(options, message):
    with pytest.raises(ValueError, match=message):
        quantize(torch.zeros(1, 1, 3, dtype=torch.uint8), 2, **options)


def test_what_is_no_image_is_refused(unchecked):
    with pytest.raises(TypeError, match=r"image must be uint8, got torch\.int64"):
        quantize(torch.zeros(1, 1, 4, dtype=torch.int64), 2)
    with pytest.raises(TypeError, match="image must be a tensor, got list"):
        quantize([[0]], 2)


def test_a_palette_knows_the_engine_that_found_it(china):
    histogram = unique_colors(china[:20, :20])
    assert fit_palette(histogram, 4).engine == choose("auto", encode(histogram.colors)).name
    assert fit_palette(histogram, 4, engine="torch").engine == "torch"
    assert fit_palette(unique_colors(china[:2, :2]), 4).engine is None
