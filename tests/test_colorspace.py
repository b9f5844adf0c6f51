import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.colorspace import decode, encode, hide_invisible


def colors(*rows):
    return torch.tensor(rows, dtype=torch.uint8)


def test_rgb_is_itself():
    assert encode(colors([1, 2, 255])).tolist() == [[1, 2, 255]]


def test_grey_counts_as_three_equal_channels():
    assert encode(colors([7], [255])).tolist() == [[7, 7, 7], [255, 255, 255]]


def test_alpha_premultiplies():
    assert encode(colors([255, 10, 0, 51])).tolist() == [[13005, 510, 0, 13005]]
    assert encode(colors([10, 51])).tolist() == [[510, 510, 510, 13005]]


def test_all_invisible_colors_are_one_point():
    assert len(encode(colors([9, 8, 7, 0], [1, 2, 3, 0], [0, 0, 0, 0])).unique(dim=0)) == 1


@given(st.integers(1, 4), st.integers(0, 2**31))
def test_decode_takes_back_what_encode_gave(channels, seed):
    image = torch.randint(256, (50, channels), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    expected = hide_invisible(image[None])[0]
    assert torch.equal(decode(encode(image), channels), expected)


def test_decode_rounds_and_does_not_truncate():
    assert decode(torch.tensor([[0.5, 1.5, 254.6]]), 3).tolist() == [[0, 2, 255]]
    assert decode(torch.tensor([[9.7, 9.7, 9.7]]), 1).tolist() == [[10]]


def test_decode_stays_within_8_bits():
    # Alpha 0.6 rounds to 1, and premultiplied 300 would then be a color of 300.
    assert decode(torch.tensor([[300.0, -1.0, 20.0, 0.6 * 255]]), 4).tolist() == [[255, 0, 20, 1]]
    assert decode(torch.tensor([[-0.7, 255.7, 0.0]]), 3).tolist() == [[0, 255, 0]]


def test_a_color_whose_alpha_rounds_to_zero_is_all_zero():
    assert decode(torch.tensor([[50.0, 50.0, 50.0, 0.4 * 255]]), 4).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("pixel", [[5], [5, 6, 7]])
def test_without_alpha_nothing_is_invisible(pixel):
    image = colors([pixel])
    assert hide_invisible(image) is image


def test_invisible_pixels_lose_their_color_and_others_keep_it():
    image = colors([[5, 6, 7, 0], [5, 6, 7, 1]])
    assert hide_invisible(image).tolist() == [[[0, 0, 0, 0], [5, 6, 7, 1]]]
    assert image[0, 0].tolist() == [5, 6, 7, 0]
