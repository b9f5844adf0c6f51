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

from gpukmeans_cli.formats import reading as image_io
from gpukmeans_cli.formats.reading import opened, read_picture
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


def pretend_to_open(monkeypatch: pytest.MonkeyPatch, image: Image.Image, path: Path) -> Path:
    """Let Pillow find this image in a file, for modes that none of its writers can store."""
    path.write_bytes(b"anything")
    monkeypatch.setattr(Image, "open", lambda file: image)
    return path


def refusal(path: Path, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        read_picture(path, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) not in sentence
    return sentence


# Reading: modes


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
def test_a_file_of_any_mode_becomes_what_pillow_converts_it_to(tmp_path, mode, suffix, channels):
    path = tmp_path / f"picture{suffix}"
    source = Image.fromarray(noise(5, 7, 4))
    if mode == "LAB":
        source = Image.frombytes("LAB", (7, 5), noise(5, 7, 3).tobytes())
    elif mode in ("LA", "RGBA"):
        source = source.convert(mode)
    else:
        source = source.convert("RGB").convert(mode)
    source.save(path)

    picture = read_picture(path)

    with Image.open(path) as stored:
        assert picture.mode == stored.mode == mode
        expected = np.asarray(stored.convert({GREY: "L", GREY_ALPHA: "LA", RGB: "RGB", RGBA: "RGBA"}[channels]))
    assert picture.pixels.dtype == np.uint8
    np.testing.assert_array_equal(picture.pixels, expected.reshape(5, 7, channels))


@pytest.mark.parametrize(
    ("mode", "target"),
    [("La", "LA"), ("RGBa", "RGBA"), ("PA", "RGBA"), ("HSV", "RGB"), ("YCbCr", "RGB"), ("RGBX", "RGB")],
)
def test_a_mode_only_a_decoder_can_make_becomes_what_pillow_converts_it_to(tmp_path, monkeypatch, mode, target):
    bands = len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, (7, 5), noise(5, 7, bands).tobytes())
    if mode == "PA":
        image.putpalette(noise(256, 3).tobytes())
    expected = np.asarray(image.convert(target))

    picture = read_picture(pretend_to_open(monkeypatch, image, tmp_path / "picture"))

    assert picture.mode == mode
    np.testing.assert_array_equal(picture.pixels, expected)


def test_black_and_white_become_0_and_255(tmp_path):
    path = tmp_path / "ink.png"
    Image.fromarray(np.array([[False, True, True]])).save(path)
    assert read_picture(path).pixels.tolist() == [[[0], [255], [255]]]


def test_the_pixels_are_a_fresh_contiguous_array_that_may_be_written(tmp_path):
    for channels in (GREY, GREY_ALPHA, RGB, RGBA):
        path = tmp_path / f"{channels}.png"
        Image.fromarray(noise(4, 6, channels).squeeze()).save(path)
        pixels = read_picture(path).pixels
        assert pixels.flags.owndata
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous
        assert pixels.shape == (4, 6, channels)


@pytest.mark.parametrize("kind", ["RGB", "P", "I;16", "F", "L"])
def test_a_picture_of_many_strips_is_put_together_again(tmp_path, monkeypatch, kind):
    path = tmp_path / "tall.tif"
    if kind == "I;16":
        Image.fromarray(noise(23, 5, 1).astype(np.uint16).squeeze() * 257).save(path)
    elif kind == "F":
        Image.fromarray(noise(23, 5, 1).astype(np.float32).squeeze() - 100).save(path)
    else:
        Image.fromarray(noise(23, 5, 3)).convert(kind).save(path)
    whole = read_picture(path).pixels
    monkeypatch.setattr(image_io, "STRIP_PIXELS", 16)
    np.testing.assert_array_equal(read_picture(path).pixels, whole)


# Reading: grey deeper than 8 bits

SIXTEEN_BITS = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
SIXTEEN_BITS_AS_EIGHT = [0, 0, 1, 1, 128, 255]  # 128 / 257 = 0.498, 129 / 257 = 0.502, 32768 / 257 = 127.502


