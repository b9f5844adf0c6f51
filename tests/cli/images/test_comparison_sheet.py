import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from gpukmeans_cli.images.comparison_sheet import GUTTER, INK, MARGIN, amplified_difference, draw_comparison

Pixels = NDArray[np.uint8]

_CAPTIONS = ("before", "after")
_PALETTE = np.array([[200, 30, 40]], dtype=np.uint8)
_USAGE = np.array([1.0])


def noise(height: int, width: int, channels: int = 3, *, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def sheet_of(before: Pixels, after: Pixels, *, width: int = 600) -> Pixels:
    return np.asarray(draw_comparison(before, after, _PALETTE, _USAGE, width=width, captions=_CAPTIONS))


def sheet_with(palette: Pixels, usage: NDArray[np.floating], *, width: int = 1200) -> Pixels:
    grey = np.full((4, 6, 1), 128, dtype=np.uint8)
    return np.asarray(draw_comparison(grey, grey, palette, usage, width=width, captions=_CAPTIONS))


def images_in(sheet: Pixels, height: int, width: int) -> tuple[Pixels, Pixels]:
    """The two images of that size on a sheet."""
    column = (sheet.shape[1] - 2 * MARGIN - GUTTER) // 2
    left = MARGIN + (column - width) // 2
    right = left + column + GUTTER
    rows = slice(MARGIN, MARGIN + height)
    return sheet[rows, left : left + width], sheet[rows, right : right + width]


def distinct_palette(n_colors: int) -> Pixels:
    """Colors that occur nowhere else on a sheet, not sorted by red."""
    red = (np.arange(n_colors) * 37) % 256
    return np.stack([red, 255 - red, np.full(n_colors, 77)], axis=1).astype(np.uint8)


def swatches_in(sheet: Pixels) -> tuple[Pixels, NDArray[np.intp]]:
    """The colors of a `distinct_palette` on a sheet, in reading order, and their pixel counts."""
    found = sheet[(sheet[..., 2] == 77) & (sheet[..., 0] != sheet[..., 1])]
    colors, first, counts = np.unique(found, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return colors[order], counts[order]


def captions_of(captions: tuple[str, str]) -> Pixels:
    """The part of a sheet 600 wide above its swatches, with two white images."""
    white = np.full((30, 40, 1), 255, dtype=np.uint8)
    sheet = np.asarray(draw_comparison(white, white, _PALETTE, np.zeros(1), width=600, captions=captions))
    outline = np.flatnonzero((sheet == _PALETTE[0]).all(axis=2).any(axis=1))[0] - 1
    return sheet[:outline]


def bars_in(sheet: Pixels, n_colors: int) -> list[int]:
    """The lengths of the usage bars of a sheet with one row of swatches."""
    ink = (sheet == INK).all(axis=2)
    lowest = np.flatnonzero(ink.any(axis=1))[-1]
    return [int(part.sum()) for part in np.array_split(ink[lowest, MARGIN:-MARGIN], n_colors)]


@pytest.mark.parametrize("width", [200, 601, 1200])
def test_the_sheet_has_the_requested_width(width: int):
    sheet = draw_comparison(noise(50, 70), noise(50, 70), _PALETTE, _USAGE, width=width, captions=_CAPTIONS)
    assert sheet.width == width
    assert sheet.mode == "RGB"


@pytest.mark.parametrize("width", [600, 601])
def test_both_images_are_shrunk_to_half_of_the_sheet(width: int):
    before, after = noise(300, 400, seed=1), noise(300, 400, seed=2)
    column = (width - 2 * MARGIN - GUTTER) // 2
    height = round(column * 300 / 400)
    shown = images_in(sheet_of(before, after, width=width), height, column)
    for picture, original in zip(shown, (before, after), strict=True):
        expected = Image.fromarray(original).resize((column, height), Image.Resampling.BOX)
        np.testing.assert_array_equal(picture, np.asarray(expected))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 90), (90, 1), (31, 45)])
def test_an_image_that_fits_is_unchanged(height: int, width: int):
    before, after = noise(height, width, seed=1), noise(height, width, seed=2)
    shown = images_in(sheet_of(before, after), height, width)
    np.testing.assert_array_equal(shown[0], before)
    np.testing.assert_array_equal(shown[1], after)


