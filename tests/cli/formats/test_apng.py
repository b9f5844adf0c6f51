import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from helpers.animations import (
    BLEND_OVER,
    BLEND_SOURCE,
    BLUE,
    DISPOSE_BACKGROUND,
    DISPOSE_NONE,
    DISPOSE_PREVIOUS,
    GREEN,
    PALETTE,
    RED,
    TRANSPARENT,
    animation_of,
    animations,
    check_round_trip,
    decoded_by_pillow,
    error_of,
    moving_square,
    read,
    rgba_of,
    save_frames,
    square_indices,
)
from hypothesis import given, settings
from PIL import Image

from gpukmeans_cli.formats.animation import encode_animation
from gpukmeans_cli.system.atomic_files import ImageError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, start = [], len(PNG_MAGIC)
    while start < len(data):
        (length,) = struct.unpack_from(">I", data, start)
        found.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        assert data[start : start + 12 + length] == chunk(*found[-1])
        start += 12 + length
    return found


def handmade_apng(
    size: tuple[int, int],
    frames: Sequence[tuple[tuple[int, int, int, int], tuple[int, int], tuple[int, int, int, int]]],
    *,
    default_image: bool = False,
    delay: tuple[int, int] = (1, 10),
) -> bytes:
    """An APNG of RGBA frames of one color each: (left, top, width, height), (dispose_op, blend_op), color."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 0))
    parts = [PNG_MAGIC, header, chunk(b"acTL", struct.pack(">II", len(frames), 0))]
    if default_image:
        parts.append(chunk(b"IDAT", zlib.compress((b"\0" + bytes(GREEN) * size[0]) * size[1])))
    number = 0
    for position, ((left, top, width, height), operations, color) in enumerate(frames):
        control = struct.pack(">IIIIIHHBB", number, width, height, left, top, *delay, *operations)
        pixels = zlib.compress((b"\0" + bytes(color) * width) * height)
        parts.append(chunk(b"fcTL", control))
        number += 1
        if position or default_image:
            parts.append(chunk(b"fdAT", struct.pack(">I", number) + pixels))
            number += 1
        else:
            parts.append(chunk(b"IDAT", pixels))
    return b"".join([*parts, chunk(b"IEND", b"")])


@pytest.mark.parametrize(
    ("operations", "color", "during", "after"),
    [
        ((DISPOSE_NONE, BLEND_SOURCE), (0, 0, 255, 128), (0, 0, 255, 128), (0, 0, 255, 128)),
        ((DISPOSE_NONE, BLEND_OVER), (0, 0, 255, 128), (127, 0, 128, 255), (127, 0, 128, 255)),
        ((DISPOSE_NONE, BLEND_OVER), TRANSPARENT, RED, RED),
        ((DISPOSE_BACKGROUND, BLEND_SOURCE), BLUE, BLUE, TRANSPARENT),
        ((DISPOSE_PREVIOUS, BLEND_SOURCE), BLUE, BLUE, RED),
        ((DISPOSE_PREVIOUS, BLEND_OVER), (0, 0, 255, 128), (127, 0, 128, 255), RED),
    ],
)
def test_frames_are_blended_and_disposed_of_as_the_specification_requires(tmp_path, operations, color, during, after):
    path = tmp_path / "a.png"
    whole = ((0, 0, 3, 2), (DISPOSE_NONE, BLEND_SOURCE), RED)
    last = ((0, 0, 1, 1), (DISPOSE_NONE, BLEND_SOURCE), GREEN)
    path.write_bytes(handmade_apng((3, 2), [whole, ((1, 1, 2, 1), operations, color), last]))
    found = read(path).frames
    assert (found[0] == RED).all()
    assert found[1, 1, 1:].tolist() == [list(during)] * 2
    assert found[2, 1, 1:].tolist() == [list(after)] * 2
    assert (found[1, 0] == RED).all()
    assert found[2, 0].tolist() == [list(GREEN), list(RED), list(RED)]


def test_blending_translucent_over_translucent_weighs_both_alphas(tmp_path):
    path = tmp_path / "a.png"
    box = (0, 0, 1, 1)
    frames = [
        (box, (DISPOSE_NONE, BLEND_SOURCE), (255, 0, 0, 128)),
        (box, (DISPOSE_NONE, BLEND_OVER), (0, 0, 255, 128)),
    ]
    path.write_bytes(handmade_apng((1, 1), frames))
    a = 128 / 255
    alpha = a + a * (1 - a)
    expected = [round(255 * a * (1 - a) / alpha), 0, round(255 * a / alpha), round(255 * alpha)]
    assert read(path).frames[1, 0, 0].tolist() == expected


def test_the_default_image_is_not_a_frame(tmp_path):
    path = tmp_path / "a.png"
    box = (0, 0, 2, 1)
    frames = [(box, (DISPOSE_NONE, BLEND_SOURCE), RED), (box, (DISPOSE_NONE, BLEND_SOURCE), BLUE)]
    path.write_bytes(handmade_apng((2, 1), frames, default_image=True, delay=(1, 30)))
    found = read(path)
    assert found.frames[:, 0, 0].tolist() == [list(RED), list(BLUE)]
    assert found.durations == pytest.approx([1000 / 30] * 2)


def test_a_delay_with_denominator_0_is_in_hundredths(tmp_path):
    path = tmp_path / "a.png"
    frames = [((0, 0, 1, 1), (DISPOSE_NONE, BLEND_SOURCE), color) for color in (RED, BLUE)]
    path.write_bytes(handmade_apng((1, 1), frames, delay=(7, 0)))
    assert read(path).durations == (70, 70)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_is_decoded(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 9, 4), dtype=np.uint8)
    sources = [Image.fromarray(frame) for frame in pixels]
    frames = [(frame.convert("RGB") if mode == "P" else frame).convert(mode) for frame in sources]
    if mode == "P":
        frames[1].putpalette(frames[0].getpalette() or [])
    path = save_frames(tmp_path / "a.png", frames, duration=100, blend=BLEND_SOURCE)
    np.testing.assert_array_equal(read(path).frames, rgba_of(frames))
    assert read(path).mode == mode


def test_a_broken_file_is_an_error(tmp_path):
    box = (0, 0, 2, 2)
    red, blue = (box, (DISPOSE_NONE, BLEND_SOURCE), RED), (box, (DISPOSE_NONE, BLEND_SOURCE), BLUE)
    good = handmade_apng((2, 2), [red, blue])
    outside = handmade_apng((2, 2), [red, ((1, 1, 2, 1), (DISPOSE_NONE, BLEND_SOURCE), BLUE)])
    empty = handmade_apng((2, 2), [red, ((0, 0, 0, 1), (DISPOSE_NONE, BLEND_SOURCE), BLUE)])
    swapped = good.replace(struct.pack(">4sI", b"fcTL", 1), struct.pack(">4sI", b"fcTL", 7))
    at = swapped.index(struct.pack(">4sI", b"fcTL", 7))
    swapped = swapped[:at] + chunk(b"fcTL", swapped[at + 4 : at + 30])[4:] + swapped[at + 34 :]
    fewer = good.replace(chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"acTL", struct.pack(">II", 3, 0)))
    bits = bytearray(good)
    bits[-20] ^= 1
    path = tmp_path / "a.png"
    for data, reason in (
        (outside, "a frame lies outside the image"),
        (empty, "a frame lies outside the image"),
        (swapped, "frames are missing or out of order"),
        (fewer, "2 of 3 frames are present"),
        (bytes(bits), "a chunk is broken"),
        (good[:-14], "it is cut off"),
    ):
        path.write_bytes(data)
        assert error_of(path) == f"cannot be decoded ({reason}); if it is damaged, copy or export it again"


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


def test_the_file_has_one_palette_of_the_fewest_bits_with_translucent_colors_first():
    palette = np.array([RED, GREEN, (1, 2, 3, 99)], dtype=np.uint8)
    chunks = chunks_of(encode_animation(palette, square_indices(3, fill=2), animation_of([40] * 3), ".png"))
    kinds = [kind for kind, _ in chunks]
    assert kinds == [b"IHDR", b"acTL", b"PLTE", b"tRNS", b"fcTL", b"IDAT", b"fcTL", b"fdAT", b"fcTL", b"fdAT", b"IEND"]
    bodies = dict(chunks)
    assert bodies[b"IHDR"][8:10] == bytes([2, 3])
    assert bodies[b"tRNS"] == bytes([0, 99])
    assert len(bodies[b"PLTE"]) == 12


def test_texts_after_the_frames_are_decoded(tmp_path):
    path = save_frames(tmp_path / "a.png", moving_square(), duration=100)
    text = chunk(b"tEXt", b"Title\0at the end")
    path.write_bytes(path.read_bytes()[:-12] + text + chunk(b"IEND", b""))
    assert read(path).metadata.text == {"Title": "at the end"}


def test_a_duration_that_png_cannot_store_is_an_error():
    one = np.zeros((1, 1, 1), dtype=np.uint8)
    with pytest.raises(ImageError, match="more than 65535 s, which a PNG cannot"):
        encode_animation(PALETTE, one, animation_of([65_536_000]), ".png")
