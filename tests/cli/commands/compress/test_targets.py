"""Targets of `gpukmeans compress`: a PSNR, a quality or a size, and the tries of the search."""

import re
import shutil

import numpy as np
import pytest
from helpers.image_files import assert_one_line, files, rgba
from helpers.photos import save_crop
from helpers.terminals import needs_pseudo_terminals, run_python


@pytest.fixture(scope="module")
def crop(tmp_path_factory):
    """A small crop of a photo, as a PNG. A search compresses it up to ten times."""
    return save_crop(tmp_path_factory.mktemp("crop") / "crop.png", (200, 100, 264, 148))


# Targets


def test_min_psnr_takes_the_fewest_colors_that_reach_the_psnr(report, crop, tmp_path):
    found = report(crop, "--min-psnr", 30, "-o", tmp_path / "found.png")
    assert found["psnr"] >= 30
    fewer = report(crop, "-k", found["colors_out"] - 1, "-o", tmp_path / "fewer.png")
    assert fewer["psnr"] < 30


@pytest.mark.parametrize("limit", ["4k", "4500"])
def test_max_bytes_takes_the_most_colors_that_fit(report, crop, tmp_path, limit):
    n_bytes = 4000 if limit == "4k" else 4500
    found = report(crop, "--max-bytes", limit, "-o", tmp_path / "found.png")
    assert (tmp_path / "found.png").stat().st_size == found["bytes_out"] <= n_bytes
    more = report(crop, "-k", found["colors_out"] + 1, "-o", tmp_path / "more.png")
    assert more["bytes_out"] > n_bytes


def test_with_a_target_the_name_of_the_output_ends_in_palette(report, crop, tmp_path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(crop.read_bytes())
    assert report(photo, "--min-psnr", 25)["output"] == str(tmp_path / "photo-palette.png")


@pytest.mark.parametrize(("option", "value"), [("--min-psnr", 90), ("--max-bytes", 60)])
def test_an_unreachable_target_is_an_error_and_leaves_no_file(run, crop, tmp_path, option, value):
    code, out, err = run(crop, option, value, "--refine", 0, "--max-iter", 1, "-o", tmp_path / "out.png")
    assert (code, out) == (1, "")
    assert_one_line(err, "crop.png", option, "out of reach")
    assert files(tmp_path) == {}


def test_a_target_holds_for_the_dithered_image(report, crop, tmp_path):
    found = report(crop, "--min-psnr", 28, "--dither", "bayer", "--refine", 0, "-o", tmp_path / "out.png")
    error = (rgba(crop).astype(float) - rgba(tmp_path / "out.png"))[..., :3]
    assert 10 * np.log10(255**2 / (error**2).mean()) == pytest.approx(found["psnr"])
    assert found["psnr"] >= 28


# The search on the screen


def test_verbose_lists_the_tries_of_colors_and_prices(run, crop, tmp_path):
    _, out, err = run(crop, "--max-bytes", "4k", "--dither", "optimized", "-v", "-o", tmp_path / "out.png")
    tries = re.findall(r"^gpukmeans: \S+crop.png: try (\d+): (\d+) colors, lossy ([\d.]+): ([\d.]+) kB$", err, re.M)
    assert [int(number) for number, *_ in tries] == list(range(1, len(tries) + 1))
    assert tries[0][1:3] == ("256", "15")
    n_bytes = (tmp_path / "out.png").stat().st_size
    assert f"{n_bytes / 1000:.1f}" in [size for *_, size in tries]
    assert "try" not in out
    assert "try" not in run(crop, "--max-bytes", "4k", "-f", "-o", tmp_path / "out.png")[2]


@pytest.mark.parametrize(
    ("target", "found"), [(("--min-psnr", 25), r"[\d.]+ dB"), (("--quality", 40), r"quality -?[\d.]+")]
)
def test_tries_of_colors_alone_have_no_price(run, crop, tmp_path, target, found):
    _, _, err = run(crop, *target, "-v", "-o", tmp_path / "out.png")
    assert len(re.findall(rf"crop.png: try \d: \d+ colors?: {found}$", err, re.M)) == err.count("try") > 1


SEARCH = """
from gpukmeans_cli.main import main
main(["compress", *sys.argv[1:]])
"""


@needs_pseudo_terminals
def test_a_search_shows_its_tries_on_a_terminal_and_removes_them(crop, tmp_path):
    args = [str(crop), "--quality", "40", "-o", str(tmp_path / "out.png")]
    code, terminal, _ = run_python(f"import sys\nsys.argv[1:] = {args}{SEARCH}")
    assert code == 0
    assert "\x1b[2Kgpukmeans: try 1: 256 colors, lossy 15\r" in terminal.written
    assert re.search(r"gpukmeans: try 2: \d+ colors, lossy [\d.]+ \(last quality -?[\d.]+\)\r", terminal.written)
    (line,) = terminal.screen()
    assert line.startswith(f"{crop} -> {tmp_path / 'out.png'}: ")


@needs_pseudo_terminals
@pytest.mark.parametrize("args", [["-q", "--quality", "40"], ["{crop}", "--quality", "40", "-j", "1"]])
def test_no_tries_are_shown_with_quiet_and_of_several_files(crop, tmp_path, args):
    copy = shutil.copy(crop, tmp_path / "copy.png")
    args = [str(crop), *(arg.format(crop=copy) for arg in args), "-d", str(tmp_path / "small")]
    code, terminal, _ = run_python(f"import sys\nsys.argv[1:] = {args}{SEARCH}")
    assert code == 0
    assert "try" not in terminal.written
