import errno
import io
import json
import math
import os
import re
import runpy
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from helpers.image_files import assert_one_line, chunks, files, noise, rgba, save
from helpers.stages import STAGES
from PIL import Image

import gpukmeans
from gpukmeans.engines import choose
from gpukmeans.images.palette import BEST_QUALITY
from gpukmeans_cli.compression import palette_fit, pipeline
from gpukmeans_cli.main import main

ROOT = Path(__file__).parents[3]
COMMAND = Path(sys.executable).parent / "gpukmeans"
CHINA, FLOWER = (Path(sklearn.__file__).parent / "datasets" / "images" / name for name in ("china.jpg", "flower.jpg"))
REPORTED = "input output width height frames mode colors_in colors_out bytes_in bytes_out bytes_with_palette"
KEYS = [*REPORTED.split(), "dither", "lossy", "mse", "psnr", "iterations", "converged"]
KEYS += ["kept", "written", "device", "seconds"]

# The environment of a subprocess that runs the installed code: PYTHONPATH would add the checkout.
ENV = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
ENV |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


pytestmark = pytest.mark.usefixtures("no_gpu")


def start(*args, env=None, stdout=subprocess.PIPE, **options):
    env = ENV | (env or {})
    return subprocess.run(
        args,
        env=env,
        stdout=stdout,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
        **options,
    )


def premultiplied(path):
    pixels = rgba(path).astype(float)
    return np.concatenate([pixels[..., :3] * pixels[..., 3:] / 255, pixels[..., 3:]], axis=2)


def refuse(*args, **options):
    raise AssertionError("unexpected call")


# Outputs


def test_the_output_is_beside_the_input_and_named_after_it_and_k(run, photo):
    assert run(photo, "--allow-larger")[0] == 0
    assert run(photo, "-k", 3)[0] == 0
    assert {path.name for path in photo.parent.iterdir()} == {"photo.png", "photo-256.png", "photo-3.png"}


def test_the_output_is_written_to_the_given_path(run, photo, tmp_path):
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "FEW.PNG"
    assert run(photo, "--output", output, "-k", 3)[0] == 0
    assert files(tmp_path).keys() == {photo, output}


def test_the_input_is_not_changed(run, photo):
    before = photo.read_bytes()
    run(photo, "-k", 3)
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("distinct", "k", "bits"),
    [(1, 20, 1), (2, 20, 1), (3, 20, 2), (4, 4, 2), (5, 20, 4), (16, 256, 4), (17, 256, 8), (187, 256, 8), (187, 9, 4)],
)
def test_the_png_has_only_used_palette_entries_and_the_smallest_bit_depth(run, tmp_path, distinct, k, bits):
    numbers = np.arange(187, dtype=np.uint8) % distinct
    photo = save(np.stack([numbers, 255 - numbers, numbers], axis=1).reshape(11, 17, 3), tmp_path / "photo.png")
    code, out, _ = run(photo, "-k", k, "-o", tmp_path / "few.png", "--allow-larger", "--effort", 0, "--json")
    assert code == 0
    with Image.open(tmp_path / "few.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (17, 11))
        n_colors = len(image.getcolors())
    assert n_colors == min(distinct, k) == json.loads(out)["colors_out"]
    found = chunks(tmp_path / "few.png")
    assert struct.unpack(">IIBBBBB", found["IHDR"]) == (17, 11, bits, 3, 0, 0, 0)
    assert len(found["PLTE"]) == 3 * n_colors


def test_an_existing_output_is_kept(run, photo, tmp_path):
    (tmp_path / "photo-256.png").write_bytes(b"mine")
    before = files(tmp_path)
    code, out, err = run(photo)
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), "photo-256.png already exists; use --force")
    assert files(tmp_path) == before


@pytest.mark.parametrize("flag", ["-f", "--force"])
def test_force_overwrites(run, photo, tmp_path, flag):
    output = tmp_path / "photo-2.png"
    output.write_bytes(b"mine")
    assert run(photo, "-k", 2, flag)[0] == 0
    assert output.read_bytes().startswith(b"\x89PNG")


def test_force_can_overwrite_the_input(run, photo):
    size = photo.stat().st_size
    code, out, _ = run(photo, "-k", 2, "-f", "-o", photo, "--json")
    assert code == 0
    assert (json.loads(out)["bytes_in"], json.loads(out)["bytes_out"]) == (size, photo.stat().st_size)
    assert len(np.unique(rgba(photo).reshape(-1, 4), axis=0)) == 2


