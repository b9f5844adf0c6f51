import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from gpukmeans_cli.formats.animation import Animation, encode_animation, read_animation
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.system.atomic_files import ImageError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
KEEP, CLEAR, RESTORE = 0, 1, 2
REPLACE, OVER = 0, 1
RED, GREEN, BLUE, NONE = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (0, 0, 0, 0)


def moving_square(n_frames: int = 5, mode: str = "RGB") -> list[Image.Image]:
    frames = []
    for step in range(n_frames):
        frame = Image.new("RGBA", (20, 12), NONE if mode == "RGBA" else BLUE)
        frame.paste(RED, (3 * step, 2, 3 * step + 4, 6))
        frame.paste(GREEN, (15, 8, 18, 10))
        frames.append(frame.convert(mode))
    return frames


def save(path: Path, frames: Sequence[Image.Image], **options: object) -> Path:
    if path.suffix == ".webp":
        options = {"lossless": True, "exact": True, **options}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def rgba(frames: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(frame.convert("RGBA")) for frame in frames])


def read(path: Path, **options: int) -> Animation:
    found = read_animation(path, **options)
    assert found is not None
    return found


def seen(frames: np.ndarray) -> np.ndarray:
    """Frames with the invisible colors hidden."""
    return np.where(frames[..., 3:] == 0, 0, frames)


def refusal(path: Path, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        read_animation(path, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) not in sentence
    return sentence


def playing(durations: Sequence[float], *, loop: int | None = 0, metadata: Metadata | None = None) -> Animation:
    return Animation(
        frames=np.zeros((len(durations), 1, 1, 4), dtype=np.uint8),
        durations=tuple(durations),
        loop=loop,
        mode="RGBA",
        format="GIF",
        n_bytes=0,
        metadata=metadata or Metadata(),
    )


def reopened(data: bytes) -> tuple[np.ndarray, list[float], int | None]:
    """Frames, durations and loop as Pillow understands a file."""
    image = Image.open(io.BytesIO(data))
    frames, durations = [], []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        frames.append(np.asarray(image.convert("RGBA")))
        durations.append(image.info["duration"])
    return np.stack(frames), durations, image.info.get("loop")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], len(PNG_MAGIC)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        assert data[at : at + 12 + length] == chunk(*found[-1])
        at += 12 + length
    return found


