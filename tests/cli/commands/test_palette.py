import functools
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.image_files import assert_one_line, noise
from PIL import Image

from gpukmeans_cli.formats.palette_files import read_palette
from gpukmeans_cli.images import palette_report, palette_usage
from gpukmeans_cli.main import main


@pytest.fixture
def run(command):
    """Runs `gpukmeans palette`, and gives the exit code, stdout and stderr."""
    return functools.partial(command, "palette")


@pytest.fixture
def photo(tmp_path):
    """8 pixels of red, 5 of white, 3 of blue."""
    pixels = np.concatenate([np.full((n, 3), c) for n, c in ((5, 255), (3, (0, 0, 255)), (8, (255, 0, 0)))])
    return save(pixels.reshape(4, 4, 3), tmp_path / "photo.png")


def save(pixels, path, **options):
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(path, **options)
    return path


def refuse(*args, **options):
    raise AssertionError("unexpected call")


# Reports


def test_each_color_is_a_line_with_its_percentage_in_descending_order(run, photo):
    assert run(photo) == (0, "#ff0000  50.0 %\n#ffffff  31.2 %\n#0000ff  18.8 %\n", "")


def test_at_most_k_colors_are_printed_and_8_by_default(run, tmp_path):
    photo = save(noise(31, 17, 3), tmp_path / "photo.png")
    assert run(photo)[1].count("\n") == 8
    code, out, err = run(photo, "-k", 5)
    assert (code, err) == (0, "")
    percents = [float(percent) for percent in re.findall(r"^#[0-9a-f]{6}  ([\d.]+) %$", out, re.MULTILINE)]
    assert len(percents) == 5
    assert percents == sorted(percents, reverse=True)
    assert sum(percents) == pytest.approx(100, abs=0.3)


def test_the_palette_equals_that_of_compress(run, tmp_path):
    photo = save(noise(31, 17, 3), tmp_path / "photo.png")
    colors = run(photo, "-k", 6, "--seed", 3)[1]
    with pytest.raises(SystemExit):
        main(["compress", str(photo), "-k", "6", "--dither", "none", "--seed", "3", "-q"])
    pixels = np.asarray(Image.open(tmp_path / "photo-6.png").convert("RGB")).reshape(-1, 3)
    used, counts = np.unique(pixels, axis=0, return_counts=True)
    expected = {
        f"#{bytes(c).hex()}  {100 * n / len(pixels):4.1f} %" for c, n in zip(used.tolist(), counts, strict=True)
    }
    assert set(colors.splitlines()) == expected


def test_a_tiny_percentage_is_not_printed_as_zero(run, tmp_path):
    pixels = np.zeros((100, 100, 3), dtype=np.uint8)
    pixels[5, 5] = 255
    assert run(save(pixels, tmp_path / "a.png"))[1] == "#000000  100.0 %\n#ffffff  < 0.1 %\n"


def test_the_json_of_a_palette_has_exactly_the_documented_keys(run, photo):
    code, out, err = run(photo, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out) == {
        "input": str(photo),
        "colors": [
            {"hex": "#ff0000", "rgb": [255, 0, 0], "alpha": 255, "share": 0.5},
            {"hex": "#ffffff", "rgb": [255, 255, 255], "alpha": 255, "share": 0.3125},
            {"hex": "#0000ff", "rgb": [0, 0, 255], "alpha": 255, "share": 0.1875},
        ],
    }


def test_a_gimp_palette_is_named_after_the_image(run, photo):
    assert run(photo, "--gpl") == (
        0,
        "GIMP Palette\nName: photo\n#\n255   0   0 #ff0000\n255 255 255 #ffffff\n  0   0 255 #0000ff\n",
        "",
    )


def test_the_printed_palette_can_be_read_back(run, photo, tmp_path):
    for name, args in (("a.gpl", ["--gpl"]), ("b.hex", [])):
        text = run(photo, *args)[1]
        (tmp_path / name).write_text(re.sub(r"  [\d.]+ %", "", text))
        assert read_palette(tmp_path / name).tolist() == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize(("bits", "code"), [(24, "48;2;255;0;0"), (8, "48;5;196")])
def test_swatches_are_printed_on_a_terminal(photo, monkeypatch, bits, code):
    # typer removes color codes from output that is no terminal, such as captured output.
    lines = []
    monkeypatch.setattr(palette_report, "color_bits", lambda stream, environ: bits)
    monkeypatch.setattr(palette_report.typer, "echo", lines.append)
    with pytest.raises(SystemExit):
        main(["palette", str(photo)])
    assert lines[0] == f"\x1b[{code}m    \x1b[0m #ff0000  50.0 %"
    assert len(lines) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo terminal")
