import io
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

from gpukmeans_cli import validation
from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.targets import MaxBytes, MinPsnr, MinQuality
from gpukmeans_cli.system.atomic_files import STDIO
from gpukmeans_cli.system.rank_env import RankEnv
from gpukmeans_cli.system.rank_store import RankStore
from gpukmeans_cli.validation import (
    check_device_name,
    check_exclusive,
    check_no_stdin,
    check_output_known,
    check_palette_space,
    check_resume,
    check_sheet,
    check_single_palette,
    check_standard_streams,
    check_stdin_once,
    check_suffix,
    check_tol,
    find_device,
    find_device_of_rank,
    find_rank_env,
    load_colors,
    parse_color_counts,
    parse_dither_strength,
    parse_target,
    parse_timeout,
    plan_jobs,
    required,
)


@pytest.mark.parametrize(
    "options", [{}, {"-a": None}, {"-a": None, "-b": 0}, {"-a": False, "-b": None}, {"-a": False, "-b": 0}]
)
def test_at_most_one_of_several_exclusive_options_is_accepted(options):
    check_exclusive(options)


def test_two_exclusive_options_are_named_in_the_error():
    with pytest.raises(typer.TyperException, match="-a and -c cannot be used together"):
        check_exclusive({"-a": 0, "-b": None, "-c": 1, "-d": 2})


def test_a_target_is_a_quality_a_size_or_none():
    assert parse_target(30.5, None, None) == MinPsnr(30.5)
    assert parse_target(None, 80.0, None) == MinQuality(80.0)
    assert parse_target(None, None, "40k") == MaxBytes(40_000)
    assert parse_target(None, None, None) is None


def test_a_quality_must_be_a_number():
    with pytest.raises(typer.TyperException, match="--quality must be a number from 0 to 100, got nan"):
        parse_target(None, float("nan"), None)


@pytest.mark.parametrize("decibels", [0, -1, float("inf"), float("nan")])
def test_a_target_quality_must_be_a_number_above_zero(decibels):
    with pytest.raises(typer.TyperException, match="--min-psnr must be a number above 0"):
        parse_target(decibels, None, None)


def test_colors_come_from_the_option_or_from_the_file(tmp_path):
    (tmp_path / "list.hex").write_text("#010203\n#ffffff\n")
    assert np.array_equal(load_colors("#fff", None, max_fixed=1)["fixed"], [[255, 255, 255]])
    assert np.array_equal(
        load_colors(None, tmp_path / "list.hex", max_fixed=1)["palette"], [[1, 2, 3], [255, 255, 255]]
    )
    assert load_colors(None, None, max_fixed=1) == {}


def test_colors_that_cannot_be_read_give_an_error_that_names_the_option(tmp_path):
    with pytest.raises(typer.TyperException, match="--fixed: "):
        load_colors("#12", None, max_fixed=1)
    with pytest.raises(typer.TyperException, match=r"--palette .*missing\.gpl: "):
        load_colors(None, tmp_path / "missing.gpl", max_fixed=1)


def test_a_device_name_is_checked_without_looking_for_the_device():
    for name in ("auto", "cpu", "cuda", "cuda:0", "cuda:15"):
        check_device_name(name)
    with pytest.raises(typer.TyperException, match="cuda:N, got 'cuda:007'"):
        check_device_name("cuda:007")


def test_inputs_and_outputs_that_conflict_are_an_argument_error(tmp_path):
    with pytest.raises(typer.TyperException, match="--output takes one input, got 2"):
        plan_jobs([tmp_path / "a", tmp_path / "b"], name="4", output=tmp_path / "c.png", folder=None, recursive=False)


