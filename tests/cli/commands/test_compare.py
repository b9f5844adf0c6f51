import functools
import json
import os
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers.image_files import assert_one_line, files, noise, save
from PIL import Image

from gpukmeans_cli.commands import compare as module
from gpukmeans_cli.images import comparison
from gpukmeans_cli.images.comparison_sheet import GUTTER, MARGIN
from gpukmeans_cli.main import main

ROOT = Path(__file__).parents[3]
PNG = b"\x89PNG"


@pytest.fixture
def run(command):
    """Runs `gpukmeans compare`, and gives the exit code, stdout and stderr."""
    return functools.partial(command, "compare")


@pytest.fixture
def pair(tmp_path):
    """An image of 40 x 30 pixels, and a copy whose channels differ by up to 7."""
    pixels = noise(30, 40, 3)
    return save(pixels, tmp_path / "a.png"), save(pixels // 8 * 8, tmp_path / "b.png")


@pytest.fixture(autouse=True)
def no_optional_package(monkeypatch):
    """Tests begin without the optional package, installed or not."""
    monkeypatch.setitem(sys.modules, "ssimulacra2", None)


def refuse(*args, **options):
    raise AssertionError("unexpected call")


# Reports


def test_the_comparison_of_two_images_is_one_line(run, pair):
    a, b = pair
    code, out, err = run(a, b)
    assert (code, err) == (0, "")
    sizes = rf"{a.stat().st_size / 1000:.1f} kB -> {b.stat().st_size / 1000:.1f} kB \(\d+%\)"
    assert re.fullmatch(rf"{re.escape(f'{a}, {b}')}: PSNR \d\d\.\d\d dB, SSIM 0\.\d{{4}}, {sizes}\n", out)


def test_images_with_equal_pixels_are_identical(run, pair, tmp_path):
    a, _ = pair
    size = a.stat().st_size
    code, out, err = run(a, save(np.asarray(Image.open(a)), tmp_path / "a.bmp"), "--no-sheet")
    assert (code, err) == (0, "")
    assert out.startswith(f"{a}, {tmp_path / 'a.bmp'}: identical, SSIM 1.0000, {size / 1000:.1f} kB -> 3.7 kB (")


def test_the_json_of_a_comparison_has_exactly_the_documented_keys(run, pair, tmp_path):
    a, b = pair
    code, out, err = run(a, b, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    assert list(found) == [
        "a",
        "b",
        "width",
        "height",
        "mse",
        "psnr",
        "ssim",
        "ssimulacra2",
        "bytes_a",
        "bytes_b",
        "output",
    ]
    assert found["ssimulacra2"] is None
    difference = np.asarray(Image.open(a)).astype(int) - np.asarray(Image.open(b))
    assert found["mse"] == pytest.approx((difference**2).sum() / (30 * 40), rel=1e-12)
    assert found["psnr"] == pytest.approx(10 * np.log10(255**2 / (difference**2).mean()), rel=1e-12)
    assert 0.9 < found["ssim"] < 1
    assert (found["a"], found["b"], found["width"], found["height"]) == (str(a), str(b), 40, 30)
    assert (found["bytes_a"], found["bytes_b"]) == (a.stat().st_size, b.stat().st_size)
    assert found["output"] == str(tmp_path / "a-b-comparison.png")


def test_json_has_null_for_infinite_psnr_and_for_no_sheet(run, pair):
    found = json.loads(run(pair[0], pair[0], "--json", "--no-sheet")[1])
    assert (found["mse"], found["psnr"], found["ssim"], found["output"]) == (0, None, 1, None)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [[], ["--dither", "floyd-steinberg"]], ids=["plain", "dithered"])
def test_the_error_equals_the_one_that_compress_reports(run, tmp_path, capsys, channels, options):
    pixels = noise(21, 33, channels)
    photo = save(pixels[..., 0] if channels == 1 else pixels, tmp_path / "photo.png")
    with pytest.raises(SystemExit):
        main(["compress", str(photo), "-k", "5", "--json", *options])
    report = json.loads(capsys.readouterr().out)
    found = json.loads(run(photo, tmp_path / "photo-5.png", "--json")[1])
    assert (found["mse"], found["psnr"]) == (report["mse"], report["psnr"])
    assert found["mse"] > 0
    assert (found["bytes_a"], found["bytes_b"]) == (report["bytes_in"], report["bytes_out"])


def test_grey_and_alpha_are_compared_with_color(run, tmp_path):
    grey = noise(12, 13)
    color = np.repeat(grey[..., None], 3, axis=2)
    alpha = np.full((12, 13, 1), 255, dtype=np.uint8)
    alpha[0, 0] = 0
    names = [save(grey, tmp_path / "grey.png"), save(color, tmp_path / "color.png")]
    with_alpha = save(np.concatenate([color, alpha], axis=2), tmp_path / "alpha.png")
    assert ": identical, " in run(*names, "--no-sheet")[1]
    both = [json.loads(run(name, with_alpha, "--no-sheet", "--json")[1]) for name in names]
    assert both[0]["mse"] == both[1]["mse"] == (3 * int(grey[0, 0]) ** 2 + 255**2) / (12 * 13)
    assert both[0]["ssim"] == both[1]["ssim"] < 1


def test_a_photo_is_compared_upright(run, pair, tmp_path):
    pixels = np.asarray(Image.open(pair[0]))
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = save(np.rot90(pixels).copy(), tmp_path / "rotated.png", exif=exif)
    assert ": identical, " in run(pair[0], rotated, "--no-sheet")[1]


def test_the_first_frame_of_an_animation_is_compared_with_a_note(run, tmp_path):
    frames = [Image.new("RGB", (4, 3), (10 * n, 0, 0)) for n in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    still = save(np.zeros((3, 4, 3), dtype=np.uint8), tmp_path / "b.png")
    code, out, err = run(tmp_path / "a.gif", still)
    assert code == 0
    assert ": identical, " in out
    assert err == f"gpukmeans: {tmp_path / 'a.gif'}: took the first of 3 frames\n"


# The sheet


def test_the_sheet_shows_both_images_side_by_side(run, pair, tmp_path):
    assert run(*pair)[0] == 0
    sheet = np.asarray(Image.open(tmp_path / "a-b-comparison.png"))
    column = (sheet.shape[1] - 2 * MARGIN - GUTTER) // 2
    for name, left in zip(pair, (MARGIN, MARGIN + column + GUTTER), strict=True):
        start = left + (column - 40) // 2
        drawn = sheet[MARGIN : MARGIN + 30, start : start + 40]
        assert np.array_equal(drawn, np.asarray(Image.open(name)))


def test_the_captions_have_names_sizes_and_quality(run, pair, monkeypatch):
    drawn = []

    def draw_comparison(before, after, *, captions, difference, notes):
        drawn.extend([*captions, *notes])
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(comparison, "draw_comparison", draw_comparison)
    _, out, _ = run(*pair)
    sizes = [f"{name.stat().st_size / 1000:.1f} kB" for name in pair]
    quality = re.search(r"PSNR \S+ dB, SSIM \S+(?=,)", out).group().split(", ")
    # Channels differ by up to 7. A factor of 32 hardly clips such differences, a factor of 64 does.
    assert drawn == [f"a.png: {sizes[0]}", f"b.png: {sizes[1]}", "Absolute difference x 32", *quality]


def test_the_sheet_shows_the_amplified_difference_below_the_first_image(run, pair, tmp_path):
    assert run(*pair)[0] == 0
    sheet = np.asarray(Image.open(tmp_path / "a-b-comparison.png"))
    left = MARGIN + ((sheet.shape[1] - 2 * MARGIN - GUTTER) // 2 - 40) // 2
    below = sheet[MARGIN + 30 :, left : left + 40]
    a, b = (np.asarray(Image.open(name)).astype(int) for name in pair)
    expected = np.minimum(32 * abs(a - b), 255)
    assert any(np.array_equal(below[top : top + 30], expected) for top in range(len(below) - 29))


# SSIMULACRA2, of an optional package


def test_ssimulacra2_is_in_the_line_the_sheet_and_the_json_where_it_is_installed(run, pair, monkeypatch):
    package = types.SimpleNamespace(compute_ssimulacra2=lambda one, other: 71.234)
    monkeypatch.setitem(sys.modules, "ssimulacra2", package)
    assert ", SSIMULACRA2 71.23, " in run(*pair, "--no-sheet")[1]
    assert json.loads(run(*pair, "--json", "--no-sheet")[1])["ssimulacra2"] == 71.234
    drawn = []

    def draw_comparison(before, after, *, captions, difference, notes):
        drawn.extend(notes)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(comparison, "draw_comparison", draw_comparison)
    assert run(*pair)[0] == 0
    assert drawn[-1] == "SSIMULACRA2 71.23"


def test_the_sheet_is_written_beside_b_and_named_after_both(run, pair, tmp_path):
    (tmp_path / "few").mkdir()
    b = pair[1].rename(tmp_path / "few" / "b.png")
    assert run(pair[0], b)[0] == 0
    assert set(files(tmp_path)) == {pair[0], b, tmp_path / "few" / "a-b-comparison.png"}


def test_the_sheet_is_written_to_the_given_output(run, pair, tmp_path):
    output = tmp_path / "sheet.PNG"
    found = json.loads(run(*pair, "-o", output, "--json")[1])
    assert found["output"] == str(output)
    assert set(files(tmp_path)) == {*pair, output}
    assert output.read_bytes().startswith(PNG)


def test_no_sheet_writes_nothing(run, pair, tmp_path):
    before = files(tmp_path)
    code, out, err = run(*pair, "--no-sheet")
    assert (code, err) == (0, "")
    assert out.startswith(f"{pair[0]}, {pair[1]}: PSNR ")
    assert files(tmp_path) == before


def test_an_existing_sheet_is_an_error_before_any_work_without_force(run, pair, tmp_path, monkeypatch):
    output = tmp_path / "a-b-comparison.png"
    output.write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "read_image", refuse)
        code, out, err = run(*pair)
        assert (code, out, output.read_text()) == (1, "", "mine")
        assert_one_line(err, f"{output} already exists; use --force")
    assert run(*pair, "-f")[0] == 0
    assert output.read_bytes().startswith(PNG)


def test_a_sheet_that_appears_during_the_run_is_kept(run, pair, tmp_path, monkeypatch):
    output = tmp_path / "a-b-comparison.png"
    original = comparison.compare_pixels

    def compare_pixels(*args):
        output.write_text("mine")
        return original(*args)

    monkeypatch.setattr(comparison, "compare_pixels", compare_pixels)
    code, out, err = run(*pair)
    assert (code, out, output.read_text()) == (1, "", "mine")
    assert_one_line(err, "already exists")


def test_a_missing_folder_of_the_sheet_gives_one_line(run, pair, tmp_path):
    code, out, err = run(*pair, "-o", tmp_path / "none" / "sheet.png")
    assert (code, out) == (1, "")
    assert_one_line(err, "sheet.png", "its folder does not exist")


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
@pytest.mark.parametrize("name", [b"new\nline.png", b"b\xff.png", "\u65e5\u672c.png".encode()])
def test_a_strange_name_breaks_neither_the_line_nor_the_sheet(run, tmp_path, name):
    a = save(noise(3, 4, 3), tmp_path / os.fsdecode(name))
    code, out, err = run(a, a)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert (tmp_path / f"{a.stem}-{a.stem}-comparison.png").exists()
    assert json.loads(run(a, a, "--json", "-f")[1])["a"] == str(a)


@pytest.mark.parametrize("stage", ["read_image", "compare_pixels", "draw_comparison"])
def test_an_interruption_in_any_stage_leaves_no_file(run, pair, tmp_path, monkeypatch, stage):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, stage, interrupt)
    assert run(*pair) == (130, "", "")
    assert set(tmp_path.iterdir()) == set(pair)


# Exit code 1: the images cannot be compared


@pytest.mark.parametrize("options", [[], ["--no-sheet"]], ids=["sheet", "numbers"])
def test_images_of_different_size_give_one_line_with_both_sizes(run, pair, tmp_path, options):
    other = save(noise(40, 30, 3), tmp_path / "c.png")
    code, out, err = run(pair[0], other, *options)
    assert (code, out) == (1, "")
    assert_one_line(err, f"{pair[0]} is 40 x 30 and {other} 30 x 40")
    assert set(tmp_path.iterdir()) == {*pair, other}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        pytest.param(lambda path: None, "does not exist; check the path", id="missing"),
        pytest.param(Path.mkdir, "is a folder; name an image file", id="folder"),
        pytest.param(lambda path: path.write_text("hello"), "is not an image that Pillow can read; convert", id="text"),
        pytest.param(Path.touch, "is empty (0 bytes); copy", id="empty"),
    ],
)
@pytest.mark.parametrize("bad_first", [True, False], ids=["A", "B"])
def test_a_file_that_cannot_be_read_gives_one_line(run, pair, tmp_path, make, complaint, bad_first):
    path = tmp_path / "photo.png"
    make(path)
    names = (path, pair[0]) if bad_first else (pair[0], path)
    code, out, err = run(*names, "--json")
    assert code == 1
    assert_one_line(err, f"gpukmeans: {path}: {complaint}")
    message = err.removeprefix("gpukmeans: ").rstrip("\n")
    assert json.loads(out) == {"a": str(names[0]), "b": str(names[1]), "error": message}
    assert run(*names)[:2] == (1, "")
    assert not list(tmp_path.glob("*-comparison.png"))


