import json

import numpy as np
import pytest
import torch
from helpers.image_files import assert_one_line, save

from gpukmeans_cli.images.palette_report import PaletteTask, palette_lines, report_palettes
from gpukmeans_cli.images.palette_usage import PaletteUsage

CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path):
    """One image of 3 red and 1 blue pixels, one of 4 blue pixels, and a missing file."""
    red, blue = (255, 0, 0), (0, 0, 255)
    one = save(np.array([[red, red], [red, blue]], dtype=np.uint8), tmp_path / "one.png")
    two = save(np.array([[blue] * 4], dtype=np.uint8), tmp_path / "two.png")
    return one, two, tmp_path / "missing.png"


def test_lines_are_aligned_and_begin_with_a_swatch_on_a_terminal_with_color():
    usage = PaletteUsage(colors=np.array([[0, 0, 0], [255, 0, 0]], dtype=np.uint8), counts=np.array([19, 1]))
    assert palette_lines(usage, 0) == ["#000000  95.0 %", "#ff0000   5.0 %"]
    assert palette_lines(usage, 24)[1] == "\x1b[48;2;255;0;0m    \x1b[0m #ff0000   5.0 %"


def test_each_palette_has_a_heading_unless_there_is_only_one(pictures, capsys):
    one, two, _ = pictures
    assert report_palettes([one], PaletteTask(n_colors=4, device=CPU))
    assert capsys.readouterr() == ("#ff0000  75.0 %\n#0000ff  25.0 %\n", "")
    assert report_palettes([one, two], PaletteTask(n_colors=4, device=CPU))
    assert capsys.readouterr().out == f"{one}:\n#ff0000  75.0 %\n#0000ff  25.0 %\n{two}:\n#0000ff  100.0 %\n"


def test_a_shared_palette_counts_the_pixels_of_all_images(pictures, capsys):
    assert report_palettes(pictures[:2], PaletteTask(n_colors=4, device=CPU, shared=True))
    assert capsys.readouterr().out == "#0000ff  62.5 %\n#ff0000  37.5 %\n"


def test_an_unreadable_image_is_reported_and_the_others_are_processed(pictures, capsys):
    one, _, missing = pictures
    assert not report_palettes([missing, one], PaletteTask(n_colors=4, device=CPU, as_json=True))
    out, err = capsys.readouterr()
    failed, found = map(json.loads, out.splitlines())
    assert (failed["input"], found["input"]) == (str(missing), str(one))
    assert_one_line(err, f"{missing}: does not exist")
    assert not report_palettes([missing, one], PaletteTask(n_colors=4, device=CPU, shared=True))
    assert capsys.readouterr().out == "#ff0000  75.0 %\n#0000ff  25.0 %\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.hex", "#ff0000\n#0000ff\n"),
        ("a.GPL", "GIMP Palette\nName: one\n#\n255   0   0 #ff0000\n  0   0 255 #0000ff\n"),
    ],
)
def test_the_suffix_of_the_output_sets_its_format(pictures, tmp_path, capsys, name, text):
    output = tmp_path / name
    task = PaletteTask(n_colors=4, device=CPU, output=output)
    assert report_palettes(pictures[:1], task)
    assert output.read_text() == text
    assert capsys.readouterr() == (f"{pictures[0]} -> {output}: 2 colors\n", "")
    assert not report_palettes(pictures[:1], task)
    assert_one_line(capsys.readouterr().err, "already exists; use --force")


def test_gimps_format_is_printed_with_the_name_of_the_image(pictures, capsys):
    assert report_palettes(pictures[1:2], PaletteTask(n_colors=1, device=CPU, as_gpl=True))
    assert capsys.readouterr().out == "GIMP Palette\nName: two\n#\n  0   0 255 #0000ff\n"