def grey(path: Path) -> list[int]:
    pixels = read_picture(path).pixels
    assert pixels.shape[2] == GREY
    return pixels.ravel().tolist()


def test_16_bit_grey_is_scaled_and_rounded(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(SIXTEEN_BITS).save(path)
    assert grey(path) == SIXTEEN_BITS_AS_EIGHT
    assert read_picture(path).mode == "I;16"


@pytest.mark.parametrize(("mode", "order"), [("I;16", "<"), ("I;16L", "<"), ("I;16B", ">"), ("I;16N", "=")])
def test_16_bit_grey_reads_the_same_in_any_byte_order(tmp_path, monkeypatch, mode, order):
    image = Image.frombytes(mode, (6, 1), SIXTEEN_BITS.astype(f"{order}u2").tobytes())
    assert grey(pretend_to_open(monkeypatch, image, tmp_path / "picture")) == SIXTEEN_BITS_AS_EIGHT


def test_32_bit_grey_within_16_bits_is_scaled_from_16_bits(tmp_path):
    path = tmp_path / "deep.tif"
    Image.fromarray(SIXTEEN_BITS.astype(np.int32)).save(path)
    assert read_picture(path).mode == "I"
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
    assert read_picture(path).mode == "F"
    assert grey(path) == expected


# Reading: transparency


def test_a_transparent_index_becomes_alpha(tmp_path):
    colors = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8)
    for suffix in (".png", ".gif"):
        path = tmp_path / f"index{suffix}"
        image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
        image.putpalette(colors.tobytes())
        image.save(path, transparency=1)
        picture = read_picture(path)
        assert picture.mode == "P"
        assert picture.pixels.tolist() == [[[10, 20, 30, 255], [40, 50, 60, 0]]]


def test_an_alpha_for_each_index_becomes_alpha(tmp_path):
    path = tmp_path / "bytes.png"
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette(bytes(range(9)))
    image.save(path, transparency=bytes([7, 200]))
    assert read_picture(path).pixels.tolist() == [[[0, 1, 2, 7], [3, 4, 5, 200], [6, 7, 8, 255]]]


def test_a_transparent_color_becomes_alpha(tmp_path):
    path = tmp_path / "key.png"
    Image.fromarray(np.array([[[1, 2, 3], [1, 2, 4]]], dtype=np.uint8)).save(path, transparency=(1, 2, 3))
    assert read_picture(path).pixels.tolist() == [[[1, 2, 3, 0], [1, 2, 4, 255]]]


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
    ],
)
def test_a_transparent_grey_becomes_alpha_at_every_bit_depth(tmp_path, depth, row, key, expected):
    path = tmp_path / "key.png"
    path.write_bytes(handmade_png(2, depth, 0, row, tRNS=struct.pack(">H", key)))
    assert read_picture(path).pixels.tolist() == [expected]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_that_is_opaque_everywhere_is_left_out(tmp_path, mode):
    for size in ((3, 2), (1, 1)):
        path = tmp_path / f"opaque{size[0]}.png"
        image = Image.new(mode, size, (9,) * (len(mode) - 1) + (255,))
        image.save(path)
        pixels = read_picture(path).pixels
        assert pixels.shape == (size[1], size[0], len(mode) - 1)
        assert (pixels == 9).all()
        assert pixels.flags.owndata
        assert pixels.flags.c_contiguous


def test_a_palette_with_unused_transparency_becomes_rgb(tmp_path):
    path = tmp_path / "unused.png"
    image = Image.fromarray(np.array([[0, 0]], dtype=np.uint8))
    image.putpalette(bytes([1, 2, 3, 4, 5, 6]))
    image.save(path, transparency=1)
    assert read_picture(path).pixels.tolist() == [[[1, 2, 3], [1, 2, 3]]]


def test_one_pixel_that_is_not_opaque_keeps_alpha(tmp_path):
    path = tmp_path / "alpha.png"
    alpha = np.full((3, 3, 2), 255, dtype=np.uint8)
    alpha[2, 2, 1] = 254
    Image.fromarray(alpha).save(path)
    np.testing.assert_array_equal(read_picture(path).pixels, alpha)


