import io
import struct
import zlib

import numpy as np
import pytest
from helpers.image_files import chunks, noise
from PIL import Image

import gpukmeans_cli.formats.png_chunks as png
from gpukmeans_cli.formats.png_repair import RepairedFile, repaired, without_animation
from gpukmeans_cli.formats.reading import read_image
from gpukmeans_cli.formats.source import read_source, read_still
from gpukmeans_cli.system.atomic_files import ImageError

PIXELS = noise(3, 4, 3)
DEFLATED = zlib.compress(b"some text")
LARGE = zlib.compress(bytes((1 << 20) + 1))
AS_LARGE_AS_POSSIBLE = zlib.compress(bytes(1 << 20))


def with_wrong_checksum(chunk):
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def png_with(*before, after=(), color_type=2, depth=8, pixels=PIXELS):
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, color_type, 0, 0, 0)
    rows = pixels.reshape(len(pixels), -1)
    data = png.chunk(b"IDAT", zlib.compress(png.scanlines(rows, 0)))
    return png.png_file(png.chunk(b"IHDR", header), *before, data, *after)


BROKEN = {
    "iCCP of a wrong checksum": with_wrong_checksum(png.chunk(b"iCCP", b"k\0\0" + DEFLATED)),
    "iCCP of another method": png.chunk(b"iCCP", b"k\0\1" + DEFLATED),
    "iCCP without a name": png.chunk(b"iCCP", b""),
    "iCCP that is cut off": png.chunk(b"iCCP", b"k\0\0" + DEFLATED[:-5]),
    "iCCP that is not deflated": png.chunk(b"iCCP", b"k\0\0 not zlib"),
    "iCCP of more than 1 MiB": png.chunk(b"iCCP", b"k\0\0" + LARGE),
    "gAMA that is short": png.chunk(b"gAMA", b"\0\1\x86"),
    "pHYs that is short": png.chunk(b"pHYs", bytes(8)),
    "tRNS that is short": png.chunk(b"tRNS", bytes(5)),
    "tRNS of a wrong checksum": with_wrong_checksum(png.chunk(b"tRNS", PIXELS[0, 0].astype(">u2").tobytes())),
    "sRGB that is short": png.chunk(b"sRGB", b""),
    "cHRM that is short": png.chunk(b"cHRM", bytes(31)),
    "zTXt of another method": png.chunk(b"zTXt", b"k\0\7" + DEFLATED),
    "zTXt of more than 1 MiB": png.chunk(b"zTXt", b"k\0\0" + LARGE),
    "iTXt of another method": png.chunk(b"iTXt", b"k\0\1\7\0\0" + DEFLATED),
    "iTXt of more than 1 MiB": png.chunk(b"iTXt", b"k\0\1\0\0\0" + LARGE),
    "tEXt of a property of the pixels": png.chunk(b"tEXt", b"transparency\0x"),
    "zTXt of a property of the pixels": png.chunk(b"zTXt", b"bbox\0\0" + DEFLATED),
    "prVt of a wrong checksum": with_wrong_checksum(png.chunk(b"prVt", b"private")),
}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_chunk_is_left_out_and_the_pixels_and_other_chunks_are_kept(tmp_path, name, after):
    good = png.chunk(b"tEXt", b"Title\0balloons")
    path = tmp_path / "p.png"
    path.write_bytes(png_with(good, after=[BROKEN[name]]) if after else png_with(BROKEN[name], good))
    source = read_source(path)
    np.testing.assert_array_equal(next(iter(source.frames)), PIXELS)
    assert source.metadata.text == {"Title": "balloons"}
    assert source.metadata.icc_profile is None
    assert [phrase.split(":")[0] for phrase in source.left_out] == [f"left out {name[:4]}"]
    assert (source.original(), source.n_bytes) == (path.read_bytes(), path.stat().st_size)
    np.testing.assert_array_equal(read_image(path).pixels, PIXELS)
    assert read_still(path).left_out == source.left_out


@pytest.mark.parametrize(
    "chunk",
    [
        png.chunk(b"zTXt", b"k\0\0" + AS_LARGE_AS_POSSIBLE),
        png.chunk(b"iTXt", b"k\0\1\0\0\0" + AS_LARGE_AS_POSSIBLE),
        png.chunk(b"tEXt", b"k\0" + bytes(2 << 20)),
        png.chunk(b"pHYs", struct.pack(">IIB", 1, 1, 1)),
        png.chunk(b"tRNS", bytes(8)),
        png.chunk(b"prVt", b""),
    ],
)
def test_a_file_whose_chunks_pillow_reads_is_unchanged(chunk):
    file = io.BytesIO(png_with(chunk))
    assert repaired(file) is file
    assert file.tell() == 0


def test_texts_beyond_64_mib_in_all_are_left_out(tmp_path):
    path = tmp_path / "p.png"
    texts = [png.chunk(b"zTXt", b"k%d\0\0" % number + AS_LARGE_AS_POSSIBLE) for number in range(66)]
    path.write_bytes(png_with(*texts))
    source = read_source(path)
    assert source.left_out == ("left out 2 x zTXt: all texts together are too large",)
    assert "k0" in source.metadata.text


