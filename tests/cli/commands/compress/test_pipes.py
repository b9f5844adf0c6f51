"""`gpukmeans compress` with standard input and output; in a subprocess for closed and full streams."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.command_processes import CHECKOUT_COMPRESS, CHECKOUT_ENV
from helpers.image_files import assert_one_line, files, noise, save
from helpers.image_trees import OUTPUTS, inputs_of, names
from PIL import Image

from gpukmeans_cli.main import main


@pytest.fixture
def piped(monkeypatch, capsys):
    """Exit code, bytes on stdout and text on stderr of `gpukmeans compress` with these bytes on stdin."""

    def piped(*args, data=b""):
        raw = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=True))
            with pytest.raises(SystemExit) as caught:
                main(["compress", *map(str, args)])
            return caught.value.code, raw.getvalue(), capsys.readouterr().err

    return piped


@pytest.fixture
def photo(cwd):
    return save(noise(11, 17, 3), cwd / "photo.png")


@pytest.fixture
def animation(cwd):
    frames = [Image.fromarray(noise(9, 8, 3, seed=seed)) for seed in range(3)]
    frames[0].save(cwd / "a.gif", save_all=True, append_images=frames[1:], duration=70)
    return cwd / "a.gif"


def test_an_image_through_a_pipe_equals_the_one_written_to_a_file(command, photo, cwd):
    assert command("compress", photo, "-k", 16, "-o", "few.png")[0] == 0
    before = files(cwd)
    with photo.open("rb") as stdin:
        args = [*CHECKOUT_COMPRESS, "-", "-k", "16"]
        answer = subprocess.run(
            args, stdin=stdin, cwd=cwd, env=CHECKOUT_ENV, capture_output=True, timeout=120, check=False
        )
    assert (answer.returncode, answer.stdout) == (0, Path("few.png").read_bytes())
    assert_one_line(answer.stderr.decode(), "gpukmeans: standard input -> standard output: 17 x 11, 187 -> 16 colors, ")
    assert files(cwd) == before


def test_input_or_output_may_be_a_file(command, piped, photo):
    command("compress", photo, "-k", 5, "-o", "few.png")
    few = Path("few.png").read_bytes()
    code, out, err = piped(photo, "-k", 5, "-o", "-")
    assert (code, out) == (0, few)
    assert_one_line(err, f"gpukmeans: {photo} -> standard output: ")
    code, out, err = piped("-", "-k", 5, "-o", "same.png", data=photo.read_bytes())
    assert (code, err, Path("same.png").read_bytes()) == (0, "", few)
    assert out.startswith(b"standard input -> same.png: 17 x 11, ")
    code, out, _ = piped("-", "-k", 5, "-o", "json.png", "--json", data=photo.read_bytes())
    assert (code, json.loads(out)["input"], Path("json.png").read_bytes()) == (0, "-", few)


def test_quiet_and_dry_run_work_with_a_pipe(piped, photo):
    data = photo.read_bytes()
    code, out, err = piped("-", "-q", data=data)
    assert (code, out[:4], err) == (0, b"\x89PNG", "")
    code, out, err = piped("-", "--dry-run", data=data)
    assert (code, out) == (0, b"")
    assert err.endswith(", not written\n")


def test_an_animation_can_be_read_from_and_written_to_a_pipe(piped, animation):
    code, out, err = piped("-", "-o", "x.png", data=animation.read_bytes())
    assert (code, err) == (0, "")
    assert out.startswith(b"standard input -> x.png: 3 frames of 8 x 9, ")
    with Image.open("x.png") as image:
        assert (image.n_frames, image.info["duration"]) == (3, 70)
    code, out, _ = piped("-", data=animation.read_bytes())
    assert (code, out) == (0, Path("x.png").read_bytes())


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "standard input: is empty (0 bytes); "),
        (b"no image", "standard input: is not an image that Pillow can read; "),
        (b"\x89PNG\r\n\x1a\n", "standard input: "),
    ],
    ids=["empty", "text", "head"],
)
def test_invalid_data_on_stdin_gives_one_line_and_nothing_on_stdout(piped, cwd, data, complaint):
    code, out, err = piped("-", data=data)
    assert (code, out) == (1, b"")
    assert_one_line(err, complaint)
    code, out, err = piped("-", "-o", "x.png", data=data)
    assert (code, out) == (1, b"")
    assert not (cwd / "x.png").exists()


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["-", "photo.png"], "standard input must be the only input"),
        (["-", "-"], "standard input must be the only input"),
        (["-", "-d", "out"], "standard input must be the only input"),
        (["-", "--json"], "--json and an image cannot both go to standard output"),
        (["photo.png", "-o", "-", "--json"], "--json and an image cannot both go to standard output"),
        (["-", "-o", "x.jpg"], "--output must end in one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_conflict_with_a_pipe_give_exit_code_2_before_any_work(piped, photo, cwd, args, complaint):
    code, out, err = piped(*args, data=photo.read_bytes())
    assert (code, out) == (2, b"")
    assert_one_line(err, complaint)
    assert names(cwd) == {"photo.png"}


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_a_closed_stream_gives_exit_code_2(monkeypatch, capsys, photo, stream):
    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(SystemExit) as caught:
        main(["compress", "-"] if stream == "stdin" else ["compress", "photo.png", "-o", "-"])
    assert caught.value.code == 2
    assert_one_line(capsys.readouterr().err, {"stdin": "standard input", "stdout": "standard output"}[stream], "closed")


def test_stdout_is_never_skipped_even_if_a_file_has_its_name(piped, photo, cwd):
    (cwd / "-").write_bytes(b"a file of that name")
    code, out, _ = piped("-", "--skip-existing", data=photo.read_bytes())
    assert (code, out[:4]) == (0, b"\x89PNG")
    assert Path("-").read_bytes() == b"a file of that name"


@pytest.mark.skipif(os.name == "nt", reason="needs pipes and devices of Unix")
@pytest.mark.parametrize(
    ("sink", "args"),
    [("closed", ["-"]), ("full", ["-"]), ("closed", ["tree", "-r", "-k", "4", "-d", "out", "-j", "2"])],
    ids=["image to a closed pipe", "image to a full disk", "lines to a closed pipe"],
)
def test_an_unwritable_stdout_gives_at_most_one_line_and_exit_code_1(tree, photo, cwd, sink, args):
    if sink == "full":
        if not Path("/dev/full").exists():
            pytest.skip("needs a device that is always full")
        stdout = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stdout = os.pipe()
        os.close(reader)
    with photo.open("rb") as stdin, os.fdopen(stdout, "wb") as out:
        answer = subprocess.run(
            [*CHECKOUT_COMPRESS, *args],
            cwd=cwd,
            env=CHECKOUT_ENV,
            stdin=stdin,
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    assert answer.returncode == 1
    lines = [line for line in answer.stderr.decode().splitlines() if " files done" not in line]
    assert [line.split(" (")[0] for line in lines] == (["gpukmeans: cannot continue"] if sink == "full" else [])
    if args != ["-"]:  # files written before are complete
        assert names(cwd / "out") <= set(OUTPUTS.values())


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo terminals")
def test_a_progress_bar_on_the_terminal_does_not_change_stdout_in_a_file(tree, cwd):
    reader, writer = os.openpty()
    with open("lines.txt", "wb") as out:
        args = [*CHECKOUT_COMPRESS, "tree", "-r", "-d", "out", "-k", "4", "-j", "2"]
        process = subprocess.Popen(args, cwd=cwd, env=CHECKOUT_ENV, stdin=subprocess.DEVNULL, stdout=out, stderr=writer)
    os.close(writer)
    written = bytearray()
    try:
        while data := os.read(reader, 1 << 16):
            written += data
    except OSError:  # the other end is closed
        pass
    os.close(reader)
    assert process.wait(timeout=60) == 0
    assert b"4 of 4 files" in written
    assert b"\x1b[?25h" in written  # the cursor is back
    assert b"4 of 4 files done, " in written.rpartition(b"\x1b")[2]
    text = Path("lines.txt").read_text()
    assert inputs_of(text) == [f"tree/{name}" for name in OUTPUTS]
    assert text.replace("\n", "").isprintable()
    assert b"a.PNG" not in written
