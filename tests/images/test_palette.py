import dataclasses

import numpy as np
import pytest
import torch
from helpers.problems import random_image

from gpukmeans import IndexedImage, kmeans, mean_squared_error, quantize, unique_colors
from gpukmeans.engines import choose
from gpukmeans.images import palette as palette_module
from gpukmeans.images.colorspace import COLOR_SPACES, clear_transparent_pixels
from gpukmeans.images.palette import BEST_QUALITY, fit_palette, fit_palettes


def test_centers_that_round_to_one_color_are_merged_and_the_worst_served_color_is_added():
    # Black, and three colors whose mean, 1/3 in each channel, also rounds to black. Blue has the most pixels.
    image = torch.tensor([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]], dtype=torch.uint8)
    start = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.3, 0.3]])
    palette = fit_palette(unique_colors(image), 2, init=lambda points, k, generator: start, refine=0, max_iter=1)
    assert palette.colors.tolist() == [[0, 0, 0], [0, 0, 1]]
    assert palette.labels.tolist() == [0, 1, 0, 0]  # of black, blue, green, red
    assert palette.mse == 2 / 5


def test_the_first_of_equally_worst_served_colors_is_added():
    image = torch.tensor([[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]], dtype=torch.uint8)
    start = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.3, 0.3], [0.3, 0.3, 0.3]])
    palette = fit_palette(unique_colors(image), 3, init=lambda points, k, generator: start, refine=0, max_iter=1)
    assert palette.colors.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_a_color_not_used_by_any_pixel_is_not_in_the_palette():
    # Two clusters move to 0 and 40. The third one, of 1 and 39 with the mean 20, is then nearest to no color.
    image = torch.tensor([[[0, 0, 0], [1, 0, 0], [39, 0, 0], [40, 0, 0]]], dtype=torch.uint8)
    start = torch.tensor([[20.0, 0.0, 0.0], [900.0, 0.0, 0.0], [990.0, 0.0, 0.0]])
    palette = fit_palette(unique_colors(image), 3, init=lambda points, k, generator: start, refine=0, max_iter=1)
    assert not palette.converged
    assert palette.colors.tolist() == [[0, 0, 0], [1, 0, 0], [40, 0, 0]]
    assert palette.labels.tolist() == [0, 1, 2, 2]


def test_a_color_made_unused_by_an_added_one_is_replaced_too():
    # The center between two colors is unused once both colors are added, which frees one more entry.
    image = torch.tensor([[[0, 0, 0]] * 9 + [[0, 0, 2]] * 9 + [[80, 0, 0], [80, 0, 30], [81, 0, 0]]], dtype=torch.uint8)
    start = torch.tensor([[0.0, 0.0, 1.0], [80.4, 0.0, 10.0], [80.4, 0.0, 10.0], [80.4, 0.0, 10.0]])
    palette = fit_palette(unique_colors(image), 4, init=lambda points, k, generator: start, refine=0, max_iter=1)
    assert len(palette.colors) == 4
    assert palette.labels.unique().tolist() == [0, 1, 2, 3]


def test_fully_transparent_colors_that_were_not_cleared_are_one_entry():
    colors = torch.tensor([[[9, 9, 9, 0], [7, 7, 7, 0], [5, 5, 5, 0], [5, 5, 5, 255]]], dtype=torch.uint8)
    palette = fit_palette(unique_colors(colors), 3)  # without the warning of `kmeans` that a cluster is empty
    assert palette.colors.tolist() == [[0, 0, 0, 0], [5, 5, 5, 255]]


@pytest.mark.parametrize("space", COLOR_SPACES)
def test_pixels_are_assigned_in_the_space_and_errors_measured_in_srgb(china, space):
    image = china[::2, ::2]
    histogram = unique_colors(image)
    palette = fit_palette(histogram, 20, space=space)
    x, centers = (COLOR_SPACES[space].encode(colors).double() for colors in (histogram.colors, palette.colors))
    nearest = torch.cdist(x, centers, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1).values
    reached = (x - centers[palette.labels.int()]).square().sum(dim=1).sqrt()
    torch.testing.assert_close(reached, nearest)
    pixels = quantize(image, 20, space=space).pixels()
    assert palette.mse == ((pixels.double() - image.double()) ** 2).sum(dim=2).mean().item()