@pytest.mark.parametrize(
    ("environ", "start"),
    [
        ({"TERM": "xterm", "COLORTERM": "truecolor"}, b"\x1b[48;2;255;0;0m    \x1b[0m #ff0000"),
        ({"TERM": "xterm"}, b"\x1b[48;5;196m    \x1b[0m #ff0000"),
        ({"TERM": "xterm", "COLORTERM": "truecolor", "NO_COLOR": "1"}, b"#ff0000"),
    ],
)
def test_swatches_depend_on_the_color_depth_of_the_terminal(photo, environ, start, monkeypatch, capsys):
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    reader, writer = os.openpty()
    with os.fdopen(writer, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        with pytest.raises(SystemExit) as caught:
            main(["palette", str(photo), "--device", "cpu"])
        terminal.flush()
        shown = os.read(reader, 1000)
    os.close(reader)
    assert (caught.value.code, capsys.readouterr().err) == (0, "")
    assert shown.startswith(start)


# Several images


def test_each_of_several_images_has_a_palette_below_its_name(run, photo, tmp_path):
    other = save(np.full((2, 2, 3), 7), tmp_path / "other.png")
    code, out, err = run(other, photo)
    assert (code, err) == (0, "")
    assert out == f"{other}:\n#070707  100.0 %\n{photo}:\n#ff0000  50.0 %\n#ffffff  31.2 %\n#0000ff  18.8 %\n"
    reports = [json.loads(line) for line in run(other, photo, "--json")[1].splitlines()]
    assert [report["input"] for report in reports] == [str(other), str(photo)]


def test_a_shared_palette_counts_the_pixels_of_all(run, photo, tmp_path):
    other = save(np.full((4, 4), 255), tmp_path / "other.png")  # grey
    assert run(photo, other, "--shared") == (0, "#ffffff  65.6 %\n#ff0000  25.0 %\n#0000ff   9.4 %\n", "")
    report = json.loads(run(photo, other, "--shared", "--json")[1])
    assert report["inputs"] == [str(photo), str(other)]
    assert [color["share"] for color in report["colors"]] == [21 / 32, 8 / 32, 3 / 32]
    assert run(photo, other, "--shared", "--gpl")[1].splitlines()[1] == "Name: 2 images"


def test_a_shared_palette_equals_that_of_the_concatenated_images(run, tmp_path):
    one, other = noise(16, 16, 3), noise(16, 16, 3, seed=1)
    names = [save(one, tmp_path / "one.png"), save(other, tmp_path / "other.png")]
    both = save(np.concatenate([one, other]), tmp_path / "both.png")
    assert run(*names, "--shared", "-k", 7)[1] == run(both, "-k", 7)[1]


def test_equal_seeds_give_equal_colors_and_different_seeds_do_not(run, tmp_path):
    photo = save(noise(31, 17, 3), tmp_path / "photo.png")
    one, again, other = (run(photo, "--seed", seed)[1] for seed in (7, 7, 8))
    assert one == again
    assert one != other


# Degenerate images


def test_an_image_of_one_pixel_has_one_color(run, tmp_path):
    assert run(save([[[1, 2, 3]]], tmp_path / "a.png")) == (0, "#010203  100.0 %\n", "")


def test_a_fully_transparent_image_has_one_color(run, tmp_path):
    pixels = noise(5, 4, 4)
    pixels[..., 3] = 0
    photo = save(pixels, tmp_path / "a.png")
    assert run(photo) == (0, "#00000000  100.0 %\n", "")
    assert json.loads(run(photo, "--json")[1])["colors"] == [
        {"hex": "#00000000", "rgb": [0, 0, 0], "alpha": 0, "share": 1.0}
    ]
    assert run(photo, "--gpl") == (0, "GIMP Palette\nName: a\n#\n", "")


def test_transparent_pixels_count_as_one_color(run, tmp_path):
    pixels = np.zeros((4, 5, 4), dtype=np.uint8)
    pixels[:, 0] = (9, 8, 7, 0)
    pixels[:, 1] = (6, 5, 4, 0)
    pixels[:, 2:] = (255, 0, 0, 255)
    pixels[0, 2] = (0, 0, 255, 128)
    expected = "#ff0000    55.0 %\n#00000000  40.0 %\n#0000ff80   5.0 %\n"
    assert run(save(pixels, tmp_path / "a.png")) == (0, expected, "")


def test_grey_is_printed_as_a_color(run, tmp_path):
    assert run(save([[5, 5], [5, 250]], tmp_path / "a.png"))[1] == "#050505  75.0 %\n#fafafa  25.0 %\n"


@pytest.mark.parametrize("k", [1, 256])
def test_the_smallest_and_the_largest_number_of_colors_are_accepted(run, tmp_path, k):
    photo = save(noise(31, 17, 3), tmp_path / "photo.png")
    assert len(json.loads(run(photo, "-k", k, "--json")[1])["colors"]) == k


def test_a_gif_of_several_frames_gives_a_note_that_the_first_was_taken(run, tmp_path):
    frames = [Image.new("RGB", (2, 2), (10 * n, 0, 0)) for n in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    code, out, err = run(tmp_path / "a.gif")
    assert (code, out) == (0, "#000000  100.0 %\n")
    assert_one_line(err, "a.gif", "first of 3 frames")


# Files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.gpl", "GIMP Palette\nName: photo\n#\n255   0   0 #ff0000\n255 255 255 #ffffff\n  0   0 255 #0000ff\n"),
        ("a.HEX", "#ff0000\n#ffffff\n#0000ff\n"),
    ],
)
def test_the_output_is_written_to_the_given_path(run, photo, tmp_path, name, text):
    assert run(photo, "-o", tmp_path / name) == (0, f"{photo} -> {tmp_path / name}: 3 colors\n", "")
    assert (tmp_path / name).read_text() == text


