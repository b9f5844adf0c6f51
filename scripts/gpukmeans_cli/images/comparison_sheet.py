"""The comparison sheet: two pictures side by side, and a palette below with the share of each color."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

Pixels = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MARGIN = 16
GUTTER = 12
MIN_WIDTH = 200
SWATCHES_PER_ROW = 32
INK, PALE = (64, 64, 64), (228, 228, 228)
_GAP = 2
_BAR = 4
_CELL = 8


class _Swatches(NamedTuple):
    """How K swatches share a width: `per_row` in each row but the last, all of one size."""

    per_row: int
    rows: int
    width: int
    height: int


def draw_comparison(
    before: Pixels,
    after: Pixels,
    palette: Pixels | None = None,
    shares: NDArray[np.floating] | NDArray[np.integer] | None = None,
    *,
    width: int = 1200,
    captions: tuple[str, str],
) -> Image.Image:
    """An RGB sheet of that width: both pictures with a caption each, below them the palette, if given, in its order.

    Pictures are (H, W, C) of the same H and W, palette (K, C), each C from 1 to 4: grey, grey + alpha, RGB, RGBA. What
    is transparent shows a checkerboard. Pictures shrink to fit beside each other and to be no taller than `width`; they
    never grow. The bar below a swatch is its share relative to the largest of `shares` (K,), which need not sum to 1.
    ValueError if the pictures differ in size, if shares and palette differ in length or only one is given, or below
    `MIN_WIDTH`.
    """
    if before.shape[:2] != after.shape[:2]:
        raise ValueError(f"pictures must be equal in height and width, got {before.shape[:2]} and {after.shape[:2]}")
    n_colors, n_shares = (0 if given is None else len(given) for given in (palette, shares))
    if n_colors != n_shares:
        raise ValueError(f"each color needs a share, got {n_colors} colors and {n_shares} shares")
    if width < MIN_WIDTH:
        raise ValueError(f"width must be at least {MIN_WIDTH}, got {width}")
    column = (width - 2 * MARGIN - GUTTER) // 2
    font = _font_that_fits(captions, column, largest=max(12, width // 72))
    left, right = (
        _stacked(_shrunk(picture, column, width), _line(caption, column, font))
        for picture, caption in zip((before, after), captions, strict=True)
    )
    strips = [] if palette is None or shares is None else [_palette_strip(palette, shares, width - 2 * MARGIN)]
    height = MARGIN + left.height + sum(strip.height for strip in strips) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(left, (MARGIN, MARGIN))
    sheet.paste(right, (MARGIN + column + GUTTER, MARGIN))
    for strip in strips:
        sheet.paste(strip, (MARGIN, MARGIN + left.height))
    return sheet


def _stacked(picture: Image.Image, caption: Image.Image) -> Image.Image:
    """The caption with the picture centered above it."""
    column = Image.new("RGB", (caption.width, picture.height + caption.height), "white")
    column.paste(picture, ((caption.width - picture.width) // 2, 0))
    column.paste(caption, (0, picture.height))
    return column


def _line(text: str, width: int, font: Font) -> Image.Image:
    """A line of text, centered."""
    height = round(font.getbbox("Ag")[3] * 1.9)
    line = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(line)
    # Centered by hand, since the bitmap font of a Pillow without FreeType knows no anchors.
    draw.text((round((width - draw.textlength(text, font)) / 2), height // 4), text, INK, font)
    return line


def _shrunk(pixels: Pixels, width: int, height: int) -> Image.Image:
    """The picture in RGB, no larger than that."""
    image = _image(pixels)
    scale = min(1, width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # A box averages no more than the pixels under it: a wider filter would smooth the edges of bands.
    return _on_checkerboard(image.resize(size, Image.Resampling.BOX))


def _image(pixels: Pixels) -> Image.Image:
    """Pixels (H, W, C), C from 1 to 4, as RGBA."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGBA")


def _on_checkerboard(image: Image.Image) -> Image.Image:
    """The RGBA image in RGB, a light checkerboard where it is transparent."""
    row, column = np.ogrid[: image.height, : image.width]
    board = np.where((row // _CELL + column // _CELL) % 2, PALE[0], 255).astype(np.uint8)
    return Image.alpha_composite(_image(board[..., None]), image).convert("RGB")


def _palette_strip(palette: Pixels, shares: NDArray[np.floating] | NDArray[np.integer], width: int) -> Image.Image:
    """Swatches in the order of the palette, row by row, each over a bar for its share."""
    grid = _arrange(len(palette), width)
    strip = Image.new("RGB", (width, grid.rows * grid.height), "white")
    largest = max(float(shares.max()), np.finfo(float).tiny)
    for index, (color, share) in enumerate(zip(palette, shares.tolist(), strict=True)):
        row, place = divmod(index, grid.per_row)
        swatch = _swatch(color, share / largest, grid.width, grid.height - 2 * _GAP)
        strip.paste(swatch, (place * (width + _GAP) // grid.per_row, row * grid.height))
    return strip


def _swatch(color: Pixels, fill: float, width: int, height: int) -> Image.Image:
    """A field of the color (C,) over a bar that is filled from 0 to 1."""
    bar = height - _BAR
    swatch = Image.new("RGB", (width, height), "white")
    swatch.paste(_on_checkerboard(_image(np.full((bar - _GAP, width, len(color)), color, dtype=np.uint8))))
    draw = ImageDraw.Draw(swatch)
    # Without an outline, white would not be seen on white.
    draw.rectangle((0, 0, width - 1, bar - _GAP - 1), outline=PALE)
    draw.rectangle((0, bar, width - 1, height - 1), fill=PALE)
    # A color that is worn at all leaves a trace.
    if length := max(round(width * fill), int(fill > 0)):
        draw.rectangle((0, bar, length - 1, height - 1), fill=INK)
    return swatch


def _arrange(n_colors: int, width: int) -> _Swatches:
    """As few rows as `SWATCHES_PER_ROW` allows, about equally full."""
    per_row_limit = min(SWATCHES_PER_ROW, width // 8)
    rows = -(-n_colors // per_row_limit)
    per_row = -(-n_colors // rows)
    return _Swatches(per_row, rows, (width + _GAP) // per_row - _GAP, 64 if rows == 1 else 44 if rows < 4 else 32)


def _font_that_fits(captions: tuple[str, str], width: int, *, largest: int) -> Font:
    """Pillow's own font, as large as both captions allow."""
    if not features.check("freetype2"):
        return ImageFont.load_default()
    fonts = (ImageFont.load_default(size=size) for size in range(largest, 7, -1))
    smallest = ImageFont.load_default(size=7)
    return next((font for font in fonts if all(font.getlength(caption) <= width for caption in captions)), smallest)