# Reading: orientation and frames

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


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_rotated_photo_is_turned_upright(tmp_path, orientation, suffix):
    path = tmp_path / f"turned{suffix}"
    numbered = np.zeros((2, 3, 4), dtype=np.uint8)
    numbered[..., 0] = UPRIGHT[1]
    numbered[..., 3] = 10 * numbered[..., 0]
    Image.fromarray(numbered).save(path, exif=oriented(orientation), **LOSSLESS.get(suffix, {}))

    pixels = read_picture(path).pixels

    assert pixels[..., 0].tolist() == UPRIGHT[orientation]
    assert read_picture(path).upright == (orientation == 1 and suffix != ".tif")
    np.testing.assert_array_equal(pixels[..., 3], 10 * pixels[..., 0])
    assert pixels.flags.c_contiguous


def test_a_rotated_picture_with_a_transparent_index_is_turned_with_its_palette(tmp_path):
    path = tmp_path / "turned.png"
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette(bytes([1, 2, 3, 4, 5, 6]))
    image.save(path, transparency=0, exif=oriented(6))
    assert read_picture(path).pixels.tolist() == [[[1, 2, 3, 0]], [[4, 5, 6, 255]]]


def test_a_rotated_jpeg_is_turned_upright(tmp_path):
    path = tmp_path / "turned.jpg"
    halves = np.zeros((16, 32), dtype=np.uint8)
    halves[:, 16:] = 255
    Image.fromarray(halves).save(path, exif=oriented(6))
    pixels = read_picture(path).pixels
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
        exif_entries((0x0112, 3, 2, 6)),  # two orientations: Pillow warns
    ],
)
def test_exif_that_pillow_could_not_write_back_does_not_spoil_the_picture(tmp_path, exif):
    path = tmp_path / "odd.jpg"
    Image.new("RGB", (8, 4)).save(path, exif=exif)
    assert read_picture(path).pixels.shape == (8, 4, 3)


