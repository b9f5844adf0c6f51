import pytest

from gpukmeans_cli.terminal.formatting import format_count, format_percent, format_quality, format_size, format_sizes


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 colors"), (1, "1 color"), (2, "2 colors"), (96_615, "96,615 colors")]
)
def test_a_count_has_a_singular_or_plural_noun(number, text):
    assert format_count(number, "color") == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (68, "68 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (12_345, "12.3 kB"),
        (999_900, "999.9 kB"),
        (999_999, "1.0 MB"),
        (1_000_000, "1.0 MB"),
        (4_460_000, "4.5 MB"),
        (1_234_500_000, "1234.5 MB"),
    ],
)
def test_a_size_has_a_decimal_unit(n_bytes, text):
    assert format_size(n_bytes) == text


def test_two_sizes_have_their_ratio():
    assert format_sizes(196_653, 66_200) == "196.7 kB -> 66.2 kB (34%)"
    assert format_sizes(100, 100) == "100 bytes -> 100 bytes (100%)"
    assert format_sizes(100, 101) == "100 bytes -> 101 bytes (101%, larger)"


def test_a_quality_is_a_psnr_or_a_word():
    assert format_quality(28.376, "lossless") == "PSNR 28.38 dB"
    assert format_quality(0.0, "lossless") == "PSNR 0.00 dB"
    assert format_quality(None, "lossless") == "lossless"


@pytest.mark.parametrize(
    ("fraction", "text"), [(1, "100.0 %"), (0.3124, "31.2 %"), (0.0005, "0.1 %"), (0.0004, "< 0.1 %"), (1.5, "150.0 %")]
)
def test_a_fraction_is_a_percentage_above_zero(fraction, text):
    assert format_percent(fraction) == text
