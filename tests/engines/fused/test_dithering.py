import pytest
import torch
from helpers.problems import random_image

from gpukmeans import apply_palette
from gpukmeans.engines.fused import dithering

pytest.importorskip("triton")


@pytest.mark.parametrize(("height", "width"), [(32, 5), (33, 1), (33, 40), (70, 9), (1, 50)])
@pytest.mark.parametrize("channels", [3, 4])
def test_an_image_of_several_strips_has_the_indices_of_the_cpu(cuda, monkeypatch, height, width, channels):
    monkeypatch.setattr(dithering, "_MAX_ROWS", 32)
    # Colors of a narrow range, so that errors are passed on over many pixels.
    image = random_image(height, width, channels, 90, height) + 40
    palette = random_image(1, 7, channels, 256, 1)[0]
    expected = apply_palette(image, palette, dither="floyd-steinberg")
    found = apply_palette(image.to(cuda), palette.to(cuda), dither="floyd-steinberg")
    assert torch.equal(found.indices.cpu(), expected.indices)


@pytest.mark.parametrize("strength", [0.01, 0.5, 1.0])
def test_every_strength_gives_the_indices_of_the_cpu(cuda, strength):
    image, palette = random_image(12, 12, 1, 256, 3), torch.tensor([[0], [90], [255]], dtype=torch.uint8)
    expected = apply_palette(image, palette, dither="floyd-steinberg", strength=strength)
    found = apply_palette(image.to(cuda), palette.to(cuda), dither="floyd-steinberg", strength=strength)
    assert torch.equal(found.indices.cpu(), expected.indices)


def test_the_palette_may_have_256_colors_or_2(cuda):
    for n_colors in (2, 256):
        image, palette = random_image(9, 9, 3, 256, 4), random_image(1, n_colors, 3, 256, 5)[0]
        expected = apply_palette(image, palette, dither="floyd-steinberg")
        found = apply_palette(image.to(cuda), palette.to(cuda), dither="floyd-steinberg")
        assert torch.equal(found.indices.cpu(), expected.indices)


@pytest.mark.parametrize("channels", [1, 4])
def test_each_image_of_a_batch_has_the_indices_that_it_has_alone(cuda, channels):
    # The ranges of the colors differ, and so do the inverse palettes.
    images = torch.stack([random_image(5, 9, channels, 50 * n, n) + 40 for n in (1, 2, 3, 4)])
    palette = random_image(1, 6, channels, 256, 1)[0]
    expected = [apply_palette(image, palette, dither="floyd-steinberg").indices for image in images]
    found = apply_palette(images.to(cuda), palette.to(cuda), dither="floyd-steinberg")
    assert torch.equal(found.indices.cpu(), torch.stack(expected))
