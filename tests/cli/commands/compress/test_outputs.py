"""Paths, names and contents of the files that `gpukmeans compress` writes."""

import errno
import io
import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command_processes import INSTALLED_COMMAND, run_process
from helpers.image_files import assert_one_line, chunks, files, noise, rgba, save
from PIL import Image

from gpukmeans_cli.main import main

# Outputs


def test_the_output_is_beside_the_input_and_named_after_it_and_k(run, photo):
    assert run(photo, "--allow-larger")[0] == 0
    assert run(photo, "-k", 3)[0] == 0
    assert {path.name for path in photo.parent.iterdir()} == {"photo.png", "photo-256.png", "photo-3.png"}


def test_the_output_is_written_to_the_given_path(run, photo, tmp_path):
    (tmp_path / "other").mkdir()
    output = tmp_path / "other" / "FEW.PNG"
    assert run(photo, "--output", output, "-k", 3)[0] == 0
    assert files(tmp_path).keys() == {photo, output}


def test_the_input_is_not_changed(run, photo):
    before = photo.read_bytes()
    run(photo, "-k", 3)
    assert photo.read_bytes() == before


@pytest.mark.parametrize(
    ("distinct", "k", "bits"),
    [(1, 20, 1), (2, 20, 1), (3, 20, 2), (4, 4, 2), (5, 20, 4), (16, 256, 4), (17, 256, 8), (187, 256, 8), (187, 9, 4)],
)
def test_the_png_has_only_used_palette_entries_and_the_smallest_bit_depth(run, tmp_path, distinct, k, bits):
    numbers = np.arange(187, dtype=np.uint8) % distinct
    photo = save(np.stack([numbers, 255 - numbers, numbers], axis=1).reshape(11, 17, 3), tmp_path / "photo.png")
    code, out, _ = run(photo, "-k", k, "-o", tmp_path / "few.png", "--allow-larger", "--effort", 0, "--json")
    assert code == 0
    with Image.open(tmp_path / "few.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (17, 11))
        n_colors = len(image.getcolors())
    assert n_colors == min(distinct, k) == json.loads(out)["colors_out"]
    found = chunks(tmp_path / "few.png")
    assert struct.unpack(">IIBBBBB", found["IHDR"]) == (17, 11, bits, 3, 0, 0, 0)
    assert len(found["PLTE"]) == 3 * n_colors


def test_an_existing_output_is_kept(run, photo, tmp_path):
    (tmp_path / "photo-256.png").write_bytes(b"mine")
    before = files(tmp_path)
    code, out, err = run(photo)
    assert (code, out) == (1, "")
    assert_one_line(err, str(photo), "photo-256.png already exists; use --force")
    assert files(tmp_path) == before


@pytest.mark.parametrize("flag", ["-f", "--force"])
def test_force_overwrites_an_existing_output(run, photo, tmp_path, flag):
    output = tmp_path / "photo-2.png"
    output.write_bytes(b"mine")
    assert run(photo, "-k", 2, flag)[0] == 0
    assert output.read_bytes().startswith(b"\x89PNG")


def test_force_can_overwrite_the_input(run, photo):
    size = photo.stat().st_size
    code, out, _ = run(photo, "-k", 2, "-f", "-o", photo, "--json")
    assert code == 0
    assert (json.loads(out)["bytes_in"], json.loads(out)["bytes_out"]) == (size, photo.stat().st_size)
    assert len(np.unique(rgba(photo).reshape(-1, 4), axis=0)) == 2


@pytest.mark.parametrize("step", ["open", "replace"])
def test_a_failed_write_changes_no_file(run, photo, tmp_path, monkeypatch, step):
    (tmp_path / "photo-2.png").write_bytes(b"mine")
    before = files(tmp_path)

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    def open_nothing_new(path, mode="r", *args, **options):
        return open(path, mode, *args, **options) if mode == "rb" else full()

    monkeypatch.setattr(*((Path, "open", open_nothing_new) if step == "open" else (os, "replace", full)))
    code, _, err = run(photo, "-k", 2, "-f")
    assert code == 1
    assert_one_line(err, "photo.png", "photo-2.png", "disk is full")
    assert files(tmp_path) == before


# Names


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_names_may_have_spaces_newlines_dashes_and_undecodable_bytes(tmp_path):
    names = [b"two  spaces.png", b"new\nline.png", b"-x.png", b"b\xff.png", "\u65e5\u672c.png".encode()]
    for name in names:
        save(noise(4, 4, 3), tmp_path / os.fsdecode(name))
    answer = run_process(INSTALLED_COMMAND, "compress", "-k", "2", "--json", "-q", "--", *names, cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, b"")
    reports = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [os.fsencode(report["input"]) for report in reports] == names
    for name, report in zip(names, reports, strict=True):
        assert os.fsencode(report["output"]) == name.replace(b".png", b"-2.png")
        assert (tmp_path / report["output"]).is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
@pytest.mark.parametrize("name", [b"new\nline.png", b"b\xff.png", b"bell\x07.png"])
def test_a_strange_name_does_not_break_the_line(run, tmp_path, name):
    photo = save(noise(4, 4, 3), tmp_path / os.fsdecode(name))
    code, out, err = run(photo, "-k", "2")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert out.rstrip("\n").isprintable()
    code, out, err = run(photo, "-k", "2")
    assert (code, out) == (1, "")
    assert_one_line(err)


@pytest.mark.skipif(sys.getfilesystemencoding() != "utf-8", reason="needs names in any script")
def test_a_name_that_stdout_cannot_encode_does_not_stop_the_report(monkeypatch, tmp_path):
    photo = save(noise(4, 4, 3), tmp_path / "\u65e5\u672c.png")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
    with pytest.raises(SystemExit) as caught:
        main(["compress", str(photo), "-k", "2"])
    assert caught.value.code == 0
    assert b"4 x 4" in raw.getvalue()
