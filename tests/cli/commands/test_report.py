import functools
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.image_files import assert_one_line, files, noise, save
from PIL import Image

from gpukmeans_cli.main import main


@pytest.fixture
def run(command):
    """Runs `gpukmeans report`, and gives the exit code, stdout and stderr."""
    return functools.partial(command, "report")


@pytest.fixture
def photo(tmp_path):
    return save(noise(31, 40, 3), tmp_path / "photo.png")


def sizes(page):
    return [int(value) for value in re.findall('<data value="([0-9]+)">', page.read_text(encoding="utf-8"))]


def numbers(page):
    return [
        int(value) for value in re.findall('type="radio" name="k" id="k-[0-9]+" value="([0-9]+)"', page.read_text())
    ]


def test_a_page_is_written_beside_the_photo_and_one_line_is_printed(run, photo):
    code, out, err = run(photo, "-k", "3,8")
    page = photo.with_name("photo-report.html")
    assert (code, err) == (0, "")
    assert out == f"{photo} -> {page}: 2 palettes of 3 to 8 colors, {page.stat().st_size / 1000:.1f} kB\n"
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert numbers(page) == [3, 8]


def test_seven_numbers_are_the_default(run, photo):
    run(photo)
    assert numbers(photo.with_name("photo-report.html")) == [4, 8, 16, 32, 64, 128, 256]


def test_one_number_of_colors_gives_a_report_with_one_palette(run, photo, tmp_path):
    assert "report.html: 1 palette of 5 colors, " in run(photo, "-k", "5")[1]
    assert ": 1 palette of 1 color, " in run(photo, "-k", 1, "-o", tmp_path / "one.html")[1]


def test_numbers_of_colors_are_sorted_and_distinct(run, photo):
    run(photo, "-k", "8, 3,8,003")
    assert numbers(photo.with_name("photo-report.html")) == [3, 8]


@pytest.mark.parametrize(
    "options",
    [[], ["--space", "oklab"], ["--dither", "bayer", "--dither-strength", "0.5"], ["--lossy", "5", "--seed", "7"]],
    ids=str,
)
def test_sizes_equal_those_of_the_files_that_the_shown_command_writes(run, photo, tmp_path, options):
    page = tmp_path / "page.html"
    assert run(photo, "-k", "2,5,17", "-o", page, *options)[0] == 0
    written = []
    for n in (2, 5, 17):
        command = ["compress", str(photo), "-k", str(n), *options]
        assert f">gpukmeans compress photo.png {' '.join(command[2:])}</code>" in page.read_text()
        with pytest.raises(SystemExit):
            main([*command, "-q", "-o", str(tmp_path / "out.png"), "--force"])
        written.append((tmp_path / "out.png").stat().st_size)
    assert sizes(page) == written


