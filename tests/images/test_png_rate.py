"""The rate of PNG rows: filters that a PNG decoder inverts, and code lengths near the entropy."""

import io
import math
import struct
import zlib

import numpy as np
import pytest
import torch
from helpers.problems import random_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gpukmeans.images.png_rate import (
    BIT,
    N_FILTERS,
    PngRate,
    binary_logarithms,
    fitted_rate,
    packed,
    predicted,
    smallest_rate,
    unpacked,
)

SIZES = st.sampled_from([(1, 1), (1, 7), (7, 1), (2, 3), (9, 14)])


def rows_of(height, width, levels, seed):
    return random_image(height, width, 1, levels, seed)[..., 0]


def filtered(rows, filters):
    """The bytes (H, W + 1) of rows with their filter types, pixel by pixel."""
    padded = torch.nn.functional.pad(rows.int(), (1, 0, 1, 0))
    residuals = rows.int() - predicted(filters[:, None], padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1])
    return torch.cat([filters[:, None], residuals & 255], dim=1).to(torch.uint8)


def decoded(filtered_rows, width=None, bit_depth=8):
    """The indices of a PNG file with these filtered rows, as Pillow reads them."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = filtered_rows.shape[0], width or filtered_rows.shape[1] - 1
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, 3, 0, 0, 0))
    body = (
        chunk(b"PLTE", bytes(3 << bit_depth))
        + chunk(b"IDAT", zlib.compress(filtered_rows.numpy().tobytes()))
        + chunk(b"IEND", b"")
    )
    with Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + header + body)) as picture:
        return torch.from_numpy(np.array(picture))


def bits_of(filtered_rows, lengths):
    return int(lengths[filtered_rows.int()].sum())


@given(size=SIZES, levels=st.sampled_from([2, 16, 256]), seed=st.integers(0, 2**31))
def test_a_decoder_inverts_the_filters(size, levels, seed):
    rows = rows_of(*size, levels, seed)
    filters = random_image(1, size[0], 1, N_FILTERS, seed).flatten().int()
    assert torch.equal(decoded(filtered(rows, filters)), rows)


@given(size=SIZES, levels=st.sampled_from([2, 16, 256]), seed=st.integers(0, 2**31))
def test_the_bits_are_the_code_lengths_of_the_filtered_bytes(size, levels, seed):
    rows = rows_of(*size, levels, seed)
    rate = fitted_rate(rows)
    bytes_ = filtered(rows, rate.filters)
    assert torch.equal(decoded(bytes_), rows)
    assert rate.total_bits(rows) == bits_of(bytes_, rate.lengths)


@given(size=SIZES, per_byte=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 2**31))
def test_a_decoder_unpacks_bytes_of_several_pixels(size, per_byte, seed):
    bits = 8 // per_byte
    indices = rows_of(*size, 1 << bits, seed)
    rows = packed(indices, per_byte)
    assert torch.equal(unpacked(rows, per_byte).flatten(1)[:, : size[1]], indices)
    rate = fitted_rate(indices, per_byte)
    bytes_ = filtered(rows, rate.filters)
    assert torch.equal(decoded(bytes_, size[1], bits), indices)
    assert rate.total_bits(indices) == bits_of(bytes_, rate.lengths)


@pytest.mark.parametrize(("k", "most"), [(1, 8), (2, 8), (3, 4), (4, 4), (5, 2), (16, 2), (17, 1), (256, 1)])
def test_pixels_are_packed_where_bytes_take_fewer_bits(china, k, most):
    few = (china[:60, :90, 1].int() * k // 256).to(torch.uint8)
    assert smallest_rate(few, k).per_byte == most


def test_pixels_are_not_packed_where_bytes_take_no_fewer_bits(china):
    assert smallest_rate(china[100:196, 200:328, 1] // 16, 16).per_byte == 1


def test_filters_are_the_cheapest_for_code_lengths(china):
    rows = china[:60, :90, 1] // 4
    rate = fitted_rate(rows)
    by_filter = [filtered(rows, torch.full((60,), number, dtype=torch.int32)) for number in range(N_FILTERS)]
    # In the last turn filters and lengths hardly change any more, so that filters fit the lengths of the turn before.
    costs = torch.stack([rate.lengths[bytes_.int()].sum(dim=1) for bytes_ in by_filter])
    least, chosen = int(costs.amin(dim=0).sum()), rate.total_bits(rows)
    assert least <= chosen <= 1.001 * least
    assert chosen < min(bits_of(bytes_, rate.lengths) for bytes_ in by_filter)


@pytest.mark.parametrize("levels", [1, 2, 40, 256])
def test_bits_are_at_least_the_entropy_of_the_bytes(levels):
    rows = rows_of(40, 60, levels, levels)
    rate = fitted_rate(rows)
    counts = torch.bincount(filtered(rows, rate.filters).flatten().int(), minlength=256).double()
    counts = counts[counts > 0]
    entropy = float((counts * (counts.sum() / counts).log2()).sum())
    # A code length is rounded down from a difference of two logarithms that are rounded down: less by 1/64 bit at most.
    bits, n_bytes = rate.total_bits(rows) / BIT, 40 * 61
    assert entropy - n_bytes / BIT <= bits
    assert bits >= n_bytes  # deflate has no shorter code
    assert bits <= max(entropy, n_bytes) * 1.2 + 100


def test_code_lengths_fall_with_the_count_of_bytes():
    rows = torch.arange(200, dtype=torch.uint8).repeat(30, 1)
    rate = fitted_rate(rows)
    assert rate.lengths[0] == BIT  # of residuals that are all 0
    assert rate.lengths[77] == rate.lengths.max() <= 15 * BIT


@pytest.mark.parametrize("filter_type", range(N_FILTERS))
def test_each_filter_is_chosen_for_rows_that_it_predicts(filter_type):
    generator = torch.Generator().manual_seed(filter_type)
    rows = torch.randint(256, (40, 60), generator=generator, dtype=torch.int32)
    few = torch.randint(3, (40, 60), generator=generator, dtype=torch.int32)
    padded = torch.nn.functional.pad(rows, (1, 0, 1, 0))
    for y in range(1, 41):
        for x in range(1, 61):
            around = padded[y, x - 1], padded[y - 1, x], padded[y - 1, x - 1]
            prediction = predicted(torch.tensor(filter_type, dtype=torch.int32), *around)
            padded[y, x] = (prediction + few[y - 1, x - 1]) & 255
    chosen = fitted_rate(padded[1:, 1:].to(torch.uint8)).filters
    assert (chosen == filter_type).float().mean() > 0.9


def exact_logarithm(number):
    """The binary logarithm of a number in units of 1/64, rounded down."""
    return (number**BIT).bit_length() - 1


@given(numbers=st.lists(st.integers(1, 2**63 - 1), max_size=30), exponents=st.lists(st.integers(0, 62), max_size=9))
def test_logarithms_are_exact(numbers, exponents):
    numbers += [n for e in exponents for n in (2**e, 2**e + 1, max(1, 2**e - 1), math.isqrt(2 ** (2 * e + 1)))]
    found = binary_logarithms(torch.tensor(numbers, dtype=torch.int64))
    assert found.tolist() == [exact_logarithm(number) for number in numbers]


def test_logarithms_of_the_first_number_of_each_part_of_an_octave():
    powers = [
        math.isqrt(math.isqrt(math.isqrt(math.isqrt(math.isqrt(math.isqrt(1 << 50 * 64 + i)))))) for i in range(64)
    ]
    numbers = torch.tensor([power + d for power in powers for d in (-1, 0, 1, 2)])
    assert binary_logarithms(numbers).tolist() == [exact_logarithm(number) for number in numbers.tolist()]
    assert binary_logarithms(torch.zeros(1, dtype=torch.int64)).tolist() == [0]


def test_a_rate_that_is_given_counts_each_row_by_its_filter():
    rows = torch.tensor([[5, 5], [5, 6]], dtype=torch.uint8)
    lengths = torch.arange(256, dtype=torch.int32)
    rate = PngRate(torch.tensor([1, 2], dtype=torch.int32), lengths)
    assert rate.total_bits(rows) == (1 + 5 + 0) + (2 + 0 + 1)
