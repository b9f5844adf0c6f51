"""Signals to the processes of `gpukmeans compress`."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.command_processes import CHECKOUT_COMPRESS, CHECKOUT_ENV
from helpers.image_files import assert_one_line, noise, rgba, save
from helpers.image_trees import inputs_of, names

pytestmark = pytest.mark.usefixtures("ctrl_c")


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")


def cpu_times(process):
    """The CPU time in clock ticks of each process of the session that this process started, without itself."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session, *others = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(session) == process.pid and int(path.parent.name) != process.pid and state != "Z":
            found[int(path.parent.name)] = sum(map(int, others[7:9]))
    return found


def session_of(process):
    return list(cpu_times(process))


def busy_one_of(process):
    """The process that computes while the other is idle, once its CPU time leaves no doubt; None before."""
    (other_time, _), (time, number) = sorted((time, number) for number, time in cpu_times(process).items())
    return number if time > other_time + 50 else None


def wait_until(condition, seconds=60):
    for _ in range(100 * seconds):
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("timeout")


@contextmanager
def running(cwd, *args):
    """The running command with two workers in its own session; all its processes are killed at the end."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [*CHECKOUT_COMPRESS, *args], cwd=cwd, env=SLOW_ENV, text=True, start_new_session=True, **pipes
    )
    try:
        yield process
    finally:
        for number in [*session_of(process), *([process.pid] if process.poll() is None else [])]:
            os.kill(number, signal.SIGKILL)
        process.communicate()


# Without native kernels, which are much faster, a large image takes a worker half a minute or more.
SLOW_ENV = CHECKOUT_ENV | {"GPUKMEANS_NATIVE": "0"}
LONG = ("--dither", "none", "--allow-larger", "--tol", "0", "--max-iter", "100000", "--n-init", "3")
SHORT = ("--dither", "none", "--allow-larger", "--max-iter", "1", "--refine", "0")


@pytest.fixture
def long_tree(cwd):
    """Small images 0, 3 and 4, and the large images 1 and 2 between them."""
    (cwd / "tree").mkdir()
    for number, side in enumerate([4, 600, 600, 5, 6]):
        save(noise(side, side, 3, seed=number), cwd / "tree" / f"{number}.png", compress_level=1)
    return cwd / "tree"


@linux_only
def test_ctrl_c_ends_all_workers_and_a_second_run_compresses_the_rest(command, long_tree, cwd):
    with running(cwd, "tree", "-r", "-d", "out", "-j", "2", *LONG) as process:
        assert process.stdout.readline().startswith("tree/0.png -> ")
        time.sleep(0.5)  # now both workers have a large image
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, "")
        assert session_of(process) == []
    interrupted, summary = err.splitlines()
    assert interrupted == "gpukmeans: interrupted; run again with --skip-existing to continue"
    assert summary.startswith("gpukmeans: 1 of 5 files done, 4 not finished, ")
    assert names(cwd / "out") == {"0-256.png"}
    code, out, err = command("compress", "tree", "-r", "-d", "out", *SHORT, "--skip-existing")
    assert (code, inputs_of(out)) == (0, [f"tree/{number}.png" for number in range(1, 5)])
    assert_one_line(err, "4 of 5 files done, 1 skipped, ")
    assert [rgba(cwd / "out" / f"{number}-256.png").shape[0] for number in range(5)] == [4, 600, 600, 5, 6]


@linux_only
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg), (signal.SIGKILL, os.kill)],
    ids=["SIGTERM", "SIGTERM of the group", "SIGKILL"],
)
def test_a_killed_parent_ends_its_workers_and_leaves_no_partial_file(long_tree, cwd, number, send):
    with running(cwd, "tree", "-r", "-d", "out", "-j", "2", *LONG) as process:
        assert process.stdout.readline().startswith("tree/0.png -> ")
        time.sleep(0.5)
        assert len(session_of(process)) == 2
        send(process.pid, number)
        assert process.wait(timeout=60) == -number
        wait_until(lambda: not session_of(process), seconds=10)
        assert process.communicate() == ("", "")
    assert names(cwd / "out") == {"0-256.png"}


@linux_only
def test_a_killed_worker_fails_its_file_and_no_other(long_tree, cwd):
    shutil.copy(long_tree / "3.png", long_tree / "2.png")  # one large image is enough
    with running(cwd, "tree", "-r", "-d", "out", "-j", "2", *LONG) as process:
        wait_until((cwd / "out" / "4-256.png").exists)
        os.kill(wait_until(lambda: busy_one_of(process)), signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert session_of(process) == []
    assert inputs_of(out) == [f"tree/{number}.png" for number in (0, 2, 3, 4)]
    why = "tree/1.png: the worker process was killed, perhaps for its memory; try fewer --jobs"
    failure, summary, again = err.splitlines()
    assert failure == f"gpukmeans: {why}"
    assert re.match(r"gpukmeans: 4 of 5 files done, 1 failed, ", summary)
    assert again == f"gpukmeans: failed: {why}"
    assert names(cwd / "out") == {f"{number}-256.png" for number in (0, 2, 3, 4)}
