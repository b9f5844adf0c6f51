import struct

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
    RED,
    TRANSPARENT,
    chunk,
    error_of,
    handmade_apng,
    moving_square,
    read,
    read_animation,
    rgba_of,
    save_frames,
)
from PIL import Image

from gpukmeans_cli.formats.reading import as_rgba, read_image


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


WHOLE, PART, OTHER = (0, 0, 3, 1), (1, 0, 2, 1), (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([WHOLE], [BLUE, BLUE, BLUE]),
        ([PART], [TRANSPARENT, BLUE, BLUE]),
        ([PART, OTHER], [TRANSPARENT, BLUE, BLUE]),
        ([PART, OTHER, OTHER], [TRANSPARENT, BLUE, BLUE]),
    ],
)
@pytest.mark.parametrize("blend", [BLEND_SOURCE, BLEND_OVER])
def test_the_first_frame_is_shown_instead_of_a_default_image_that_is_no_frame(tmp_path, boxes, expected, blend):
    path = tmp_path / "a.png"
    frames = [(box, (DISPOSE_NONE, blend), RED if box == OTHER else BLUE) for box in boxes]
    path.write_bytes(handmade_apng((3, 1), frames, default_image=True))
    found = read_image(path)
    assert as_rgba(found.pixels)[0].tolist() == [list(color) for color in expected]
    assert found.frames == len(boxes)
    assert (read_animation(path) is None) == (len(boxes) == 1)


def test_a_default_image_is_shown_where_it_is_the_only_frame(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(handmade_apng((3, 1), [(WHOLE, (DISPOSE_BACKGROUND, BLEND_OVER), BLUE)]))
    found = read_image(path)
    assert (as_rgba(found.pixels) == BLUE).all()
    assert found.frames == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_shown_frame_of_every_mode_has_the_metadata_of_its_file(tmp_path, mode):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
    frame = Image.fromarray(pixels).convert("RGB").convert(mode)
    default = Image.new(mode, frame.size)
    if mode == "P":
        default.putpalette(frame.getpalette() or [])
    path = tmp_path / "a.png"
    default.save(path, save_all=True, default_image=True, append_images=[frame], exif=exif)
    text = chunk(b"tEXt", b"Title\0at the end")
    path.write_bytes(path.read_bytes()[:-12] + text + chunk(b"IEND", b""))
    found = read_image(path)
    np.testing.assert_array_equal(as_rgba(found.pixels), np.rot90(rgba_of([frame])[0], -1))
    assert found.pixels.shape[2] == {"1": 1, "L": 1, "LA": 1}.get(mode, 3)
    assert (found.mode, found.frames, found.upright) == (mode, 1, False)
    assert found.metadata.text == {"Title": "at the end"}


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


def test_texts_after_the_frames_are_decoded(tmp_path):
    path = save_frames(tmp_path / "a.png", moving_square(), duration=100)
    text = chunk(b"tEXt", b"Title\0at the end")
    path.write_bytes(path.read_bytes()[:-12] + text + chunk(b"IEND", b""))
    assert read(path).metadata.text == {"Title": "at the end"}