@pytest.mark.parametrize("step", ["open", "replace"])
def test_a_failed_write_changes_no_file(run, photo, tmp_path, monkeypatch, step):
    (tmp_path / "photo-2.png").write_bytes(b"mine")
    before = files(tmp_path)

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    def open_nothing_new(path, mode="r", *args, **options):
        return open(path, mode, *args, **options) if mode == "rb" else full()

    monkeypatch.setattr(*((Path, "open", open_nothing_new) if step == "open" else (os, "replace", full)))
    code, _, err = run(photo, "-k", 2, "-f")
    assert code == 1
    assert_one_line(err, "photo.png", "photo-2.png", "disk is full")
    assert files(tmp_path) == before


# Names


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_names_may_have_spaces_newlines_dashes_and_undecodable_bytes(tmp_path):
    names = [b"two  spaces.png", b"new\nline.png", b"-x.png", b"b\xff.png", "\u65e5\u672c.png".encode()]
    for name in names:
        save(noise(4, 4, 3), tmp_path / os.fsdecode(name))
    answer = start(COMMAND, "compress", "-k", "2", "--json", "-q", "--", *names, cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, b"")
    reports = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [os.fsencode(report["input"]) for report in reports] == names
    for name, report in zip(names, reports, strict=True):
        assert os.fsencode(report["output"]) == name.replace(b".png", b"-2.png")
        assert (tmp_path / report["output"]).is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
@pytest.mark.parametrize("name", [b"new\nline.png", b"b\xff.png", b"bell\x07.png"])
def test_a_strange_name_does_not_break_the_line(run, tmp_path, name):
    photo = save(noise(4, 4, 3), tmp_path / os.fsdecode(name))
    code, out, err = run(photo, "-k", "2")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert out.rstrip("\n").isprintable()
    code, out, err = run(photo, "-k", "2")
    assert (code, out) == (1, "")
    assert_one_line(err)


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="needs names in any script")
def test_a_name_that_stdout_cannot_encode_does_not_stop_the_report(monkeypatch, tmp_path):
    photo = save(noise(4, 4, 3), tmp_path / "\u65e5\u672c.png")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    with pytest.raises(SystemExit) as caught:
        main(["compress", str(photo), "-k", "2"])
    assert caught.value.code == 0
    assert b"4 x 4" in raw.getvalue()


# The report


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


def test_json_has_exactly_these_keys(run, photo, tmp_path):
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


# Images


@pytest.mark.parametrize("source", [CHINA, FLOWER], ids=lambda path: path.stem)
def test_a_photo_gets_smaller_and_the_report_has_its_error(run, tmp_path, source):
    code, out, err = run(source, "-k", 20, "-o", tmp_path / "few.png", "--max-iter", 20, "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert (report["width"], report["height"], report["colors_out"]) == (640, 427, 20)
    assert report["bytes_out"] == (tmp_path / "few.png").stat().st_size < report["bytes_in"] == source.stat().st_size
    before, after = rgba(source), rgba(tmp_path / "few.png")
    assert report["colors_in"] == len(np.unique(before.reshape(-1, 4), axis=0))
    assert report["mse"] == pytest.approx(np.square(before.astype(float) - after).sum(axis=2).mean(), rel=1e-12)
    assert 25 < report["psnr"] < 40


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("L", ".png", 3),
        ("L", ".jpg", 3),
        ("RGB", ".webp", 3),
        ("RGB", ".bmp", 3),
        ("RGB", ".tif", 3),
        ("CMYK", ".tif", 3),
        ("P", ".png", 3),
        ("LA", ".png", 4),
        ("RGBA", ".png", 4),
        ("RGBA", ".tif", 4),
    ],
)
def test_the_error_is_the_difference_between_the_files(run, tmp_path, mode, suffix, channels):
    image = Image.fromarray(noise(21, 31, channels)).convert(mode)
    image.save(tmp_path / f"photo{suffix}")
    code, out, _ = run(tmp_path / f"photo{suffix}", "-k", 7, "--json", "-o", tmp_path / "few.png")
    report = json.loads(out)
    assert (code, report["mode"], report["colors_out"]) == (0, mode, 7)
    sqerror = np.square(premultiplied(tmp_path / f"photo{suffix}") - premultiplied(tmp_path / "few.png"))
    mse = sqerror.sum(axis=2).mean()
    assert mse > 0
    assert report["mse"] == pytest.approx(mse, rel=1e-12)
    assert report["psnr"] == pytest.approx(10 * math.log10(255**2 / (mse / channels)), rel=1e-12)