def handmade_apng(
    size: tuple[int, int],
    frames: Sequence[tuple[tuple[int, int, int, int], tuple[int, int], tuple[int, int, int, int]]],
    *,
    default_image: bool = False,
    delay: tuple[int, int] = (1, 10),
) -> bytes:
    """An APNG of RGBA frames of one color each: (left, top, width, height), (disposal, blending), color."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 0))
    parts = [PNG_MAGIC, header, chunk(b"acTL", struct.pack(">II", len(frames), 0))]
    if default_image:
        parts.append(chunk(b"IDAT", zlib.compress((b"\0" + bytes(GREEN) * size[0]) * size[1])))
    number = 0
    for place, (left, top, width, height), ways, color in (
        (at, box, ways, color) for at, (box, ways, color) in enumerate(frames)
    ):
        control = struct.pack(">IIIIIHHBB", number, width, height, left, top, *delay, *ways)
        pixels = zlib.compress((b"\0" + bytes(color) * width) * height)
        parts.append(chunk(b"fcTL", control))
        number += 1
        if place or default_image:
            parts.append(chunk(b"fdAT", struct.pack(">I", number) + pixels))
            number += 1
        else:
            parts.append(chunk(b"IDAT", pixels))
    return b"".join([*parts, chunk(b"IEND", b"")])


# Reading


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_frames_are_whole_although_the_file_has_only_what_moves(tmp_path, suffix):
    frames = moving_square()
    path = save(tmp_path / f"a{suffix}", frames, duration=[100, 50, 200, 40, 1000], loop=3)
    found = read(path)
    np.testing.assert_array_equal(found.frames, rgba(frames))
    assert found.frames.dtype == np.uint8
    assert found.durations == (100, 50, 200, 40, 1000)
    assert found.loop == 3
    assert found.n_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".gif", {"disposal": 2}),
        (".png", {"disposal": KEEP, "blend": REPLACE}),
        (".png", {"disposal": CLEAR, "blend": REPLACE}),
        (".webp", {}),
    ],
)
def test_transparent_frames_do_not_shine_through_the_next(tmp_path, suffix, options):
    frames = moving_square(mode="RGBA")
    path = save(tmp_path / f"a{suffix}", frames, duration=100, **options)
    np.testing.assert_array_equal(seen(read(path).frames), seen(rgba(frames)))


def gif_of_places(*frames: tuple[int, int, int]) -> bytes:
    """A GIF of 3 x 1 pixels, transparent, red and green, whose frames are one pixel: its place, color and disposal."""
    parts = [b"GIF89a", struct.pack("<HHBBB", 3, 1, 0xF1, 0, 0), bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 0])]
    for place, color, disposal in frames:
        parts.append(b"\x21\xf9\x04" + struct.pack("<BHBB", disposal << 2 | 1, 10, 0, 0))
        pixel = Image.new("L", (1, 1), color).tobytes("gif", "L", 2, 0)
        parts.append(b"," + struct.pack("<HHHHB", place, 0, 1, 1, 0) + b"\x02" + pixel + b"\0")
    return b"".join([*parts, b";"])


def test_a_gif_frame_goes_back_to_what_was_before_it(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(gif_of_places((0, 1, 1), (1, 2, 3), (2, 2, 2), (1, 1, 1)))
    assert seen(read(path).frames)[:, 0].tolist() == [
        [list(RED), list(NONE), list(NONE)],
        [list(RED), list(GREEN), list(NONE)],
        [list(RED), list(NONE), list(GREEN)],
        [list(RED), list(RED), list(NONE)],
    ]


def test_a_gif_frame_without_disposal_stays_although_the_one_before_was_cleared(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(gif_of_places((0, 1, 2), (1, 2, 0), (2, 2, 0)))
    assert seen(read(path).frames)[2, 0].tolist() == [list(NONE), list(GREEN), list(GREEN)]


def test_what_lies_outside_the_canvas_of_a_gif_is_cut_off(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(gif_of_places((0, 1, 1), (2, 2, 1), (5, 1, 1)))
    found = read(path).frames
    assert found.shape == (3, 1, 3, 4)
    assert seen(found)[:, 0].tolist()[2] == [list(RED), list(NONE), list(GREEN)]


@pytest.mark.parametrize(
    ("ways", "color", "during", "after"),
    [
        ((KEEP, REPLACE), (0, 0, 255, 128), (0, 0, 255, 128), (0, 0, 255, 128)),
        ((KEEP, OVER), (0, 0, 255, 128), (127, 0, 128, 255), (127, 0, 128, 255)),
        ((KEEP, OVER), NONE, RED, RED),
        ((CLEAR, REPLACE), BLUE, BLUE, NONE),
        ((RESTORE, REPLACE), BLUE, BLUE, RED),
        ((RESTORE, OVER), (0, 0, 255, 128), (127, 0, 128, 255), RED),
    ],
)
def test_frames_of_an_apng_are_laid_over_and_disposed_of_by_its_specification(tmp_path, ways, color, during, after):
    path = tmp_path / "a.png"
    whole = ((0, 0, 3, 2), (KEEP, REPLACE), RED)
    last = ((0, 0, 1, 1), (KEEP, REPLACE), GREEN)
    path.write_bytes(handmade_apng((3, 2), [whole, ((1, 1, 2, 1), ways, color), last]))
    found = read(path).frames
    assert (found[0] == RED).all()
    assert found[1, 1, 1:].tolist() == [list(during)] * 2
    assert found[2, 1, 1:].tolist() == [list(after)] * 2
    assert (found[1, 0] == RED).all()
    assert found[2, 0].tolist() == [list(GREEN), list(RED), list(RED)]


def test_half_transparent_over_half_transparent_is_mixed_by_both(tmp_path):
    path = tmp_path / "a.png"
    box = (0, 0, 1, 1)
    layers = [(box, (KEEP, REPLACE), (255, 0, 0, 128)), (box, (KEEP, OVER), (0, 0, 255, 128))]
    path.write_bytes(handmade_apng((1, 1), layers))
    a = 128 / 255
    alpha = a + a * (1 - a)
    expected = [round(255 * a * (1 - a) / alpha), 0, round(255 * a / alpha), round(255 * alpha)]
    assert read(path).frames[1, 0, 0].tolist() == expected


def test_an_image_for_those_that_know_no_animations_is_no_frame(tmp_path):
    path = tmp_path / "a.png"
    box = (0, 0, 2, 1)
    frames = [(box, (KEEP, REPLACE), RED), (box, (KEEP, REPLACE), BLUE)]
    path.write_bytes(handmade_apng((2, 1), frames, default_image=True, delay=(1, 30)))
    found = read(path)
    assert found.frames[:, 0, 0].tolist() == [list(RED), list(BLUE)]
    assert found.durations == pytest.approx([1000 / 30] * 2)


def test_a_delay_without_unit_is_in_hundredths(tmp_path):
    path = tmp_path / "a.png"
    frames = [((0, 0, 1, 1), (KEEP, REPLACE), color) for color in (RED, BLUE)]
    path.write_bytes(handmade_apng((1, 1), frames, delay=(7, 0)))
    assert read(path).durations == (70, 70)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_an_apng_of_any_mode_is_read(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 9, 4), dtype=np.uint8)
    sources = [Image.fromarray(part) for part in pixels]
    frames = [(frame.convert("RGB") if mode == "P" else frame).convert(mode) for frame in sources]
    if mode == "P":
        frames[1].putpalette(frames[0].getpalette() or [])
    path = save(tmp_path / "a.png", frames, duration=100, blend=REPLACE)
    np.testing.assert_array_equal(read(path).frames, rgba(frames))
    assert read(path).mode == mode


def test_a_gif_without_loops_says_none(tmp_path):
    assert read(save(tmp_path / "a.gif", moving_square(), duration=100)).loop is None


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif", ".jpg", ".bmp"])
def test_a_still_is_no_animation(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    moving_square(1)[0].save(path)
    assert read_animation(path) is None


def test_pages_of_a_tiff_are_no_animation(tmp_path):
    assert read_animation(save(tmp_path / "a.tif", moving_square())) is None


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_the_limit_of_pixels_is_for_all_frames_together(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", moving_square(), duration=100)
    assert refusal(path, max_pixels=1199).startswith("has 1200 pixels in 5 frames, the limit is 1199; ")
    assert refusal(path, max_pixels=239).startswith("has 240 pixels, the limit is 239; ")
    assert len(read(path, max_pixels=1200).frames) == 5


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_an_animation_that_is_cut_off_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (4, 30, 30, 3), dtype=np.uint8)
    path = save(tmp_path / f"a{suffix}", [Image.fromarray(frame) for frame in noise], duration=100)
    data = path.read_bytes()
    for share in (0.4, 0.6, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        assert refusal(path).startswith("cannot be decoded (")


def test_a_broken_apng_is_refused(tmp_path):
    box = (0, 0, 2, 2)
    red, blue = (box, (KEEP, REPLACE), RED), (box, (KEEP, REPLACE), BLUE)
    good = handmade_apng((2, 2), [red, blue])
    outside = handmade_apng((2, 2), [red, ((1, 1, 2, 1), (KEEP, REPLACE), BLUE)])
    empty = handmade_apng((2, 2), [red, ((0, 0, 0, 1), (KEEP, REPLACE), BLUE)])
    swapped = good.replace(struct.pack(">4sI", b"fcTL", 1), struct.pack(">4sI", b"fcTL", 7))
    at = swapped.index(struct.pack(">4sI", b"fcTL", 7))
    swapped = swapped[:at] + chunk(b"fcTL", swapped[at + 4 : at + 30])[4:] + swapped[at + 34 :]
    fewer = good.replace(chunk(b"acTL", struct.pack(">II", 2, 0)), chunk(b"acTL", struct.pack(">II", 3, 0)))
    bits = bytearray(good)
    bits[-20] ^= 1
    path = tmp_path / "a.png"
    for data, reason in (
        (outside, "a frame lies outside the picture"),
        (empty, "a frame lies outside the picture"),
        (swapped, "frames are missing or out of order"),
        (fewer, "2 of 3 frames are there"),
        (bytes(bits), "a chunk is broken"),
        (good[:-14], "it is cut off"),
    ):
        path.write_bytes(data)
        assert refusal(path) == f"cannot be decoded ({reason}); if it is damaged, copy or export it again"


def test_what_cannot_be_opened_is_refused_as_a_still_is(tmp_path):
    assert refusal(tmp_path / "none.gif") == "does not exist; check the path"
    assert refusal(tmp_path) == "is a folder; name an image file in it"
    (tmp_path / "empty.gif").touch()
    assert refusal(tmp_path / "empty.gif").startswith("is empty")
    (tmp_path / "text.gif").write_text("no picture")
    assert refusal(tmp_path / "text.gif").startswith("is not an image")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_frames_are_turned_upright(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    frames = moving_square()
    path = save(tmp_path / f"a{suffix}", frames, duration=100, exif=exif)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    expected = frames if turn is None else [frame.transpose(turn) for frame in frames]
    np.testing.assert_array_equal(read(path).frames, rgba(expected))


def test_a_profile_for_grey_does_not_go_with_frames_of_colors(tmp_path):
    grey = SRGB[:16] + b"GRAY" + SRGB[20:]
    path = save(tmp_path / "a.png", moving_square(mode="L"), duration=100, icc_profile=grey)
    assert read(path).metadata.icc_profile is None


# Writing


@st.composite
def animations(draw: st.DrawFn, alphas: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A palette, and frames of which each changes some of the one before."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_colors = draw(st.sampled_from([1, 2, 3, 4, 5, 16, 17, 200, 255, 256]))
    channels = draw(st.integers(1, 4))
    n_frames, height, width = draw(st.integers(2, 6)), draw(st.integers(1, 19)), draw(st.integers(1, 19))
    palette = rng.integers(0, 256, (n_colors, channels), dtype=np.uint8)
    if channels in (2, 4):
        palette[:, -1] = rng.choice(alphas, n_colors)
        palette[palette[:, -1] == 0] = 0
    indices = np.repeat(rng.integers(0, n_colors, (1, height, width), dtype=np.uint8), n_frames, axis=0)
    for number in range(1, n_frames):
        indices[number] = indices[number - 1]
        changed = rng.random((height, width)) < draw(st.sampled_from([0, 0.05, 0.5, 1]))
        indices[number, changed] = rng.integers(0, n_colors, changed.sum())
    return palette, indices


def colors_of(palette: np.ndarray, indices: np.ndarray) -> np.ndarray:
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[palette.shape[1]]
    row = Image.frombytes(mode, (len(palette), 1), palette.tobytes()).convert("RGBA")
    return np.asarray(row)[0][indices]


def check(palette: np.ndarray, indices: np.ndarray, suffix: str, folder: Path) -> None:
    durations = [float(10 * (1 + 3 * number)) for number in range(len(indices))]
    data = encode_animation(palette, indices, playing(durations, loop=3), suffix)
    expected = seen(colors_of(palette, indices))
    frames, times, loop = reopened(data)
    np.testing.assert_array_equal(seen(frames), expected)
    assert times == durations
    assert loop == 3
    path = folder / f"written{suffix}"
    path.write_bytes(data)
    np.testing.assert_array_equal(seen(read(path).frames), expected)
    assert read(path).durations == tuple(durations)


@settings(max_examples=60, deadline=None)
@given(animations(alphas=[0, 255]))
def test_a_gif_shows_each_frame_as_the_palette_and_indices_say(tmp_path_factory, drawn):
    check(*drawn, ".gif", tmp_path_factory.getbasetemp())


@settings(max_examples=60, deadline=None)
@given(animations(alphas=[0, 100, 255]))
def test_a_png_shows_each_frame_as_the_palette_and_indices_say(tmp_path_factory, drawn):
    check(*drawn, ".png", tmp_path_factory.getbasetemp())


def square_indices(n_frames: int = 5, *, fill: int = 0) -> np.ndarray:
    indices = np.full((n_frames, 40, 60), fill, dtype=np.uint8)
    for step in range(n_frames):
        indices[step, 10:18, 5 + 8 * step : 13 + 8 * step] = 1
    return indices


PALETTE = np.array([RED, GREEN, BLUE, (9, 9, 9, 255)], dtype=np.uint8)
WITH_CLEAR = np.array([NONE, GREEN, BLUE], dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".PNG"])
@pytest.mark.parametrize("palette", [PALETTE, WITH_CLEAR])
def test_a_moving_square_is_small(suffix, palette):
    still = square_indices(1)
    data = encode_animation(palette, square_indices(50) % 3, playing([40] * 50), suffix)
    one = encode_animation(palette, still, playing([40]), suffix)
    assert len(data) - len(one) < 49 * 100
    np.testing.assert_array_equal(seen(reopened(data)[0]), seen(palette[square_indices(50) % 3]))


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_noise_that_does_not_change_is_skipped_inside_a_rectangle(suffix):
    indices = np.repeat(np.random.default_rng(0).integers(0, 15, (1, 50, 50), dtype=np.uint8), 2, axis=0)
    palette = np.random.default_rng(1).integers(0, 256, (15, 3), dtype=np.uint8)
    indices[1, [0, -1], [0, -1]] = (indices[0, [0, -1], [0, -1]] + 1) % 15
    two = encode_animation(palette, indices, playing([100, 100]), suffix)
    one = encode_animation(palette, indices[:1], playing([100]), suffix)
    assert len(two) - len(one) < 300
    np.testing.assert_array_equal(reopened(two)[0], colors_of(palette, indices))


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_frames_that_are_alike_stay_as_many(suffix):
    indices = np.repeat(square_indices(2), 3, axis=0)
    frames, durations, _ = reopened(encode_animation(PALETTE, indices, playing([10, 20, 30, 40, 50, 60]), suffix))
    assert durations == [10, 20, 30, 40, 50, 60]
    np.testing.assert_array_equal(frames, PALETTE[indices])


@pytest.mark.parametrize("suffix", [".gif", ".png"])
@pytest.mark.parametrize("loop", [0, 1, 7])
def test_loops_are_kept(suffix, loop):
    assert reopened(encode_animation(PALETTE, square_indices(), playing([40] * 5, loop=loop), suffix))[2] == loop


def test_what_plays_once_plays_once():
    animation = playing([40] * 5, loop=None)
    assert reopened(encode_animation(PALETTE, square_indices(), animation, ".gif"))[2] is None
    assert reopened(encode_animation(PALETTE, square_indices(), animation, ".png"))[2] == 1


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
def test_a_gif_rounds_durations_without_adding_up_errors_and_never_to_0(durations, expected):
    data = encode_animation(PALETTE, square_indices(len(durations)), playing(durations), ".gif")
    assert reopened(data)[1] == expected


def test_a_png_keeps_durations():
    durations = [0, 1000 / 30, 1000 / 24, 0.001, 16.7, 1, 65_535_000, 123_456.789]
    data = encode_animation(PALETTE, square_indices(len(durations)), playing(durations), ".png")
    found = reopened(data)[1]
    assert found == pytest.approx([0, 1000 / 30, 1000 / 24, 1000 / 65535, *durations[4:]], rel=1e-3)
    assert found[1:3] == [1000 / 30, 1000 / 24]


def test_a_png_has_one_palette_of_few_bits_whose_transparent_colors_come_first():
    palette = np.array([RED, GREEN, (1, 2, 3, 99)], dtype=np.uint8)
    chunks = chunks_of(encode_animation(palette, square_indices(3, fill=2), playing([40] * 3), ".png"))
    kinds = [kind for kind, _ in chunks]
    assert kinds == [b"IHDR", b"acTL", b"PLTE", b"tRNS", b"fcTL", b"IDAT", b"fcTL", b"fdAT", b"fcTL", b"fdAT", b"IEND"]
    bodies = dict(chunks)
    assert bodies[b"IHDR"][8:10] == bytes([2, 3])
    assert bodies[b"tRNS"] == bytes([0, 99])
    assert len(bodies[b"PLTE"]) == 12


@pytest.mark.parametrize(("suffix", "keeps"), [(".gif", "comment"), (".png", "all")])
def test_metadata_come_along(tmp_path, suffix, keeps):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    metadata = Metadata(
        icc_profile=SRGB,
        dpi=(300.0, 150.0),
        exif=exif.tobytes()[6:],
        xmp=b"<x:xmpmeta/>",
        text={"Comment": "caf\xe9 \u540d " * 100, "Title": "short"},
    )
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encode_animation(PALETTE, square_indices(), playing([40] * 5, metadata=metadata), suffix))
    found = read(path).metadata
    if keeps == "comment":
        assert found == Metadata(text={"Comment": metadata.text["Comment"]})
        return
    assert found.dpi == pytest.approx((300, 150), abs=0.02)
    assert (found.icc_profile, found.exif, found.xmp, found.text) == (SRGB, metadata.exif, metadata.xmp, metadata.text)


def test_texts_behind_the_frames_of_a_png_are_read(tmp_path):
    path = save(tmp_path / "a.png", moving_square(), duration=100)
    text = chunk(b"tEXt", b"Title\0at the end")
    path.write_bytes(path.read_bytes()[:-12] + text + chunk(b"IEND", b""))
    assert read(path).metadata.text == {"Title": "at the end"}


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
@pytest.mark.parametrize("target", [".gif", ".png"])
def test_an_animation_goes_from_file_to_file(tmp_path, suffix, target):
    frames = moving_square(mode="RGBA")
    options = {".gif": {"disposal": 2}, ".png": {"blend": 0}}.get(suffix, {})
    source = read(save(tmp_path / f"a{suffix}", frames, duration=[100, 50, 200, 40, 1000], loop=3, **options))
    palette, indices = np.unique(seen(source.frames).reshape(-1, 4), axis=0, return_inverse=True)
    indices = indices.reshape(source.frames.shape[:3]).astype(np.uint8)
    path = tmp_path / f"b{target}"
    path.write_bytes(encode_animation(palette, indices, source, target))
    again = read(path)
    np.testing.assert_array_equal(seen(again.frames), seen(rgba(frames)))
    assert (again.durations, again.loop) == (source.durations, source.loop) == ((100, 50, 200, 40, 1000), 3)


def test_the_same_frames_become_the_same_bytes():
    for suffix in (".gif", ".png"):
        first, second = (encode_animation(PALETTE, square_indices(), playing([40] * 5), suffix) for _ in range(2))
        assert first == second


def test_another_suffix_names_those_that_can_be():
    for suffix, name in ((".webp", ".webp"), ("", "file without suffix")):
        with pytest.raises(ImageError, match=rf"^cannot become an animated {name}; use \.gif or \.png$"):
            encode_animation(PALETTE, square_indices(), playing([40] * 5), suffix)


def test_what_a_format_cannot_hold_is_refused():
    half = np.array([RED, (0, 255, 0, 128)], dtype=np.uint8)
    one = np.zeros((1, 1, 1), dtype=np.uint8)
    with pytest.raises(ImageError, match=r"half-transparent colors, which a GIF cannot have; use \.png"):
        encode_animation(half, square_indices(), playing([40] * 5), ".gif")
    with pytest.raises(ImageError, match=r"more than 655 s, which a GIF cannot; use \.png"):
        encode_animation(PALETTE, one, playing([655_400]), ".gif")
    with pytest.raises(ImageError, match=r"above 65535 pixels, which a GIF cannot have; use \.png"):
        encode_animation(PALETTE, np.zeros((1, 1, 65536), dtype=np.uint8), playing([40]), ".gif")
    with pytest.raises(ImageError, match="more than 65535 s, which a PNG cannot"):
        encode_animation(PALETTE, one, playing([65_536_000]), ".png")


@pytest.mark.parametrize(
    ("palette", "indices", "durations", "message"),
    [
        (PALETTE.astype(np.int64), square_indices(), [40] * 5, "palette must be uint8"),
        (np.zeros((257, 3), dtype=np.uint8), square_indices(), [40] * 5, "palette must be uint8"),
        (PALETTE[:1], square_indices(), [40] * 5, "indices must be below 1"),
        (PALETTE, square_indices()[0], [40] * 5, "indices must be uint8"),
        (PALETTE, square_indices()[:0], [], "indices must be uint8"),
        (PALETTE, square_indices(), [40] * 4, "indices must have 4 frames"),
        (PALETTE, square_indices(), [40] * 4 + [float("nan")], "durations must be finite"),
        (PALETTE, square_indices(), [40] * 4 + [-1], "durations must be finite"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(palette, indices, durations, message):
    with pytest.raises(ValueError, match=message):
        encode_animation(palette, indices, playing(durations), ".png")
