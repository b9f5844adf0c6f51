import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from gpukmeans_cli.formats import metadata
from gpukmeans_cli.formats.metadata import Metadata, read_metadata, read_orientation
from gpukmeans_cli.formats.png_chunks import MAGIC, chunk, parse_chunks
from gpukmeans_cli.formats.reading import read_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY = SRGB[:16] + b"GRAY" + SRGB[20:]
CMYK = SRGB[:16] + b"CMYK" + SRGB[20:]
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="A"/>'
    b"<tiff:Orientation>6</tiff:Orientation></x:xmpmeta>"
)
UPRIGHT_XMP = XMP.replace(b"6", b"1")


def saved(path: Path, mode: str = "RGB", **options: object) -> Metadata:
    Image.new(mode, (6, 4), 0).save(path, **options)
    return read_image(path).metadata


def exif_of(**tags: object) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    if tags:
        exif[0x0112] = tags["orientation"]
    return exif


def entries_of(exif: bytes | None) -> dict[int, object]:
    assert exif is not None
    assert not exif.startswith(b"Exif")
    found = Image.Exif()
    found.load(exif)
    return dict(found)


@pytest.mark.parametrize("suffix", [".gif", ".jpg", ".png", ".tif", ".webp"])
def test_a_file_without_metadata_has_none(tmp_path, suffix):
    assert saved(tmp_path / f"plain{suffix}") == Metadata()


# Color profiles


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_an_rgb_profile_is_kept(tmp_path, suffix):
    assert saved(tmp_path / f"p{suffix}", icc_profile=SRGB).icc_profile == SRGB


@pytest.mark.parametrize(
    ("mode", "suffix", "profile", "kept"),
    [
        ("L", ".png", GRAY, True),
        ("LA", ".png", GRAY, True),
        ("I;16", ".tif", GRAY, True),
        ("L", ".jpg", SRGB, True),
        ("P", ".png", SRGB, True),
        ("RGBA", ".png", SRGB, True),
        ("P", ".png", GRAY, False),
        ("RGB", ".jpg", GRAY, False),
        ("RGB", ".tif", CMYK, False),
        ("CMYK", ".jpg", CMYK, False),
        ("CMYK", ".tif", CMYK, False),
        ("CMYK", ".tif", SRGB, False),
        ("LAB", ".tif", SRGB, False),
        ("L", ".tif", CMYK, False),
    ],
)
def test_a_profile_of_another_color_space_is_dropped(tmp_path, mode, suffix, profile, kept):
    found = saved(tmp_path / f"p{suffix}", mode, icc_profile=profile).icc_profile
    assert found == (profile if kept else None)


@pytest.mark.parametrize("profile", [SRGB[:-1], SRGB[:140], SRGB[:20], SRGB[:140] + b"\xff" * 4 + SRGB[144:]])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_a_truncated_profile_is_left_out(tmp_path, suffix, profile):
    assert saved(tmp_path / f"p{suffix}", icc_profile=profile).icc_profile is None


def test_a_text_with_the_key_of_another_item_is_only_a_text(tmp_path):
    texts = PngImagePlugin.PngInfo()
    for name in ("icc_profile", "exif", "dpi", "xmp"):
        texts.add_text(name, "not what it is called")
    found = saved(tmp_path / "p.png", pnginfo=texts)
    assert (found.icc_profile, found.exif, found.dpi) == (None, None, None)
    assert found.text["icc_profile"] == "not what it is called"


# Resolution


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_dots_per_inch_are_kept(tmp_path, suffix):
    assert saved(tmp_path / f"p{suffix}", dpi=(300, 150)).dpi == pytest.approx((300, 150), abs=0.02)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize(("orientation", "expected"), [(1, (300, 150)), (3, (300, 150)), (6, (150, 300))])
def test_dots_per_inch_are_swapped_with_the_sides(tmp_path, suffix, orientation, expected):
    found = saved(tmp_path / f"p{suffix}", dpi=(300, 150), exif=exif_of(orientation=orientation))
    assert found.dpi == pytest.approx(expected, abs=0.02)


def test_dots_per_inch_of_a_jpeg_may_be_in_its_exif(tmp_path):
    exif = exif_of()
    exif[0x011A], exif[0x011B], exif[0x0128] = 240.0, 240.0, 2
    assert saved(tmp_path / "p.jpg", exif=exif).dpi == (240, 240)


def test_a_jpeg_whose_exif_has_no_resolution_has_none(tmp_path):
    assert saved(tmp_path / "p.jpg", exif=exif_of()).dpi is None


@pytest.mark.parametrize("dpi", [(0, 0), (float("nan"), 72), (72, float("inf")), (-72, 72), (1e12, 72), 72, "72", None])
def test_invalid_dots_per_inch_are_dropped(dpi):
    image = Image.new("RGB", (1, 1))
    image.info["dpi"] = dpi
    assert read_metadata(image).dpi is None


def test_a_resolution_with_denominator_0_is_dropped():
    image = Image.new("RGB", (1, 1))
    image.info["dpi"] = (TiffImagePlugin.IFDRational(72, 0),) * 2
    assert read_metadata(image).dpi is None


@pytest.mark.parametrize("aspect", [(2, 1), (1, 1), (0, 1)])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_the_aspect_of_pixels_is_kept_where_they_are_not_square(tmp_path, aspect, orientation, suffix):
    path = tmp_path / f"p{suffix}"
    Image.new("RGB", (6, 4)).save(path, exif=exif_of(orientation=orientation), dpi=aspect if suffix == ".jpg" else None)
    data = path.read_bytes().replace(b"JFIF\0\1\1\1", b"JFIF\0\1\1\0")  # no unit
    if suffix == ".png":
        header, *others = (chunk(*part) for part in parse_chunks(data))
        data = b"".join([MAGIC, header, chunk(b"pHYs", struct.pack(">IIB", *aspect, 0)), *others])
    path.write_bytes(data)
    expected = None if aspect != (2, 1) else (2, 1) if orientation == 1 else (1, 2)
    found = read_image(path).metadata
    assert (found.pixel_aspect, found.dpi) == (expected, None)