def test_a_palette_has_the_smallest_error_in_its_own_space(china):
    histogram = unique_colors(china[::2, ::2])
    palettes = {name: fit_palette(histogram, 32, space=name) for name in COLOR_SPACES}
    for name, space in COLOR_SPACES.items():
        x = space.encode(histogram.colors).double()

        def loss(palette, space=space, x=x):
            difference = x - space.encode(palette.colors).double()[palette.labels.int()]
            return (difference.square().sum(dim=1) * histogram.counts).sum()

        assert all(loss(palettes[name]) < loss(other) for key, other in palettes.items() if key != name)


def test_a_space_is_given_by_name_or_as_an_object(china, unchecked):
    image = china[:40, :40]
    own = dataclasses.replace(COLOR_SPACES["oklab"], name="own")
    assert torch.equal(quantize(image, 9, space=own).palette, quantize(image, 9, space="oklab").palette)
    with pytest.raises(ValueError, match="space must be one of srgb, linear, oklab or a color space, got 'lab'"):
        quantize(image, 9, space="lab")
    with pytest.raises(TypeError, match="space must be a name or a color space, got NoneType"):
        fit_palette(unique_colors(image), 9, space=None)


@pytest.fixture
def clusterings(monkeypatch):
    """The options and the result of each clustering by `fit_palette`."""
    calls, original = [], palette_module.cluster

    def cluster(x, weights, group, make_options):
        result, warning = original(x, weights, group, make_options)
        calls.append((make_options(), result))
        return result, warning

    monkeypatch.setattr(palette_module, "cluster", cluster)
    return calls


def test_two_refinement_cycles_are_the_default_up_to_64_colors(china, clusterings):
    quantize(china, 64)
    quantize(china, 65)
    quantize(china, 64, refine=0)
    # Each time over means of similar colors, then over all colors.
    assert [options.refine for options, _ in clusterings] == [2, 0, 1, 0, 0, 0]


def test_polishing_runs_over_all_colors(china, clusterings):
    quantize(china, 16, refine=1, polish=3)
    assert [options.refine for options, _ in clusterings] == [1, 3]


def test_the_options_of_best_quality_reduce_the_error(china):
    histogram = unique_colors(china)
    assert fit_palette(histogram, 64, **BEST_QUALITY).mse < fit_palette(histogram, 64).mse


def test_the_callback_is_called_after_each_iteration_over_all_colors_and_changes_no_bit(china, clusterings):
    seen, histogram = [], unique_colors(china)
    palette = fit_palette(histogram, 16, callback=lambda n_iter, inertia, shift: seen.append((n_iter, inertia.item())))
    assert [n_iter for n_iter, _ in seen] == list(range(1, palette.n_iter + 1))
    assert len(clusterings) == 2  # over means of similar colors, without a callback, and over all colors
    assert seen[-1][1] == clusterings[-1][1].inertia.item() == min(inertia for _, inertia in seen)
    assert seen[-1][1] / histogram.counts.sum().item() == pytest.approx(
        palette.mse, rel=0.005
    )  # up to rounding to 8 bits
    plain = fit_palette(histogram, 16)
    assert torch.equal(plain.colors, palette.colors)
    assert (plain.mse, plain.n_iter) == (palette.mse, palette.n_iter)


def test_a_callback_may_end_the_clustering_and_is_not_called_if_there_is_none(china):
    palette = fit_palette(unique_colors(china), 16, callback=lambda n_iter, inertia, shift: n_iter == 2)
    assert (palette.n_iter, palette.converged) == (2, False)
    few = torch.tensor([[[3], [9]]], dtype=torch.uint8)
    assert fit_palette(unique_colors(few), 2, callback=lambda *arguments: pytest.fail("nothing to cluster")).n_iter == 0


