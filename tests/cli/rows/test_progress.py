import io
import os
import sys

import pytest

from gpukmeans_cli.rows import progress as module
from gpukmeans_cli.rows.progress import rounds_shown


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [False, True])
def test_a_log_that_is_full_ends_no_work(clock, monkeypatch, terminal):
    class Full(Terminal):
        def isatty(self):
            return terminal

        def write(self, text):
            tried.append(text)
            raise OSError(28, "No space left on device")

    tried = []
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Full())
    with rounds_shown(clock=clock, each=True) as rounds:
        clock.now += 60
        rounds.seen(1000)
        rounds.ended(1, 1.0, 0.5)
    assert tried
    assert (rounds.read, rounds.n_rounds) == (1000, 1)


def test_now_and_then_a_line_says_how_far_it_is_and_how_fast(clock, capsys):
    with rounds_shown(clock=clock) as rounds:
        for _ in range(3):
            clock.now += 4
            rounds.seen(1000)
        rounds.ended(1, 1234567.0, 0.5)
        clock.now += 10
        rounds.ended(2, 1000.25, 0.125)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "gpukmeans: first centers, 250 rows/s",
        "gpukmeans: round 2, inertia 1000.25, centers moved up to 0.125, 250 rows/s",
    ]


def test_each_round_is_a_line_when_it_is_asked_for(clock, capsys):
    with rounds_shown(clock=clock, each=True) as rounds:
        for n in (1, 2):
            clock.now += n
            rounds.seen(10)
            rounds.ended(n, 5.0, 0.0)
        rounds.seen(10)
    assert capsys.readouterr().err.splitlines() == [
        "gpukmeans: round 1, inertia 5, centers moved up to 0, 10 rows/s",
        "gpukmeans: round 2, inertia 5, centers moved up to 0, 5 rows/s",
    ]


def test_rates_are_of_the_rows_of_all_ranks(clock):
    with rounds_shown(0.25, clock=clock) as rounds:
        clock.now += 2
        rounds.seen(100)
        assert rounds.words() == "first centers, 200 rows/s"
        assert rounds.read == 100


def test_a_rank_without_rows_and_a_clock_that_stands_still_have_no_rate(clock):
    with rounds_shown(0.0, clock=clock) as rounds:
        clock.now += 2
        assert rounds.words() == "first centers"
    with rounds_shown(clock=clock) as rounds:
        rounds.begin("labels")
        assert rounds.words() == "labels"


def test_quiet_writes_nothing(clock, capsys):
    with rounds_shown(quiet=True, each=True, clock=clock) as rounds:
        clock.now += 100
        rounds.seen(1)
        rounds.ended(1, 1.0, 1.0)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_one_line_that_is_gone_at_the_end(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module.shutil, "get_terminal_size", lambda: os.terminal_size((30, 20)))

    def interrupted():
        with rounds_shown(clock=clock) as rounds:
            rounds.seen(1)
            clock.now += 0.1
            rounds.seen(1)  # too soon for another
            clock.now += 1
            rounds.ended(3, 2.0, 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert terminal.getvalue().split("\r\x1b[2K") == [
        "",
        "gpukmeans: first centers",
        "gpukmeans: round 3, inertia 2",
        "",
    ]
