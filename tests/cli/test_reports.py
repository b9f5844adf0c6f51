from dataclasses import replace

import pytest

from gpukmeans_cli.reports import Report, format_size

REPORT = Report(
    input="photos/sea.jpg",
    output="photos/sea-20.png",
    width=640,
    height=427,
    frames=1,
    mode="RGB",
    colors_in=96615,
    colors_out=20,
    bytes_in=196653,
    bytes_out=64400,
    mse=281.25,
    psnr=28.404,
    iterations=32,
    converged=True,
    kept=False,
    device="cuda:1",
    seconds=0.476,
)


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
    assert list(REPORT.as_json()) == [*keys.split(), "kept", "device", "seconds"]
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