def test_each_pixel_has_the_nearest_color_of_the_palette(run, photo, tmp_path):
    run(photo, "-k", 5, "--max-iter", 2)
    before, after = (rgba(path).reshape(-1, 4).astype(int) for path in (photo, tmp_path / "photo-5.png"))
    palette = np.unique(after, axis=0)
    nearest = np.square(before[:, None] - palette).sum(axis=2).min(axis=1)
    assert np.array_equal(np.square(before - after).sum(axis=1), nearest)


@pytest.mark.parametrize(
    ("pixels", "distinct"),
    [
        pytest.param(noise(1, 1, 3), 1, id="one pixel"),
        pytest.param(np.full((9, 13, 3), (200, 30, 7), dtype=np.uint8), 1, id="one color"),
        pytest.param(np.full((9, 13), 77, dtype=np.uint8), 1, id="one grey"),
        pytest.param(np.repeat(np.arange(20, dtype=np.uint8)[:, None] * 13, 3, axis=1), 20, id="as many greys as k"),
        pytest.param(np.repeat(noise(6, 1, 3), 5, axis=1), 6, id="fewer colors than k"),
        pytest.param(np.repeat(noise(6, 1, 4) | 1, 5, axis=1), 6, id="fewer colors with alpha"),
        pytest.param(np.repeat(noise(6, 1, 2) | 1, 5, axis=1), 6, id="fewer greys with alpha"),
    ],
)
def test_an_image_of_few_colors_is_lossless(run, tmp_path, pixels, distinct):
    photo = save(pixels, tmp_path / "photo.png")
    code, out, err = run(photo, "-k", 20, "--allow-larger")
    assert (code, err) == (0, "")
    assert f" {distinct} -> {distinct} color{'s' * (distinct > 1)}, " in out
    assert ", lossless, 0 iterations, " in out
    assert np.array_equal(rgba(tmp_path / "photo-20.png"), rgba(photo))
    report = json.loads(run(photo, "-k", 20, "-f", "--json", "--allow-larger")[1])
    assert (report["psnr"], report["mse"], report["iterations"], report["converged"]) == (None, 0, 0, True)


def test_a_fully_transparent_image_stays_transparent(run, tmp_path):
    pixels = noise(9, 13, 4)
    pixels[..., 3] = 0
    report = json.loads(run(save(pixels, tmp_path / "photo.png"), "-k", 20, "--json", "--allow-larger")[1])
    assert (report["colors_in"], report["colors_out"], report["psnr"]) == (1, 1, None)
    assert not rgba(tmp_path / "photo-20.png").any()


def test_alpha_is_kept_in_the_palette(run, tmp_path):
    pixels = np.concatenate([np.full((8, 5, 4), color) for color in ((9, 8, 7, 0), (250, 0, 0, 128), (0, 0, 90, 255))])
    photo = save(pixels.astype(np.uint8), tmp_path / "photo.png")
    assert run(photo, "-k", 20, "--allow-larger")[0] == 0
    found = chunks(tmp_path / "photo-20.png")
    colors = np.frombuffer(found["PLTE"], dtype=np.uint8).reshape(3, 3)
    alpha = np.frombuffer(found["tRNS"].ljust(3, b"\xff"), dtype=np.uint8)
    assert {(*color, a) for color, a in zip(colors.tolist(), alpha.tolist(), strict=True)} == {
        (0, 0, 0, 0),  # transparent pixels become black
        (250, 0, 0, 128),
        (0, 0, 90, 255),
    }


