import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.targets import MaxBytes, MinPsnr
from gpukmeans_cli.system.atomic_files import STDIO
from gpukmeans_cli.system.rank_env import Place
from gpukmeans_cli.validation import (
    check_device_name,
    check_one_of,
    check_standard_streams,
    given_colors,
    goal_of,
    numbers_of_colors,
    place_of_rank,
    planned,
)


@pytest.mark.parametrize("options", [{}, {"-a": None}, {"-a": None, "-b": 0}, {"-a": False, "-b": None}])
def test_options_of_which_at_most_one_is_given_do_not_exclude_each_other(options):
    check_one_of(options)


def test_two_options_that_exclude_each_other_are_named():
    with pytest.raises(typer.TyperException, match="-a and -c exclude each other"):
        check_one_of({"-a": 0, "-b": None, "-c": 1, "-d": 2})


def test_a_goal_is_a_quality_or_a_size_or_nothing():
    assert goal_of(30.5, None) == MinPsnr(30.5)
    assert goal_of(None, "40k") == MaxBytes(40_000)
    assert goal_of(None, None) is None


@pytest.mark.parametrize("decibels", [0, -1, float("inf"), float("nan")])
def test_a_quality_is_a_number_above_zero(decibels):
    with pytest.raises(typer.TyperException, match="--min-psnr must be a number above 0"):
        goal_of(decibels, None)


def test_colors_come_from_the_option_or_from_the_file(tmp_path):
    (tmp_path / "list.hex").write_text("#010203\n#ffffff\n")
    assert np.array_equal(given_colors("#fff", None)["fixed"], [[255, 255, 255]])
    assert np.array_equal(given_colors(None, tmp_path / "list.hex")["palette"], [[1, 2, 3], [255, 255, 255]])
    assert given_colors(None, None) == {}


def test_colors_that_cannot_be_read_name_the_option(tmp_path):
    with pytest.raises(typer.TyperException, match="--fixed: "):
        given_colors("#12", None)
    with pytest.raises(typer.TyperException, match=r"--palette .*missing\.gpl: "):
        given_colors(None, tmp_path / "missing.gpl")


def test_a_device_name_says_nothing_of_whether_it_is_there():
    for name in ("auto", "cpu", "cuda", "cuda:0", "cuda:15"):
        check_device_name(name)
    with pytest.raises(typer.TyperException, match="cuda:N, got 'cuda:007'"):
        check_device_name("cuda:007")


def test_what_does_not_fit_together_is_an_error_of_the_arguments(tmp_path):
    with pytest.raises(typer.TyperException, match="--output takes one input, got 2"):
        planned([tmp_path / "a", tmp_path / "b"], name="4", output=tmp_path / "c.png", folder=None, recursive=False)


def test_a_folder_without_pictures_is_an_error_of_the_arguments(tmp_path):
    with pytest.raises(typer.TyperException, match="there is no picture to compress in "):
        planned([tmp_path], name="4", output=None, folder=None, recursive=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_picture_does_not_come_from_a_terminal_nor_go_to_one(monkeypatch):
    out, back = Job(source=Path("a.png"), target=STDIO), Job(source=STDIO, target=Path("a.png"))
    check_standard_streams([out, back], False)
    monkeypatch.setattr(sys, "stdin", Terminal())
    check_standard_streams([out], False)
    with pytest.raises(typer.TyperException, match="from standard input, which is a terminal"):
        check_standard_streams([back], False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    check_standard_streams([Job(source=Path("a"), target=Path("b"))], True)
    with pytest.raises(typer.TyperException, match="would go to a terminal"):
        check_standard_streams([out], False)


def test_a_picture_needs_a_stream_that_is_open(monkeypatch):
    out, back = Job(source=Path("a.png"), target=STDIO), Job(source=STDIO, target=Path("a.png"))
    monkeypatch.setattr(sys, "stdin", None)
    check_standard_streams([out], False)
    with pytest.raises(typer.TyperException, match="from standard input, which is closed"):
        check_standard_streams([back], False)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdout", None)
    check_standard_streams([back], True)
    with pytest.raises(typer.TyperException, match="to standard output, which is closed; add --output"):
        check_standard_streams([out], False)


def test_standard_input_is_not_read_twice():
    check_standard_streams([Job(source=Path("a"), target=Path("b"))], False, twice=True)
    with pytest.raises(typer.TyperException, match="standard input can be read only once"):
        check_standard_streams([Job(source=STDIO, target=Path("b"))], False, twice=True)


def test_a_picture_and_json_do_not_go_to_one_place():
    with pytest.raises(typer.TyperException, match="--json and a picture cannot both go to standard output"):
        check_standard_streams([Job(source=Path("a.png"), target=STDIO)], True)


def test_numbers_of_colors_are_sorted_and_each_is_there_once():
    assert numbers_of_colors("16") == [16]
    assert numbers_of_colors(" 256,1, 16,256,016") == [1, 16, 256]


@pytest.mark.parametrize("text", ["", ",", "4,", "0", "257", "1000", "-1", "+1", "1.5", "four", "4 8", "²"])
def test_what_is_no_list_of_numbers_of_colors_is_named(text):
    with pytest.raises(
        typer.TyperException, match=f"--colors must be numbers from 1 to 256 .*, got {re.escape(repr(text))}"
    ):
        numbers_of_colors(text)


def test_standard_streams_are_for_one_process(monkeypatch):
    assert place_of_rank(Path("a.png"), STDIO, None) == Place()
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert place_of_rank(Path("a.png"), None) == Place(rank=1, size=2, local_rank=1)
    with pytest.raises(typer.TyperException, match="- is a picture for one process, and there are 2 ranks; name files"):
        place_of_rank(Path("a.png"), STDIO)


def test_an_environment_that_names_no_rank_is_an_error(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(typer.TyperException, match="WORLD_SIZE=missing"):
        place_of_rank()
