"""The rate of a GIF: exact logarithms, and bits near those of LZW."""

import math

import pytest
import torch
from helpers.problems import random_image, seeded
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.images.gif_rate import GifRate, fitted_gif_rate
from gpukmeans.images.png_rate import BIT


def pairs_of(indices):
    """Each index after the one to its left, 0 in the first column."""
    return [pair for row in indices.tolist() for pair in zip([0, *row[:-1]], row, strict=True)]


@given(size=st.sampled_from([(1, 1), (1, 7), (7, 1), (9, 14)]), levels=st.sampled_from([1, 3, 256]), seed=st.integers())
def test_the_total_is_that_of_all_pairs(size, levels, seed):
    indices = random_image(*size, 1, levels, seed % 2**31)[..., 0]
    rate = GifRate(torch.randint(0, 900, (256, 256), generator=seeded(1), dtype=torch.int32))
    assert rate.total_bits(indices) == sum(int(rate.lengths[pair]) for pair in pairs_of(indices))


def test_large_images_are_counted_in_blocks(monkeypatch):
    indices = random_image(37, 20, 1, 9, 0)[..., 0]
    expected = fitted_gif_rate(indices)
    monkeypatch.setattr("gpukmeans.images.gif_rate._BLOCK", 100)
    assert torch.equal(fitted_gif_rate(indices).lengths, expected.lengths)


def test_lengths_are_those_of_frequencies_after_each_index():
    indices = random_image(200, 150, 1, 5, 3)[..., 0]
    indices[:, 1::2] = indices[:, ::2]  # every second index is the one to its left
    lengths, pairs = fitted_gif_rate(indices).lengths, pairs_of(indices)
    for before in range(5):
        after = [index for left, index in pairs if left == before]
        for index in range(5):
            occurrences = after.count(index) + 2048 * int((indices == index).sum()) / indices.numel()
            bits = math.log2((len(after) + 2048) / occurrences)
            assert lengths[before, index] / BIT == pytest.approx(bits, abs=1.01 / BIT)
    assert lengths[0, 0] < lengths[0, 1]


def test_lengths_are_of_0_to_12_bits_and_indices_that_do_not_occur_have_the_longest():
    lengths = fitted_gif_rate(torch.zeros(300, 300, dtype=torch.uint8)).lengths
    assert lengths.dtype == torch.int32
    assert lengths[:, 0].tolist() == [0] * 256
    assert (lengths[:, 1:] == 12 * BIT).all()