def test_a_shared_palette_can_be_written(run, photo, tmp_path):
    code, out, err = run(photo, photo, "--shared", "-o", tmp_path / "a.hex")
    assert (code, err) == (0, "")
    assert out == f"{photo} and 1 more -> {tmp_path / 'a.hex'}: 3 colors\n"


def test_an_existing_output_is_overwritten_only_with_force(run, photo, tmp_path, monkeypatch):
    output = tmp_path / "a.hex"
    output.write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(palette_usage, "read_image", refuse)
        code, out, err = run(photo, "-o", output)
    assert (code, out, output.read_text()) == (1, "", "mine")
    assert_one_line(err, str(photo), "a.hex already exists; use --force")
    assert run(photo, "-o", output, "-f")[0] == 0
    assert output.read_text().startswith("#ff0000\n")


def test_a_missing_folder_of_the_output_gives_one_line(run, photo, tmp_path):
    code, out, err = run(photo, "-o", tmp_path / "none" / "a.hex")
    assert (code, out) == (1, "")
    assert_one_line(err, "a.hex", "its folder does not exist")


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
@pytest.mark.parametrize("name", [b"new\nline.png", b"b\xff.png", b"bell\x07.png", "\u65e5\u672c.png".encode()])
def test_a_strange_name_does_not_break_the_line(run, tmp_path, name):
    photo = save([[[1, 2, 3]]], tmp_path / os.fsdecode(name))
    code, out, err = run(photo, photo)
    assert (code, err, out.count("\n")) == (0, "", 4)
    code, out, err = run(photo, "--gpl")
    assert (code, err, out.count("\n")) == (0, "", 4)
    assert out.replace("\n", "").isprintable()
    assert run(photo, "-o", tmp_path / "a.gpl")[0] == 0
    assert read_palette(tmp_path / "a.gpl").tolist() == [[1, 2, 3]]
    assert json.loads(run(photo, "--json")[1])["input"] == str(photo)


# Exit code 1: an image failed


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        pytest.param(lambda path: None, "does not exist; check the path", id="missing"),
        pytest.param(Path.mkdir, "is a folder; name an image file", id="folder"),
        pytest.param(lambda path: path.write_text("hello"), "is not an image that Pillow can read; convert", id="text"),
        pytest.param(Path.touch, "is empty (0 bytes); copy", id="empty"),
    ],
)
@pytest.mark.parametrize("shared", [[], ["--shared"]], ids=["alone", "shared"])
def test_a_file_that_cannot_be_read_gives_one_line(run, tmp_path, make, complaint, shared):
    path = tmp_path / "photo.png"
    make(path)
    code, out, err = run(path, *shared, "--json")
    assert code == 1
    assert_one_line(err, f"gpukmeans: {path}: ", complaint)
    assert json.loads(out) == {"input": str(path), "error": err.removeprefix(f"gpukmeans: {path}: ").rstrip("\n")}
    assert run(path, *shared)[:2] == (1, "")


