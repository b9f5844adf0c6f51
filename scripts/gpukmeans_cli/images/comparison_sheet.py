"""The comparison sheet: two images side by side, above their difference or above a palette with its usage."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from gpukmeans import has_alpha

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

# The largest factor of the amplified difference, and the largest fraction of its values that may be clipped.
_MAX_FACTOR, _CLIPPED = 64, 0.01


class Difference(NamedTuple):
    """The absolute difference of two images, multiplied by `factor`."""

    pixels: Pixels
    """RGB (H, W, 3), clipped at 255."""
    factor: int
    """A power of two."""


class _SwatchGrid(NamedTuple):
    """A grid of swatches of `width` x `height` pixels. Each row has `per_row` swatches, the last row may have fewer."""

    per_row: int
    rows: int
    width: int
    height: int


def draw_comparison(
    before: Pixels,
    after: Pixels,
    palette: Pixels | None = None,
    usage: NDArray[np.floating] | NDArray[np.integer] | None = None,
    *,
    width: int = 1200,
    captions: tuple[str, str],
    difference: Pixels | None = None,
    notes: Sequence[str] = (),
) -> Image.Image:
    """An RGB sheet with two captioned images and, below them, the swatches of a palette in its order.

    Images are (H, W, C) with the same H and W, and the palette is (K, C). Each C is 1 to 4: grey, grey + alpha, RGB,
    RGBA. Transparent pixels show a checkerboard. Images are shrunk to fit beside each other and to be no taller than
    `width`; they are never enlarged. `usage` (K,) has pixel counts or fractions. A bar below each swatch has a
    length relative to the largest usage. `difference` is a third image (H, W, C), drawn below the first image, beside
    the lines `notes`. ValueError if the images differ in size, if palette and usage differ in length or one is missing,
    or for a `width` below `MIN_WIDTH`.
    """
    if before.shape[:2] != after.shape[:2]:
        raise ValueError(f"images must be equal in height and width, got {before.shape[:2]} and {after.shape[:2]}")
    n_colors, n_usage = (0 if given is None else len(given) for given in (palette, usage))
    if n_colors != n_usage:
        raise ValueError(f"palette and usage must be equally long, got {n_colors} and {n_usage}")
    if width < MIN_WIDTH:
        raise ValueError(f"width must be at least {MIN_WIDTH}, got {width}")
    column = (width - 2 * MARGIN - GUTTER) // 2
    font = _fitting_font((*captions, *notes), column, largest=max(12, width // 72))
    left, right = (
        _stack(_shrink(picture, column, width), _draw_caption(caption, column, font))
        for picture, caption in zip((before, after), captions, strict=True)
    )
    strips = [] if palette is None or usage is None else [_draw_palette(palette, usage, width - 2 * MARGIN)]
    if difference is not None:
        strips.append(_draw_notes(_shrink(difference, column, width), notes, column, font))
    height = MARGIN + left.height + sum(strip.height for strip in strips) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(left, (MARGIN, MARGIN))
    sheet.paste(right, (MARGIN + column + GUTTER, MARGIN))
    top = MARGIN + left.height
    for strip in strips:
        sheet.paste(strip, (MARGIN, top))
        top += strip.height
    return sheet


def amplified_difference(before: Pixels, after: Pixels) -> Difference:
    """The absolute difference of two images (H, W, C), each C from 1 to 4, times a factor of 1 to 64.

    The factor is the largest power of two that clips at most 1 % of the values; for equal images it is 1. With alpha,
    the images are composited over black and over white, and the larger difference counts.
    """
    difference = _difference_over(before, after, 0)
    if any(has_alpha(pixels.shape[-1]) for pixels in (before, after)):
        np.maximum(difference, _difference_over(before, after, 255), out=difference)
    levels = np.reshape(Image.fromarray(difference).histogram(), (3, 256)).sum(axis=0)
    factor = 1
    while factor < _MAX_FACTOR and levels[255 // (2 * factor) + 1 :].sum() <= _CLIPPED * difference.size:
        factor *= 2
    factor = factor if difference.any() else 1
    amplified = np.minimum(np.arange(256) * factor, 255).astype(np.uint8)
    return Difference(amplified[difference], factor)


def over_grey(pixels: Pixels, level: int) -> Pixels:
    """Pixels (H, W, C), C from 1 to 4, composited over a grey background of this level, as RGB (H, W, 3)."""
    if pixels.shape[-1] == 3:
        return pixels
    image = _image(pixels)
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, (level, level, level)), image).convert("RGB"))


def _difference_over(before: Pixels, after: Pixels, level: int) -> Pixels:
    one, other = over_grey(before, level), over_grey(after, level)
    return np.maximum(one, other) - np.minimum(one, other)


def _draw_notes(picture: Image.Image, notes: Sequence[str], column: int, font: Font) -> Image.Image:
    """The image, centered in the left column, beside lines of text in the right column."""
    lines = [_draw_caption(note, column, font) for note in notes]
    text = sum(line.height for line in lines)
    strip = Image.new("RGB", (2 * column + GUTTER, max(picture.height, text)), "white")
    strip.paste(picture, ((column - picture.width) // 2, 0))
    top = (strip.height - text) // 2
    for line in lines:
        strip.paste(line, (column + GUTTER, top))
        top += line.height
    return strip


def _stack(picture: Image.Image, caption: Image.Image) -> Image.Image:
    """The image, centered, above its caption."""
    column = Image.new("RGB", (caption.width, picture.height + caption.height), "white")
    column.paste(picture, ((caption.width - picture.width) // 2, 0))
    column.paste(caption, (0, picture.height))
    return column


def _draw_caption(text: str, width: int, font: Font) -> Image.Image:
    """A line of text, centered."""
    height = round(font.getbbox("Ag")[3] * 1.9)
    line = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(line)
    # Anchors would center the text, but without FreeType Pillow's bitmap font does not support them.
    draw.text((round((width - draw.textlength(text, font)) / 2), height // 4), text, INK, font)
    return line


def _shrink(pixels: Pixels, width: int, height: int) -> Image.Image:
    """The image in RGB, shrunk to at most this width and height."""
    image = _image(pixels)
    scale = min(1, width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # A box filter averages only the pixels of one output pixel. A wider filter would smooth the edges of color bands.
    return _on_checkerboard(image.resize(size, Image.Resampling.BOX))


def _image(pixels: Pixels) -> Image.Image:
    """Pixels (H, W, C), C from 1 to 4, as an RGBA image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGBA")


