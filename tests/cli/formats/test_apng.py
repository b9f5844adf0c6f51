import struct

import numpy as np
import pytest
from helpers.animations import (
    GREEN,
    PALETTE,
    PNG_MAGIC,
    RED,
    animation_of,
    animations,
    check_round_trip,
    chunk,
    decoded_by_pillow,
    square_indices,
)
from hypothesis import given, settings

from gpukmeans_cli.formats.animation import encode_animation
from gpukmeans_cli.system.atomic_files import ImageError


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, start = [], len(PNG_MAGIC)
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        found.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        assert data[start : start + 12 + length] == chunk(*found[-1])
        start += 12 + length
    return found


@settings(max_examples=60, deadline=None)
@given(animations(alphas=[0, 100, 255]))
def test_decoded_frames_equal_the_palette_at_the_indices(tmp_path_factory, drawn):
    check_round_trip(*drawn, ".png", tmp_path_factory.getbasetemp())


def test_durations_are_exact_fractions_where_16_bits_allow():
    durations = [0, 1000 / 30, 1000 / 24, 0.001, 16.7, 1, 65_535_000, 123_456.789]
    data = encode_animation(PALETTE, square_indices(len(durations)), animation_of(durations), ".png")
    found = decoded_by_pillow(data)[1]
    assert found == pytest.approx([0, 1000 / 30, 1000 / 24, 1000 / 65535, *durations[4:]], rel=1e-3)
    assert found[1:3] == [1000 / 30, 1000 / 24]


@pytest.mark.parametrize(("n_colors", "bits"), [(2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8)])
def test_whole_frames_have_the_fewest_bits_and_parts_of_frames_8(n_colors, bits):
    # ffmpeg misplaces parts of frames below 8 bits.
    palette = np.repeat(np.arange(n_colors, dtype=np.uint8)[:, None], 3, axis=1)
    indices = np.stack([np.full((9, 7), number, dtype=np.uint8) for number in range(n_colors)])
    animation = animation_of([40] * n_colors)
    assert bit_depth(encode_animation(palette, indices, animation, ".png")) == bits
    indices[1, :, 0] = indices[0, :, 0]
    assert bit_depth(encode_animation(palette, indices, animation, ".png")) == 8


def bit_depth(data: bytes) -> int:
    return dict(chunks_of(data))[b"IHDR"][8]


def test_the_file_has_one_palette_with_translucent_colors_first():
    palette = np.array([RED, GREEN, (1, 2, 3, 99)], dtype=np.uint8)
    chunks = chunks_of(encode_animation(palette, square_indices(3, fill=2), animation_of([40] * 3), ".png"))
    kinds = [kind for kind, _ in chunks]
    assert kinds == [b"IHDR", b"acTL", b"PLTE", b"tRNS", b"fcTL", b"IDAT", b"fcTL", b"fdAT", b"fcTL", b"fdAT", b"IEND"]
    bodies = dict(chunks)
    assert bodies[b"IHDR"][8:10] == bytes([8, 3])
    assert bodies[b"tRNS"] == bytes([0, 99])
    assert len(bodies[b"PLTE"]) == 12


def test_a_duration_that_png_cannot_store_is_an_error():
    one = np.zeros((1, 1, 1), dtype=np.uint8)
    with pytest.raises(ImageError, match="more than 65535 s, which a PNG cannot"):
        encode_animation(PALETTE, one, animation_of([65_536_000]), ".png")