def test_equal_photos_in_different_folders_give_equal_pages(run, photo, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "photo.png"
    other.write_bytes(photo.read_bytes())
    run(photo, "-k", "3,8")
    run(other, "-k", "3,8")
    one, another = (path.with_name("photo-report.html").read_bytes() for path in (photo, other))
    assert one == another
    run(photo, "-k", "3,8", "--seed", 1, "-f")
    assert photo.with_name("photo-report.html").read_bytes() != one


@pytest.mark.parametrize("given", ["", "x", "0", "257", "4,", "4;8", "-4", "4.5", "1e2", "4,,8", "٤"])
def test_an_invalid_list_of_numbers_is_rejected_before_any_work(run, photo, given, tmp_path):
    before = files(tmp_path)
    code, out, err = run(photo, "-k", given)
    assert (code, out) == (2, "")
    assert_one_line(err, "--colors must be numbers from 1 to 256 with commas between them, such as 4,16,64, got")
    assert files(tmp_path) == before


def test_other_wrong_arguments_give_one_line_and_exit_code_2(run, photo, tmp_path):
    for args, complaint in (
        ([], "Please specify an image"),
        (["-"], "the output cannot be named after standard input; add --output"),
        ([photo, "-o", tmp_path / "page.png"], "--output must end in .html or .htm, got"),
        ([photo, photo], "photo.png"),
        ([photo, "--device", "tpu"], "--device must be auto, cpu, cuda or cuda:N"),
        ([photo, "--device", "cuda"], "cuda"),
        ([photo, "--dither", "none at all"], "--dither"),
    ):
        code, out, err = run(*args)
        assert (code, out) == (2, "")
        assert_one_line(err, complaint)


def test_an_existing_page_is_kept_unless_forced(run, photo, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("mine")
    code, out, err = run(photo, "-o", page)
    assert (code, out) == (1, "")
    assert_one_line(err, "page.html already exists; use --force to overwrite it")
    assert page.read_text() == "mine"
    assert run(photo, "-o", page, "-k", 2, "--force")[0] == 0
    assert numbers(page) == [2]


def test_a_missing_folder_is_an_error_before_any_work(run, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "gpukmeans_cli.report.report_file.build_report_data", lambda *args: pytest.fail("unexpected call")
    )
    code, out, err = run(photo, "-o", tmp_path / "none" / "page.html")
    assert (code, out) == (1, "")
    assert_one_line(err, "none/page.html cannot be written, its folder does not exist")


def test_an_invalid_image_gives_no_page(run, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    before = files(tmp_path)
    for name, complaint in (("text.jpg", "is not an image"), ("missing.png", "does not exist"), (".", "is a folder")):
        code, out, err = run(tmp_path / name)
        assert (code, out) == (1, "")
        assert_one_line(err, complaint)
    assert files(tmp_path) == before


def test_too_many_pixels_are_rejected(run, photo):
    code, _, err = run(photo, "--max-pixels", 31 * 40 - 1)
    assert code == 1
    assert_one_line(err, "--max-pixels")
    assert run(photo, "--max-pixels", 31 * 40, "-k", 2)[0] == 0


def test_the_first_frame_of_an_animation_is_taken_with_a_note(run, tmp_path):
    frames = [Image.fromarray(noise(9, 8, 3, seed=seed)) for seed in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    code, _, err = run(tmp_path / "moving.gif", "-k", 2)
    assert code == 0
    assert_one_line(err, "moving.gif: took the first of 3 frames")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGBA", "P", "CMYK", "I;16"])
def test_an_image_of_any_mode_gives_a_page(run, tmp_path, mode):
    path = tmp_path / f"photo.{'tiff' if mode == 'CMYK' else 'png'}"
    if mode == "I;16":
        Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(path)
    else:
        Image.fromarray(noise(20, 30, 4)).convert(mode).save(path)
    code, _, err = run(path, "-k", "1,2,256")
    assert (code, err) == (0, "")
    assert len(sizes(tmp_path / "photo-report.html")) == 3


def test_an_image_of_one_pixel_gives_a_page(run, tmp_path):
    assert run(save(noise(1, 1, 3), tmp_path / "a.png"), "-k", "1,2")[0] == 0


def test_html_in_a_file_name_is_escaped(run, tmp_path):
    path = tmp_path / """<img src=x onerror=alert(1)>&"'.png"""
    save(noise(9, 8, 3), path)
    code, _, err = run(path, "-k", 2)
    assert (code, err) == (0, "")
    page = (tmp_path / f"{path.stem}-report.html").read_text()
    assert "<img src=x" not in page
    assert "<h1>&lt;img src=x onerror=alert(1)&gt;&amp;&#34;&#39;.png</h1>" in page


def test_help_and_wrong_arguments_are_answered_without_torch_and_jinja():
    code = """
import sys
from gpukmeans_cli.main import main
for args in (["report", "--help"], ["report"], ["report", "a.png", "-k", "0"], ["report", "a.png", "-o", "a.png"]):
    try:
        main(args)
    except SystemExit as exit:
        print(exit.code, *sorted({"torch", "numpy", "PIL", "jinja2"} & sys.modules.keys()), file=sys.stderr)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert re.findall(r"^\d.*$", answer.stderr, re.MULTILINE) == ["0", "2", "2", "2"]
