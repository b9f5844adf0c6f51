"""Image files in Chromium: what it shows of a file is what is read, and what is written is shown alike."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from helpers import color_profiles
from helpers.browser import shown_pixels, start_chromium
from PIL import Image, PngImagePlugin

from gpukmeans_cli.compression.pipeline import Settings, compress_image
from gpukmeans_cli.formats.color import to_srgb
from gpukmeans_cli.formats.png_chunks import chunk, parse_chunks, png_file
from gpukmeans_cli.formats.reading import as_rgba, read_image


@pytest.fixture(scope="module")
def chromium():
    with start_chromium() as driver:
        yield driver


def saved(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def exif_of(orientation, kind=3):
    value = struct.pack("<HH", orientation, 0) if kind == 3 else struct.pack("<I", orientation)
    return b"II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, 1) + value + bytes(4)


def turned_files():
    """Files of 6 x 4 different pixels with an orientation, by the type of the image and a name."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8))
    exif, prefix = exif_of(6), b"Exif\0\0"
    xmp = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    texts = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    texts[0].add_itxt("XML:com.adobe.xmp", xmp)
    texts[1].add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n")
    texts[2].add_text("exif", "x")
    for orientation in range(1, 9):
        yield "png", f"eXIf {orientation}", saved(image, "PNG", exif=prefix + exif_of(orientation))
    for number, text in enumerate(texts):
        yield "png", f"text {number}", saved(image, "PNG", pnginfo=text)
    *chunks, _ = parse_chunks(saved(image, "PNG"))
    yield "png", "eXIf after IDAT", png_file(*(chunk(*part) for part in [*chunks, (b"eXIf", exif)]))
    yield "png", "eXIf with prefix", saved(image, "PNG", exif=prefix + prefix + exif)
    yield "png", "eXIf with LONG", saved(image, "PNG", exif=prefix + exif_of(6, 4))
    grey = Image.fromarray(np.kron(np.array([[0, 255, 0], [0, 0, 255]], np.uint8), np.ones((8, 8), np.uint8)))
    yield "jpeg", "EXIF 5", saved(grey, "JPEG", exif=prefix + exif_of(5), quality=100)
    yield "jpeg", "XMP", saved(grey, "JPEG", xmp=xmp.encode(), quality=100)
    yield "webp", "EXIF", saved(image, "WEBP", exif=exif, lossless=True)
    yield "webp", "XMP", saved(image, "WEBP", xmp=xmp.encode(), lossless=True)


def test_files_are_turned_as_in_chromium(chromium, tmp_path):
    for kind, name, data in turned_files():
        (tmp_path / "turned").write_bytes(data)
        found, expected = as_rgba(read_image(tmp_path / "turned").pixels), shown_pixels(chromium, data, kind)
        assert found.shape == expected.shape, (kind, name)
        assert abs(found.astype(int) - expected).max() <= 2, (kind, name)


P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
ENCODINGS = {
    "cICP over all": [(b"cICP", bytes([12, 13, 0, 1])), (b"iCCP", color_profiles.SWAPPED), (b"sRGB", b"\0")],
    "iCCP over sRGB": [(b"iCCP", color_profiles.SWAPPED), (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))],
    "sRGB over gAMA": [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))],
    "gAMA": [(b"gAMA", struct.pack(">I", 100000))],
    "gAMA of 1/2.2": [(b"gAMA", struct.pack(">I", 45455))],
    "gAMA and cHRM": [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3)],
    "cHRM": [(b"cHRM", P3)],
    "truncated iCCP": [(b"iCCP", color_profiles.SWAPPED[:-9]), (b"gAMA", struct.pack(">I", 100000))],
    "iCCP that is no profile": [(b"iCCP", bytes(128)), (b"gAMA", struct.pack(">I", 100000))],
    "gAMA of 0": [(b"gAMA", bytes(4))],
    "impossible cHRM": [(b"gAMA", struct.pack(">I", 45455)), (b"cHRM", P3[:8] + P3[8:16] * 2 + P3[24:])],
    **{f"primaries {n}": [(b"cICP", bytes([n, 13, 0, 1]))] for n in (0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 22)},
    **{f"transfer {n}": [(b"cICP", bytes([1, n, 0, 1]))] for n in (*range(1, 16), 17, 19)},
    "short cICP": [(b"cICP", bytes([12, 13, 0])), (b"gAMA", struct.pack(">I", 100000))],
    "cICP of limited range": [(b"cICP", bytes([12, 13, 0, 0])), (b"gAMA", struct.pack(">I", 100000))],
}