def test_max_pixels_rejects_images_with_more_pixels(run, pair):
    assert run(*pair, "--max-pixels", 1200)[0] == 0
    code, out, err = run(*pair, "--max-pixels", 1199, "-f")
    assert (code, out) == (1, "")
    assert_one_line(err, str(pair[0]), "1200 pixels", "--max-pixels")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] not enough memory: you tried to")])
def test_running_out_of_memory_gives_one_line(run, pair, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(comparison, "compare_pixels", fail)
    code, out, err = run(*pair)
    assert (code, out) == (1, "")
    assert_one_line(err, "out of memory; use a smaller image")


# Exit code 2: nothing was read or written


WRONG = [
    pytest.param([], "Please specify two images, for example: gpukmeans compare photo.jpg", id="no image"),
    pytest.param(["a.png"], "Please specify two images", id="one image"),
    pytest.param(["a.png", "b.png", "c.png"], "c.png", id="three images"),
    pytest.param(["a.png", "b.png", "-o", "c.jpg"], "--output must end in .png, got c.jpg", id="another suffix"),
    pytest.param(["a.png", "b.png", "-o", "c"], "--output must end in .png, got c", id="no suffix"),
    pytest.param(["a.png", "b.png", "-o", "./b.png"], "--output must be a new image, got b.png", id="over B"),
    pytest.param(["a.png", "b.png", "-f", "-o", "a.png"], "--output must be a new image, got a.png", id="over A"),
    pytest.param(["a.png", "b.png", "--no-sheet", "-o", "c.png"], "--no-sheet and --output", id="no sheet and output"),
    pytest.param(["-", "-", "--no-sheet"], "standard input can be read only once", id="standard input twice"),
    pytest.param(
        ["a.png", "-"],
        "the output cannot be named after standard input; add --output or --no-sheet",
        id="no output name",
    ),
    pytest.param(["a.png", "b.png", "--max-pixels", "0"], "--max-pixels", id="no pixels"),
    pytest.param(["a.png", "b.png", "--colors", "3"], "--colors", id="unknown option"),
]


@pytest.mark.parametrize(("args", "complaint"), WRONG)
def test_wrong_arguments_give_one_line_before_any_work(run, monkeypatch, tmp_path, args, complaint):
    monkeypatch.setattr(module, "import_torch", refuse)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert_one_line(err, complaint)
    assert not list(tmp_path.iterdir())


def test_help_and_wrong_arguments_are_answered_without_torch(codes_without_torch):
    calls = [["compare", "--help"], *(["compare", *wrong.values[0]] for wrong in WRONG)]
    assert codes_without_torch(calls) == ["0"] + ["2"] * len(WRONG)