def test_a_folder_without_images_is_an_argument_error(tmp_path):
    with pytest.raises(typer.TyperException, match="there is no image to compress in "):
        plan_jobs([tmp_path], name="4", output=None, folder=None, recursive=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_an_image_is_neither_read_from_a_terminal_nor_written_to_one(monkeypatch):
    to_stdout, from_stdin = Job(source=Path("a.png"), output=STDIO), Job(source=STDIO, output=Path("a.png"))
    check_standard_streams([to_stdout, from_stdin], False)
    monkeypatch.setattr(sys, "stdin", Terminal())
    check_standard_streams([to_stdout], False)
    with pytest.raises(typer.TyperException, match="from standard input, which is a terminal"):
        check_standard_streams([from_stdin], False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    check_standard_streams([Job(source=Path("a"), output=Path("b"))], True)
    with pytest.raises(typer.TyperException, match="would go to a terminal"):
        check_standard_streams([to_stdout], False)


def test_an_image_needs_an_open_stream(monkeypatch):
    to_stdout, from_stdin = Job(source=Path("a.png"), output=STDIO), Job(source=STDIO, output=Path("a.png"))
    monkeypatch.setattr(sys, "stdin", None)
    check_standard_streams([to_stdout], False)
    with pytest.raises(typer.TyperException, match="from standard input, which is closed"):
        check_standard_streams([from_stdin], False)
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdout", None)
    check_standard_streams([from_stdin], True)
    with pytest.raises(typer.TyperException, match="to standard output, which is closed; add --output"):
        check_standard_streams([to_stdout], False)


def test_standard_input_is_not_read_twice():
    check_standard_streams([Job(source=Path("a"), output=Path("b"))], False, read_twice=True)
    with pytest.raises(typer.TyperException, match="standard input can be read only once"):
        check_standard_streams([Job(source=STDIO, output=Path("b"))], False, read_twice=True)


def test_an_image_and_json_cannot_both_go_to_stdout():
    with pytest.raises(typer.TyperException, match="--json and an image cannot both go to standard output"):
        check_standard_streams([Job(source=Path("a.png"), output=STDIO)], True)


def test_numbers_of_colors_are_sorted_and_distinct():
    assert parse_color_counts("16") == [16]
    assert parse_color_counts(" 256,1, 16,256,016") == [1, 16, 256]


@pytest.mark.parametrize("text", ["", ",", "4,", "0", "257", "1000", "-1", "+1", "1.5", "four", "4 8", "²"])
def test_an_invalid_list_of_numbers_of_colors_is_shown_in_the_error(text):
    with pytest.raises(
        typer.TyperException, match=f"--colors must be numbers from 1 to 256 .*, got {re.escape(repr(text))}"
    ):
        parse_color_counts(text)


def test_standard_streams_need_a_single_process(monkeypatch):
    assert find_rank_env(Path("a.png"), STDIO, None) == RankEnv()
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert find_rank_env(Path("a.png"), None) == RankEnv(rank=1, size=2, local_rank=1)
    with pytest.raises(typer.TyperException, match="- needs a single process, got 2 ranks; name files"):
        find_rank_env(Path("a.png"), STDIO)


def test_an_invalid_rank_environment_is_an_argument_error(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(typer.TyperException, match="WORLD_SIZE=missing"):
        find_rank_env()


@pytest.mark.parametrize("value", [None, []])
def test_a_missing_argument_is_an_error_with_an_example(value):
    assert required(["a.png"], "an image", "gpukmeans palette a.png") == ["a.png"]
    assert required(1, "the number of clusters", "-k 64") == 1
    with pytest.raises(typer.TyperException, match=r"Please specify an image, for example: gpukmeans palette a\.png"):
        required(value, "an image", "gpukmeans palette a.png")


def test_the_output_must_have_one_of_the_suffixes():
    for output in (None, Path("a.gpl"), Path("a.HEX")):
        check_suffix(output, ".gpl", ".hex")
    with pytest.raises(typer.TyperException, match=r"--output must end in \.gpl or \.hex, got a\.png"):
        check_suffix(Path("a.png"), ".gpl", ".hex")


@pytest.mark.parametrize("tol", [float("inf"), float("nan")])
def test_the_tolerance_must_be_finite(tol):
    check_tol(None)
    check_tol(0)
    with pytest.raises(typer.TyperException, match=f"--tol must be a number, at least 0, got {tol}"):
        check_tol(tol)


@pytest.mark.parametrize("seconds", [0, -1, 1e9, float("inf"), float("nan")])
def test_a_timeout_is_a_positive_number_of_seconds(seconds):
    assert parse_timeout(None) is None
    assert parse_timeout(0.5) == timedelta(seconds=0.5)
    with pytest.raises(typer.TyperException, match="--timeout must be a number of seconds above 0"):
        parse_timeout(seconds)


def test_a_dither_strength_needs_a_dithering_and_is_a_number():
    assert parse_dither_strength("none", None) == parse_dither_strength("bayer", None) == 1
    assert parse_dither_strength("bayer", 0.5) == 0.5
    with pytest.raises(typer.TyperException, match="--dither-strength needs --dither"):
        parse_dither_strength("none", 0.5)
    with pytest.raises(typer.TyperException, match="from 0 to 1, got nan"):
        parse_dither_strength("bayer", float("nan"))


def test_a_palette_file_is_used_in_srgb_only():
    check_palette_space(None, "oklab")
    check_palette_space(Path("a.hex"), "srgb")
    with pytest.raises(typer.TyperException, match="--palette maps to the nearest colors in srgb"):
        check_palette_space(Path("a.hex"), "oklab")


def test_fixed_colors_must_fit_into_the_palette():
    assert len(load_colors("#fff,#000", None, max_fixed=2)["fixed"]) == 2
    with pytest.raises(typer.TyperException, match="--fixed names 2 colors, more than the 1 of the palette"):
        load_colors("#fff,#000", None, max_fixed=1)


def test_standard_input_may_be_one_input():
    check_stdin_once([STDIO, Path("a.png"), Path("a.png")])
    with pytest.raises(typer.TyperException, match="standard input can be read only once"):
        check_stdin_once([STDIO, Path("a.png"), STDIO])


def test_standard_input_cannot_be_read_several_times():
    check_no_stdin([Path("a.npy")])
    with pytest.raises(typer.TyperException, match="standard input cannot be read several times; name a file"):
        check_no_stdin([Path("a.npy"), STDIO])


def test_standard_input_needs_a_given_output():
    check_output_known([STDIO], Path("a.html"))
    check_output_known([Path("a.png")], None)
    with pytest.raises(typer.TyperException, match="the output cannot be named after standard input; add --output"):
        check_output_known([STDIO], None)


def test_several_palettes_have_no_single_output():
    check_single_palette(1, True, None)
    check_single_palette(2, False, None)
    for as_gpl, output, option in ((True, None, "--gpl"), (False, Path("a.hex"), "--output")):
        with pytest.raises(typer.TyperException, match=f"{option} takes one palette, got 2 images; add --shared"):
            check_single_palette(2, as_gpl, output)


def test_a_sheet_is_a_png_and_none_of_the_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_sheet(Path("sheet.PNG"), Path("a.png"), Path("b.png"))
    with pytest.raises(typer.TyperException, match=r"--output must end in \.png, got sheet\.jpg"):
        check_sheet(Path("sheet.jpg"), Path("a.png"), Path("b.png"))
    with pytest.raises(typer.TyperException, match="--output must be a new image"):
        check_sheet(tmp_path / "b.png", Path("a.png"), Path("b.png"))


def test_resuming_needs_a_checkpoint():
    check_resume(False, None)
    check_resume(True, Path("state"))
    with pytest.raises(typer.TyperException, match="--resume continues from a --checkpoint"):
        check_resume(True, None)


@pytest.mark.usefixtures("no_gpu")
def test_a_device_must_exist():
    assert find_device("auto").type == "cpu"
    with pytest.raises(typer.TyperException, match="use --device cpu or auto"):
        find_device("cuda")


@pytest.fixture
def devices_of_ranks(monkeypatch):
    """Runs `find_device_of_rank` in one thread per rank, and gives each device or error."""

    def devices_of_ranks(*found):
        def find(rank):
            try:
                return find_device_of_rank(str(rank), RankStore(RankEnv(rank=rank, size=len(found)), store))
            except typer.TyperException as error:
                return str(error)

        def find_device(name):
            if isinstance(found[int(name)], str):
                raise typer.TyperException(found[int(name)])
            return found[int(name)]

        monkeypatch.setattr(validation, "device_name", lambda name, env: name)
        monkeypatch.setattr(validation, "find_device", find_device)
        store = torch.distributed.HashStore()
        with ThreadPoolExecutor(len(found)) as pool:
            return list(pool.map(find, range(len(found)), timeout=30))

    return devices_of_ranks


def test_all_ranks_have_devices_of_one_kind(devices_of_ranks):
    cpu, first, second = torch.device("cpu"), torch.device("cuda:0"), torch.device("cuda:1")
    assert devices_of_ranks(first, second) == [first, second]
    message = "all ranks need devices of one kind, got cuda, cpu; use --device cpu"
    assert devices_of_ranks(first, cpu) == [message] * 2


def test_a_rank_without_a_device_is_an_error_of_all_ranks(devices_of_ranks):
    assert devices_of_ranks(torch.device("cuda:0"), "no such GPU") == ["rank 1: no such GPU"] * 2
    assert devices_of_ranks("no such GPU", torch.device("cuda:0")) == ["no such GPU"] * 2
