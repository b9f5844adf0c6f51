"""Image files in Chromium: what it shows of a file is what is read, and what is written is shown alike."""

import io
import struct

import numpy as np
import pytest
from helpers.browser import shown_pixels, start_chromium
from PIL import Image, PngImagePlugin

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