def encoded_png(pixels, name):
    """A PNG of pixels with the color chunks of this name."""
    header, *others = parse_chunks(saved(Image.fromarray(pixels), "PNG"))
    compressed = [(k, b"name\0\0" + zlib.compress(body) if k == b"iCCP" else body) for k, body in ENCODINGS[name]]
    return png_file(*(chunk(*part) for part in [header, *compressed, *others[:-1]]))


def colors_of_every_hue():
    """An image of 240 colors (12, 20, 3), saturated and grey ones among them."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, 20).astype(np.uint8)
    pixels[0] = ramp[:, None]
    pixels[1:4] = ramp[:, None] * np.eye(3, dtype=np.uint8)[:, None]
    return pixels


def mean_difference(found, expected):
    return abs(found[..., :3].astype(int) - expected[..., :3]).mean()


@pytest.mark.parametrize("name", ENCODINGS)
def test_colors_in_srgb_are_those_that_chromium_shows(chromium, tmp_path, name):
    data = encoded_png(colors_of_every_hue(), name)
    (tmp_path / "in.png").write_bytes(data)
    picture = read_image(tmp_path / "in.png")
    found = to_srgb(picture.pixels, picture.metadata)
    assert mean_difference(found, shown_pixels(chromium, data, "png")) < 0.1


@pytest.mark.parametrize("name", ["cICP over all", "iCCP over sRGB", "gAMA", "gAMA and cHRM", "truncated iCCP"])
@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp"])
@pytest.mark.parametrize("changes", [{}, {"strip": True}, {"space": "oklab"}])
def test_chromium_shows_an_output_of_all_colors_as_the_input(chromium, tmp_path, name, suffix, changes):
    data = encoded_png(colors_of_every_hue(), name)
    (tmp_path / "in.png").write_bytes(data)
    settings = Settings(n_colors=256, device=torch.device("cpu"), allow_larger=True, **changes)
    compress_image(tmp_path / "in.png", tmp_path / f"out{suffix}", settings)
    found = shown_pixels(chromium, (tmp_path / f"out{suffix}").read_bytes(), suffix[1:])
    assert mean_difference(found, shown_pixels(chromium, data, "png")) < 1


@pytest.mark.parametrize("suffix", [".png", ".gif", ".webp"])
@pytest.mark.parametrize("alpha", [False, True])
def test_chromium_shows_grey_with_a_profile_alike(chromium, tmp_path, suffix, alpha):
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    if alpha:
        grey.putalpha(Image.fromarray(np.eye(16, dtype=np.uint8) * 255))
    data = saved(grey, "PNG", icc_profile=color_profiles.linear_grey_profile())
    (tmp_path / "in.png").write_bytes(data)
    settings = Settings(n_colors=256, device=torch.device("cpu"), allow_larger=True)
    compress_image(tmp_path / "in.png", tmp_path / f"out{suffix}", settings)
    found = shown_pixels(chromium, (tmp_path / f"out{suffix}").read_bytes(), suffix[1:])
    expected = shown_pixels(chromium, data, "png")
    assert abs(expected[..., 0].astype(int) - np.asarray(grey.getchannel(0)))[expected[..., 3] > 0].mean() > 20
    assert mean_difference(found, expected) < 1


@pytest.mark.parametrize("profile", [None, color_profiles.cmyk_profile()])
def test_cmyk_is_converted_as_in_chromium(chromium, tmp_path, profile):
    patches = np.random.default_rng(0).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    if profile is not None:
        patches[..., 3] = 0  # with a profile, Chromium treats black ink as a mixture of the other inks
    image = Image.fromarray(np.kron(patches, np.ones((8, 8, 1), np.uint8)), "CMYK")
    data = saved(image, "JPEG", quality=100, subsampling=0, icc_profile=profile)
    (tmp_path / "in.jpg").write_bytes(data)
    assert mean_difference(read_image(tmp_path / "in.jpg").pixels, shown_pixels(chromium, data, "jpeg")) < 1