# EXIF


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_exif_is_kept_with_orientation_1(tmp_path, suffix, orientation):
    path = tmp_path / f"p{suffix}"
    found = entries_of(saved(path, exif=exif_of(orientation=orientation)).exif)
    assert found[0x010F] == "Maker"
    assert found.get(0x0112, 1) == 1
    assert not set(found) & {0x0100, 0x0111, 0x0117}  # the size and the strips of a TIFF


def test_only_the_orientation_in_the_bytes_of_exif_changes(tmp_path):
    for order in "<>":
        head = b"II*\0" if order == "<" else b"MM\0*"
        maker_note = struct.pack(f"{order}HHII", 0x927C, 7, 20, 38)
        orientation = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, 6, 0)
        exif = head + struct.pack(f"{order}IH", 8, 2) + orientation + maker_note + bytes(4) + b"by absolute offset  "
        found = saved(tmp_path / "p.jpg", exif=b"Exif\0\0" + exif).exif
        assert found == exif.replace(orientation, struct.pack(f"{order}HHIHH", 0x0112, 3, 1, 1, 0))


@pytest.mark.parametrize(
    "exif",
    [
        b"no exif at all",
        b"II*\0",
        b"II*\0\xff\xff\0\0",  # the IFD lies outside
        b"II*\0\x08\0\0\0\x09\0" + bytes(12),  # nine entries, space for one
        b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x010F, 2, 100, 1000) + bytes(4),  # a text that lies outside
    ],
)
def test_broken_exif_is_dropped(tmp_path, exif):
    path = tmp_path / "p.png"
    Image.new("RGB", (6, 4)).save(path, exif=b"Exif\0\0" + exif)
    found = read_image(path)
    assert found.metadata.exif is None
    assert found.pixels.shape == (4, 6, 3)


def test_exif_stored_as_text_by_imagemagick_is_exif(tmp_path):
    exif = exif_of(orientation=6).tobytes()
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", zip=True)
    found = saved(tmp_path / "p.png", pnginfo=texts)
    assert entries_of(found.exif) == {0x010F: "Maker", 0x0112: 1}
    assert found.text == {}


# XMP


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_xmp_is_kept_with_orientation_1(tmp_path, suffix):
    assert saved(tmp_path / f"p{suffix}", xmp=XMP).xmp == UPRIGHT_XMP


def test_xmp_of_a_tiff_is_kept_with_orientation_1(tmp_path):
    assert saved(tmp_path / "p.tif", tiffinfo={700: b"<x:xmpmeta/>"}).xmp == b"<x:xmpmeta/>"
    found = saved(tmp_path / "p.tif", tiffinfo={700: XMP}).xmp
    assert found is not None
    assert b"dc:title" in found
    assert b"6" not in found


def test_xmp_of_a_png_is_kept_and_is_not_a_text(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    found = saved(tmp_path / "p.png", pnginfo=texts)
    assert found.xmp == UPRIGHT_XMP
    assert found.text == {}
    assert read_image(tmp_path / "p.png").pixels.shape == (4, 6, 3)  # not turned by its orientation


# Texts


def test_texts_of_a_png_are_kept_also_after_the_pixels(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "caf\xe9")
    texts.add_text("Comment", "long " * 100, zip=True)
    texts.add_itxt("Author", "\u540d\u524d", lang="ja")
    texts.add(b"tEXt", b"Software\0last", after_idat=True)
    assert saved(tmp_path / "p.png", pnginfo=texts).text == {
        "Title": "caf\xe9",
        "Comment": "long " * 100,
        "Author": "\u540d\u524d",
        "Software": "last",
    }


@pytest.mark.parametrize(("comment", "text"), [(b"hello", "hello"), ("\u540d".encode(), "\u540d"), (b"\xe9", "\xe9")])
def test_the_comment_of_a_gif_is_kept(tmp_path, comment, text):
    assert saved(tmp_path / "p.gif", "L", comment=comment).text == {"Comment": text}


# Bounds


def test_items_that_are_too_long_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "MAX_BYTES", 300)
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Long", "x" * 299, zip=True)
    texts.add_text("A", "x" * 199)
    texts.add_text("B", "x" * 100)
    texts.add_text("C", "x" * 99)
    long = exif_of()
    long[0x010E] = "y" * 300
    found = saved(tmp_path / "p.png", pnginfo=texts, icc_profile=SRGB, exif=long)
    assert (found.icc_profile, found.exif) == (None, None)
    assert {name: len(text) for name, text in found.text.items()} == {"A": 199, "C": 99}


@pytest.mark.parametrize(("stored", "expected"), [(1, 1), (6, 6), (8, 8), (0, 1), (9, 1), (77, 1)])
def test_an_invalid_orientation_is_1(stored, expected):
    file = io.BytesIO()
    Image.new("RGB", (6, 4)).save(file, "JPEG", exif=exif_of(orientation=stored))
    assert read_orientation(Image.open(file)) == expected


def test_metadata_does_not_change_the_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png", icc_profile=SRGB, dpi=(72, 72), exif=exif_of())
    np.testing.assert_array_equal(read_image(tmp_path / "p.png").pixels, pixels)