def test_a_transparent_index_of_a_gif_is_kept(run, tmp_path):
    image = Image.fromarray(np.repeat(np.arange(4, dtype=np.uint8)[:, None], 5, axis=1))
    image.putpalette([1, 2, 3, 40, 50, 60, 200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "a.gif", transparency=2)
    report = json.loads(run(tmp_path / "a.gif", "--json", "--allow-larger")[1])
    assert (report["mode"], report["colors_out"]) == ("P", 4)
    assert rgba(report["output"])[:, 0, 3].tolist() == [255, 255, 0, 255]


# Options


@pytest.fixture
def clustering(monkeypatch):
    """The options of `fit_palette`."""
    used_options = {}

    def fit_palette(histogram, n_colors, **options):
        used_options.update(options, n_colors=n_colors, seed=options["generator"].initial_seed())
        del used_options["callback"]  # which stops the run on request
        return original(histogram, n_colors, **options)

    original = palette_fit.fit_palette
    monkeypatch.setattr(palette_fit, "fit_palette", fit_palette)
    return used_options


def test_the_defaults_are_the_documented_ones(run, photo, clustering):
    run(photo)
    del clustering["generator"]
    # The library sets the defaults of all other options.
    documented = {"n_colors": 256, "space": "srgb", "fixed": None, "init": "random", "max_iter": 100, "seed": 0}
    assert clustering == documented


def test_options_reach_the_clustering(run, photo, clustering):
    run(
        photo,
        "-k",
        5,
        "--init",
        "k-means++",
        "--n-init",
        3,
        "--refine",
        2,
        "--max-iter",
        7,
        "--tol",
        "0.5",
        "--seed",
        2**63 - 1,
        "--space",
        "oklab",
    )
    del clustering["generator"]
    given = {"n_colors": 5, "init": "k-means++", "n_init": 3, "refine": 2, "max_iter": 7, "tol": 0.5, "seed": 2**63 - 1}
    assert clustering == given | {"space": "oklab", "fixed": None}


def test_best_sets_the_search_options_that_are_not_given(run, photo, clustering):
    run(photo, "--best", "--n-init", 3)
    assert {name: clustering[name] for name in BEST_QUALITY} == BEST_QUALITY | {"n_init": 3}


@pytest.mark.parametrize("name", gpukmeans.SEEDINGS)
def test_each_seeding_can_be_chosen(run, photo, name):
    assert run(photo, "-k", 3, "--init", name)[0] == 0


@pytest.mark.parametrize("n_colors", [1, 256])
def test_the_smallest_and_the_largest_number_of_colors_are_accepted(run, tmp_path, n_colors):
    photo = save(noise(31, 17, 3), tmp_path / "photo.png")
    report = json.loads(run(photo, "--colors", n_colors, "--max-iter", 1, "--json")[1])
    assert report["colors_out"] == n_colors


def test_equal_seeds_give_equal_bytes_and_different_seeds_do_not(run, photo, tmp_path):
    for name, seed in (("one", 7), ("again", 7), ("other", 8)):
        assert run(photo, "-k", 6, "--max-iter", 2, "--seed", seed, "-o", tmp_path / f"{name}.png")[0] == 0
    one, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "again", "other"))
    assert one == again
    assert one != other


def test_the_number_of_threads_does_not_change_a_byte(tmp_path):
    for threads in ("1", "2"):
        args = (COMMAND, "compress", CHINA, "-k", "64", "--dither", "none", "--max-iter", "3", "-q")
        answer = start(*args, "-o", tmp_path / f"{threads}.png", env={"OMP_NUM_THREADS": threads})
        assert (answer.returncode, answer.stderr) == (0, b"")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_max_pixels_rejects_larger_images(run, photo, tmp_path):
    assert run(photo, "-k", 2, "--max-pixels", 187)[0] == 0
    code, out, err = run(photo, "-k", 2, "-f", "--max-pixels", 186)
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), "187 pixels", "186", "--max-pixels")


def test_max_pixels_raises_the_limit_for_a_decompression_bomb(run, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90)  # Pillow refuses from twice that on
    code, out, err = run(photo, "-k", 2)
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), "187 pixels", "180", "--max-pixels")
    assert files(tmp_path).keys() == {photo}
    assert run(photo, "-k", 2, "--max-pixels", 200)[0] == 0


def test_the_given_device_is_used(run, photo):
    assert json.loads(run(photo, "-k", 2, "--device", "cpu", "--json")[1])["device"] == "cpu"
    assert json.loads(run(photo, "-k", 2, "--device", "auto", "--json", "-f")[1])["device"] == "cpu"


