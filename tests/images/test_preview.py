import base64
import io
import re

import numpy as np
import pytest
import torch
from helpers.problems import random_image
from PIL import Image

from gpukmeans import IndexedImage, apply_palette, quantize


def shown_images(indexed):
    """The images in the HTML of a notebook, as RGBA arrays."""
    sources = re.findall(r'<img src="data:image/png;base64,([^"]+)"', indexed._repr_html_())
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert("RGBA")) for source in sources]


def rgba(pixels):
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[-1]]
    return np.asarray(Image.fromarray(pixels.squeeze(-1).numpy(), mode).convert("RGBA"))


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_notebook_shows_the_pixels_of_the_image(channels):
    indexed = quantize(random_image(23, 41, channels, 256, 0), 9)
    (shown,) = shown_images(indexed)
    assert np.array_equal(shown, rgba(indexed.pixels()))


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize(
    ("height", "width", "step"), [(256, 100, 1), (257, 3, 2), (1, 1000, 4), (513, 512, 3), (300, 256, 2)]
)
def test_a_large_image_is_reduced_to_256_pixels_by_leaving_out_rows_and_columns(height, width, step):
    indexed = quantize(random_image(height, width, 3, 256, 0), 5)
    (shown,) = shown_images(indexed)
    assert max(shown.shape[:2]) <= 256
    assert np.array_equal(shown, rgba(indexed.pixels()[::step, ::step]))


def test_a_notebook_shows_the_size_and_a_swatch_for_each_color():
    image = torch.tensor([[[0, 0, 0, 0], [255, 128, 0, 255], [1, 2, 3, 4]]], dtype=torch.uint8)
    shown = quantize(image, 3)._repr_html_()
    assert "3 x 1, 3 colors" in shown
    assert [title in shown for title in ('title="#00000000"', 'title="#01020304"', 'title="#ff8000"')] == [True] * 3
    assert shown.count("<span") == 3
    grey = quantize(torch.tensor([[[7]]], dtype=torch.uint8), 3)._repr_html_()
    assert 'title="#070707"' in grey


def test_a_notebook_shows_the_first_images_of_a_batch_with_their_palettes():
    image = torch.arange(11, dtype=torch.uint8).view(11, 1, 1, 1)
    batch = quantize(image, 2)
    html = batch._repr_html_()
    assert "11 images of 1 x 1, 2 colors each" in html
    assert "and 3 more" in html
    assert html.count("<span") == 8 * 2
    assert [shown[0, 0, 0] for shown in shown_images(batch)] == list(range(8))


def test_a_notebook_shows_the_palette_that_a_batch_shares_once():
    image = torch.arange(11, dtype=torch.uint8).view(11, 1, 1, 1)
    batch = apply_palette(image, image[:3, 0, 0])
    html = batch._repr_html_()
    assert "11 images of 1 x 1, 3 colors<" in html
    assert "and 3 more" in html
    assert html.count("<span") == 3
    assert [shown[0, 0, 0] for shown in shown_images(batch)] == [0, 1, 2, 2, 2, 2, 2, 2]


def test_a_batch_of_one_image_is_shown():
    palette, indices = torch.tensor([[[9]]], dtype=torch.uint8), torch.zeros(1, 2, 3, dtype=torch.uint8)
    for one in (palette, palette[0]):
        (shown,) = shown_images(IndexedImage(one, indices))
        assert (shown == [9, 9, 9, 255]).all()
        assert shown.shape == (2, 3, 4)