@pytest.mark.parametrize(
    ("height", "width", "shown"), [(5000, 4, (600, 1)), (4, 5000, (1, 278)), (2000, 500, (600, 150))]
)
def test_a_tall_or_wide_image_keeps_its_aspect_ratio_and_at_least_one_pixel(
    height: int, width: int, shown: tuple[int, int]
):
    black = np.zeros((height, width, 1), dtype=np.uint8)
    sheet = sheet_of(black, black)
    rows, columns = np.nonzero((sheet[:, : sheet.shape[1] // 2] == 0).all(axis=2))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == shown


def test_the_margins_are_white():
    black = np.zeros((300, 400, 3), dtype=np.uint8)
    sheet = sheet_of(black, black)
    column = (600 - 2 * MARGIN - GUTTER) // 2
    assert (sheet[:MARGIN] == 255).all()
    assert (sheet[-MARGIN:] == 255).all()
    assert (sheet[:, :MARGIN] == 255).all()
    assert (sheet[: MARGIN + 50, MARGIN + column : MARGIN + column + GUTTER] == 255).all()


def test_grey_is_drawn_like_the_same_grey_in_rgb():
    grey = noise(40, 60, 1)
    np.testing.assert_array_equal(sheet_of(grey, grey), sheet_of(grey.repeat(3, axis=2), grey.repeat(3, axis=2)))


def test_grey_with_alpha_is_drawn_like_the_same_in_rgba():
    pixels = noise(400, 500, 2)
    rgba = pixels[..., [0, 0, 0, 1]]
    np.testing.assert_array_equal(sheet_of(pixels, pixels), sheet_of(rgba, rgba))


def test_an_opaque_alpha_channel_changes_nothing():
    rgb = noise(400, 500)
    rgba = np.concatenate([rgb, np.full((400, 500, 1), 255, dtype=np.uint8)], axis=2)
    np.testing.assert_array_equal(sheet_of(rgb, rgba), sheet_of(rgb, rgb))


@pytest.mark.parametrize("size", [40, 400])
def test_transparent_pixels_of_any_color_show_a_light_checkerboard(size: int):
    hidden = np.zeros((size, size, 4), dtype=np.uint8)
    hidden[..., 0] = 255
    shown, _ = images_in(sheet_of(hidden, hidden), min(size, 278), min(size, 278))
    colors = np.unique(shown.reshape(-1, 3), axis=0)
    assert len(colors) == 2
    assert (colors[1] == 255).all()
    assert (colors[0] > 200).all()
    assert np.ptp(colors[0]) == 0


def test_half_transparent_black_halves_the_brightness_of_the_checkerboard():
    black = np.zeros((40, 40, 4), dtype=np.uint8)
    clear, _ = images_in(sheet_of(black, black), 40, 40)
    black[..., 3] = 128
    dimmed, _ = images_in(sheet_of(black, black), 40, 40)
    np.testing.assert_allclose(dimmed, clear * (1 - 128 / 255), atol=1)


@pytest.mark.parametrize("width", [200, 1200])
@pytest.mark.parametrize("n_colors", [1, 2, 20, 33, 256])
def test_all_swatches_have_the_same_size_and_the_order_of_the_palette(n_colors: int, width: int):
    palette = distinct_palette(n_colors)
    colors, counts = swatches_in(sheet_with(palette, np.full(n_colors, 1 / n_colors), width=width))
    np.testing.assert_array_equal(colors, palette)
    assert len(set(counts.tolist())) == 1


def test_few_colors_are_in_one_row_and_many_in_several():
    few, many = (sheet_with(distinct_palette(n), np.ones(n)) for n in (20, 256))
    assert few.shape[0] < many.shape[0] < 600
    (tops, _), (bottoms, _) = (np.argwhere((few == color).all(axis=2))[0] for color in distinct_palette(20)[[0, -1]])
    assert tops == bottoms


def test_a_white_swatch_has_an_outline():
    white, black = (sheet_with(np.full((1, 3), value, dtype=np.uint8), np.zeros(1)) for value in (255, 0))
    rows, columns = np.nonzero((black[MARGIN + 20 :] == 0).all(axis=2))
    top, left = rows.min() + MARGIN + 20, columns.min()
    assert (white[top, left] == 255).all()
    assert (white[top - 1, left] < 255).all()
    assert (white[top, left - 1] < 255).all()


def test_a_palette_may_be_grey_or_have_alpha():
    grey = np.array([[10], [200]], dtype=np.uint8)
    usage = np.array([0.5, 0.5])
    expected = sheet_with(grey.repeat(3, axis=1), usage)
    np.testing.assert_array_equal(sheet_with(grey, usage), expected)
    np.testing.assert_array_equal(sheet_with(np.array([[10, 255], [200, 255]], dtype=np.uint8), usage), expected)
    clear = sheet_with(np.array([[10, 10, 10, 0], [200, 200, 200, 255]], dtype=np.uint8), usage)
    assert not (clear == 10).all(axis=2).any()


def test_bars_have_lengths_relative_to_the_largest_usage():
    bars = bars_in(sheet_with(distinct_palette(4), np.array([0.4, 0.2, 0.3, 0.1])), 4)
    np.testing.assert_allclose(np.array(bars) / bars[0], [1, 0.5, 0.75, 0.25], atol=0.01)


def test_the_bar_of_a_used_color_has_a_pixel_and_that_of_an_unused_color_none():
    bars = bars_in(sheet_with(distinct_palette(3), np.array([1, 1e-9, 0])), 3)
    assert bars[1:] == [1, 0]


def test_usage_may_be_pixel_counts_or_fractions():
    palette = distinct_palette(3)
    counts = sheet_with(palette, np.array([50, 30, 20]))
    np.testing.assert_array_equal(counts, sheet_with(palette, np.array([0.5, 0.3, 0.2])))


def test_each_caption_is_below_its_image():
    for captions, empty in ((("here", ""), np.s_[:, 300:]), (("", "here"), np.s_[:, :300])):
        above_swatches = captions_of(captions)
        assert (above_swatches < 255).any()
        assert (above_swatches[empty] == 255).all()


def test_a_long_caption_has_a_font_size_that_fits_its_column():
    above_swatches = captions_of(("original, 612,345 colors, 2.1 MB, " * 2, "20 colors, 310 kB"))
    column = (600 - 2 * MARGIN - GUTTER) // 2
    inked = np.flatnonzero((above_swatches[:, : MARGIN + column + GUTTER] < 255).any(axis=(0, 2)))
    assert inked.min() > MARGIN
    assert inked.max() < MARGIN + column - 1
    assert np.ptp(inked) > column / 2


def test_arguments_may_be_read_only():
    pixels, palette, usage = noise(40, 50), distinct_palette(3), np.ones(3)
    for array in (pixels, palette, usage):
        array.setflags(write=False)
    sheet = draw_comparison(pixels, pixels, palette, usage, captions=_CAPTIONS)
    assert sheet.width == 1200


def test_images_of_different_size_are_an_error():
    with pytest.raises(ValueError, match=r"equal in height and width, got \(4, 5\) and \(5, 4\)"):
        sheet_of(noise(4, 5), noise(5, 4))


def test_a_sheet_without_a_palette_ends_below_the_captions():
    before, after = noise(30, 40, seed=1), noise(30, 40, seed=2)
    sheet = np.asarray(draw_comparison(before, after, width=600, captions=_CAPTIONS))
    with_palette = sheet_of(before, after)
    end = len(sheet) - MARGIN
    assert np.array_equal(sheet[:end], with_palette[:end])
    assert (sheet[end:] == 255).all()
    assert len(with_palette) > len(sheet) > MARGIN + 30 + MARGIN


def test_a_difference_is_drawn_below_the_first_image_beside_its_notes():
    pixels, difference = noise(30, 40), noise(30, 40, seed=3)
    plain, noted = (
        np.asarray(draw_comparison(pixels, pixels, width=600, captions=_CAPTIONS, difference=difference, notes=notes))
        for notes in ((), ("four times",))
    )
    left = MARGIN + (278 - 40) // 2
    tops = [top for top in range(MARGIN + 30, len(noted) - 30) if (noted[top, left] == difference[0, 0]).all()]
    assert any(np.array_equal(noted[top : top + 30, left : left + 40], difference) for top in tops)
    changed = np.argwhere((noted != plain).any(axis=2))
    assert changed[:, 1].min() > 300
    assert changed[:, 0].min() >= tops[0]


def test_the_difference_has_the_largest_factor_that_hardly_clips():
    before = np.full((20, 30, 3), 100, dtype=np.uint8)
    after = before.copy()
    after[0] -= 10
    after[1] += 7
    pixels, factor = amplified_difference(before, after)
    assert factor == 16  # 32 would clip the 10
    assert (pixels[0] == 160).all()
    assert (pixels[1] == 112).all()
    assert (pixels[2:] == 0).all()
    after[5, 0] = 255  # 1 of 600 pixels
    pixels, factor = amplified_difference(before, after)
    assert (factor, pixels[5, 0, 0]) == (16, 255)


def test_the_difference_of_equal_images_is_black_and_small_ones_have_a_limit():
    before = noise(9, 8)
    pixels, factor = amplified_difference(before, before)
    assert (factor, pixels.max()) == (1, 0)
    assert amplified_difference(before // 2 * 2, before // 2 * 2 + 1)[1] == 64


def test_the_difference_is_that_of_what_is_shown_over_black_or_white():
    clear, hidden, black = (np.zeros((4, 5, 4), dtype=np.uint8) for _ in range(3))
    hidden[..., 0] = 200  # of alpha 0
    black[..., 3] = 255
    assert amplified_difference(clear, hidden)[0].max() == 0
    assert amplified_difference(clear, black)[0].min() == 255
    grey = noise(4, 5, 1)
    assert amplified_difference(grey, grey.repeat(3, axis=2))[0].max() == 0


def test_a_palette_without_usage_is_an_error():
    with pytest.raises(ValueError, match="equally long, got 1 and 0"):
        draw_comparison(noise(4, 5), noise(4, 5), _PALETTE, captions=_CAPTIONS)


def test_a_palette_and_usage_of_different_length_are_an_error():
    with pytest.raises(ValueError, match="equally long, got 3 and 2"):
        sheet_with(distinct_palette(3), np.ones(2))


def test_a_width_below_the_minimum_is_an_error():
    with pytest.raises(ValueError, match="at least 200, got 199"):
        sheet_of(noise(4, 5), noise(4, 5), width=199)
