from dataclasses import replace

from helpers.example_report import REPORT


def test_the_line_has_sizes_quality_iterations_and_time():
    assert REPORT.line() == (
        "photos/sea.jpg -> photos/sea-20.png: 640 x 427, 96,615 -> 20 colors, 196.7 kB -> 64.4 kB (33%), "
        "PSNR 28.40 dB, 32 iterations, cuda:1, 0.48 s"
    )


def test_the_line_of_an_image_without_error_contains_lossless():
    line = replace(REPORT, psnr=None, mse=0.0, colors_in=3, colors_out=3, iterations=0).line()
    assert "3 -> 3 colors" in line
    assert "(33%), lossless, 0 iterations," in line
    assert "dB" not in line


def test_the_line_marks_a_larger_file():
    assert "100 bytes -> 250 bytes (250%, larger)" in replace(REPORT, bytes_in=100, bytes_out=250).line()


def test_the_json_of_a_report_has_the_documented_keys_in_their_order():
    assert list(REPORT.as_json()) == [
        *("input", "output", "width", "height", "frames", "mode", "colors_in", "colors_out", "bytes_in", "bytes_out"),
        *("bytes_with_palette", "dither", "lossy", "mse", "psnr", "iterations", "converged"),
        *("kept", "written", "device", "seconds"),
    ]
    assert REPORT.as_json()["psnr"] == 28.404


def test_the_line_has_the_number_of_frames_of_an_animation():
    assert ": 12 frames of 640 x 427, " in replace(REPORT, frames=12).line()


KEPT = replace(REPORT, kept=True, colors_out=96615, bytes_out=REPORT.bytes_in, bytes_with_palette=250_000, psnr=None)


def test_the_line_of_a_kept_file_names_no_output():
    assert replace(KEPT, output=None, written=False).line() == (
        "photos/sea.jpg: 640 x 427, 96,615 colors, 196.7 kB, kept as it is, since a palette would make it 250.0 kB, "
        "cuda:1, 0.48 s"
    )


def test_the_line_of_a_copy_reports_that_the_input_is_kept():
    assert KEPT.line().startswith("photos/sea.jpg -> photos/sea-20.png: 640 x 427, 96,615 colors, 196.7 kB, kept as")
    assert ", 196.7 kB -> 1.0 kB (1%), kept without its metadata, since" in replace(KEPT, bytes_out=1000).line()


def test_the_line_marks_a_dry_run():
    assert REPORT.line().endswith(" s")
    assert replace(REPORT, written=False).line().endswith(" s, not written")