# Exit code 2: nothing was read or written


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        pytest.param(["-k", "0"], "--colors", id="no colors"),
        pytest.param(["-k", "257"], "from 1 to 256, got '257'", id="too many colors"),
        pytest.param(["-k", "-3"], "--colors", id="negative colors"),
        pytest.param(["-k", "twenty"], "'twenty'", id="colors in words"),
        pytest.param(["-k", "2.5"], "'2.5'", id="half a color"),
        pytest.param(["--output", "few.jpg"], "must end in one of .png, .gif, .webp, got few.jpg", id="another suffix"),
        pytest.param(["--output", "few"], "must end in one of .png, .gif, .webp, got few", id="no suffix"),
        pytest.param(["--device", "cuda"], "use --device cpu or auto", id="no GPU"),
        pytest.param(["--device", "cuda:0"], "use --device cpu or auto", id="no first GPU"),
        pytest.param(["--device", "cuda:01"], "cuda:01", id="a GPU number with a leading zero"),
        pytest.param(["--device", "cuda:99999999999999999999"], "cuda:99999999999999999999", id="a large GPU number"),
        pytest.param(["--device", "cuda:x"], "auto, cpu, cuda or cuda:N", id="a GPU name without a number"),
        pytest.param(["--device", "cuda:"], "auto, cpu, cuda or cuda:N", id="a GPU without a number"),
        pytest.param(["--device", "mps"], "auto, cpu, cuda or cuda:N", id="another kind of device"),
        pytest.param(["--init", "forgy"], "'random'", id="unknown init"),
        pytest.param(["--n-init", "0"], "--n-init", id="no runs"),
        pytest.param(["--max-iter", "0"], "--max-iter", id="no iterations"),
        pytest.param(["--tol", "-1"], "--tol", id="negative tolerance"),
        pytest.param(["--tol", "nan"], "--tol must be a number", id="NaN tolerance"),
        pytest.param(["--tol", "inf"], "--tol must be", id="infinite tolerance"),
        pytest.param(["--seed", "-1"], "--seed", id="negative seed"),
        pytest.param(["--seed", str(2**63)], "--seed", id="seed beyond 63 bits"),
        pytest.param(["--max-pixels", "0"], "--max-pixels", id="no pixels"),
        pytest.param(["--fast"], "--fast", id="unknown option"),
    ],
)
def test_wrong_arguments_give_one_line_before_any_work(run, photo, tmp_path, monkeypatch, args, complaint):
    monkeypatch.setattr(pipeline, "read_source", refuse)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    code, out, err = run(photo, "--json", *args)
    assert (code, out) == (2, "")
    assert_one_line(err, complaint)
    assert files(tmp_path) == before


def test_a_missing_input_is_an_error(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert_one_line(err, "Please specify an image", "gpukmeans compress photo.jpg")


def test_one_output_for_two_inputs_is_an_error(run, photo, tmp_path):
    code, out, err = run(photo, tmp_path / "other.png", "-o", tmp_path / "few.png")
    assert (code, out) == (2, "")
    assert_one_line(err, "--output takes one input")
    assert files(tmp_path).keys() == {photo}


@pytest.mark.parametrize("other", ["photo.png", "photo.jpg", "sub/../photo.png", "link/photo.jpg"])
def test_two_inputs_that_would_write_one_output_are_an_error(run, photo, tmp_path, other):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    save(noise(4, 4, 3), tmp_path / "photo.jpg")
    before = files(tmp_path)
    code, out, err = run(photo, tmp_path / other, "-k", 2, "-f")
    assert (code, out) == (2, "")
    assert_one_line(err, "photo-2.png")
    assert files(tmp_path) == before


def test_two_names_of_one_output_are_an_error(run, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("photo.png", photo, "-k", 2)
    assert code == 2
    assert_one_line(err, "photo-2.png")


def test_equal_stems_in_two_folders_are_no_conflict(run, photo, tmp_path):
    (tmp_path / "sub").mkdir()
    shutil.copy(photo, tmp_path / "sub")
    assert run(photo, tmp_path / "sub" / "photo.png", "-k", 2)[0] == 0
    assert (tmp_path / "photo-2.png").read_bytes() == (tmp_path / "sub" / "photo-2.png").read_bytes()


# Exit code 1: a file failed


def broken_png(path):
    save(noise(64, 64, 3), path)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        pytest.param(lambda path: None, "does not exist; check the path", id="missing"),
        pytest.param(Path.mkdir, "is a folder; add -r to take the images in it", id="folder"),
        pytest.param(lambda path: path.write_text("hello"), "is not an image that Pillow can read; convert", id="text"),
        pytest.param(broken_png, "cannot be decoded", id="truncated"),
        pytest.param(Path.touch, "is empty (0 bytes); copy", id="empty"),
    ],
)
def test_a_file_that_cannot_be_read_gives_one_line(run, tmp_path, make, complaint):
    path = tmp_path / "photo.png"
    make(path)
    before = files(tmp_path)
    code, out, err = run(path, "--json")
    assert code == 1
    assert_one_line(err, f"gpukmeans: {path}: ", complaint)
    assert json.loads(out) == {"input": str(path), "error": err.removeprefix(f"gpukmeans: {path}: ").rstrip("\n")}
    assert files(tmp_path) == before


