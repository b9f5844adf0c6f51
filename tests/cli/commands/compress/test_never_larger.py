"""Inputs whose output would not be smaller: the files that are written, and the lines that are printed."""

import io
import json
import struct
import sys

import numpy as np
import pytest
from helpers import color_profiles
from helpers.animations import read_animation
from helpers.image_files import chunks, files, noise, rgba, save
from PIL import Image, PngImagePlugin

from gpukmeans_cli.main import main


@pytest.fixture
def small(tmp_path):
    """A PNG that a palette makes larger."""
    return save(noise(16, 16, 3), tmp_path / "small.png")


@pytest.fixture
def jpeg(tmp_path):
    """A JPEG that is smaller than a PNG of 256 colors."""
    return save(noise(40, 40, 3), tmp_path / "photo.jpg", quality=5)


@pytest.mark.parametrize("name", ["small", "jpeg"])
def test_no_file_is_written_beside_an_input_that_would_become_larger(run, report, tmp_path, request, name):
    photo = request.getfixturevalue(name)
    before = files(tmp_path)
    code, out, err = run(photo)
    assert (code, err) == (0, "")
    assert out.startswith(f"{photo}: ")
    assert f"{photo.stat().st_size} bytes, kept as it is, since a palette would make it " in out
    assert "->" not in out
    assert "not written" not in out
    found = report(photo, "--force")
    assert (found["output"], found["kept"], found["written"]) == (None, True, False)
    assert found["bytes_in"] == found["bytes_out"] == photo.stat().st_size <= found["bytes_with_palette"]
    assert (found["mse"], found["psnr"], found["colors_in"]) == (0, None, found["colors_out"])
    assert files(tmp_path) == before


def test_in_an_output_folder_only_a_file_of_the_same_format_is_copied(run, small, jpeg, tmp_path):
    code, out, err = run(small, jpeg, "-d", tmp_path / "out")
    assert code == 0
    first, second = out.splitlines()
    assert first.startswith(f"{small} -> {tmp_path / 'out' / 'small-256.png'}: 16 x 16, 256 colors, ")
    assert second.startswith(f"{jpeg}: 40 x 40, ")
    assert ", kept as it is, " in first
    assert ", kept as it is, " in second
    assert "2 of 2 files done, 2 kept as they are, " in err
    assert files(tmp_path / "out") == {tmp_path / "out" / "small-256.png": small.read_bytes()}


def test_a_file_of_the_same_format_is_copied_to_a_given_path(run, report, small, tmp_path):
    assert ", kept as it is, " in run(small, "-o", tmp_path / "copy.png")[1]
    assert (tmp_path / "copy.png").read_bytes() == small.read_bytes()
    found = report(small, "-f", "-o", tmp_path / "copy.png")
    assert (found["output"], found["kept"], found["written"]) == (str(tmp_path / "copy.png"), True, True)


@pytest.mark.parametrize("args", [("-o", "OUT"), ("--allow-larger",), ("--palette", "COLORS"), ("--fixed", "red")])
def test_a_larger_file_in_another_format_is_written_if_that_is_asked_for(run, jpeg, tmp_path, args):
    (tmp_path / "colors.hex").write_text("".join(f"#{color:06x}\n" for color in range(0, 1 << 24, 66_000)))
    paths = {"OUT": tmp_path / "out.png", "COLORS": tmp_path / "colors.hex"}
    code, out, err = run(jpeg, *(paths.get(arg, arg) for arg in args), "-q", "--json")
    found = json.loads(out)
    assert (code, err, found["kept"], found["written"]) == (0, "", False, True)
    assert found["bytes_in"] < found["bytes_out"] == found["bytes_with_palette"]
    with Image.open(found["output"]) as image:
        assert (image.format, image.size) == ("PNG", (40, 40))


def test_the_line_of_a_larger_file_has_the_growth_in_percent(run, jpeg):
    _, out, _ = run(jpeg, "--allow-larger")
    assert out.startswith(f"{jpeg} -> {jpeg.with_name('photo-256.png')}: ")
    assert "%, larger), PSNR" in out


def test_allow_larger_writes_a_larger_file_of_the_same_format(report, small):
    found = report(small, "--allow-larger")
    assert not found["kept"]
    assert small.with_name("small-256.png").stat().st_size == found["bytes_out"] >= found["bytes_in"]


def test_in_place_a_file_that_would_not_get_smaller_is_not_touched(run, report, small):
    before = small.stat()
    code, out, err = run(small, "--in-place")
    assert (code, err) == (0, "")
    assert out.startswith(f"{small}: 16 x 16, 256 colors, ")
    assert ", kept as it is, " in out
    found = report(small, "--in-place")
    assert (found["output"], found["kept"], found["written"]) == (None, True, False)
    assert (small.stat().st_mtime_ns, small.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_a_pipe_has_an_output_in_every_case(small, jpeg, monkeypatch):
    def piped(data):
        raw = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=True))
            with pytest.raises(SystemExit) as caught:
                main(["compress", "-", "--dither", "none"])
            assert caught.value.code == 0
            return raw.getvalue()

    assert piped(small.read_bytes()) == small.read_bytes()
    assert len(png := piped(jpeg.read_bytes())) > jpeg.stat().st_size
    assert png.startswith(b"\x89PNG")


def test_skip_existing_tries_a_kept_input_again(run, jpeg):
    for _ in range(2):
        code, out, err = run(jpeg, "--skip-existing")
        assert (code, err) == (0, "")
        assert ", kept as it is, " in out


