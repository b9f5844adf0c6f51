import json

import numpy as np
import pytest
from helpers.image_files import assert_one_line, files, noise, rgba, save
from PIL import Image


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
    (tmp_path / "photo-256.png").touch()
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


def test_a_second_run_over_a_folder_skips_and_counts_the_outputs_of_the_first(run, tmp_path):
    photos = [save(noise(9, 9, 3, seed=i), tmp_path / f"{i}.png") for i in range(2)]
    assert run(tmp_path, "-r", "-k", 4)[0] == 0
    code, out, err = run(tmp_path, "-r", "-k", 8, "--json", "--verbose")
    assert code == 0
    assert [json.loads(line)["input"] for line in out.splitlines()] == [str(photo) for photo in photos]
    assert f"{tmp_path / '0-4.png'}: skipped, the output of an earlier run" in err
    assert "2 of 4 files done, 2 skipped, " in err
    assert run(tmp_path, "-r", "-k", 8, "--shared-palette", "-d", tmp_path / "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0-8.png", "1-8.png"]


def test_an_animated_gif_gives_a_gif(run, tmp_path):
    frames = [Image.fromarray(noise(30, 30, 3, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    code, out, _ = run(tmp_path / "a.gif", "-k", 4)
    assert code == 0
    assert f"a.gif -> {tmp_path / 'a-4.gif'}: 3 frames" in out
    with Image.open(tmp_path / "a-4.gif") as image:
        assert (image.format, image.n_frames) == ("GIF", 3)


def test_in_place_replaces_png_and_gif_files(run, tmp_path):
    photo, still = save(noise(40, 40, 3), tmp_path / "photo.png"), tmp_path / "still.gif"
    Image.fromarray(noise(40, 40, 3)).convert("P").save(still)
    before = photo.read_bytes()
    code, out, err = run(tmp_path, "-r", "--in-place", "-k", 4)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "2 of 2 files done" in err
    assert photo.stat().st_size < len(before)
    assert len(np.unique(rgba(photo).reshape(-1, 4), axis=0)) == 4
    with Image.open(still) as image:
        assert image.format == "GIF"
    written = files(tmp_path)
    assert sorted(path.name for path in written) == ["photo.png", "still.gif"]
    assert run(tmp_path, "-r", "--in-place", "-k", 4)[0] == 0
    assert files(tmp_path) == written


@pytest.mark.parametrize("option", ["-o", "-d", "--force", "--skip-existing"])
def test_in_place_takes_no_other_output(run, photo, option):
    value = ["x.png"] if option in ("-o", "-d") else []
    code, out, err = run(photo, "--in-place", option, *value)
    assert (code, out) == (2, "")
    assert_one_line(err, "--in-place and ", "cannot be used together")
