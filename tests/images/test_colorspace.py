import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.images.colorspace import COLOR_SPACES, check_space, clear_transparent_pixels

SRGB, LINEAR, OKLAB = COLOR_SPACES.values()


def colors(*rows):
    return torch.tensor(rows, dtype=torch.uint8)


def grid_of(red, green, blue):
    return torch.cartesian_prod(red, green, blue).to(torch.uint8)


def linear_light(colors):
    signal = colors.double() / 255
    return torch.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def test_the_spaces_are_found_by_name():
    assert {name: space.name for name, space in COLOR_SPACES.items()} == {n: n for n in ("srgb", "linear", "oklab")}


def test_points_in_srgb_are_the_rgb_levels():
    assert SRGB.encode(colors([1, 2, 255])).tolist() == [[1, 2, 255]]


def test_grey_is_encoded_as_three_equal_channels():
    assert SRGB.encode(colors([7], [255])).tolist() == [[7, 7, 7], [255, 255, 255]]
    for space in COLOR_SPACES.values():
        assert torch.equal(space.encode(colors([7])), space.encode(colors([7, 7, 7])))
        assert torch.equal(space.encode(colors([7, 9])), space.encode(colors([7, 7, 7, 9])))


def test_colors_with_alpha_are_premultiplied():
    assert SRGB.encode(colors([255, 10, 0, 51])).tolist() == [[13005, 510, 0, 13005]]
    assert SRGB.encode(colors([10, 51])).tolist() == [[510, 510, 510, 13005]]
    for space in COLOR_SPACES.values():
        opaque, faint = space.encode(colors([200, 90, 3, 255], [200, 90, 3, 51]))
        assert torch.equal(opaque, faint * 5)
        assert torch.equal(opaque[:3], space.encode(colors([200, 90, 3]))[0] * 255)


def test_linear_light_is_that_of_the_srgb_standard():
    levels = torch.arange(256).to(torch.uint8)
    expected = (linear_light(levels) * 65536).round()
    assert torch.equal(LINEAR.encode(levels[:, None])[:, 0].double(), expected)
    # Half the light of white is level 188 in sRGB.
    assert LINEAR.decode(torch.full((1, 3), 32768.0), 3).tolist() == [[188, 188, 188]]


def test_oklab_matches_the_published_values():
    # L, a and b of white, red, green and blue as published with the space, to three digits.
    points = OKLAB.encode(colors([255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255])) / 65536
    expected = [[1, 0, 0], [0.628, 0.225, 0.126], [0.866, -0.234, 0.179], [0.452, -0.032, -0.312]]
    assert (points - torch.tensor(expected)).abs().max() < 6e-4


@pytest.mark.parametrize("space", COLOR_SPACES.values(), ids=COLOR_SPACES)
def test_points_are_integers_below_2_to_the_24(space):
    image = torch.cartesian_prod(*[torch.arange(0, 256, 51)] * 4).to(torch.uint8)
    points = space.encode(image)
    assert points.dtype == torch.float32
    assert torch.equal(points, points.round())
    assert points.abs().max() == 255 * space.scale < 2**24


