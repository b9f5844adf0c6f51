"""The picture of the README: part of a photo beside what is made of it, pixel for pixel."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gpukmeans.images.dithering import dither
from gpukmeans.images.histogram import unique_colors
from gpukmeans.images.quantization import quantize
from gpukmeans_cli.formats.reading import read_picture
from gpukmeans_cli.images.comparison_sheet import INK

K = 16
DITHERING = "floyd-steinberg"
# Left, top, right and bottom of the part that is shown. Three of them beside each other are as wide as a README on
# GitHub, where a wider picture would be shrunk, and dithered pixels with it would blur into colors they do not have.
PART = (110, 20, 380, 280)
GUTTER, CAPTION = 8, 28
FONT_SIZE = 14
MAX_BYTES = 300_000


def write_sheet(path: Path) -> None:
    """The part of china.jpg, which scikit-learn ships, in its own colors, in K, and in the same K dithered, as a PNG.

    ValueError if the file would be larger than `MAX_BYTES`.
    """
    data = _png(_sheet(_pictures(_photo())))
    if len(data) > MAX_BYTES:
        raise ValueError(f"the sheet must be at most {MAX_BYTES:,} bytes, got {len(data):,}")
    path.write_bytes(data)


def _photo() -> Tensor:
    """uint8 (H, W, 3)."""
    import sklearn.datasets

    left, top, right, bottom = PART
    pixels = read_picture(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg").pixels
    return torch.from_numpy(pixels[top:bottom, left:right].copy())


def _pictures(photo: Tensor) -> dict[str, Tensor]:
    """By caption, each uint8 (H, W, 3)."""
    found = quantize(photo, K)
    indices = dither(photo, found.palette, DITHERING)
    return {
        f"{len(unique_colors(photo).colors):,} colors": photo,
        f"{K} colors": found.pixels(),
        f"{K} colors, --dither {DITHERING}": found._replace(indices=indices).pixels(),
    }


def _sheet(pictures: Mapping[str, Tensor]) -> Image.Image:
    """Pictures of one size in a row, no pixel of them changed, each over its caption."""
    height, width, _ = next(iter(pictures.values())).shape
    sheet = Image.new("RGB", (len(pictures) * (width + GUTTER) - GUTTER, height + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=FONT_SIZE)
    for place, (caption, pixels) in enumerate(pictures.items()):
        left = place * (width + GUTTER)
        sheet.paste(Image.fromarray(pixels.numpy()), (left, 0))
        draw.text((left + width / 2, height + CAPTION / 2), caption, INK, font, anchor="mm")
    return sheet


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
