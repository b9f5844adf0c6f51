import io
import os
import shutil
import sys

import pytest

from gpukmeans_cli.rows.progress import cluster_progress


class Clock:
    """A clock that a test advances."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


class Terminal(io.StringIO):
    """A stream whose `isatty` returns True."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [False, True])
def test_a_full_disk_of_the_log_raises_no_error(clock, monkeypatch, terminal):
    class FullDisk(Terminal):
        def isatty(self):
            return terminal

        def write(self, text):
            attempts.append(text)
            raise OSError(28, "No space left on device")

    attempts = []
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", FullDisk())
    with cluster_progress(clock=clock, every_iteration=True) as progress:
        clock.now += 60
        progress.add_rows(1000)
        progress.end_iteration(1, 1.0, 0.5)
    assert attempts
    assert (progress.rows_read, progress.n_iterations) == (1000, 1)


def test_a_line_with_the_stage_and_the_rate_is_written_every_ten_seconds(clock, capsys):
    with cluster_progress(clock=clock) as progress:
        for _ in range(3):
            clock.now += 4
            progress.add_rows(1000)
        progress.end_iteration(1, 1234567.0, 0.5)
        clock.now += 10
        progress.end_iteration(2, 1000.25, 0.125)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "gpukmeans: initial centers, 250 rows/s",
        "gpukmeans: iteration 2, inertia 1000.25, centers moved up to 0.125, 250 rows/s",
    ]


def test_every_iteration_writes_a_line_on_request(clock, capsys):
    with cluster_progress(clock=clock, every_iteration=True) as progress:
        for n in (1, 2):
            clock.now += n
            progress.add_rows(10)
            progress.end_iteration(n, 5.0, 0.0)
        progress.add_rows(10)
    assert capsys.readouterr().err.splitlines() == [
        "gpukmeans: iteration 1, inertia 5, centers moved up to 0, 10 rows/s",
        "gpukmeans: iteration 2, inertia 5, centers moved up to 0, 5 rows/s",
    ]


def test_the_rate_counts_the_rows_of_all_ranks(clock):
    with cluster_progress(0.25, clock=clock) as progress:
        clock.now += 2
        progress.add_rows(100)
        assert progress.text() == "initial centers, 200 rows/s"
        assert progress.rows_read == 100


def test_a_rank_without_rows_or_a_stage_without_time_has_no_rate(clock):
    with cluster_progress(0.0, clock=clock) as progress:
        clock.now += 2
        assert progress.text() == "initial centers"
    with cluster_progress(clock=clock) as progress:
        progress.begin_stage("labels")
        assert progress.text() == "labels"


def test_quiet_progress_writes_nothing_to_stdout_and_stderr(clock, capsys):
    with cluster_progress(quiet=True, every_iteration=True, clock=clock) as progress:
        clock.now += 100
        progress.add_rows(1)
        progress.end_iteration(1, 1.0, 1.0)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_one_line_that_is_erased_at_the_end(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((34, 20)))

    def interrupted():
        with cluster_progress(clock=clock) as progress:
            progress.add_rows(1)
            clock.now += 0.1
            progress.add_rows(1)  # too soon for a redraw
            clock.now += 1
            progress.end_iteration(3, 2.0, 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert terminal.getvalue().split("\r\x1b[2K") == [
        "",
        "gpukmeans: initial centers",
        "gpukmeans: iteration 3, inertia 2",
        "",
    ]