@pytest.mark.parametrize("space", COLOR_SPACES.values(), ids=COLOR_SPACES)
def test_the_point_of_a_color_does_not_depend_on_its_position(space):
    # Full SIMD vectors and the remaining elements may be computed by different instructions.
    image = torch.randint(256, (1003, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(space.encode(image)[-1:], space.encode(image[-1:]))
    assert torch.equal(space.encode(image.flip(0)), space.encode(image).flip(0))


def test_colors_converted_to_oklab_in_several_blocks_keep_their_order():
    image = torch.randint(256, (300_000, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    points = OKLAB.encode(image)
    assert torch.equal(points[270_000:270_010], OKLAB.encode(image[270_000:270_010]))
    assert len(points) == len(image)


@pytest.mark.parametrize("space", COLOR_SPACES.values(), ids=COLOR_SPACES)
def test_decode_inverts_encode_for_opaque_colors(space):
    # Greys, dark colors and the faces of the color cube, where differences are smallest, and a grid over all colors.
    levels, dark, ends = torch.arange(256), torch.arange(24), torch.tensor([0, 255])
    parts = [torch.arange(256).expand(3, -1).T.to(torch.uint8), grid_of(dark, dark, dark)]
    parts += [grid_of(levels[::7], levels[::7], levels[::7])]
    parts += [
        grid_of(ends, levels[::2], levels),
        grid_of(levels[::2], ends, levels),
        grid_of(levels[::2], levels, ends),
    ]
    image = torch.cat(parts)
    assert torch.equal(space.decode(space.encode(image), 3), image)


@pytest.mark.parametrize("space", COLOR_SPACES.values(), ids=COLOR_SPACES)
def test_decode_inverts_encode_for_every_grey_and_alpha(space):
    image = torch.cartesian_prod(torch.arange(256), torch.arange(256)).to(torch.uint8)
    expected = clear_transparent_pixels(image[None])[0]
    assert torch.equal(space.decode(space.encode(image), 2), expected)


@given(st.sampled_from(list(COLOR_SPACES)), st.integers(1, 4), st.integers(0, 2**31))
def test_decode_inverts_encode_for_random_colors(name, channels, seed):
    space = COLOR_SPACES[name]
    image = torch.randint(256, (50, channels), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    expected = clear_transparent_pixels(image[None])[0]
    assert torch.equal(space.decode(space.encode(image), channels), expected)


@pytest.mark.parametrize("space", COLOR_SPACES.values(), ids=COLOR_SPACES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_decode_rounds_to_the_nearest_color(space, channels):
    # Two thirds of the way between neighbors the second one is nearer.
    first, second = torch.full((1, channels), 100).to(torch.uint8), torch.full((1, channels), 101).to(torch.uint8)
    if channels in (2, 4):
        first[:, -1] = second[:, -1] = 200
    between = (space.encode(first) + 2 * space.encode(second)) / 3
    assert torch.equal(space.decode(between, channels), second)
    between = (2 * space.encode(first) + space.encode(second)) / 3
    assert torch.equal(space.decode(between, channels), first)


def test_decode_rounds_and_does_not_truncate():
    assert SRGB.decode(torch.tensor([[0.5, 1.5, 254.6]]), 3).tolist() == [[0, 2, 255]]
    assert SRGB.decode(torch.tensor([[9.7, 9.7, 9.7]]), 1).tolist() == [[10]]


def test_decode_from_oklab_rounds_the_8_bit_value():
    # L of a grey between levels 100 and 101 is the cube root of its linear light.
    signal = (torch.tensor([[100.45], [100.55]], dtype=torch.float64) / 255 + 0.055) / 1.055
    lightness = OKLAB.scale * signal ** (2.4 / 3)
    points = torch.cat([lightness, torch.zeros(2, 2)], dim=1).float()
    assert OKLAB.decode(points, 1).tolist() == [[100], [101]]


def test_a_tie_in_linear_light_rounds_down():
    points = LINEAR.encode(torch.arange(256, dtype=torch.uint8)[:, None])
    assert torch.equal(LINEAR.decode((points[:-1] + points[1:]) / 2, 1)[:, 0], torch.arange(255, dtype=torch.uint8))


def test_decode_stays_within_8_bits():
    # Alpha 0.6 rounds to 1, and premultiplied 300 would then be a color of 300.
    assert SRGB.decode(torch.tensor([[300.0, -1.0, 20.0, 0.6 * 255]]), 4).tolist() == [[255, 0, 20, 1]]
    assert SRGB.decode(torch.tensor([[-0.7, 255.7, 0.0]]), 3).tolist() == [[0, 255, 0]]
    assert LINEAR.decode(torch.tensor([[-9.0, 70000.0, 0.0]]), 3).tolist() == [[0, 255, 0]]
    # Brighter than white, and a red outside the sRGB gamut.
    assert OKLAB.decode(torch.tensor([[70000.0, 0.0, 0.0], [41154.0, 30000.0, 8247.0]]), 3).tolist() == [
        [255, 255, 255],
        [255, 0, 0],
    ]


@pytest.mark.parametrize("space", COLOR_SPACES.values(), ids=COLOR_SPACES)
def test_all_fully_transparent_colors_are_one_point(space):
    assert len(space.encode(colors([9, 8, 7, 0], [1, 2, 3, 0], [0, 0, 0, 0])).unique(dim=0)) == 1


@pytest.mark.parametrize("space", COLOR_SPACES.values(), ids=COLOR_SPACES)
def test_a_color_whose_alpha_rounds_to_zero_is_all_zero(space):
    faint = torch.tensor([[50.0, 50.0, 50.0, 0.4 * space.scale]])
    assert space.decode(faint, 4).tolist() == [[0, 0, 0, 0]]
    assert space.decode(faint, 2).tolist() == [[0, 0]]


def test_a_space_is_given_by_name_or_as_an_object(unchecked):
    own = dataclasses.replace(LINEAR, name="own")
    assert check_space("oklab") is OKLAB
    assert check_space(own) is own
    with pytest.raises(ValueError, match="space must be one of srgb, linear, oklab or a color space, got 'lab'"):
        check_space("lab")
    with pytest.raises(TypeError, match="space must be a name or a color space, got int"):
        check_space(3)


@pytest.mark.parametrize("pixel", [[5], [5, 6, 7]])
def test_an_image_without_alpha_has_no_transparent_pixels_to_clear(pixel):
    image = colors([pixel])
    assert clear_transparent_pixels(image) is image


def test_only_fully_transparent_pixels_are_cleared():
    image = colors([[5, 6, 7, 0], [5, 6, 7, 1]])
    assert clear_transparent_pixels(image).tolist() == [[[0, 0, 0, 0], [5, 6, 7, 1]]]
    assert image[0, 0].tolist() == [5, 6, 7, 0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_one_level_of_an_opaque_color_is_one_unit_of_its_points_in_srgb(channels):
    lower, higher = torch.full((1, channels), 100), torch.full((1, channels), 101)
    if channels in (2, 4):
        lower[:, -1] = higher[:, -1] = 255
    difference = SRGB.encode(higher.to(torch.uint8)) - SRGB.encode(lower.to(torch.uint8))
    assert difference.abs().max() == SRGB.unit(channels)