def _on_checkerboard(image: Image.Image) -> Image.Image:
    """The RGBA image in RGB, over a light checkerboard."""
    row, column = np.ogrid[: image.height, : image.width]
    board = np.where((row // _CELL + column // _CELL) % 2, PALE[0], 255).astype(np.uint8)
    return Image.alpha_composite(_image(board[..., None]), image).convert("RGB")


def _draw_palette(palette: Pixels, usage: NDArray[np.floating] | NDArray[np.integer], width: int) -> Image.Image:
    """Swatches in the order of the palette, row by row, each above its usage bar."""
    grid = _arrange(len(palette), width)
    strip = Image.new("RGB", (width, grid.rows * grid.height), "white")
    largest = max(float(usage.max()), np.finfo(float).tiny)
    for index, (color, value) in enumerate(zip(palette, usage.tolist(), strict=True)):
        row, column = divmod(index, grid.per_row)
        swatch = _draw_swatch(color, value / largest, grid.width, grid.height - 2 * _GAP)
        strip.paste(swatch, (column * (width + _GAP) // grid.per_row, row * grid.height))
    return strip


def _draw_swatch(color: Pixels, fill: float, width: int, height: int) -> Image.Image:
    """A rectangle of the color (C,) above a bar filled to a fraction from 0 to 1."""
    bar = height - _BAR
    swatch = Image.new("RGB", (width, height), "white")
    swatch.paste(_on_checkerboard(_image(np.full((bar - _GAP, width, len(color)), color, dtype=np.uint8))))
    draw = ImageDraw.Draw(swatch)
    # Without an outline, a white swatch would be invisible on the sheet.
    draw.rectangle((0, 0, width - 1, bar - _GAP - 1), outline=PALE)
    draw.rectangle((0, bar, width - 1, height - 1), fill=PALE)
    # The bar of a used color is at least one pixel long.
    if length := max(round(width * fill), int(fill > 0)):
        draw.rectangle((0, bar, length - 1, height - 1), fill=INK)
    return swatch


def _arrange(n_colors: int, width: int) -> _SwatchGrid:
    """The grid with the fewest rows of at most `SWATCHES_PER_ROW` swatches, divided about equally among the rows."""
    per_row_limit = min(SWATCHES_PER_ROW, width // 8)
    rows = -(-n_colors // per_row_limit)
    per_row = -(-n_colors // rows)
    return _SwatchGrid(per_row, rows, (width + _GAP) // per_row - _GAP, 64 if rows == 1 else 44 if rows < 4 else 32)


def _fitting_font(captions: Sequence[str], width: int, *, largest: int) -> Font:
    """Pillow's own font in the largest size, from 7 to `largest`, in which all captions fit the width."""
    if not features.check("freetype2"):
        return ImageFont.load_default()
    fonts = (ImageFont.load_default(size=size) for size in range(largest, 7, -1))
    smallest = ImageFont.load_default(size=7)
    return next((font for font in fonts if all(font.getlength(caption) <= width for caption in captions)), smallest)
