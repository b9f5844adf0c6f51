import math
from dataclasses import dataclass

import pytest

from gpukmeans_cli.compression.targets import (
    MAX_TRIES,
    N_COLORS,
    MaxBytes,
    MinPsnr,
    MinQuality,
    parse_size,
    search,
    search_colors,
)
from gpukmeans_cli.system.atomic_files import ImageError


@dataclass(frozen=True)
class ByColors:
    """A candidate whose PSNR and size are linear in its number of colors."""

    n_colors: int
    lossless_from: int = 300

    @property
    def psnr(self):
        return None if self.n_colors >= self.lossless_from else 20 + self.n_colors / 10

    @property
    def n_bytes(self):
        return 100 + 50 * self.n_colors

    @property
    def visible_error(self):
        return 10.0 ** -(self.psnr / 10)


@dataclass(frozen=True)
class ByColorsAndPrice:
    """A candidate like a photo: both more colors and a lower price make a larger file of a smaller error."""

    n_colors: int
    lossy: float

    @property
    def n_bytes(self):
        return round(8000 * self.n_colors**0.6 * (1 + self.lossy / 8) ** -0.35)

    @property
    def visible_error(self):
        return 3000 * self.n_colors**-0.9 * (1 + self.lossy / 30) ** 0.9

    @property
    def psnr(self):
        return 10 * math.log10(255**2 / self.visible_error)


@pytest.mark.parametrize("max_colors", [1, 2, 3, 100, 255, 256])
def test_min_psnr_finds_the_fewest_colors_with_that_psnr(max_colors):
    for n_colors in range(1, max_colors + 1):
        assert search_colors(MinPsnr(20 + n_colors / 10 - 1e-9), max_colors, ByColors) == n_colors
        assert search_colors(MinPsnr(20 + n_colors / 10 - 0.05), max_colors, ByColors) == n_colors


@pytest.mark.parametrize("max_colors", [1, 2, 3, 100, 255, 256])
def test_max_bytes_finds_the_most_colors_with_that_size(max_colors):
    for n_colors in range(1, max_colors + 1):
        assert search_colors(MaxBytes(100 + 50 * n_colors), max_colors, ByColors) == n_colors
    assert search_colors(MaxBytes(10**9), max_colors, ByColors) == max_colors


def test_max_bytes_tries_no_other_number_if_all_colors_fit():
    tried = []
    assert search_colors(MaxBytes(10**9), 256, lambda n: tried.append(n) or ByColors(n)) == 256
    assert tried == [256]


def test_a_lossless_image_reaches_every_psnr():
    assert search_colors(MinPsnr(99), 256, lambda n: ByColors(n, lossless_from=17)) == 17


def test_a_target_out_of_reach_raises_with_the_best_value():
    with pytest.raises(ImageError, match=r"reaches 30\.00 dB with 100 colors, --min-psnr 31\.5 is out of reach"):
        search_colors(MinPsnr(31.5), 100, ByColors)
    with pytest.raises(ImageError, match="takes 150 bytes with 1 color, --max-bytes 149 bytes is out of reach"):
        search_colors(MaxBytes(149), 100, ByColors)
    with pytest.raises(ImageError, match=r"reaches quality .* with 256 colors, --quality 99 is out of reach"):
        search(MinQuality(99), 256, ByColorsAndPrice)


@pytest.mark.parametrize("target", [MinPsnr(99), MinQuality(100), MaxBytes(1)], ids=str)
def test_a_target_out_of_reach_with_one_color_is_reported_in_the_singular(target):
    with pytest.raises(ImageError, match="with 1 color, --"):
        search_colors(target, 1, ByColors)


TARGETS = [
    *(MaxBytes(n) for n in (20_000, 40_000, 60_000, 100_000, 160_000, 200_000)),
    *(MinPsnr(decibels) for decibels in (25, 28, 31, 33, 34)),
    *(MinQuality(quality) for quality in (20, 40, 55, 65)),
]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_search_reaches_the_target_at_nearly_the_lowest_cost_in_few_tries(target):
    tried = []
    choice = search(target, 256, lambda n, lossy: tried.append(n) or ByColorsAndPrice(n, lossy))
    grid = [ByColorsAndPrice(n, 1.02**step) for n in N_COLORS for step in range(-30, 400)]
    lowest = min(target.cost(each) for each in grid if target.excess(each) <= 0)
    found = ByColorsAndPrice(choice.n_colors, choice.lossy)
    assert target.excess(found) <= 0
    assert target.cost(found) <= 1.04 * lowest
    assert len(tried) <= MAX_TRIES


def test_a_search_falls_back_to_fewer_colors_than_any_price_needs():
    sizes = {n: ByColorsAndPrice(n, 0.0).n_bytes for n in (1, 2)}
    choice = search(MaxBytes(sizes[2] - 1), 256, lambda n, lossy: ByColorsAndPrice(n, 0.0))
    assert choice.n_colors == 1


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("40000", 40000), ("40k", 40000), ("1.5M", 1_500_000), (" 2 kB ", 2000), ("1mb", 1_000_000), ("0.0015k", 2)],
)
def test_sizes_have_decimal_units(text, n_bytes):
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "k", "-1", "1e3", "4 GiB", "1.k", "nan", "0", "0.0001k"])
def test_an_invalid_size_raises_with_an_example(text):
    with pytest.raises(ValueError, match="a size"):
        parse_size(text)
