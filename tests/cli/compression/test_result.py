from dataclasses import replace

import pytest
from helpers.example_report import REPORT

from gpukmeans_cli.compression.result import format_quality, format_share, format_size, format_sizes


def test_the_line_says_what_became_of_the_file():
    assert REPORT.line() == (
        "photos/sea.jpg -> photos/sea-20.png: 640 x 427, 96,615 -> 20 colors, 196.7 kB -> 64.4 kB (33%), "
        "PSNR 28.40 dB, 32 iterations, cuda:1, 0.48 s"
    )


def test_the_line_calls_a_picture_without_error_lossless():
    line = replace(REPORT, psnr=None, mse=0.0, colors_in=3, colors_out=3, iterations=0).line()
    assert "3 -> 3 colors" in line
    assert "(33%), lossless, 0 iterations," in line
    assert "dB" not in line


def test_the_line_tells_a_file_that_grew():
    assert "100 bytes -> 250 bytes (250%, larger)" in replace(REPORT, bytes_in=100, bytes_out=250).line()


def test_the_json_has_these_keys_in_this_order():
    keys = "input output width height frames mode colors_in colors_out bytes_in bytes_out mse psnr iterations converged"
    assert list(REPORT.as_json()) == [*keys.split(), "kept", "written", "device", "seconds"]
    assert REPORT.as_json()["psnr"] == 28.404


def test_the_line_counts_the_frames_of_an_animation():
    assert ": 12 frames of 640 x 427, " in replace(REPORT, frames=12).line()


def test_the_line_says_that_a_file_was_kept():
    line = replace(REPORT, kept=True, bytes_out=REPORT.bytes_in, psnr=None).line()
    assert "196.7 kB, kept as it is: few colors would make it no smaller, lossless" in line


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
def test_sizes_are_for_people(n_bytes, text):
    assert format_size(n_bytes) == text


def test_the_line_says_that_nothing_was_written():
    assert REPORT.line().endswith(" s")
    assert replace(REPORT, written=False).line().endswith(" s, not written")


def test_sizes_are_compared():
    assert format_sizes(196_653, 66_200) == "196.7 kB -> 66.2 kB (34%)"
    assert format_sizes(100, 100) == "100 bytes -> 100 bytes (100%)"
    assert format_sizes(100, 101) == "100 bytes -> 101 bytes (101%, larger)"


def test_a_quality_is_in_decibels_or_a_word():
    assert format_quality(28.376, "lossless") == "PSNR 28.38 dB"
    assert format_quality(0.0, "lossless") == "PSNR 0.00 dB"
    assert format_quality(None, "lossless") == "lossless"


@pytest.mark.parametrize(
    ("share", "text"), [(1, "100.0 %"), (0.3124, "31.2 %"), (0.0005, "0.1 %"), (0.0004, "< 0.1 %"), (1.5, "150.0 %")]
)
def test_a_share_is_a_percentage_and_never_nothing(share, text):
    assert format_share(share) == text
