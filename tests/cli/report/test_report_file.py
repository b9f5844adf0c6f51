import pytest
import torch
from helpers.image_files import noise, save

from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.report import report_file
from gpukmeans_cli.report.report_file import compress_options, write_report
from gpukmeans_cli.system.atomic_files import ImageError


def settings(**changes):
    return Settings(n_colors=3, device=torch.device("cpu"), **changes)


@pytest.fixture
def photo(tmp_path):
    return save(noise(9, 8, 3), tmp_path / "photo.png")


def test_the_page_is_written_and_the_line_has_its_size(photo, tmp_path):
    output = tmp_path / "page.html"
    line = write_report(photo, output, [2, 3], settings())
    assert line == f"{photo} -> {output}: 2 palettes of 2 to 3 colors, {output.stat().st_size / 1000:.1f} kB"
    assert ": 1 palette of 1 color, " in write_report(photo, output, [1], settings(force=True))


@pytest.mark.parametrize(("name", "complaint"), [("page.html", "already exists"), ("none/page.html", "does not exist")])
def test_an_output_that_cannot_be_written_is_an_error_before_any_work(photo, tmp_path, monkeypatch, name, complaint):
    monkeypatch.setattr(report_file, "build_report_data", lambda *args: pytest.fail("unexpected call"))
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(ImageError, match=complaint):
        write_report(photo, tmp_path / name, [2], settings())
    assert (tmp_path / "page.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"dither": None, "lossy": None}, []),
        ({"dither": None, "lossy": 15.0}, []),
        ({"dither": None, "lossy": 2.5}, ["--lossy", "2.5"]),
        ({"dither": None, "lossy": None, "dither_strength": 0.5}, ["--dither-strength", "0.5"]),
        ({"dither": "optimized", "lossy": 0.0}, ["--dither", "optimized", "--lossy", "0"]),
        ({"dither": "none", "lossy": 25.0}, ["--dither", "none", "--lossy", "25"]),
        ({}, ["--dither", "none"]),
        ({"dither": None, "lossy": None, "space": "oklab", "seed": 7}, ["--space", "oklab", "--seed", "7"]),
        ({"dither": "bayer"}, ["--dither", "bayer"]),
        ({"dither": "bayer", "dither_strength": 0.5}, ["--dither", "bayer", "--dither-strength", "0.5"]),
    ],
)
def test_only_settings_that_differ_from_the_defaults_are_options(changes, options):
    assert compress_options(settings(**changes)) == options