def test_a_dry_run_reports_which_files_would_be_kept_and_which_written(run, small, tmp_path):
    before = files(tmp_path)
    assert " s\n" in run(small, "--dry-run")[1]
    assert ", kept as it is, " in run(small, "--dry-run")[1]
    assert run(small, "--dry-run", "-d", tmp_path / "out")[1].endswith(" s, not written\n")
    assert files(tmp_path) == before


# Without metadata


def test_strip_does_not_copy_the_input(report, tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "someone")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "small.png", pnginfo=text)
    found = report(tmp_path / "small.png", "-k", 4, "--strip")
    assert not found["kept"]
    assert b"someone" not in (tmp_path / "small-4.png").read_bytes()


def private(folder, orientation=1, **options):
    """A PNG of 256 distinct colors, which a palette makes larger, with private data of every kind."""
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "SECRET")
    text.add(b"prVt", b"SECRET")
    text.add(b"tIME", bytes(7))
    text.add(b"gAMA", struct.pack(">I", 45455))
    path = folder / "private.png"
    Image.fromarray(noise(16, 16, 3)).save(path, pnginfo=text, exif=exif + b"SECRET", **options)
    path.write_bytes(path.read_bytes() + b"SECRET")
    return path


def test_strip_keeps_a_file_only_without_its_private_chunks_and_bytes(run, report, tmp_path):
    path = private(tmp_path)
    assert report(path, "-k", 256, "-o", tmp_path / "kept.png")["kept"]
    assert (tmp_path / "kept.png").read_bytes() == path.read_bytes()
    found = report(path, "-k", 256, "-o", tmp_path / "bare.png", "--strip")
    data = (tmp_path / "bare.png").read_bytes()
    assert found["kept"]
    assert found["bytes_out"] == len(data)
    assert (b"SECRET" in path.read_bytes(), b"SECRET" in data) == (True, False)
    assert list(chunks(tmp_path / "bare.png")) == ["IHDR", "gAMA", "IDAT", "IEND"]
    assert np.array_equal(rgba(tmp_path / "bare.png"), rgba(path))
    assert "kept without its metadata" in run(path, "-k", 256, "-o", tmp_path / "c.png", "--strip")[1]


def test_strip_keeps_the_frames_of_an_animation_without_its_private_chunks(report, tmp_path):
    second = noise(16, 16, 3)
    second[0, 0] = second[1, 1]
    path = private(tmp_path, save_all=True, append_images=[Image.fromarray(second)])
    found = report(path, "-k", 256, "-o", tmp_path / "bare.png", "--strip")
    assert found["kept"]
    assert b"SECRET" not in (tmp_path / "bare.png").read_bytes()
    assert np.array_equal(*(list(read_animation(file).frames) for file in (path, tmp_path / "bare.png")))


@pytest.mark.parametrize("frames", [1, 3])
def test_strip_does_not_keep_a_file_that_only_its_exif_makes_upright(report, tmp_path, frames):
    others = [Image.fromarray(noise(16, 16, 3, seed=seed)) for seed in range(1, frames)]
    path = private(tmp_path, orientation=6, save_all=frames > 1, append_images=others)
    assert not report(path, "-k", 256, "-o", tmp_path / "bare.png", "--strip")["kept"]
    assert b"SECRET" not in (tmp_path / "bare.png").read_bytes()


def test_strip_keeps_a_file_without_its_profile_only_if_that_is_srgb(report, tmp_path):
    for profile, is_kept in ((color_profiles.SRGB, True), (color_profiles.SWAPPED, False)):
        path = private(tmp_path, icc_profile=profile)
        found = report(path, "-k", 256, "-o", tmp_path / "bare.png", "--strip", "--force")
        assert found["kept"] == is_kept
        assert not {"iCCP", "gAMA"} & set(chunks(tmp_path / "bare.png"))
        expected = rgba(path) if is_kept else rgba(path)[..., [1, 0, 2, 3]]
        assert abs(rgba(tmp_path / "bare.png").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_strip_does_not_keep_another_format_than_png(report, tmp_path, suffix):
    path = tmp_path / f"small{suffix}"
    Image.fromarray(noise(2, 2)).save(path)
    path.write_bytes(path.read_bytes() + b"SECRET")
    assert not report(path, "-k", 4, "-o", tmp_path / f"bare{suffix}", "--strip")["kept"]
    assert b"SECRET" not in (tmp_path / f"bare{suffix}").read_bytes()


def test_strip_writes_a_png_without_its_metadata_beside_the_input(report, tmp_path):
    path = private(tmp_path)
    found = report(path, "--strip")
    assert (found["output"], found["kept"], found["written"]) == (str(tmp_path / "private-256.png"), True, True)
    assert found["bytes_out"] == (tmp_path / "private-256.png").stat().st_size < found["bytes_in"]


def test_strip_never_copies_metadata_to_an_output_folder(report, tmp_path):
    path = save(noise(2, 2), tmp_path / "small.gif")
    path.write_bytes(path.read_bytes() + b"SECRET")
    animated = [Image.fromarray(noise(2, 2, seed=seed)) for seed in range(2)]
    animated[0].save(tmp_path / "moving.gif", save_all=True, append_images=animated[1:], comment=b"SECRET")
    for name in ("small.gif", "moving.gif"):
        report(tmp_path / name, "--strip", "-d", tmp_path / "out")
    assert not any(b"SECRET" in data for data in files(tmp_path / "out").values())
