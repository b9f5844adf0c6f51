"""Files that `gpukmeans compress` cannot compress: exit code 1, and one line for each."""

import errno
import json
import os
import threading
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from helpers.image_files import assert_one_line, files, noise, save

from gpukmeans_cli.compression import palette_fit
from gpukmeans_cli.compression.result import CompressionReport

KEYS = [field.name for field in fields(CompressionReport)]


def broken_png(path):
    save(noise(64, 64, 3), path)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        pytest.param(lambda path: None, "does not exist; check the path", id="missing"),
        pytest.param(Path.mkdir, "is a folder; add -r to take the images in it", id="folder"),
        pytest.param(lambda path: path.write_text("hello"), "is not an image that Pillow can read; convert", id="text"),
        pytest.param(broken_png, "cannot be decoded", id="truncated"),
        pytest.param(Path.touch, "is empty (0 bytes); copy", id="empty"),
    ],
)
def test_a_file_that_cannot_be_read_gives_one_line(run, tmp_path, make, complaint):
    path = tmp_path / "photo.png"
    make(path)
    before = files(tmp_path)
    code, out, err = run(path, "--json")
    assert code == 1
    assert_one_line(err, f"gpukmeans: {path}: ", complaint)
    assert json.loads(out) == {"input": str(path), "error": err.removeprefix(f"gpukmeans: {path}: ").rstrip("\n")}
    assert files(tmp_path) == before


def test_a_file_without_read_permission_gives_one_line(run, photo, monkeypatch):
    def deny(path, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)
    code, out, err = run(photo)
    assert (code, out) == (1, "")
    assert_one_line(err, f"{photo}: cannot be read; check its permissions")


@pytest.mark.parametrize("kind", ["missing", "file", "denied"])
def test_an_output_folder_that_cannot_be_written_gives_one_line(run, photo, tmp_path, monkeypatch, kind):
    folder = tmp_path / "out"
    if kind == "file":
        folder.touch()
    if kind == "denied":
        folder.mkdir()
        close(folder, monkeypatch)
    code, out, err = run(photo, "-k", 2, "-o", folder / "few.png")
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), str(folder / "few.png"), "cannot be written")
    assert {photo} <= files(tmp_path).keys() <= {photo, folder}


def close(folder, monkeypatch):
    """Make every access to the folder fail, as file permissions do for users other than root."""

    def guarded(call):
        def denied(path, *args, **options):
            if isinstance(path, (str, Path)) and Path(path).parent == folder:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return call(path, *args, **options)

        return denied

    for owner, name in ((os, "stat"), (os, "lstat"), (os, "access"), (os, "link"), (os, "replace"), (Path, "open")):
        monkeypatch.setattr(owner, name, guarded(getattr(owner, name)))


def test_an_output_that_is_a_folder_gives_one_line(run, photo, tmp_path):
    (tmp_path / "few.png").mkdir()
    for force in ([], ["-f"]):
        code, out, err = run(photo, "-k", 2, "-o", tmp_path / "few.png", *force)
        assert (code, out) == (1, "")
        assert_one_line(err, str(photo), str(tmp_path / "few.png"))


def test_an_output_name_that_is_too_long_gives_one_line(run, tmp_path):
    photo = save(noise(4, 4, 3), tmp_path / f"{'m' * 251}.png")
    code, out, err = run(photo, "-k", 2)
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), "cannot be written")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory.\nTried to"), MemoryError()], ids=["GPU", "CPU"]
)
def test_running_out_of_memory_fails_one_file_and_not_the_others(run, photo, tmp_path, monkeypatch, error):
    def fail_once(*args, **options):
        monkeypatch.setattr(palette_fit, "fit_palette", original)
        raise error

    original = palette_fit.fit_palette
    monkeypatch.setattr(palette_fit, "fit_palette", fail_once)
    other = save(noise(4, 4, 3), tmp_path / "other.png")
    code, out, err = run(photo, other, "-k", 2, "-j", 1)
    assert code == 1
    first, summary, again = err.splitlines()
    assert first.startswith(f"gpukmeans: {photo}: ")
    assert "out of memory; use " in first
    assert summary.startswith("gpukmeans: 1 of 2 files done, 1 failed, ")
    assert again == first.replace(f"{photo}", f"failed: {photo}")
    assert out.startswith(str(other))
    assert files(tmp_path).keys() == {photo, other, tmp_path / "other-2.png"}


def test_valid_and_invalid_inputs_are_reported_in_their_order(run, photo, tmp_path):
    (tmp_path / "text.png").write_text("hello")
    other = save(noise(4, 4, 3), tmp_path / "other.png")
    inputs = [tmp_path / "missing.png", photo, tmp_path / "text.png", other]
    code, out, err = run(*inputs, "-k", 2, "--json", "-q")
    assert code == 1
    reports = [json.loads(line) for line in out.splitlines()]
    assert [report["input"] for report in reports] == [str(path) for path in inputs]
    assert [list(report) for report in reports] == [["input", "error"], KEYS, ["input", "error"], KEYS]
    assert [line.split(": ")[1] for line in err.splitlines()] == [str(inputs[0]), str(inputs[2])]
    assert (tmp_path / "photo-2.png").exists()
    assert (tmp_path / "other-2.png").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
def test_a_pipe_can_be_the_input(run, photo, tmp_path):
    pipe, data = tmp_path / "pipe", photo.read_bytes()
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[data], daemon=True)
    writer.start()
    code, out, err = run(pipe, "-k", 2, "-o", tmp_path / "few.png")
    writer.join(timeout=10)
    assert (code, err) == (0, "")
    assert "17 x 11, 187 -> 2 colors" in out


def test_an_input_that_vanishes_during_the_run_gives_no_traceback(run, photo, monkeypatch):
    def fit_palette(*args, **options):
        photo.unlink()
        return original(*args, **options)

    original = palette_fit.fit_palette
    monkeypatch.setattr(palette_fit, "fit_palette", fit_palette)
    code, out, err = run(photo, "-k", 2)
    assert (code, out.count("\n"), err.count("\n")) in [(0, 1, 0), (1, 0, 1)]
