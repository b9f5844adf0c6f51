import errno
import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpukmeans_cli.formats import reading
from gpukmeans_cli.formats.reading import open_for_decoding, read_image
from gpukmeans_cli.system.atomic_files import ImageError

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, GREY_ALPHA, RGB, RGBA = 1, 2, 3, 4
COLOR_TYPE = {GREY: 0, GREY_ALPHA: 4, RGB: 2, RGBA: 6}


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def handmade_png(width: int, depth: int, color_type: int, row: bytes, **chunks: bytes) -> bytes:
    """A PNG of one row, with bit depths and chunks that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, 1, depth, color_type, 0, 0, 0)
    extra = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return PNG_MAGIC + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


def chunks_of(path: Path) -> dict[bytes, bytes]:
    data = path.read_bytes()
    assert data.startswith(PNG_MAGIC)
    found, at = {}, len(PNG_MAGIC)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        found[kind] = found.get(kind, b"") + data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def fake_open(monkeypatch: pytest.MonkeyPatch, image: Image.Image, path: Path) -> Path:
    """Make Pillow return this image for a file, for modes that it cannot write."""
    path.write_bytes(b"anything")
    monkeypatch.setattr(Image, "open", lambda file: image)
    return path


def error_of(path: Path, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) not in message
    return message


# Modes


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("1", ".png", GREY),
        ("1", ".tif", GREY),
        ("L", ".png", GREY),
        ("L", ".jpg", GREY),
        ("LA", ".png", GREY_ALPHA),
        ("P", ".png", RGB),
        ("P", ".gif", RGB),
        ("P", ".bmp", RGB),
        ("RGB", ".png", RGB),
        ("RGB", ".jpg", RGB),
        ("RGB", ".ppm", RGB),
        ("RGBA", ".png", RGBA),
        ("RGBA", ".tif", RGBA),
        ("RGBA", ".tga", RGBA),
        ("CMYK", ".jpg", RGB),
        ("CMYK", ".tif", RGB),
        ("LAB", ".tif", RGB),
    ],
)
def test_pixels_of_every_mode_equal_the_conversion_of_pillow(tmp_path, mode, suffix, channels):
    path = tmp_path / f"image{suffix}"
    source = Image.fromarray(noise(5, 7, 4))
    if mode == "LAB":
        source = Image.frombytes("LAB", (7, 5), noise(5, 7, 3).tobytes())
    elif mode in ("LA", "RGBA"):
        source = source.convert(mode)
    else:
        source = source.convert("RGB").convert(mode)
    source.save(path)

    picture = read_image(path)

    with Image.open(path) as stored:
        assert picture.mode == stored.mode == mode
        expected = np.asarray(stored.convert({GREY: "L", GREY_ALPHA: "LA", RGB: "RGB", RGBA: "RGBA"}[channels]))
    assert picture.pixels.dtype == np.uint8
    np.testing.assert_array_equal(picture.pixels, expected.reshape(5, 7, channels))


@pytest.mark.parametrize(
    ("mode", "target"),
    [("La", "LA"), ("RGBa", "RGBA"), ("PA", "RGBA"), ("HSV", "RGB"), ("YCbCr", "RGB"), ("RGBX", "RGB")],
)
def test_pixels_of_modes_that_only_decoders_produce_equal_the_conversion_of_pillow(tmp_path, monkeypatch, mode, target):
    bands = len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, (7, 5), noise(5, 7, bands).tobytes())
    if mode == "PA":
        image.putpalette(noise(256, 3).tobytes())
    expected = np.asarray(image.convert(target))

    picture = read_image(fake_open(monkeypatch, image, tmp_path / "picture"))

    assert picture.mode == mode
    np.testing.assert_array_equal(picture.pixels, expected)


def test_black_and_white_become_0_and_255(tmp_path):
    path = tmp_path / "ink.png"
    Image.fromarray(np.array([[False, True, True]])).save(path)
    assert read_image(path).pixels.tolist() == [[[0], [255], [255]]]


def test_the_pixels_are_a_new_contiguous_writable_array(tmp_path):
    for channels in (GREY, GREY_ALPHA, RGB, RGBA):
        path = tmp_path / f"{channels}.png"
        Image.fromarray(noise(4, 6, channels).squeeze()).save(path)
        pixels = read_image(path).pixels
        assert pixels.flags.owndata
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous
        assert pixels.shape == (4, 6, channels)


@pytest.mark.parametrize("kind", ["RGB", "P", "I;16", "F", "L"])
def test_pixels_converted_in_strips_equal_pixels_converted_at_once(tmp_path, monkeypatch, kind):
    path = tmp_path / "tall.tif"
    if kind == "I;16":
        Image.fromarray(noise(23, 5, 1).astype(np.uint16).squeeze() * 257).save(path)
    elif kind == "F":
        Image.fromarray(noise(23, 5, 1).astype(np.float32).squeeze() - 100).save(path)
    else:
        Image.fromarray(noise(23, 5, 3)).convert(kind).save(path)
    whole = read_image(path).pixels
    monkeypatch.setattr(reading, "STRIP_PIXELS", 16)
    np.testing.assert_array_equal(read_image(path).pixels, whole)


# Grey deeper than 8 bits

SIXTEEN_BITS = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
SIXTEEN_BITS_AS_EIGHT = [0, 0, 0, 1, 128, 255]  # the high bytes, as in Chromium


def grey(path: Path) -> list[int]:
    pixels = read_image(path).pixels
    assert pixels.shape[2] == GREY
    return pixels.ravel().tolist()


def test_the_high_bytes_of_16_bit_grey_are_taken(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(SIXTEEN_BITS).save(path)
    assert grey(path) == SIXTEEN_BITS_AS_EIGHT
    assert read_image(path).mode == "I;16"


@pytest.mark.parametrize(("mode", "order"), [("I;16", "<"), ("I;16L", "<"), ("I;16B", ">"), ("I;16N", "=")])
def test_16_bit_grey_is_decoded_equally_in_every_byte_order(tmp_path, monkeypatch, mode, order):
    image = Image.frombytes(mode, (6, 1), SIXTEEN_BITS.astype(f"{order}u2").tobytes())
    assert grey(fake_open(monkeypatch, image, tmp_path / "picture")) == SIXTEEN_BITS_AS_EIGHT


def test_16_bit_rgb_has_the_values_of_16_bit_grey(tmp_path):
    path = tmp_path / "deep.png"
    row = np.repeat(SIXTEEN_BITS[0, :, None], 3, axis=1).astype(">u2").tobytes()
    path.write_bytes(handmade_png(6, 16, 2, row))
    assert read_image(path).pixels[0].tolist() == [[value] * 3 for value in SIXTEEN_BITS_AS_EIGHT]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0x12FF, 65535]], dtype=np.uint16), [255, 255 - 0x12, 0]),
        (np.array([[0, 0.25, 1]], dtype=np.float32), [255, 255 - 64, 0]),
        (np.array([[0, 18, 255]], dtype=np.uint8), [255, 255 - 18, 0]),
    ],
)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_whose_white_is_0_is_no_negative(tmp_path, values, expected, compression):
    path = tmp_path / "white.tif"
    Image.fromarray(values).save(path, compression=compression)
    black_is_zero, white_is_zero = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    assert path.read_bytes().count(black_is_zero) == 1
    path.write_bytes(path.read_bytes().replace(black_is_zero, white_is_zero))
    assert grey(path) == expected


def test_32_bit_grey_within_16_bits_is_scaled_from_16_bits(tmp_path):
    path = tmp_path / "deep.tif"
    Image.fromarray(SIXTEEN_BITS.astype(np.int32)).save(path)
    assert read_image(path).mode == "I"
    assert grey(path) == SIXTEEN_BITS_AS_EIGHT


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-100, 0, 155], [0, 100, 255]),
        ([65536, 65536 + 510], [0, 255]),
        ([0, 65536], [0, 255]),
        ([-(2**31), 0, 2**31 - 1], [0, 128, 255]),
        ([70000, 70000], [0, 0]),
        ([-1, -1], [0, 0]),
    ],
)
def test_32_bit_grey_beyond_16_bits_is_scaled_from_its_own_range(tmp_path, values, expected):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.array([values], dtype=np.int32)).save(path)
    assert grey(path) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 0.75, 1.0], [0, 64, 191, 255]),  # 63.75, 191.25
        ([0.2, 0.2], [51, 51]),
        ([0.0, 510.0, 255.0], [0, 255, 128]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([7.0, 7.0], [0, 0]),
        ([0.2, np.nan, np.inf, -np.inf], [51, 0, 255, 0]),
        ([-2.0, np.nan, 2.0, np.inf, -np.inf], [0, 0, 255, 255, 0]),
        ([np.nan, np.inf, -np.inf], [0, 255, 0]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
    ],
)
def test_floats_are_scaled_from_0_to_1_or_from_their_own_range(tmp_path, values, expected):
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([values], dtype=np.float32)).save(path)
    assert read_image(path).mode == "F"
    assert grey(path) == expected


# Transparency


def test_a_transparent_index_becomes_alpha(tmp_path):
    colors = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8)
    for suffix, transparent in ((".png", [40, 50, 60, 0]), (".gif", [0, 0, 0, 0])):
        path = tmp_path / f"index{suffix}"
        image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
        image.putpalette(colors.tobytes())
        image.save(path, transparency=1)
        picture = read_image(path)
        assert picture.mode == "P"
        assert picture.pixels.tolist() == [[[10, 20, 30, 255], transparent]]


def test_an_alpha_for_each_index_becomes_alpha(tmp_path):
    path = tmp_path / "bytes.png"
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette(bytes(range(9)))
    image.save(path, transparency=bytes([7, 200]))
    assert read_image(path).pixels.tolist() == [[[0, 1, 2, 7], [3, 4, 5, 200], [6, 7, 8, 255]]]


def test_a_transparent_color_becomes_alpha(tmp_path):
    path = tmp_path / "key.png"
    Image.fromarray(np.array([[[1, 2, 3], [1, 2, 4]]], dtype=np.uint8)).save(path, transparency=(1, 2, 3))
    assert read_image(path).pixels.tolist() == [[[1, 2, 3, 0], [1, 2, 4, 255]]]


@pytest.mark.parametrize(
    ("depth", "row", "key", "expected"),
    [
        (1, bytes([0b01000000]), 1, [[0, 255], [255, 0]]),
        (1, bytes([0b01000000]), 0, [[0, 0], [255, 255]]),
        (2, bytes([0b01110000]), 1, [[85, 0], [255, 255]]),
        (4, bytes([0x1F]), 1, [[17, 0], [255, 255]]),
        (4, bytes([0x1F]), 15, [[17, 255], [255, 0]]),
        (8, bytes([1, 17]), 1, [[1, 0], [17, 255]]),
        (16, struct.pack(">HH", 2570, 2571), 2571, [[10, 255], [10, 0]]),
        # Chromium takes the lower byte of the key, which may exceed the samples.
        (8, bytes([1, 17]), 0x0111, [[1, 255], [17, 0]]),
        (2, bytes([0b01110000]), 0x0101, [[85, 0], [255, 255]]),
        (2, bytes([0b01110000]), 5, [[85], [255]]),
    ],
)
def test_a_transparent_grey_becomes_alpha_at_every_bit_depth(tmp_path, depth, row, key, expected):
    path = tmp_path / "key.png"
    path.write_bytes(handmade_png(2, depth, 0, row, tRNS=struct.pack(">H", key)))
    assert read_image(path).pixels.tolist() == [expected]


def filtered(rows: np.ndarray) -> bytes:
    """The scanlines of 16-bit RGB rows (H, W, 3): each has the next of the five filters of PNG."""
    raw = np.pad(rows.astype(">u2").view(np.uint8).reshape(len(rows), -1, 6).astype(int), ((1, 0), (1, 0), (0, 0)))
    lines = []
    for number in range(len(rows)):
        left, up, corner = raw[number + 1, :-1], raw[number, 1:], raw[number, :-1]
        toward = [abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)]
        paeth = np.choose(np.argmin(toward, axis=0), [left, up, corner])
        predicted = [0, left, up, (left + up) // 2, paeth][number % 5]
        line = (raw[number + 1, 1:] - predicted).astype(np.uint8)
        lines.append(bytes([number % 5]) + line.tobytes())
    return b"".join(lines)


def deep_png(width: int, height: int, scanlines: bytes, key: bytes, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, interlace)
    parts = [(b"IHDR", header), (b"tRNS", key), (b"IDAT", zlib.compress(scanlines)), (b"IEND", b"")]
    return PNG_MAGIC + b"".join(chunk(kind, data) for kind, data in parts)


TWO_PIXELS = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x3400, 0x7800, 0xBC00)


@pytest.mark.parametrize(
    ("scanlines", "interlace"), [(b"\0" + TWO_PIXELS, 0), (b"\0" + TWO_PIXELS[:6] + b"\0" + TWO_PIXELS[6:], 1)]
)
def test_a_transparent_16_bit_color_becomes_alpha_also_in_an_interlaced_file(tmp_path, scanlines, interlace):
    path = tmp_path / "key.png"
    path.write_bytes(deep_png(2, 1, scanlines, TWO_PIXELS[:6], interlace))
    picture = read_image(path)
    assert picture.pixels.tolist() == [[[0x12, 0x56, 0x9A, 0], [0x34, 0x78, 0xBC, 255]]]
    assert picture.mode == "RGB"


@pytest.mark.parametrize("strip_pixels", [16, 1 << 20])
def test_a_transparent_16_bit_color_is_compared_at_16_bits_after_every_filter(tmp_path, monkeypatch, strip_pixels):
    monkeypatch.setattr(reading, "STRIP_PIXELS", strip_pixels)
    rows = np.random.default_rng(0).integers(0, 65536, (10, 7, 3), dtype=np.uint16)
    key = rows[3, 2].copy()
    rows[8, 5] = key
    for channel in range(3):  # equal high bytes, and another low byte in one channel
        rows[channel, 0] = key
        rows[channel, 0, channel] ^= 1
    path = tmp_path / "key.png"
    path.write_bytes(deep_png(7, 10, filtered(rows), key.astype(">u2").tobytes()))
    pixels = read_image(path).pixels
    np.testing.assert_array_equal(pixels[..., :3], rows >> 8)
    assert np.argwhere(pixels[..., 3] == 0).tolist() == [[3, 2], [8, 5]]
    assert set(np.unique(pixels[..., 3])) == {0, 255}


def test_a_transparent_16_bit_color_of_no_pixel_leaves_all_opaque(tmp_path):
    path = tmp_path / "key.png"
    path.write_bytes(deep_png(2, 1, b"\0" + TWO_PIXELS, struct.pack(">3H", 0x12FF, 0x56FF, 0x9AFF)))
    assert read_image(path).pixels.tolist() == [[[0x12, 0x56, 0x9A], [0x34, 0x78, 0xBC]]]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped_if_all_pixels_are_opaque(tmp_path, mode):
    for size in ((3, 2), (1, 1)):
        path = tmp_path / f"opaque{size[0]}.png"
        image = Image.new(mode, size, (9,) * (len(mode) - 1) + (255,))
        image.save(path)
        pixels = read_image(path).pixels
        assert pixels.shape == (size[1], size[0], len(mode) - 1)
        assert (pixels == 9).all()
        assert pixels.flags.owndata
        assert pixels.flags.c_contiguous


def test_a_palette_with_unused_transparency_becomes_rgb(tmp_path):
    path = tmp_path / "unused.png"
    image = Image.fromarray(np.array([[0, 0]], dtype=np.uint8))
    image.putpalette(bytes([1, 2, 3, 4, 5, 6]))
    image.save(path, transparency=1)
    assert read_image(path).pixels.tolist() == [[[1, 2, 3], [1, 2, 3]]]


def test_one_pixel_that_is_not_opaque_keeps_alpha(tmp_path):
    path = tmp_path / "alpha.png"
    alpha = np.full((3, 3, 2), 255, dtype=np.uint8)
    alpha[2, 2, 1] = 254
    Image.fromarray(alpha).save(path)
    np.testing.assert_array_equal(read_image(path).pixels, alpha)


# Orientation and frames

UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


LOSSLESS: dict[str, dict[str, Any]] = {".webp": {"lossless": True, "exact": True}}


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_made_upright_by_its_orientation(tmp_path, orientation, suffix):
    path = tmp_path / f"turned{suffix}"
    numbered = np.zeros((2, 3, 4), dtype=np.uint8)
    numbered[..., 0] = UPRIGHT[1]
    numbered[..., 3] = 10 * numbered[..., 0]
    Image.fromarray(numbered).save(path, exif=oriented(orientation), **LOSSLESS.get(suffix, {}))

    pixels = read_image(path).pixels

    assert pixels[..., 0].tolist() == UPRIGHT[orientation]
    assert read_image(path).upright == (orientation == 1 and suffix != ".tif")
    np.testing.assert_array_equal(pixels[..., 3], 10 * pixels[..., 0])
    assert pixels.flags.c_contiguous


def test_an_image_with_a_transparent_index_is_made_upright(tmp_path):
    path = tmp_path / "turned.png"
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette(bytes([1, 2, 3, 4, 5, 6]))
    image.save(path, transparency=0, exif=oriented(6))
    assert read_image(path).pixels.tolist() == [[[1, 2, 3, 0]], [[4, 5, 6, 255]]]


def test_a_jpeg_is_made_upright(tmp_path):
    path = tmp_path / "turned.jpg"
    halves = np.zeros((16, 32), dtype=np.uint8)
    halves[:, 16:] = 255
    Image.fromarray(halves).save(path, exif=oriented(6))
    pixels = read_image(path).pixels
    assert pixels.shape == (32, 16, 1)
    assert pixels[:16].max() < 10
    assert pixels[16:].min() > 245


def exif_entries(*entries: tuple[int, int, int, int]) -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


@pytest.mark.parametrize(
    "exif",
    [
        exif_entries((0x0112, 3, 1, 6), (0x0100, 9, 1, 0xFFFFFFFF)),  # a negative width
        exif_entries((0x0112, 3, 1, 6), (0x010F, 11, 1, 1)),  # a float for the maker's name
    ],
)
def test_exif_that_pillow_cannot_write_is_no_error(tmp_path, exif):
    path = tmp_path / "odd.jpg"
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert read_image(path).pixels.shape == (8, 4, 3)


@pytest.mark.parametrize("entry", [(0x0112, 3, 2, 6), (0x0112, 4, 1, 6), (0x0112, 1, 1, 6), (0x0112, 3, 1, 9)])
def test_an_orientation_that_is_not_one_short_of_1_to_8_is_ignored(tmp_path, entry):
    Image.new("RGB", (8, 4)).save(tmp_path / "odd.jpg", exif=exif_entries(entry))
    assert read_image(tmp_path / "odd.jpg").pixels.shape == (4, 8, 3)


def test_the_orientation_in_the_xmp_of_a_tiff_is_ignored(tmp_path):
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    for tags, shape in (({700: xmp}, (4, 8, 3)), ({700: xmp, 274: 6}, (8, 4, 3))):
        Image.new("RGB", (8, 4)).save(tmp_path / "p.tif", tiffinfo=tags)
        assert read_image(tmp_path / "p.tif").pixels.shape == shape


def test_with_unreadable_exif_the_pixels_are_as_stored(tmp_path):
    path = tmp_path / "odd.png"
    text = b"Raw profile type exif\0\nexif\n4\nnot hexadecimal\n"
    path.write_bytes(handmade_png(2, 8, 0, b"\x01\x02", tEXt=text))
    with Image.open(path) as image, pytest.raises(ValueError, match="hex"):
        image.getexif()
    assert grey(path) == [1, 2]


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_the_first_frame_is_decoded_and_all_frames_are_counted(tmp_path, suffix):
    path = tmp_path / f"animation{suffix}"
    frames = [Image.new("RGB", (4, 3), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    frames[0].save(path, save_all=True, append_images=frames[1:], **LOSSLESS.get(suffix, {}))
    picture = read_image(path)
    assert picture.frames == 3
    assert picture.pixels.shape == (3, 4, 3)
    assert (picture.pixels == (255, 0, 0)).all()


def test_a_still_image_has_one_frame(tmp_path):
    path = tmp_path / "still.jpg"
    Image.new("RGB", (4, 3)).save(path)
    assert read_image(path).frames == 1


def test_a_format_that_reports_0_frames_has_one_frame(tmp_path, monkeypatch):
    image = Image.new("RGB", (4, 3))
    image.n_frames = 0  # type: ignore[attr-defined]
    assert read_image(fake_open(monkeypatch, image, tmp_path / "layers")).frames == 1


# Files that cannot be read


def test_a_missing_file_is_an_error(tmp_path):
    assert error_of(tmp_path / "none.png") == "does not exist; check the path"
    (tmp_path / "file").write_bytes(b"x")
    assert error_of(tmp_path / "file" / "none.png") == "does not exist; check the path"


def test_a_folder_is_an_error(tmp_path):
    assert error_of(tmp_path) == "is a folder; name an image file in it"


def test_a_file_without_read_permission_is_an_error(tmp_path, monkeypatch):
    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert error_of(tmp_path / "secret.png") == "cannot be read; check its permissions"


def test_an_invalid_path_is_an_error_with_the_reason_of_the_system(tmp_path):
    assert "File name too long" in error_of(tmp_path / ("x" * 300))


def test_an_empty_file_is_an_error(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    assert error_of(path) == "is empty (0 bytes); copy or export it again"


def test_a_pipe_is_read_like_a_file(tmp_path):
    path, png = tmp_path / "pipe", io.BytesIO()
    Image.new("L", (2, 1), 7).save(png, "PNG")
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(png.getvalue(),))
    writer.start()
    assert grey(path) == [7, 7]
    writer.join()


def test_a_read_error_is_an_error_with_the_reason_of_the_system(tmp_path, monkeypatch):
    class BrokenDisk(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", lambda *_: io.BufferedReader(BrokenDisk()))
    assert "Input/output error" in error_of(tmp_path / "image.png")


def test_a_text_file_is_an_error(tmp_path):
    path = tmp_path / "text.png"
    path.write_text("hello")
    assert "not an image" in error_of(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_a_truncated_file_is_an_error(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    message = error_of(path)
    assert message.startswith("cannot be decoded (") or "not an image" in message
    if suffix in (".png", ".jpg"):
        assert "truncated" in message


def test_an_image_without_pixels_is_an_error(tmp_path, monkeypatch):
    assert "no pixels" in error_of(fake_open(monkeypatch, Image.new("RGB", (0, 5)), tmp_path / "thin"))


@pytest.mark.parametrize(
    "error",
    [
        OSError("unrecognized data stream"),
        SyntaxError("broken\nPNG file"),
        ValueError("bad"),
        struct.error("unpack requires a buffer of 4 bytes"),
        IndexError("index out of range"),
        EOFError("no more images"),
        zlib.error("Error -3"),
        KeyError("mode"),
        TypeError("type"),
        OverflowError("too large"),
        AssertionError(),
    ],
)
def test_every_exception_of_a_decoder_becomes_a_one_line_error(tmp_path, monkeypatch, error):
    def fail(file: object) -> None:
        raise error

    path = tmp_path / "odd"
    path.write_bytes(b"anything")
    monkeypatch.setattr(Image, "open", fail)
    message = error_of(path)
    assert message.startswith("cannot be decoded (")
    assert (" ".join(str(error).split()) or "AssertionError") in message


@pytest.mark.parametrize("error", [RuntimeError("lost"), struct.error("short"), KeyError("mode"), OSError("seek")])
@pytest.mark.parametrize("where", ["getexif", "convert", "has_transparency_data"])
def test_an_exception_while_an_image_is_converted_or_its_metadata_read_is_an_error_of_its_file(
    tmp_path, monkeypatch, where, error
):
    path = tmp_path / "fine.png"
    Image.new("P", (2, 2)).save(path)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image.Image, where, property(fail))
    with pytest.raises(ImageError, match=r"cannot be decoded \(") as caught:
        read_image(path)
    assert f"in {fail.__name__}" in (caught.value.traceback or "")


def test_a_plugin_that_closes_its_file_is_an_error_of_its_file(tmp_path):
    path = tmp_path / "game.png"
    path.write_bytes(b"FTEX" + struct.pack("<i2i2i2ii", 0, 1, 1, 1, 1, 1, 32, 3) + bytes(9))
    assert "closed file" in error_of(path)


@pytest.mark.parametrize("where", ["load", "crop"])
def test_an_image_too_large_for_the_memory_is_an_error(tmp_path, monkeypatch, where):
    path = tmp_path / "large.png"
    Image.new("RGB", (2, 2)).save(path)
    monkeypatch.setattr(reading, "STRIP_PIXELS", 2)

    def raise_memory_error(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, where, raise_memory_error)
    assert "too large for the memory" in error_of(path)


def test_the_file_is_closed_after_success_and_after_an_error(tmp_path, monkeypatch):
    good, bad = tmp_path / "good.gif", tmp_path / "bad.gif"
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 99)]
    frames[0].save(good, save_all=True, append_images=frames[1:])
    bad.write_bytes(good.read_bytes()[:20])
    opened_files = []
    original_open = Path.open
    monkeypatch.setattr(Path, "open", lambda *args: opened_files.append(original_open(*args)) or opened_files[-1])
    read_image(good)
    error_of(bad)
    assert [file.closed for file in opened_files] == [True, True]


def test_pillow_prints_nothing_on_an_error(tmp_path):
    path = tmp_path / "nine.tif"
    Image.new("CMYK", (2, 2)).save(path)
    data = path.read_bytes()
    samples = struct.pack("<HHIHH", 277, 3, 1, 4, 0)
    assert samples in data
    path.write_bytes(data.replace(samples, struct.pack("<HHIHH", 277, 3, 1, 99, 0)))
    program = (
        "import sys, pathlib\n"
        "from gpukmeans_cli.system.atomic_files import ImageError\n"
        "from gpukmeans_cli.formats.reading import read_image\n"
        "try:\n    read_image(pathlib.Path(sys.argv[1]))\n"
        "except ImageError:\n    print('refused')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("refused\n", "")


# Limit of pixels


@pytest.fixture
def _low_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)


def blank(path: Path, width: int, height: int = 1) -> Path:
    Image.new("L", (width, height)).save(path)
    return path


@pytest.mark.usefixtures("_low_limit")
def test_an_image_between_the_warning_and_the_error_of_pillow_is_decoded_without_a_warning(tmp_path):
    for width in (50, 51, 100):
        assert read_image(blank(tmp_path / "p.png", width)).pixels.shape == (1, width, 1)


@pytest.mark.usefixtures("_low_limit")
@pytest.mark.parametrize("pixels", [101, 200, 201, 5000])
def test_an_image_above_the_limit_is_an_error_with_its_size_and_the_option_to_raise_the_limit(tmp_path, pixels):
    message = error_of(blank(tmp_path / "p.png", pixels))
    assert f"has {pixels} pixels" in message
    assert "limit is 100;" in message
    assert "--max-pixels" in message


@pytest.mark.usefixtures("_low_limit")
def test_the_caller_can_raise_the_limit(tmp_path):
    path = blank(tmp_path / "p.png", 20, 20)
    assert read_image(path, max_pixels=400).pixels.shape == (20, 20, 1)
    assert "limit is 399;" in error_of(path, max_pixels=399)


def test_the_caller_can_lower_the_limit(tmp_path):
    path = blank(tmp_path / "p.png", 20, 20)
    assert read_image(path).pixels.shape == (20, 20, 1)
    for limit in (0, 150, 399):
        assert f"has 400 pixels, the limit is {limit};" in error_of(path, max_pixels=limit)


def test_a_decompression_bomb_is_an_error_before_its_pixels_are_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(handmade_png(400_000_000, 8, 0, b""))
    assert "has 400000000 pixels, the limit is 178956970;" in error_of(path)


def test_a_decompression_bomb_inside_an_icon_is_an_error(tmp_path):
    path = tmp_path / "bomb.ico"
    inside = io.BytesIO()
    Image.new("RGBA", (40, 40)).save(inside, "PNG")
    png = inside.getvalue()
    path.write_bytes(struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png)
    assert read_image(path).pixels.shape == (40, 40, 4)
    assert "has 1600 pixels, the limit is 1000;" in error_of(path, max_pixels=1000)


def test_a_limit_disabled_in_pillow_stays_disabled_unless_one_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = blank(tmp_path / "p.png", 20, 20)
    assert read_image(path).pixels.shape == (20, 20, 1)
    assert "limit is 10;" in error_of(path, max_pixels=10)


@pytest.mark.usefixtures("_low_limit")
def test_the_limit_of_pillow_is_restored(tmp_path):
    path = blank(tmp_path / "p.png", 20, 20)
    read_image(path, max_pixels=400)
    assert Image.MAX_IMAGE_PIXELS == 50
    error_of(path, max_pixels=1)
    assert Image.MAX_IMAGE_PIXELS == 50


def test_threads_with_the_same_limit_run_concurrently(tmp_path):
    path, barrier = blank(tmp_path / "p.png", 20, 20), threading.Barrier(3)

    def read() -> None:
        with open_for_decoding(path, 400):
            barrier.wait(timeout=10)  # raises if another thread cannot enter

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    barrier.wait(timeout=10)
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("_low_limit")
def test_threads_with_different_limits_each_have_their_own(tmp_path):
    path = blank(tmp_path / "p.png", 20, 20)
    failures = []

    def read(limit: int | None) -> None:
        for _ in range(100):
            try:
                read_image(path, max_pixels=limit)
                outcome = "read"
            except ImageError as error:
                outcome = str(error)
            expected = "read" if limit == 400 else f"the limit is {limit or 100};"
            if expected not in outcome:
                failures.append((limit, outcome))

    threads = [threading.Thread(target=read, args=(limit,)) for limit in (400, 399, None, 400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert Image.MAX_IMAGE_PIXELS == 50
