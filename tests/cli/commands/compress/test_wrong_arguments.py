"""Wrong arguments of `gpukmeans compress`: exit code 2, before anything is read or written."""

import shutil

import pytest
from helpers.image_files import assert_one_line, files, noise, save

from gpukmeans_cli.compression import pipeline


def refuse(*args, **options):
    raise AssertionError("unexpected call")


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