def test_only_the_first_of_two_transparent_colors_counts(tmp_path):
    keys = [png.chunk(b"tRNS", PIXELS[0, column].astype(">u2").tobytes()) for column in (0, 1)]
    path = tmp_path / "p.png"
    path.write_bytes(png_with(*keys))
    assert read_image(path).pixels[0, :2, 3].tolist() == [0, 255]


def test_more_alphas_than_a_palette_can_have_are_left_out(tmp_path):
    indices, palette = np.array([[0, 1, 0]], dtype=np.uint8), png.chunk(b"PLTE", bytes(range(6)))
    path = tmp_path / "p.png"
    path.write_bytes(png_with(palette, png.chunk(b"tRNS", bytes(257)), color_type=3, pixels=indices))
    assert read_image(path).pixels.tolist() == [[[0, 1, 2], [3, 4, 5], [0, 1, 2]]]


def test_a_text_that_is_cut_off_behind_the_pixels_is_left_out(tmp_path):
    data = png_with(after=[png.chunk(b"tEXt", b"Title\0" + bytes(99))])
    path = tmp_path / "p.png"
    path.write_bytes(data[:-50])
    assert read_source(path).left_out == ("left out tEXt: its checksum is wrong",)


def test_a_broken_chunk_that_holds_the_pixels_is_an_error(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(png_with()[:-30])
    with pytest.raises(ImageError, match="truncated"):
        read_source(path)


def test_left_out_chunks_are_printed_with_verbose_only(command, tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(png_with(BROKEN["iCCP of more than 1 MiB"]))
    options = ("compress", path, "-k", 2, "--device", "cpu", "--force")
    assert command(*options)[2] == ""
    assert f"{path}: left out iCCP: it unpacks to more than 1 MiB\n" in command(*options, "--verbose")[2]
    assert "iCCP" not in chunks(tmp_path / "p-2.png")


# Animations


def apng(folder, **options):
    path = folder / "a.png"
    frames = [Image.fromarray(noise(3, 4, 3, seed=seed)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def with_wrong_sequence_number(data, number=1):
    """The file whose fcTL of this position has another sequence number, with a valid checksum."""
    at = -1
    for _ in range(number + 1):
        at = data.index(b"fcTL", at + 1)
    body = b"\0\0\0\x63" + data[at + 8 : at + 30]
    return data[: at - 4] + png.chunk(b"fcTL", body) + data[at + 34 :]


@pytest.mark.parametrize("default_image", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: with_wrong_sequence_number(data, 0),
        lambda data: with_wrong_sequence_number(data, 1),
        lambda data: data[:-30],
        lambda data: data[:33] + png.chunk(b"acTL", struct.pack(">II", 9, 0)) + data[53:],
        lambda data: data[:33] + with_wrong_checksum(data[33:53]) + data[53:],
        lambda data: data[:33] + png.chunk(b"acTL", b"\0") + data[53:],
    ],
)
def test_an_apng_with_broken_frames_is_its_default_image(tmp_path, default_image, damage):
    path = apng(tmp_path, default_image=default_image)
    path.write_bytes(damage(path.read_bytes()))
    source = read_source(path)
    assert (source.animation, source.broken_animation, source.format) == (None, True, "PNG")
    np.testing.assert_array_equal(next(iter(source.frames)), noise(3, 4, 3))
    assert source.original() == path.read_bytes()
    np.testing.assert_array_equal(read_image(path).pixels, noise(3, 4, 3))


def test_an_apng_whose_default_image_is_broken_too_is_an_error(tmp_path):
    path = apng(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"IDAT") + 9])
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_source(path)


def test_the_default_image_of_a_broken_animation_is_a_warning_and_never_the_file_itself(command, tmp_path):
    path = apng(tmp_path)
    path.write_bytes(with_wrong_sequence_number(path.read_bytes()))
    code, out, err = command("compress", path, "-k", 256, "--device", "cpu")
    assert (code, err.count("\n")) == (0, 1)
    assert "took the default image, since the frames of the animation are broken" in err
    assert "kept" not in out
    assert "acTL" not in chunks(tmp_path / "a-256.png")


def test_too_many_pixels_in_all_frames_are_an_error_and_no_still(tmp_path):
    with pytest.raises(ImageError, match="has 12288 pixels in 3 frames, counted as at least 4096 each"):
        read_source(apng(tmp_path), max_pixels=12_287)


def test_only_an_apng_has_a_default_image():
    assert without_animation(io.BytesIO(png_with())) is None
    assert without_animation(io.BytesIO(b"GIF89a")) is None


def test_chunks_left_out_before_are_still_known_without_the_animation(tmp_path):
    data = apng(tmp_path).read_bytes()
    file = repaired(io.BytesIO(data[:33] + png.chunk(b"gAMA", b"\0") + data[33:]))
    still = without_animation(file)
    assert isinstance(file, RepairedFile)
    assert still is not None
    assert (still.left_out, still.stored) == (file.left_out, file.stored)
    assert b"gAMA" not in still.getvalue()
