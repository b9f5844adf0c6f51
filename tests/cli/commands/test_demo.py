import functools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpukmeans_cli.images.sample import draw_sample
from gpukmeans_cli.system.atomic_files import ImageError


@pytest.fixture
def small_sample(monkeypatch):
    """A small sample image, for tests that do not depend on its size."""
    monkeypatch.setattr("gpukmeans_cli.images.sample.draw_sample", lambda: draw_sample(64, 43))


@pytest.fixture
def photo(tmp_path):
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (11, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "photo.png")
    return tmp_path / "photos" / "photo.png"


@pytest.fixture
def run(command):
    """Runs `gpukmeans demo`, and gives the exit code, stdout and stderr."""
    return functools.partial(command, "demo")


def names(folder):
    return {path.name for path in folder.iterdir()}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_demo_draws_a_sample_image_and_writes_three_files(run, tmp_path):
    folder = tmp_path / "new" / "demo"
    code, out, err = run("-d", folder)
    assert (code, err) == (0, "")
    assert names(folder) == {"sample.png", "sample-20.png", "sample-20-comparison.png"}
    assert np.array_equal(pixels(folder / "sample.png"), draw_sample())
    assert len(np.unique(pixels(folder / "sample-20.png").reshape(-1, 3), axis=0)) == 20
    report, comparison = out.splitlines()
    assert re.match(rf"{re.escape(str(folder / 'sample.png'))} -> .*: 1280 x 864, [\d,]+ -> 20 colors, .* dB,", report)
    assert all(str(folder / name) in comparison for name in names(folder))


def test_the_comparison_shows_both_images_and_the_palette(run, tmp_path, photo):
    run(photo, "-k", 3, "-d", tmp_path)
    sheet = pixels(tmp_path / "photo-3-comparison.png")
    palette = np.unique(pixels(tmp_path / "photo-3.png").reshape(-1, 3), axis=0)
    drawn = {tuple(color) for color in sheet.reshape(-1, 3).tolist()}
    assert {tuple(color) for color in pixels(photo).reshape(-1, 3).tolist()} <= drawn
    for color in palette:
        assert (sheet == color).all(axis=2).sum() > 1000  # a swatch, not only pixels of the image


def test_the_default_folder_is_demo(run, small_sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("-k", 4)[0] == 0
    assert names(Path("demo")) == {"sample.png", "sample-4.png", "sample-4-comparison.png"}


def test_a_photo_is_read_from_its_own_folder(run, photo, tmp_path):
    before = photo.read_bytes()
    code, out, err = run(photo, "-k", 5, "-d", tmp_path / "demo")
    assert (code, err) == (0, "")
    assert names(tmp_path / "demo") == {"photo-5.png", "photo-5-comparison.png"}
    assert names(photo.parent) == {"photo.png"}
    assert photo.read_bytes() == before
    assert out.startswith(f"{photo} -> {tmp_path / 'demo' / 'photo-5.png'}: 17 x 11, 187 -> 5 colors, ")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2), (5, 7, 4), (1, 1, 3)], ids=["grey", "LA", "RGBA", "one pixel"])
def test_a_photo_may_have_any_mode(run, tmp_path, shape):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "photo.png")
    code, _, err = run(tmp_path / "photo.png", "-k", 3, "-d", tmp_path)
    assert (code, err) == (0, "")
    assert names(tmp_path) == {"photo.png", "photo-3.png", "photo-3-comparison.png"}


def test_a_second_demo_gives_the_same_bytes(run, small_sample, tmp_path):
    run("-d", tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run("-d", tmp_path)[0] == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_a_missing_photo_gives_one_line(run, tmp_path):
    code, out, err = run(tmp_path / "missing.jpg", "-d", tmp_path / "demo")
    assert (code, out) == (1, "")
    assert err == f"gpukmeans: {tmp_path / 'missing.jpg'}: does not exist; check the path\n"
    assert not list(tmp_path.rglob("*.png"))


def test_a_file_that_is_no_image_gives_one_line(run, tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    code, out, err = run(tmp_path / "text.jpg", "-d", tmp_path / "demo")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"gpukmeans: [^\n]*text\.jpg: is not an image that Pillow can read[^\n]*\n", err)


def test_a_file_in_place_of_the_folder_gives_one_line(run, tmp_path):
    (tmp_path / "demo").write_text("mine")
    code, out, err = run("-d", tmp_path / "demo")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"gpukmeans: [^\n]+; [^\n]+\n", err)  # the problem; the remedy
    assert str(tmp_path / "demo") in err
    assert "Errno" not in err
    assert (tmp_path / "demo").read_text() == "mine"


@pytest.mark.parametrize("taken", ["sample.png", "sample-4.png", "sample-4-comparison.png"])
def test_a_folder_in_place_of_an_image_is_named_in_the_error(run, small_sample, tmp_path, taken):
    (tmp_path / taken).mkdir()
    code, _, err = run("-k", 4, "-d", tmp_path)
    assert code == 1
    assert re.fullmatch(r"gpukmeans: [^\n]+\n", err)
    assert str(tmp_path / taken) in err


@pytest.mark.parametrize("colors", ["0", "257", "many"])
def test_a_wrong_number_of_colors_gives_one_line_before_any_work(run, tmp_path, colors):
    code, out, err = run("-k", colors, "-d", tmp_path / "demo")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"gpukmeans: [^\n]*--colors[^\n]*\n", err)
    assert not (tmp_path / "demo").exists()


def test_an_interruption_gives_no_traceback(run, small_sample, tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpukmeans_cli.compression.palette_fit.fit_palette", interrupt)
    assert run("-d", tmp_path) == (130, "", "")
    assert names(tmp_path) == {"sample.png"}


def test_an_error_while_the_sheet_is_written_gives_one_line(run, small_sample, tmp_path, monkeypatch):
    def fail(path, image, **options):
        if "comparison" in path.name:
            raise ImageError(f"{path} cannot be written, the disk is full; free some space or choose another folder")
        image.save(path)

    monkeypatch.setattr("gpukmeans_cli.formats.still.write_png", fail)
    code, _, err = run("-d", tmp_path)
    assert code == 1
    assert re.fullmatch(r"gpukmeans: [^\n]*the disk is full[^\n]*\n", err)
    assert "sample-20-comparison.png" in err