def test_a_file_without_read_permission_gives_one_line(run, photo, monkeypatch):
    def deny(path, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)
    code, out, err = run(photo)
    assert (code, out) == (1, "")
    assert_one_line(err, f"{photo}: cannot be read; check its permissions")


@pytest.mark.parametrize("kind", ["missing", "file", "denied"])
def test_an_output_folder_that_cannot_be_written_gives_one_line(run, photo, tmp_path, monkeypatch, kind):
    folder = tmp_path / "out"
    if kind == "file":
        folder.touch()
    if kind == "denied":
        folder.mkdir()
        close(folder, monkeypatch)
    code, out, err = run(photo, "-k", 2, "-o", folder / "few.png")
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), str(folder / "few.png"), "cannot be written")
    assert {photo} <= files(tmp_path).keys() <= {photo, folder}


def close(folder, monkeypatch):
    """Make every access to the folder fail, as file permissions do for users other than root."""

    def guarded(call):
        def denied(path, *args, **options):
            if isinstance(path, (str, Path)) and Path(path).parent == folder:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return call(path, *args, **options)

        return denied

    for owner, name in ((os, "stat"), (os, "lstat"), (os, "access"), (os, "link"), (os, "replace"), (Path, "open")):
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name)))


def test_an_output_that_is_a_folder_gives_one_line(run, photo, tmp_path):
    (tmp_path / "few.png").mkdir()
    for force in ([], ["-f"]):
        code, out, err = run(photo, "-k", 2, "-o", tmp_path / "few.png", *force)
        assert (code, out) == (1, "")
        assert_one_line(err, str(photo), str(tmp_path / "few.png"))


def test_an_output_name_that_is_too_long_gives_one_line(run, tmp_path):
    photo = save(noise(4, 4, 3), tmp_path / f"{'m' * 251}.png")
    code, out, err = run(photo, "-k", 2)
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), "cannot be written")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory.\nTried to"), MemoryError()], ids=["GPU", "CPU"]
)
def test_running_out_of_memory_fails_one_file_and_not_the_others(run, photo, tmp_path, monkeypatch, error):
    def fail_once(*args, **options):
        monkeypatch.setattr(palette_fit, "fit_palette", original)
        raise error

    original = palette_fit.fit_palette
    monkeypatch.setattr(palette_fit, "fit_palette", fail_once)
    other = save(noise(4, 4, 3), tmp_path / "other.png")
    code, out, err = run(photo, other, "-k", 2, "-j", 1)
    assert code == 1
    first, summary, again = err.splitlines()
    assert first.startswith(f"gpukmeans: {photo}: ")
    assert "out of memory; use " in first
    assert summary.startswith("gpukmeans: 1 of 2 files done, 1 failed, ")
    assert again == first.replace(f"{photo}", f"failed: {photo}")
    assert out.startswith(str(other))
    assert files(tmp_path).keys() == {photo, other, tmp_path / "other-2.png"}


def test_valid_and_invalid_inputs_are_reported_in_their_order(run, photo, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    other = save(noise(4, 4, 3), tmp_path / "other.png")
    inputs = [tmp_path / "missing.png", photo, tmp_path / "text.png", other]
    code, out, err = run(*inputs, "-k", 2, "--json", "-q")
    assert code == 1
    reports = [json.loads(line) for line in out.splitlines()]
    assert [report["input"] for report in reports] == [str(path) for path in inputs]
    assert [list(report) for report in reports] == [["input", "error"], KEYS, ["input", "error"], KEYS]
    assert [line.split(": ")[1] for line in err.splitlines()] == [str(inputs[0]), str(inputs[2])]
    assert (tmp_path / "photo-2.png").exists()
    assert (tmp_path / "other-2.png").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
def test_a_pipe_can_be_the_input(run, photo, tmp_path):
    pipe, data = tmp_path / "pipe", photo.read_bytes()
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[data], daemon=True)
    writer.start()
    code, out, err = run(pipe, "-k", 2, "-o", tmp_path / "few.png")
    writer.join(timeout=10)
    assert (code, err) == (0, "")
    assert "17 x 11, 187 -> 2 colors" in out


