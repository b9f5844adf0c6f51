import pytest
import torch
from helpers.problems import random_image

from gpukmeans.assignment import assign
from gpukmeans.engines import ENGINES
from gpukmeans.images.colorspace import COLOR_SPACES, SRGB
from gpukmeans.images.nearest import assign_within_opaque, is_opaque, nearest_colors


def colors(*rows):
    return torch.tensor(rows, dtype=torch.uint8)


def test_an_opaque_color_takes_the_nearest_opaque_one_and_others_take_any():
    palette = colors([50, 0, 0, 254], [90, 0, 0, 255], [52, 0, 0, 255])
    labels, sqdist = nearest_colors(colors([50, 0, 0, 255], [50, 0, 0, 253], [89, 0, 0, 253]), palette)
    assert labels.tolist() == [2, 0, 1]
    assert sqdist[0].item() == (2 * 255) ** 2


def test_the_lowest_index_wins_a_tie_among_opaque_colors():
    palette = colors([5, 254], [3, 255], [7, 255], [3, 255])
    assert nearest_colors(colors([5, 255]), palette).labels.tolist() == [1]


def test_without_an_opaque_color_any_is_taken():
    assert nearest_colors(colors([5, 255]), colors([9, 9], [5, 200])).labels.tolist() == [1]


@pytest.mark.parametrize("channels", [1, 3])
def test_without_alpha_the_nearest_color_is_taken(channels):
    image, palette = random_image(9, 9, channels, 256, 0)[0], random_image(1, 9, channels, 256, 1)[0]
    expected = assign(SRGB.encode(image), SRGB.encode(palette))
    assert torch.equal(nearest_colors(image, palette).labels, expected.labels)
    assert is_opaque(image).all()


@pytest.mark.parametrize("space", COLOR_SPACES.values(), ids=list(COLOR_SPACES))
def test_a_random_palette_is_searched_as_by_hand(space):
    pixels, palette = random_image(20, 20, 4, 256, 0).flatten(0, 1), random_image(1, 30, 4, 256, 1)[0]
    pixels[::2, 3] = 255
    palette[::3, 3] = 255
    x, centers = space.encode(pixels), space.encode(palette)
    allowed = ~is_opaque(pixels)[:, None] | is_opaque(palette)
    sqdist = torch.where(allowed, (x[:, None].double() - centers.double()).square().sum(dim=2), torch.inf)
    labels = nearest_colors(pixels, palette, space).labels
    assert torch.equal(sqdist.gather(1, labels[:, None])[:, 0], sqdist.amin(dim=1))


@pytest.mark.parametrize("engine", [name for name in ENGINES if name not in ("triton", "screened")])
def test_every_engine_gives_the_same_labels(engine):
    pixels, palette = random_image(20, 20, 4, 256, 0).flatten(0, 1), random_image(1, 30, 4, 256, 1)[0]
    pixels[::2, 3] = 255
    palette[::3, 3] = 255
    arguments = SRGB.encode(pixels), is_opaque(pixels), SRGB.encode(palette), is_opaque(palette)
    expected = assign_within_opaque(*arguments, engine="plain")
    assert all(
        torch.equal(*pair) for pair in zip(assign_within_opaque(*arguments, engine=engine), expected, strict=True)
    )
