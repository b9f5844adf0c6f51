import pytest
import torch

from gpukmeans import apply_palette, fit_palette, map_to_palette, mean_squared_error, quantize, unique_colors
from gpukmeans.images.gif_rate import fitted_gif_rate
from gpukmeans.images.palette_order import palette_orders
from gpukmeans.images.png_rate import fitted_rate


@pytest.fixture(scope="module")
def photo(china):
    return china[:120, :160]


def bits(indexed):
    order = palette_orders(indexed.indices, len(indexed.palette))[0]
    rows = order.argsort().to(torch.uint8)[indexed.indices.int()]
    return fitted_rate(rows).total_bits(rows)


def blurred_error(photo, indexed):
    errors = (photo.int() - indexed.pixels().int()).double().permute(2, 0, 1)[:, None]
    kernel = torch.tensor([1.0, 2, 1], dtype=torch.float64) / 4
    return torch.nn.functional.conv2d(errors, kernel.outer(kernel)[None, None]).square().mean().item()


@pytest.mark.parametrize("n_colors", [16, 100])
def test_a_higher_price_of_bits_makes_fewer_bits_and_a_larger_error(photo, n_colors):
    results = [quantize(photo, n_colors, lossy=lossy) for lossy in (0, 10, 40)]
    sizes, errors = [bits(result) for result in results], [mean_squared_error(photo, result) for result in results]
    assert sizes[0] > sizes[1] > sizes[2]
    assert errors[0] < errors[1] < errors[2]
    assert sizes[1] < 0.95 * sizes[0]
    assert errors[1] < 1.1 * errors[0]


def test_optimized_dithering_has_a_smaller_blurred_error_than_the_nearest_colors_and_floyd_steinberg(photo):
    by_name = {name: quantize(photo, 16, dither=name) for name in ("none", "floyd-steinberg", "optimized")}
    errors = {name: blurred_error(photo, result) for name, result in by_name.items()}
    assert errors["optimized"] < 0.6 * errors["none"]
    assert errors["optimized"] < errors["floyd-steinberg"]


def test_an_image_without_error_stays_as_it_is(photo):
    few = quantize(photo, 30).pixels()
    for dither in ("none", "optimized"):
        assert torch.equal(quantize(few, 30, dither=dither, lossy=50.0).pixels(), few)


def test_fixed_colors_and_given_palettes_stay_and_others_move(photo):
    fixed = torch.tensor([[1, 2, 3], [250, 250, 250]], dtype=torch.uint8)
    before, after = (quantize(photo, 12, fixed=fixed, lossy=lossy).palette for lossy in (0.0, 30.0))
    assert torch.equal(after[:2], fixed)
    assert not torch.equal(after, before)
    given = apply_palette(photo, before, dither="optimized", lossy=30.0)
    assert torch.equal(given.palette, before)
    assert not torch.equal(given.indices, apply_palette(photo, before).indices)


def test_a_palette_of_another_color_space_stays(photo):
    before, after = (quantize(photo, 12, space="oklab", lossy=lossy) for lossy in (0.0, 30.0))
    assert torch.equal(after.palette, before.palette)
    assert not torch.equal(after.indices, before.indices)


def test_images_of_a_batch_have_the_palettes_that_they_have_alone(photo):
    images = torch.stack([photo, photo.flip(0)])
    histogram = unique_colors(images.flatten(0, 1))
    palette = fit_palette(histogram, 9)
    batch = map_to_palette(images, histogram, palette, lossy=20.0)
    for image, one_palette, indices in zip(images, *batch, strict=True):
        alone = map_to_palette(image, histogram, palette, lossy=20.0)
        assert torch.equal(one_palette, alone.palette)
        assert torch.equal(indices, alone.indices)


def test_the_price_of_a_given_palette_is_that_of_k_means(photo):
    bad = torch.tensor([[0, 0, 0], [255, 255, 255]], dtype=torch.uint8)
    good = quantize(photo, 2).palette
    # In units of its own large error a bit would cost much more, and all pixels would become equal.
    assert bits(apply_palette(photo, bad, lossy=5.0)) > 0.5 * bits(apply_palette(photo, good, lossy=5.0))


@pytest.mark.parametrize("of_given_palette", [True, False])
def test_the_bits_of_a_gif_are_fewer_at_the_price_of_those(photo, of_given_palette):
    palette = quantize(photo, 30).palette
    sizes, errors = [], []
    for rate in ("png", "gif"):
        options = {"dither": "optimized", "lossy": 25.0, "rate": rate}
        result = apply_palette(photo, palette, **options) if of_given_palette else quantize(photo, 30, **options)
        sizes.append(fitted_gif_rate(result.indices).total_bits(result.indices))
        errors.append(blurred_error(photo, result))
    assert sizes[1] < 0.97 * sizes[0]
    assert errors[1] < 1.02 * errors[0]


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_pixels_stay_transparent_and_opaque_ones_opaque(photo, channels):
    alpha = (torch.arange(160) * 2 - 30).clamp(0, 255).to(torch.uint8).expand(120, 160)
    image = torch.cat([photo[..., : channels - 1], alpha[..., None]], dim=2)
    result = quantize(image, 10, dither="optimized", lossy=30.0).pixels()
    assert (result[..., -1] == 0)[alpha == 0].all()
    assert (result[..., -1] == 255)[alpha == 255].all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 4)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_smallest_images_are_mapped(shape, channels):
    image = torch.randint(0, 256, (*shape, channels), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    for dither in ("none", "optimized"):
        result = quantize(image, 2, dither=dither, lossy=30.0)
        assert result.indices.shape == shape
        assert result.indices.max() < len(result.palette)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lossy": -1}, ValueError, "lossy must be from 0 to 100000, got -1"),
        ({"lossy": float("nan")}, ValueError, "lossy must be from 0 to 100000, got nan"),
        ({"lossy": "15"}, TypeError, "lossy must be a number, got str"),
        ({"lossy": True}, TypeError, "lossy must be a number, got bool"),
        ({"lossy": 1.0, "dither": "bayer"}, ValueError, "lossy must be 0 unless dither is none or optimized, .* bayer"),
        ({"rate": "jpeg"}, ValueError, "rate must be one of png, gif, got 'jpeg'"),
        ({"rounds": 0}, ValueError, "rounds must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(photo, unchecked, options, error, message):
    with pytest.raises(error, match=message):
        quantize(photo, 4, **options)
    with pytest.raises(error, match=message):
        apply_palette(photo, photo[0, :4], **options)
