"""The report of `gpukmeans compress` on each file, as a line and as JSON."""

import json
import re

import pytest
import torch
from helpers.image_files import assert_one_line, noise, save
from PIL import Image

from gpukmeans.engines import choose

KEYS = [
    "input",
    "output",
    "width",
    "height",
    "frames",
    "mode",
    "colors_in",
    "colors_out",
    "bytes_in",
    "bytes_out",
    "bytes_with_palette",
    "dither",
    "lossy",
    "mse",
    "psnr",
    "iterations",
    "converged",
    "kept",
    "written",
    "device",
    "seconds",
]


def refuse(*args, **options):
    raise AssertionError("unexpected call")


def test_the_report_line_has_this_form(run, photo, tmp_path):
    code, out, err = run(photo, "-k", 3, "--device", "cpu")
    assert (code, err) == (0, "")
    before, after = photo.stat().st_size, (tmp_path / "photo-3.png").stat().st_size
    pattern = (
        rf"{re.escape(str(photo))} -> {re.escape(str(tmp_path / 'photo-3.png'))}: 17 x 11, 187 -> 3 colors, "
        rf"{before} bytes -> {after} bytes \({100 * after / before:.0f}%\), "
        r"PSNR \d\d\.\d\d dB, \d+ iterations?, cpu, \d\.\d\d s\n"
    )
    assert re.fullmatch(pattern, out)


def test_each_file_has_its_own_line(run, photo, tmp_path):
    save(noise(5, 5, 3), tmp_path / "other.png")
    _, out, _ = run(tmp_path / "other.png", photo, "-k", 2)
    first, second = out.splitlines()
    assert first.startswith(str(tmp_path / "other.png"))
    assert second.startswith(str(photo))


def test_the_json_of_a_file_has_exactly_the_documented_keys(run, photo, tmp_path):
    code, out, err = run(photo, "-k", 3, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    report = json.loads(out, parse_constant=refuse)
    assert list(report) == KEYS
    assert report | {"mse": 0, "psnr": 0, "iterations": 0, "seconds": 0} == {
        "input": str(photo),
        "output": str(tmp_path / "photo-3.png"),
        "width": 17,
        "height": 11,
        "frames": 1,
        "mode": "RGB",
        "colors_in": 187,
        "colors_out": 3,
        "bytes_in": photo.stat().st_size,
        "bytes_out": (tmp_path / "photo-3.png").stat().st_size,
        "bytes_with_palette": (tmp_path / "photo-3.png").stat().st_size,
        "dither": "none",
        "lossy": 0,
        "mse": 0,
        "psnr": 0,
        "iterations": 0,
        "converged": True,
        "kept": False,
        "written": True,
        "device": "cpu",
        "seconds": 0,
    }
    assert 0 < report["iterations"] <= 100
    assert 0 < report["seconds"] < 60


def test_one_iteration_is_reported_as_not_converged(run, photo):
    report = json.loads(run(photo, "-k", 9, "--refine", 0, "--max-iter", 1, "--json")[1])
    assert (report["iterations"], report["converged"]) == (1, False)


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["line", "json"])
def test_quiet_prints_no_report_line(run, photo, tmp_path, as_json):
    Image.fromarray(noise(4, 4, 3)).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    code, out, err = run(photo, tmp_path / "a.gif", "-q", "-k", 2, *as_json)
    assert (code, err) == (0, "")
    assert bool(out) == bool(as_json)


def test_quiet_still_prints_errors(run, tmp_path):
    code, out, err = run(tmp_path / "missing.png", "-q")
    assert (code, out) == (1, "")
    assert_one_line(err, "missing.png")


def test_verbose_prints_engine_iterations_and_the_time_of_each_stage_on_stderr(run, photo):
    code, out, err = run(photo, "-k", 9, "--refine", 0, "--max-iter", 1, "-v", "--json")
    assert code == 0
    assert json.loads(out)["iterations"] == 1
    assert f"engine {choose('auto', torch.zeros(1, 3)).name}, the fastest for these colors" in err
    assert "stopped at --max-iter after 1 iteration" in err
    for stage in ("read", "count colors", "cluster", "map pixels", "encode", "write"):
        assert re.search(rf"\b{stage} \d+\.\d+ s", err)
    assert all(line.startswith(f"gpukmeans: {photo}: ") for line in err.splitlines())


def test_verbose_prints_the_convergence(run, photo):
    _, out, err = run(photo, "-k", 2, "--verbose")
    rounds = re.search(r"\d+ iterations?", out)
    assert rounds
    assert f"converged after {rounds.group()}\n" in err


@pytest.mark.parametrize(("args", "notes"), [((), 1), (("--json",), 1), (("-q",), 0)], ids=["line", "json", "quiet"])
def test_a_file_with_several_pages_gives_a_note_that_the_first_was_taken(run, tmp_path, args, notes):
    frames = [Image.fromarray(noise(4, 4, 3, seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    code, out, err = run(tmp_path / "a.tiff", "-k", 2, *args)
    assert code == 0
    assert err.count("\n") == notes
    if notes:
        assert_one_line(err, "a.tiff", "first of 3 frames")
    assert "3 frames" not in out


def test_a_photo_rotated_by_exif_is_written_upright(run, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    photo = save(noise(11, 17, 3), tmp_path / "turned.jpg", exif=exif)
    report = json.loads(run(photo, "-k", 2, "--json")[1])
    assert (report["width"], report["height"]) == (11, 17)
    with Image.open(report["output"]) as image:
        assert image.size == (11, 17)
