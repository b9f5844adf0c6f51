import pytest
import torch
from helpers.cuda_devices import moved
from helpers.problems import random_image, seeded

from gpukmeans import IndexedImage, mean_squared_error
from gpukmeans.images.contrast import block_differences, contrast_weights
from gpukmeans.images.gif_rate import fitted_gif_rate
from gpukmeans.images.png_rate import fitted_rate, packed, png_scanlines
from gpukmeans.images.rate_distortion import Objective, block_energies, optimized

pytest.importorskip("triton")


def indexed_image(height, width, channels, n_colors):
    """An image, with opaque, translucent and transparent pixels if it has alpha, and a palette and indices for it."""
    image, palette = random_image(height, width, channels, 256, 0), random_image(1, n_colors, channels, 256, 1)[0]
    if channels % 2 == 0:
        image[: height // 2, :, -1] = 255
        image[height // 2, : width // 2] = 0
        palette[::2, -1] = 255
    indices = 2 * torch.randint((n_colors + 1) // 2, (height, width), generator=seeded())  # opaque colors
    return image, palette, indices.to(torch.uint8)


def assert_optimized_as_on_the_cpu(device, size, channels, n_colors, *, share, price, n_rounds=1, rate_name="png"):
    tensors = indexed_image(*size, channels, n_colors)
    weights = contrast_weights(tensors[0]) if share else None
    options = {"n_rounds": n_rounds, "rate_name": rate_name}
    objective = Objective(share=share, price=price)
    expected = optimized(*tensors, objective, bit_weights=weights, **options)
    found = optimized(*moved(tensors, device), objective, bit_weights=moved(weights, device), **options)
    assert not torch.equal(expected.indices, tensors[2])
    assert torch.equal(found.indices.cpu(), expected.indices)
    assert torch.equal(found.palette.cpu(), expected.palette)


@pytest.mark.parametrize(("channels", "price"), [(1, 5000), (4, 9_000_000)])
def test_images_with_and_without_alpha_are_optimized_as_on_the_cpu(cuda, channels, price):
    assert_optimized_as_on_the_cpu(cuda, (4, 9), channels, 17, share=208, price=price)


@pytest.mark.parametrize(("share", "price", "rate_name"), [(208, 0, "png"), (208, 5000, "gif"), (0, 5000, "gif")])
def test_every_objective_is_optimized_as_on_the_cpu(cuda, share, price, rate_name):
    size = 6, 10
    assert_optimized_as_on_the_cpu(cuda, size, 3, 18, share=share, price=price, rate_name=rate_name, n_rounds=2)


@pytest.mark.parametrize(("n_colors", "channels"), [(2, 1), (16, 4)])
def test_bytes_of_several_pixels_are_optimized_as_on_the_cpu(cuda, n_colors, channels):
    assert_optimized_as_on_the_cpu(cuda, (4, 11), channels, n_colors, share=100, price=500)


@pytest.mark.parametrize("size", [(1, 13), (10, 1)])
def test_images_of_few_rows_or_columns_are_optimized_as_on_the_cpu(cuda, size):
    assert_optimized_as_on_the_cpu(cuda, size, 3, 17, share=208, price=2000)


def test_a_palette_of_256_colors_is_optimized_as_on_the_cpu(cuda):
    assert_optimized_as_on_the_cpu(cuda, (4, 6), 3, 256, share=0, price=500, rate_name="gif")


@pytest.mark.parametrize("per_byte", [1, 2, 8])
@pytest.mark.parametrize("size", [(1, 1), (9, 7), (6, 133)])
def test_rates_of_a_png_have_the_bits_of_the_cpu(cuda, per_byte, size):
    indices = torch.randint(1 << min(4, 8 // per_byte), size, generator=seeded()).to(torch.uint8)
    expected, found = fitted_rate(indices, per_byte), fitted_rate(indices.to(cuda), per_byte)
    assert torch.equal(packed(indices.to(cuda), per_byte).cpu(), packed(indices, per_byte))
    assert torch.equal(found.filters.cpu(), expected.filters)
    assert torch.equal(found.lengths.cpu(), expected.lengths)
    assert found.total_bits(indices.to(cuda)) == expected.total_bits(indices)


def test_every_filter_type_is_chosen_as_on_the_cpu(cuda):
    noise = torch.randint(256, (2, 40), generator=seeded())
    ramps = torch.arange(40) * torch.tensor([[3], [11]]) + torch.randint(2, (2, 40), generator=seeded(1))
    rows = torch.cat([noise, noise[:1] + 1, ramps, ramps + noise, noise // 2, ramps // 2]).to(torch.uint8)
    lines = png_scanlines(rows.to(cuda)).cpu()
    assert torch.equal(lines, png_scanlines(rows))
    assert len(lines[:, 0].unique()) > 2


@pytest.mark.parametrize("size", [(1, 1), (7, 90)])
def test_rates_of_a_gif_have_the_bits_of_the_cpu(cuda, size):
    indices = torch.randint(5, size, generator=seeded()).to(torch.uint8) * 51
    expected, found = fitted_gif_rate(indices), fitted_gif_rate(indices.to(cuda))
    assert torch.equal(found.lengths.cpu(), expected.lengths)
    assert found.total_bits(indices.to(cuda)) == expected.total_bits(indices)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (9, 26)])
def test_contrast_and_errors_have_the_bits_of_the_cpu(cuda, channels, size):
    image, palette, indices = indexed_image(*size, channels, 6)
    tensors = moved((image, palette, indices), cuda)
    assert torch.equal(block_differences(tensors[0]).cpu(), block_differences(image))
    assert torch.equal(contrast_weights(tensors[0]).cpu(), contrast_weights(image))
    expected, found = IndexedImage(palette, indices), IndexedImage(*tensors[1:])
    assert mean_squared_error(tensors[0], found) == mean_squared_error(image, expected)
    for share in (0, 208):
        objective = Objective(share=share, price=0)
        energies = block_energies(tensors[0], found, objective)
        assert torch.equal(energies.cpu(), block_energies(image, expected, objective))


def test_an_image_without_contrast_has_neutral_weights(cuda):
    image = torch.full((9, 9, 3), 7, dtype=torch.uint8)
    assert torch.equal(contrast_weights(image.to(cuda)).cpu(), contrast_weights(image))