def test_an_image_of_no_more_colors_than_requested_needs_no_clustering():
    palette = fit_palette(unique_colors(torch.tensor([[[3], [9]]], dtype=torch.uint8)), 2)
    assert (palette.n_iter, palette.converged, palette.mse) == (0, True, 0)


def test_the_error_is_that_of_the_pixels(china):
    histogram = unique_colors(china)
    palette = fit_palette(histogram, 20)
    pixels = quantize(china, 20).pixels()
    assert palette.mse == ((pixels.double() - china.double()) ** 2).sum(dim=2).mean().item()


def test_the_error_with_alpha_is_of_premultiplied_colors_and_alpha(china):
    image = clear_transparent_pixels(torch.cat([china, china.flip(0)[..., :1]], dim=2)[::4, ::4])
    result = quantize(image, 20)

    def premultiplied(pixels):
        alpha = pixels[..., 3:].double()
        return torch.cat([pixels[..., :3] * alpha / 255, alpha], dim=2)

    expected = ((premultiplied(result.pixels()) - premultiplied(image)) ** 2).sum(dim=2).mean().item()
    assert fit_palette(unique_colors(image), 20).mse == pytest.approx(expected, rel=1e-12)


def test_the_error_of_grey_counts_three_channels():
    image = torch.tensor([[[0], [2]]], dtype=torch.uint8)
    palette = fit_palette(unique_colors(image), 1)
    assert palette.colors.tolist() == [[1]]
    assert palette.mse == 3


def test_a_palette_of_two_images_is_fitted_to_the_sum_of_their_histograms(china, flower):
    added = unique_colors(china) + unique_colors(flower)
    whole = unique_colors(torch.cat([china, flower]))
    assert torch.equal(fit_palette(added, 8).colors, fit_palette(whole, 8).colors)


def test_a_palette_has_the_name_of_the_engine_used(china):
    histogram = unique_colors(china[:20, :20])
    assert fit_palette(histogram, 4).engine == choose("auto", COLOR_SPACES["srgb"].encode(histogram.colors)).name
    assert fit_palette(histogram, 4, engine="plain").engine == "plain"
    assert fit_palette(unique_colors(china[:2, :2]), 4).engine is None


GREYS = torch.tensor([[255, 255, 255], [0, 0, 0], [255, 0, 255]], dtype=torch.uint8)


def test_fixed_colors_in_addition_to_the_others_hardly_raise_the_error(china):
    histogram = unique_colors(china)
    free = fit_palette(histogram, 20).mse
    assert fit_palette(histogram, 23, fixed=GREYS).mse < free * 1.02
    assert fit_palette(histogram, 3, fixed=GREYS).mse > free


@pytest.mark.parametrize("n_colors", [4, 5, 256])
def test_colors_that_are_fixed_take_no_other_entry(n_colors):
    image = torch.tensor([[[0, 0, 0], [9, 9, 9], [5, 0, 0], [255, 255, 255]]], dtype=torch.uint8)
    result = quantize(image, n_colors, fixed=GREYS[:2])
    assert result.palette.tolist() == [[255, 255, 255], [0, 0, 0], [5, 0, 0], [9, 9, 9]]
    assert torch.equal(result.pixels(), image)
    palette = fit_palette(unique_colors(image), n_colors, fixed=GREYS[:2])
    assert (palette.engine, palette.mse, palette.n_iter) == (None, 0, 0)


