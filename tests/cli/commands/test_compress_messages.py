import functools

import pytest
from helpers.image_files import assert_one_line, noise, rgba, save

pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture
def run(command):
    """Runs `gpukmeans compress`, and gives the exit code, stdout and stderr."""
    return functools.partial(command, "compress")


@pytest.fixture
def photo(tmp_path):
    return save(noise(11, 17, 3), tmp_path / "photo.png")


def test_a_palette_without_an_opaque_color_is_used_with_a_warning(run, photo, tmp_path):
    palette, output = tmp_path / "palette.hex", tmp_path / "out.png"
    palette.write_text("#10203040\n#ffffff80\n")
    code, _, err = run(photo, "--palette", palette, "-o", output)
    assert code == 0
    assert_one_line(err, f"--palette {palette} has no opaque color, so opaque pixels become translucent")
    assert rgba(output)[..., 3].max() == 0x80
    assert run(photo, "--palette", palette, "-o", output, "-f", "-q")[2] == ""
    palette.write_text("#10203040\n#ffffff80\n#000000\n")
    assert run(photo, "--palette", palette, "-o", output, "-f")[2] == ""
    assert rgba(output)[..., 3].min() == 255


def test_an_input_is_checked_before_its_output(run, command, tmp_path):
    (tmp_path / "photo-20.png").touch()
    (tmp_path / "photo-report.html").touch()
    missing = tmp_path / "photo.png"
    for answer in (run(missing), run(missing, "--skip-existing"), command("report", missing)):
        assert answer == (1, "", f"gpukmeans: {missing}: does not exist; check the path\n")
    sheet = save(noise(2, 2, 3), tmp_path / "sheet.png")
    answer = command("compare", sheet, missing, "-o", sheet.with_name("photo-20.png"))
    assert answer == (1, "", f"gpukmeans: {missing}: does not exist; check the path\n")


def test_a_poor_result_of_max_bytes_is_written_with_a_warning(run, tmp_path):
    photo = save(noise(40, 40, 3), tmp_path / "photo.png")
    code, out, err = run(photo, "--max-bytes", "200")
    assert code == 0
    assert "1 color," in out
    assert_one_line(err, f"{photo}: --max-bytes leaves 1 color at ", " dB, hardly the same image; allow more bytes")
    assert run(photo, "--max-bytes", "200", "-f", "-q")[2] == ""
    assert run(photo, "-k", "1")[2] == ""
    assert run(photo, "--max-bytes", "2k", "-f")[2] == ""


def test_standard_input_is_named_in_errors(run, command, monkeypatch):
    for args in (["palette", "-"], ["report", "-", "-o", "x.html"], ["compare", "-", "-", "--no-sheet"]):
        monkeypatch.setattr("sys.stdin", None)
        _, _, err = command(*args)
        assert_one_line(err, "standard input")
        assert " -:" not in err


def test_verbose_does_not_mention_cuda_where_there_is_no_gpu(run, photo):
    err = run(photo, "--verbose")[2]
    assert "engine " in err
    assert "cuda" not in err
    assert "triton" not in err
