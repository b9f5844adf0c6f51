from dataclasses import dataclass

import pytest

from gpukmeans_cli.compression.targets import MaxBytes, MinPsnr, parse_size
from gpukmeans_cli.system.atomic_files import ImageError


@dataclass(frozen=True)
class FakeCandidate:
    """A candidate whose PSNR and size are linear in its number of colors."""

    n_colors: int
    lossless_from: int = 300

    @property
    def psnr(self):
        return None if self.n_colors >= self.lossless_from else 20 + self.n_colors / 10

    @property
    def n_bytes(self):
        return 100 + 50 * self.n_colors


@pytest.mark.parametrize("max_colors", [1, 2, 3, 100, 255, 256])
def test_min_psnr_finds_the_fewest_colors_with_that_psnr(max_colors):
    for n_colors in range(1, max_colors + 1):
        assert MinPsnr(20 + n_colors / 10).search(max_colors, FakeCandidate) == n_colors
        assert MinPsnr(20 + n_colors / 10 - 0.05).search(max_colors, FakeCandidate) == n_colors


@pytest.mark.parametrize("max_colors", [1, 2, 3, 100, 255, 256])
def test_max_bytes_finds_the_most_colors_with_that_size(max_colors):
    for n_colors in range(1, max_colors + 1):
        assert MaxBytes(100 + 50 * n_colors).search(max_colors, FakeCandidate) == n_colors
    assert MaxBytes(10**9).search(max_colors, FakeCandidate) == max_colors


def test_max_bytes_tries_no_other_number_if_all_colors_fit():
    tried = []
    assert MaxBytes(10**9).search(256, lambda n: tried.append(n) or FakeCandidate(n)) == 256
    assert tried == [256]


def test_a_lossless_image_reaches_every_psnr():
    assert MinPsnr(99).search(256, lambda n: FakeCandidate(n, lossless_from=17)) == 17


def test_a_target_out_of_reach_raises_with_the_best_value():
    with pytest.raises(ImageError, match=r"reaches 30\.00 dB with 100 colors, --min-psnr 31\.5 is out of reach"):
        MinPsnr(31.5).search(100, FakeCandidate)
    with pytest.raises(ImageError, match="takes 150 bytes with 1 color, --max-bytes 149 bytes is out of reach"):
        MaxBytes(149).search(100, FakeCandidate)


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
