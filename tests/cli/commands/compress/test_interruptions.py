"""Ctrl-C and closed streams during `gpukmeans compress`."""

import os
import signal
import subprocess
import time

import pytest
from helpers.command_processes import INSTALLED_COMMAND, INSTALLED_ENV, run_process
from helpers.image_files import files, noise, save
from helpers.stages import STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_an_interruption_in_any_stage_leaves_no_file(run, photo, tmp_path, monkeypatch, stage):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(STAGES[stage], stage, interrupt)
    assert run(photo, "-k", 2, "--json") == (130, "", "")
    assert files(tmp_path).keys() == {photo}


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_keeps_finished_files_and_leaves_no_partial_ones(tmp_path):
    small = save(noise(4, 4, 3), tmp_path / "small.png")
    large = save(noise(1200, 1200, 3), tmp_path / "large.png", compress_level=1)
    args = (INSTALLED_COMMAND, "compress", small, large, "--dither", "none", "--tol", "0", "--allow-larger")
    with subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=INSTALLED_ENV, text=True
    ) as process:
        assert process.stdout.readline().startswith(str(small))
        time.sleep(0.5)  # now the large one is being compressed
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    interrupted, summary = err.strip().splitlines()
    assert interrupted == "gpukmeans: interrupted; run again with --skip-existing to continue"
    assert summary.startswith("gpukmeans: 1 of 2 files done, 1 not finished, ")
    assert files(tmp_path).keys() == {small, large, tmp_path / "small-256.png"}


def test_a_closed_pipe_behind_stdout_gives_no_traceback(photo):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        answer = run_process(INSTALLED_COMMAND, "compress", photo, "-k", "2", stdout=pipe)
    assert (answer.returncode, answer.stderr) == (1, b"")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell that closes streams")
def test_a_closed_stdout_does_not_prevent_writing_the_file(run, photo, tmp_path):
    close_stdout = ("sh", "-c", 'exec "$@" >&-', "sh")
    args = ("compress", photo, "-k", "2", "--dither", "none", "-o", tmp_path / "few.png")
    answer = run_process(*close_stdout, INSTALLED_COMMAND, *args)
    assert (answer.returncode, answer.stderr) == (0, b"")
    run(photo, "-k", "2", "-o", tmp_path / "same.png")
    assert (tmp_path / "few.png").read_bytes() == (tmp_path / "same.png").read_bytes()