def test_clustering_all_colors_starts_from_the_free_centers_of_the_means(china, clusterings):
    fit_palette(unique_colors(china), 8, fixed=GREYS)
    (_, of_means), (options, _) = clusterings
    assert torch.equal(options.init, of_means.centers[3:])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_error_of_indices_is_that_of_the_palette(channels):
    image = clear_transparent_pixels(random_image(20, 30, channels, 200, channels))
    histogram = unique_colors(image)
    palette = fit_palette(histogram, 7)
    indices = histogram.map_values(palette.labels, image)
    assert mean_squared_error(image, IndexedImage(palette.colors, indices)) == palette.mse
    assert mean_squared_error(image[None], IndexedImage(palette.colors, indices[None])) == palette.mse


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("space", list(COLOR_SPACES))
def test_fully_transparent_pixels_stay_so_and_are_one_entry(channels, space):
    image = random_image(40, 40, channels, 900, channels)
    image[..., -1] = image[..., -1] // 16  # nearly transparent, so that a mean with transparent pixels would be near
    image[:20, :, -1] = 0
    histogram = unique_colors(clear_transparent_pixels(image))
    for n_colors in (2, 3, 17):
        palette = fit_palette(histogram, n_colors, space=space)
        assert palette.colors[0].tolist() == [0] * channels
        assert (palette.colors[:, -1] == 0).sum() == 1
        assert len(palette.colors) == n_colors
        assert palette.labels[0] == 0
    fixed = torch.tensor([[9] * channels, [7] * (channels - 1) + [0]], dtype=torch.uint8)
    assert (fit_palette(histogram, 5, fixed=fixed).colors[:, -1] == 0).sum() == 1


def test_translucent_edge_pixels_do_not_make_opaque_pixels_translucent():
    # A disc of slightly different colors on a transparent background, with a translucent edge of a few pixels.
    y, x = torch.meshgrid(torch.arange(80) - 40, torch.arange(80) - 40, indexing="ij")
    alpha = ((32 - (x * x + y * y).float().sqrt()) * 80).clamp(0, 255)
    image = torch.stack([128 + x, 128 + y, 128 - x, alpha], dim=2).to(torch.uint8)
    image[alpha.to(torch.uint8) == 0] = 0
    for n_colors in (4, 8, 32):
        palette = fit_palette(unique_colors(image), n_colors)
        shown = palette.colors[unique_colors(image).map_values(palette.labels, image).long()]
        assert (shown[image[..., 3] == 255][:, 3] == 255).all()
        assert len(palette.colors) == n_colors


def test_a_palette_of_a_process_group_is_an_error():
    with pytest.raises(ValueError, match="group must be None for a palette, got a group: add the histograms"):
        fit_palette(unique_colors(random_image(9, 9, 3, 255, 0)), 4, group="ranks")


def test_the_callback_runs_without_gradients():
    enabled = []
    histogram = unique_colors(random_image(20, 20, 3, 255, 0))
    fit_palette(histogram, 4, callback=lambda *_: enabled.append(torch.is_grad_enabled()))
    assert enabled
    assert not any(enabled)


def test_the_number_of_colors_and_the_strength_may_be_numbers_of_numpy():
    image = random_image(20, 20, 3, 255, 0)
    found = quantize(image, np.int64(4), dither="floyd-steinberg", strength=np.float32(0.5))
    expected = quantize(image, 4, dither="floyd-steinberg", strength=0.5)
    assert torch.equal(found.palette, expected.palette)
    assert torch.equal(found.indices, expected.indices)


