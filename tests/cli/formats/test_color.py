import io
import struct

import numpy as np
import pytest
from helpers.color_profiles import LINEAR, SRGB, SWAPPED, cmyk_profile
from PIL import Image

from gpukmeans_cli.formats import color
from gpukmeans_cli.formats.color import is_srgb, to_srgb, with_color_chunks, without_encoding
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.png_chunks import MAGIC, chunk
from gpukmeans_cli.formats.reading import read_image

SRGB_CHUNK = (b"sRGB", b"\0")
P3 = (b"cICP", bytes([12, 13, 0, 1]))
CHROMATICITIES = (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
HDR = (b"mDCV", bytes(24)), (b"cLLI", bytes(8))
PQ, HLG = (Metadata(color_chunks=((b"cICP", bytes([9, transfer, 0, 1])),)) for transfer in (16, 18))


def found_chunks(*chunks, icc_profile=None):
    file = io.BytesIO(MAGIC + b"".join(chunk(*part) for part in [(b"IHDR", bytes(13)), *chunks, (b"IDAT", b"")]))
    metadata = with_color_chunks(Metadata(icc_profile=icc_profile), file)
    return metadata.color_chunks, metadata.icc_profile


def test_the_chunk_of_highest_precedence_is_taken():
    assert found_chunks(LINEAR, SRGB_CHUNK, *HDR, P3, icc_profile=SRGB) == ((*HDR, P3), None)
    assert found_chunks(LINEAR, SRGB_CHUNK, icc_profile=SRGB) == ((), SRGB)
    assert found_chunks(LINEAR, CHROMATICITIES, SRGB_CHUNK, *HDR) == ((SRGB_CHUNK,), None)
    assert found_chunks(CHROMATICITIES, LINEAR) == ((LINEAR, CHROMATICITIES), None)
    assert found_chunks() == ((), None)


@pytest.mark.parametrize(
    "cicp", [(12, 13, 0, 0), (12, 13, 1, 1), (12, 13, 0), (3, 13, 0, 1), (12, 2, 0, 1), (99, 13, 0, 1)]
)
def test_a_cicp_chunk_that_browsers_do_not_know_is_left_out(cicp):
    assert found_chunks((b"cICP", bytes(cicp)), LINEAR) == ((LINEAR,), None)


def test_chunks_that_are_broken_or_follow_the_palette_or_repeat_one_are_left_out():
    assert found_chunks((b"PLTE", bytes(3)), LINEAR) == ((), None)
    assert found_chunks((b"gAMA", b"\1"), (b"sRGB", b"\0\0")) == ((), None)
    assert found_chunks(LINEAR, (b"gAMA", bytes(4))) == ((LINEAR,), None)
    broken = bytearray(MAGIC + chunk(*LINEAR) + chunk(b"IDAT", b""))
    broken[-13] ^= 1  # of the checksum
    assert with_color_chunks(Metadata(), io.BytesIO(broken)) == Metadata()


@pytest.mark.parametrize("end", range(60))
def test_a_file_that_is_cut_off_is_no_error(end):
    data = MAGIC + chunk(b"IHDR", bytes(13)) + chunk(*LINEAR)
    found = with_color_chunks(Metadata(), io.BytesIO(data[:end])).color_chunks
    assert found == ((LINEAR,) if end >= len(data) else ())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_linear_light_becomes_srgb_and_alpha_is_kept(channels):
    pixels = np.full((2, 5, channels), 77, dtype=np.uint8)
    expected = pixels.copy()
    for level, in_srgb in ((0, 0), (1, 13), (10, 56), (128, 188), (255, 255)):
        pixels[..., 0] = level
        assert to_srgb(pixels, Metadata(color_chunks=(LINEAR,)))[0, 0, 0] == in_srgb
    pixels[..., : 1 if channels < 3 else 3] = 10
    expected[..., : 1 if channels < 3 else 3] = 56
    assert np.array_equal(to_srgb(pixels, Metadata(color_chunks=(LINEAR,))), expected)


def test_colors_outside_of_srgb_are_clipped():
    pixels = np.array([[255, 0, 0], [0, 255, 0], [255, 255, 255], [90, 90, 90]], np.uint8)
    assert to_srgb(pixels, Metadata(color_chunks=(P3,))).tolist() == [[255, 0, 0], [0, 255, 0], [255] * 3, [90] * 3]


@pytest.mark.parametrize(("metadata", "levels"), [(PQ, [0, 30, 132, 255]), (HLG, [0, 43, 99, 255])])
def test_hdr_has_the_brightness_of_chromium_and_is_cut_off_at_white(metadata, levels):
    assert to_srgb(np.array([[0], [64], [128], [250]], np.uint8), metadata).ravel().tolist() == levels


def test_a_profile_is_applied():
    pixels = np.array([[200, 10, 30, 7], [50, 60, 70, 255]], np.uint8)
    found = to_srgb(pixels, Metadata(icc_profile=SWAPPED))
    assert abs(found.astype(int) - pixels[:, [1, 0, 2, 3]]).max() <= 1


def test_grey_becomes_rgb_where_its_profile_makes_it_colored():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert to_srgb(grey, Metadata(icc_profile=SWAPPED)).shape == (16, 16, 1)
    tag = SRGB.index(b"bXYZ")
    red = SRGB.index(b"rXYZ")
    without_blue = SRGB[: tag + 4] + SRGB[red + 4 : red + 12] + SRGB[tag + 12 :]
    assert to_srgb(grey, Metadata(icc_profile=without_blue)).shape == (16, 16, 3)


@pytest.mark.parametrize(
    "metadata",
    [
        Metadata(),
        Metadata(icc_profile=SRGB),
        Metadata(icc_profile=bytes(16) + b"GRAY" + bytes(200)),
        Metadata(color_chunks=(SRGB_CHUNK,)),
        Metadata(color_chunks=((b"gAMA", struct.pack(">I", 45455)),)),
        Metadata(color_chunks=((b"gAMA", bytes(4)),)),
        Metadata(color_chunks=((b"cICP", bytes([1, 13, 0, 1])),)),
        Metadata(color_chunks=(CHROMATICITIES,)),
        Metadata(color_chunks=(LINEAR, (b"cHRM", bytes(8) + CHROMATICITIES[1][8:16] * 3))),
    ],
)
def test_srgb_and_encodings_that_cannot_be_used_change_nothing(metadata):
    pixels = np.zeros((3, 4, 3), dtype=np.uint8)
    assert to_srgb(pixels, metadata) is pixels
    assert is_srgb(metadata)


def test_the_metadata_of_pixels_in_srgb_has_no_encoding():
    assert without_encoding(Metadata(icc_profile=SRGB, color_chunks=(P3,), dpi=(9, 9))) == Metadata(dpi=(9, 9))
    assert not is_srgb(Metadata(color_chunks=(P3,)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_blocks_do_not_change_the_result(monkeypatch, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 7, channels), dtype=np.uint8)
    for metadata in (Metadata(color_chunks=(P3,)), HLG, Metadata(icc_profile=SWAPPED)):
        expected = to_srgb(pixels, metadata)
        with monkeypatch.context() as context:
            context.setattr(color, "BLOCK_PIXELS", 10)
            assert np.array_equal(to_srgb(pixels, metadata), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_is_read_as_its_profile_defines_it(tmp_path, suffix):
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255)]
    image = Image.fromarray(np.kron(np.array([inks], np.uint8), np.ones((8, 8, 1), np.uint8)), "CMYK")
    for profile, expected in (
        (cmyk_profile(), [(255, 255, 255), (0, 150, 209), (218, 42, 131), (250, 228, 30), (27, 27, 27)]),
        (None, [(255, 255, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0)]),
        (SRGB, [(255, 255, 255), (0, 255, 255), (255, 0, 255), (255, 255, 0), (0, 0, 0)]),
    ):
        image.save(tmp_path / f"p{suffix}", icc_profile=profile, **({"quality": 100} if suffix == ".jpg" else {}))
        picture = read_image(tmp_path / f"p{suffix}")
        assert abs(picture.pixels[4, 4::8].astype(int) - expected).max() <= 2
        assert picture.metadata.icc_profile is None


def test_the_pixels_of_a_file_are_read_in_its_own_encoding(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "p.png", icc_profile=SWAPPED)
    picture = read_image(tmp_path / "p.png")
    assert np.array_equal(picture.pixels, image)
    assert picture.metadata == Metadata(icc_profile=SWAPPED)