def test_unreadable_exif_leaves_the_picture_as_it_is_stored(tmp_path):
    path = tmp_path / "odd.png"
    text = b"Raw profile type exif\0\nexif\n4\nnot hexadecimal\n"
    path.write_bytes(handmade_png(2, 8, 0, b"\x01\x02", tEXt=text))
    with Image.open(path) as image, pytest.raises(ValueError, match="hex"):
        image.getexif()
    assert grey(path) == [1, 2]


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_the_first_of_several_frames_is_read_and_all_are_counted(tmp_path, suffix):
    path = tmp_path / f"film{suffix}"
    frames = [Image.new("RGB", (4, 3), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    frames[0].save(path, save_all=True, append_images=frames[1:], **LOSSLESS.get(suffix, {}))
    picture = read_picture(path)
    assert picture.frames == 3
    assert picture.pixels.shape == (3, 4, 3)
    assert (picture.pixels == (255, 0, 0)).all()


def test_a_picture_of_one_frame_counts_one(tmp_path):
    path = tmp_path / "still.jpg"
    Image.new("RGB", (4, 3)).save(path)
    assert read_picture(path).frames == 1


def test_a_format_that_counts_layers_beside_the_picture_still_has_one_frame(tmp_path, monkeypatch):
    image = Image.new("RGB", (4, 3))
    image.n_frames = 0  # type: ignore[attr-defined]
    assert read_picture(pretend_to_open(monkeypatch, image, tmp_path / "layers")).frames == 1


# Reading: files that cannot be read


def test_a_missing_file_is_named_missing(tmp_path):
    assert refusal(tmp_path / "none.png") == "does not exist; check the path"
    (tmp_path / "file").write_bytes(b"x")
    assert refusal(tmp_path / "file" / "none.png") == "does not exist; check the path"


def test_a_folder_is_no_picture(tmp_path):
    assert refusal(tmp_path) == "is a folder; name an image file in it"


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert refusal(tmp_path / "secret.png") == "may not be read; check its permissions"


def test_a_path_the_system_refuses_gives_the_reason(tmp_path):
    assert "File name too long" in refusal(tmp_path / ("x" * 300))


def test_an_empty_file_is_called_empty(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    assert refusal(path) == "is empty (0 bytes); copy or export it again"


def test_a_pipe_is_read_like_a_file(tmp_path):
    path, png = tmp_path / "pipe", io.BytesIO()
    Image.new("L", (2, 1), 7).save(png, "PNG")
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(png.getvalue(),))
    writer.start()
    assert grey(path) == [7, 7]
    writer.join()


def test_a_file_the_system_fails_to_read_gives_the_reason(tmp_path, monkeypatch):
    class BrokenDisk(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", lambda *_: io.BufferedReader(BrokenDisk()))
    assert "Input/output error" in refusal(tmp_path / "picture.png")


def test_a_text_is_no_picture(tmp_path):
    path = tmp_path / "text.png"
    path.write_text("hello")
    assert "not an image" in refusal(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_a_truncated_picture_is_refused(tmp_path, suffix):
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    sentence = refusal(path)
    assert sentence.startswith("cannot be decoded (") or "not an image" in sentence
    if suffix in (".png", ".jpg"):
        assert "truncated" in sentence


def test_a_picture_without_pixels_is_refused(tmp_path, monkeypatch):
    assert "no pixels" in refusal(pretend_to_open(monkeypatch, Image.new("RGB", (0, 5)), tmp_path / "thin"))


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
def test_whatever_a_decoder_raises_becomes_one_sentence(tmp_path, monkeypatch, error):
    def stumble(file: object) -> None:
        raise error

    path = tmp_path / "odd"
    path.write_bytes(b"anything")
    monkeypatch.setattr(Image, "open", stumble)
    sentence = refusal(path)
    assert sentence.startswith("cannot be decoded (")
    assert (" ".join(str(error).split()) or "AssertionError") in sentence


def test_a_mistake_of_ours_is_not_called_a_broken_file(tmp_path, monkeypatch):
    path = tmp_path / "fine.png"
    Image.new("RGB", (2, 2)).save(path)
    monkeypatch.setattr(image_io, "_WITH_ALPHA", None)
    with pytest.raises(AttributeError):
        read_picture(path)


@pytest.mark.parametrize("where", ["load", "crop"])
def test_a_picture_beyond_the_memory_is_called_too_large(tmp_path, monkeypatch, where):
    path = tmp_path / "large.png"
    Image.new("RGB", (2, 2)).save(path)
    monkeypatch.setattr(image_io, "STRIP_PIXELS", 2)

    def exhaust(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, where, exhaust)
    assert "too large for the memory" in refusal(path)


def test_the_file_is_closed_however_the_reading_ends(tmp_path, monkeypatch):
    good, bad = tmp_path / "good.gif", tmp_path / "bad.gif"
    frames = [Image.new("L", (4, 4), shade) for shade in (0, 99)]
    frames[0].save(good, save_all=True, append_images=frames[1:])
    bad.write_bytes(good.read_bytes()[:20])
    opened = []
    really_open = Path.open
    monkeypatch.setattr(Path, "open", lambda *args: opened.append(really_open(*args)) or opened[-1])
    read_picture(good)
    refusal(bad)
    assert [file.closed for file in opened] == [True, True]


def test_pillow_logs_nothing_beside_the_sentence(tmp_path):
    path = tmp_path / "nine.tif"
    Image.new("CMYK", (2, 2)).save(path)
    data = path.read_bytes()
    samples = struct.pack("<HHIHH", 277, 3, 1, 4, 0)
    assert samples in data
    path.write_bytes(data.replace(samples, struct.pack("<HHIHH", 277, 3, 1, 99, 0)))
    program = (
        "import sys, pathlib\n"
        "from gpukmeans_cli.system.atomic_files import ImageError\n"
        "from gpukmeans_cli.formats.reading import read_picture\n"
        "try:\n    read_picture(pathlib.Path(sys.argv[1]))\n"
        "except ImageError:\n    print('refused')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("refused\n", "")


# Reading: too many pixels


@pytest.fixture
def _low_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)


def blank(path: Path, width: int, height: int = 1) -> Path:
    Image.new("L", (width, height)).save(path)
    return path


@pytest.mark.usefixtures("_low_limit")
def test_a_picture_between_pillows_warning_and_its_error_is_read_without_a_warning(tmp_path):
    for width in (50, 51, 100):
        assert read_picture(blank(tmp_path / "p.png", width)).pixels.shape == (1, width, 1)


@pytest.mark.usefixtures("_low_limit")
@pytest.mark.parametrize("pixels", [101, 200, 201, 5000])
def test_a_picture_over_the_limit_is_refused_with_its_size_and_the_way_out(tmp_path, pixels):
    sentence = refusal(blank(tmp_path / "p.png", pixels))
    assert f"has {pixels} pixels" in sentence
    assert "limit is 100;" in sentence
    assert "--max-pixels" in sentence


@pytest.mark.usefixtures("_low_limit")
def test_the_caller_can_raise_the_limit(tmp_path):
    path = blank(tmp_path / "p.png", 20, 20)
    assert read_picture(path, max_pixels=400).pixels.shape == (20, 20, 1)
    assert "limit is 399;" in refusal(path, max_pixels=399)


def test_the_caller_can_lower_the_limit(tmp_path):
    path = blank(tmp_path / "p.png", 20, 20)
    assert read_picture(path).pixels.shape == (20, 20, 1)
    for limit in (0, 150, 399):
        assert f"has 400 pixels, the limit is {limit};" in refusal(path, max_pixels=limit)


def test_a_bomb_is_refused_before_its_pixels_are_decoded(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(handmade_png(400_000_000, 8, 0, b""))
    assert "has 400000000 pixels, the limit is 178956970;" in refusal(path)


def test_a_bomb_inside_an_icon_is_refused(tmp_path):
    path = tmp_path / "bomb.ico"
    inside = io.BytesIO()
    Image.new("RGBA", (40, 40)).save(inside, "PNG")
    png = inside.getvalue()
    path.write_bytes(struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png)
    assert read_picture(path).pixels.shape == (40, 40, 4)
    assert "has 1600 pixels, the limit is 1000;" in refusal(path, max_pixels=1000)


def test_no_limit_stays_no_limit_unless_one_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    path = blank(tmp_path / "p.png", 20, 20)
    assert read_picture(path).pixels.shape == (20, 20, 1)
    assert "limit is 10;" in refusal(path, max_pixels=10)


@pytest.mark.usefixtures("_low_limit")
def test_pillows_own_limit_is_left_as_it_was(tmp_path):
    path = blank(tmp_path / "p.png", 20, 20)
    read_picture(path, max_pixels=400)
    assert Image.MAX_IMAGE_PIXELS == 50
    refusal(path, max_pixels=1)
    assert Image.MAX_IMAGE_PIXELS == 50


def test_readers_of_one_limit_work_at_the_same_time(tmp_path):
    path, together = blank(tmp_path / "p.png", 20, 20), threading.Barrier(3)

    def read() -> None:
        with opened(path, 400):
            together.wait(timeout=10)  # which raises if the others are kept out

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    together.wait(timeout=10)
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("_low_limit")
def test_threads_with_different_limits_do_not_disturb_each_other(tmp_path):
    path = blank(tmp_path / "p.png", 20, 20)
    surprises = []

    def read(limit: int | None) -> None:
        for _ in range(100):
            try:
                read_picture(path, max_pixels=limit)
                outcome = "read"
            except ImageError as error:
                outcome = str(error)
            wanted = "read" if limit == 400 else f"the limit is {limit or 100};"
            if wanted not in outcome:
                surprises.append((limit, outcome))

    threads = [threading.Thread(target=read, args=(limit,)) for limit in (400, 399, None, 400)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert surprises == []
    assert Image.MAX_IMAGE_PIXELS == 50