def with_alpha(image, kind):
    """The photo with an alpha channel in which opaque pixels are many, few, or nearly all others."""
    height, width = image.shape[:2]
    x = torch.arange(width).expand(height, width)
    rare = torch.arange(height * width).view(height, width) % 10 == 0
    alpha = {
        "ramp": (x * 400 // width).clamp(max=255),
        "rare": torch.where(rare, 255, 200),
        "faint": torch.where(rare, 255, x % 12),
        "nearly": torch.where(rare, 255, 243 + x % 12),
    }[kind]
    return clear_transparent_pixels(torch.cat([image, alpha[..., None].to(torch.uint8)], dim=2))


@pytest.mark.parametrize("space", list(COLOR_SPACES))
@pytest.mark.parametrize("kind", ["ramp", "rare", "faint", "nearly"])
def test_opaque_pixels_stay_opaque(china, kind, space):
    image = with_alpha(china[::8, ::8], kind)
    for channels, pixels in ((4, image), (2, image[..., 2:])):
        histogram = unique_colors(pixels)
        for n_colors in (2, 5, 20, 64):
            palette = fit_palette(histogram, n_colors, space=space)
            indexed = IndexedImage(palette.colors, histogram.map_values(palette.labels, pixels))
            assert (indexed.pixels()[pixels[..., -1] == 255][:, -1] == 255).all()
            assert mean_squared_error(pixels, indexed) == palette.mse
            assert palette.colors.shape == (n_colors, channels)


def test_nearly_opaque_pixels_become_opaque_where_that_costs_least(china):
    image = china[::2, ::2]
    opaque = fit_palette(unique_colors(image), 20).mse
    assert fit_palette(unique_colors(with_alpha(image, "nearly")), 20).mse < opaque + 2 * 12**2


@pytest.mark.parametrize("kind", ["ramp", "rare"])
def test_keeping_pixels_opaque_costs_little(china, kind):
    image = with_alpha(china[::2, ::2], kind)
    histogram = unique_colors(image)
    palette = fit_palette(histogram, 20)
    x = COLOR_SPACES["srgb"].encode(histogram.colors)
    free = kmeans(x, 20, weights=histogram.counts, init="random", refine=2)
    assert palette.mse < 1.5 * free.inertia.item() / 255**2 / histogram.counts.sum().item()


def test_one_of_two_colors_is_opaque_if_any_pixel_is():
    image = torch.full((9, 9, 4), 128, dtype=torch.uint8)
    image[0] = torch.tensor([[9, 9, 9, 90]])
    image[4, 4, 3] = 255
    assert (fit_palette(unique_colors(image), 2).colors[:, 3] == 255).sum() == 1
    assert fit_palette(unique_colors(image), 1).colors[0, 3] < 255
    image[8] = 0
    palette = fit_palette(unique_colors(image), 2)
    assert palette.colors[:, 3].tolist() == [0, 255]
    fixed = torch.tensor([[10, 20, 30, 40]], dtype=torch.uint8)
    assert fit_palette(unique_colors(image), 3, fixed=fixed).colors[:, 3].tolist() == [40, 0, 255]
    assert fit_palette(unique_colors(image), 1, fixed=fixed).colors.tolist() == fixed.tolist()


class TestPalettes:
    SEARCH = {"max_iter": 20, "tol": 1e-4}  # noqa: RUF012

    def images(self, channels):
        """Images with few and with many colors, one of them with fewer colors than the palette."""
        smooth = torch.linspace(0, 255, 40)[:, None, None] + torch.linspace(0, 60, 50)[None, :, None]
        waves = (smooth * torch.tensor([1.0, 0.7, 1.3, 1.0])[:channels]) % 256
        images = [
            random_image(9, 9, channels, 256, 1),
            waves.to(torch.uint8),
            random_image(4, 4, channels, 2, 2),
            random_image(20, 5, channels, 90, 3),
            waves.flip(1)[:30].to(torch.uint8),
        ]
        if channels == 4:
            images[0][..., 3] = 255
            images[3][:2, :, 3] = 0
        return [clear_transparent_pixels(image) for image in images]

    @pytest.mark.parametrize("batch", [2, 64])
    @pytest.mark.parametrize(
        ("channels", "options"),
        [(3, {}), (3, {"n_init": 2, "polish": 1, "refine": 1}), (4, {}), (1, {"space": "linear"}), (4, {"fixed": 2})],
    )
    def test_each_histogram_has_the_palette_that_it_has_alone(self, monkeypatch, batch, channels, options):
        monkeypatch.setattr(palette_module, "_BATCH", batch)
        histograms = [unique_colors(image) for image in self.images(channels)]
        options = {**self.SEARCH, **options, "space": COLOR_SPACES[options.get("space", "srgb")]}
        if "fixed" in options:
            options["fixed"] = random_image(1, options["fixed"], channels, 256, 5)[0]
        found = fit_palettes(histograms, 8, **options)
        for palette, histogram in zip(found, histograms, strict=True):
            expected = fit_palette(histogram, 8, **options)
            for name, value in vars(expected).items():
                same = torch.equal(getattr(palette, name), value) if torch.is_tensor(value) else None
                assert same or getattr(palette, name) == value, name
