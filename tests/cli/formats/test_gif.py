import numpy as np
import pytest
from helpers.animations import (
    PALETTE,
    RED,
    animation_of,
    animations,
    check_round_trip,
    decoded_by_pillow,
    square_indices,
)
from hypothesis import given, settings

from gpukmeans_cli.formats.animation import encode_animation
from gpukmeans_cli.system.atomic_files import ImageError


@settings(max_examples=60, deadline=None)
@given(animations(alphas=[0, 255]))
def test_decoded_frames_equal_the_palette_at_the_indices(tmp_path_factory, drawn):
    check_round_trip(*drawn, ".gif", tmp_path_factory.getbasetemp())


@pytest.mark.parametrize(
    ("durations", "expected"),
    [
        ([100, 50, 0, 10], [100, 50, 0, 10]),
        ([1, 4, 0.001, 0], [10, 10, 10, 0]),
        ([100 / 3] * 6, [30, 40, 30, 30, 40, 30]),
        ([1000 / 60] * 4, [20, 20, 20, 20]),
        ([14, 14, 14], [10, 20, 10]),
        ([655_350], [655_350]),
    ],
)
def test_rounding_errors_of_durations_do_not_accumulate_and_none_becomes_0(durations, expected):
    data = encode_animation(PALETTE, square_indices(len(durations)), animation_of(durations), ".gif")
    assert decoded_by_pillow(data)[1] == expected


def test_an_animation_that_gif_cannot_store_is_an_error():
    half = np.array([RED, (0, 255, 0, 128)], dtype=np.uint8)
    one = np.zeros((1, 1, 1), dtype=np.uint8)
    with pytest.raises(ImageError, match=r"half-transparent colors, which a GIF cannot have; use \.png"):
        encode_animation(half, square_indices(), animation_of([40] * 5), ".gif")
    with pytest.raises(ImageError, match=r"more than 655 s, which a GIF cannot; use \.png"):
        encode_animation(PALETTE, one, animation_of([655_400]), ".gif")
    with pytest.raises(ImageError, match=r"above 65535 pixels, which a GIF cannot have; use \.png"):
        encode_animation(PALETTE, np.zeros((1, 1, 65536), dtype=np.uint8), animation_of([40]), ".gif")