def test_valid_images_are_processed_beside_invalid_ones(run, photo, tmp_path):
    code, out, err = run(tmp_path / "missing.png", photo)
    assert (code, out.count("\n")) == (1, 4)
    assert out.startswith(f"{photo}:\n#ff0000")
    assert_one_line(err, "missing.png")


def test_a_shared_palette_is_that_of_the_readable_images(run, photo, tmp_path):
    code, out, err = run(tmp_path / "missing.png", photo, "--shared", "--json")
    assert code == 1
    failed, found = map(json.loads, out.splitlines())
    assert failed["input"] == str(tmp_path / "missing.png")
    assert found["inputs"] == [str(photo)]
    assert len(found["colors"]) == 3
    assert_one_line(err, "missing.png")


def test_max_pixels_rejects_images_with_more_pixels(run, photo):
    assert run(photo, "--max-pixels", 16)[0] == 0
    code, out, err = run(photo, "--max-pixels", 15)
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), "16 pixels", "15", "--max-pixels")


def test_running_out_of_memory_gives_one_line(run, photo, monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(palette_usage, "fit_palette", fail)
    code, out, err = run(photo, photo, "--shared", "--json")
    assert code == 1
    assert_one_line(err, f"{photo} and 1 more: out of memory")
    assert json.loads(out) == {"inputs": [str(photo)] * 2, "error": "out of memory; use a smaller image"}


@pytest.mark.parametrize("stage", ["read_image", "unique_colors", "fit_palette"])
def test_an_interruption_in_any_stage_leaves_no_file(run, photo, tmp_path, monkeypatch, stage):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(palette_usage, stage, interrupt)
    assert run(photo, "-o", tmp_path / "a.hex") == (130, "", "")
    assert set(tmp_path.iterdir()) == {photo}


# Exit code 2: nothing was read or written


WRONG = [
    pytest.param([], "Please specify an image, for example: gpukmeans palette photo.jpg", id="no image"),
    pytest.param(["a.png", "-k", "0"], "--colors", id="no colors"),
    pytest.param(["a.png", "-k", "257"], "from 1 to 256, got '257'", id="too many colors"),
    pytest.param(["a.png", "--seed", "-1"], "--seed", id="negative seed"),
    pytest.param(["a.png", "--max-pixels", "0"], "--max-pixels", id="no pixels"),
    pytest.param(["a.png", "--device", "tpu"], "auto, cpu, cuda or cuda:N", id="another device"),
    pytest.param(["a.png", "-o", "a.png"], "--output must end in .gpl or .hex, got a.png", id="another suffix"),
    pytest.param(["a.png", "-o", "a"], "--output must end in .gpl or .hex, got a", id="no suffix"),
    pytest.param(["a.png", "--json", "--gpl"], "--json and --gpl", id="two formats"),
    pytest.param(["a.png", "--json", "-o", "a.gpl"], "--output", id="file and JSON"),
    pytest.param(["a.png", "--gpl", "-o", "a.gpl"], "--output", id="file and GIMP"),
    pytest.param(["a.png", "b.png", "--gpl"], "--gpl takes one palette, got 2 images; add --shared", id="two for GIMP"),
    pytest.param(["a.png", "b.png", "-o", "a.hex"], "--output takes one palette", id="two for one file"),
    pytest.param(["-", "a.png", "-"], "standard input can be read only once", id="standard input twice"),
    pytest.param(["a.png", "--dither"], "--dither", id="unknown option"),
]


@pytest.mark.parametrize(("args", "complaint"), WRONG)
def test_wrong_arguments_give_one_line_before_any_work(run, monkeypatch, tmp_path, args, complaint):
    monkeypatch.setattr(palette_usage, "read_image", refuse)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert_one_line(err, complaint)
    assert not list(tmp_path.iterdir())


def test_a_missing_gpu_gives_one_line(run, photo):
    code, out, err = run(photo, "--device", "cuda")
    assert (code, out) == (2, "")
    assert_one_line(err, "use --device cpu or auto")


def test_help_and_wrong_arguments_are_answered_without_torch(codes_without_torch):
    calls = [["palette", "--help"], *(["palette", *wrong.values[0]] for wrong in WRONG)]
    assert codes_without_torch(calls) == ["0"] + ["2"] * len(WRONG)


def test_the_main_help_lists_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert re.search(r"^\W*palette\s+\w", capsys.readouterr().out, re.MULTILINE)