def test_an_input_that_vanishes_during_the_run_gives_no_traceback(run, photo, monkeypatch):
    def fit_palette(*args, **options):
        photo.unlink()
        return original(*args, **options)

    original = palette_fit.fit_palette
    monkeypatch.setattr(palette_fit, "fit_palette", fit_palette)
    code, out, err = run(photo, "-k", 2)
    assert (code, out.count("\n"), err.count("\n")) in [(0, 1, 0), (1, 0, 1)]


# Interruptions


@pytest.mark.parametrize("stage", STAGES)
def test_an_interruption_in_any_stage_leaves_no_file(run, photo, tmp_path, monkeypatch, stage):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(STAGES[stage], stage, interrupt)
    assert run(photo, "-k", 2, "--json") == (130, "", "")
    assert files(tmp_path).keys() == {photo}


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_keeps_finished_files_and_leaves_no_partial_ones(tmp_path):
    small = save(noise(4, 4, 3), tmp_path / "small.png")
    large = save(noise(1200, 1200, 3), tmp_path / "large.png", compress_level=1)
    args = (COMMAND, "compress", small, large, "--dither", "none", "--tol", "0", "--allow-larger")
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, text=True) as process:
        assert process.stdout.readline().startswith(str(small))
        time.sleep(0.5)  # now the large one is being compressed
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    interrupted, summary = err.strip().splitlines()
    assert interrupted == "gpukmeans: interrupted; run again with --skip-existing to continue"
    assert summary.startswith("gpukmeans: 1 of 2 files done, 1 not finished, ")
    assert files(tmp_path).keys() == {small, large, tmp_path / "small-256.png"}


def test_a_closed_pipe_behind_stdout_gives_no_traceback(photo):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        answer = start(COMMAND, "compress", photo, "-k", "2", stdout=pipe)
    assert (answer.returncode, answer.stderr) == (1, b"")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes streams")
def test_a_closed_stdout_does_not_prevent_writing_the_file(run, photo, tmp_path):
    close_stdout = ("sh", "-c", 'exec "$@" >&-', "sh")
    args = ("compress", photo, "-k", "2", "--dither", "none", "-o", tmp_path / "few.png")
    answer = start(*close_stdout, COMMAND, *args)
    assert (answer.returncode, answer.stderr) == (0, b"")
    run(photo, "-k", "2", "-o", tmp_path / "same.png")
    assert (tmp_path / "few.png").read_bytes() == (tmp_path / "same.png").read_bytes()


# A checkout that is not installed


@pytest.fixture
def checkout(tmp_path):
    """A copy of the code that prints a line when it is imported."""
    folder = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gpukmeans", folder / "gpukmeans", ignore=ignore)
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=ignore)
    for package in ("gpukmeans", "scripts/gpukmeans_cli"):
        with (folder / package / "__init__.py").open("a") as file:
            file.write(f"import sys\nprint('copy of {package}', file=sys.stderr)\n")
    return folder


@pytest.mark.parametrize("installed", [True, False], ids=["another one installed", "none installed"])
def test_a_checkout_runs_its_own_code_from_any_folder_and_writes_the_same_bytes(run, photo, checkout, installed):
    # -S disables editable installations; PYTHONPATH makes the other packages importable.
    python = [sys.executable] if installed else [sys.executable, "-S"]
    env = {} if installed else {"PYTHONPATH": sysconfig.get_path("purelib")}
    (elsewhere := photo.parent / "elsewhere").mkdir()
    options = ("-k", "5", "--dither", "none", "--seed", "3")
    args = (checkout / "scripts" / "compress.py", photo, *options, "-o", "few.png")
    answer = start(*python, *args, cwd=elsewhere, env=env)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.split(b"\n") == [b"copy of scripts/gpukmeans_cli", b"copy of gpukmeans", b""]
    assert answer.stdout.startswith(str(photo).encode())
    run(photo, *options, "-o", photo.parent / "same.png")
    assert (elsewhere / "few.png").read_bytes() == (photo.parent / "same.png").read_bytes()


def test_the_launcher_reports_a_missing_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compress.py"])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "scripts" / "compress.py"), run_name="__main__")
    assert caught.value.code == 2
    assert_one_line(capsys.readouterr().err, "Please specify an image")
