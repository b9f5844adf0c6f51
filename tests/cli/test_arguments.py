import numpy as np
import pytest
import typer

from gpukmeans_cli.arguments import check_device_name, check_one_of, given_colors, goal_of, pair_with_outputs
from gpukmeans_cli.goals import MaxBytes, MinPsnr


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


def test_outputs_are_named_after_the_number_of_colors_or_the_palette(tmp_path):
    inputs = [tmp_path / "a.jpg", tmp_path / "b.c.png"]
    assert [target.name for _, target in pair_with_outputs(inputs, None, "16")] == ["a-16.png", "b.c-16.png"]
    assert [target.name for _, target in pair_with_outputs(inputs, None, "palette")] == [
        "a-palette.png",
        "b.c-palette.png",
    ]
