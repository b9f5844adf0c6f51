"""What is on stdout and stderr while files are worked on, in child processes on pseudo terminals too."""

import os
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gpukmeans_cli.terminal.progress import Step, shown

ROOT = Path(__file__).parents[3]
SMALLER = Step(pixels=2_000_000, bytes_in=500_000, bytes_out=100_000)
LARGER = Step(pixels=2_000_000, bytes_in=100_000, bytes_out=350_000)
FAILED = Step(pixels=0, bytes_in=500_000, bytes_out=0, failed=True)
LONG = "photos/" + "a very long name, " * 12 + ".jpg"  # longer than any terminal here is wide
LINES = ["[red]no markup[/red] :smile: 100%", "two  spaces  and 1234", LONG, "写真.png", "last"]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def plain(capsys, *steps, total, **options):
    """The lines on stderr, which is no terminal, after each of (seconds since the one before, Step)."""
    clock = Clock()
    with shown(total, clock=clock, **options) as done:
        for seconds, step in steps:
            clock.now += seconds
            done(step)
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_line_says_how_far_it_is_how_fast_what_is_saved_and_how_long_it_takes(capsys):
    assert plain(capsys, (4, SMALLER), (4, SMALLER), (4, SMALLER), total=2_000) == [
        "gpukmeans: 3 of 2,000 files, 0.5 megapixels/s, 1.2 MB saved, 2:13:08 left"
    ]


def test_there_is_at_most_a_line_each_so_many_seconds_and_none_at_the_end(capsys):
    lines = plain(capsys, *[(3, SMALLER)] * 8, total=8, every=6)
    assert [line.split(" files")[0] for line in lines] == [
        "gpukmeans: 2 of 8",
        "gpukmeans: 4 of 8",
        "gpukmeans: 6 of 8",
    ]


def test_after_a_slow_file_the_next_line_waits_again(capsys):
    lines = plain(capsys, (19, SMALLER), (2, SMALLER), (7, SMALLER), (1, SMALLER), total=9)
    assert [line.split(" files")[0] for line in lines] == ["gpukmeans: 1 of 9", "gpukmeans: 4 of 9"]


def test_short_work_writes_no_line(capsys):
    assert plain(capsys, *[(1, SMALLER)] * 9, total=20) == []


def test_files_that_grew_are_not_called_saved(capsys):
    assert ", 250.0 kB larger, " in plain(capsys, (10, LARGER), total=3)[0]
    assert ", 150.0 kB saved, " in plain(capsys, (5, LARGER), (5, SMALLER), total=3)[0]


def test_a_file_that_failed_is_counted_and_saves_nothing(capsys):
    assert plain(capsys, (2, SMALLER), (8, FAILED), total=4) == [
        "gpukmeans: 2 of 4 files, 0.2 megapixels/s, 400.0 kB saved, 0:00:10 left, 1 failed"
    ]


def test_a_clock_that_stands_still_harms_nothing(capsys):
    assert plain(capsys, (0, SMALLER), (0, FAILED), total=3, every=0) == [
        "gpukmeans: 1 of 3 files",
        "gpukmeans: 2 of 3 files, 1 failed",
    ]


def test_a_line_says_of_whom_it_is_where_others_work_too(capsys):
    assert plain(capsys, (10, FAILED), (1, FAILED), total=3, prefix="rank 0 of 2: ") == [
        "gpukmeans: rank 0 of 2: 1 of 3 files, 0.0 megapixels/s, 0 bytes saved, 0:00:20 left, 1 failed"
    ]


@pytest.mark.parametrize(("total", "options"), [(9, {"quiet": True}), (1, {}), (0, {})])
def test_quiet_or_few_files_write_nothing(capsys, total, options):
    assert plain(capsys, (99, SMALLER), (99, SMALLER), total=total, **options) == []


def test_a_closed_stderr_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with shown(9, every=0) as done:
        done(SMALLER)
    assert sys.stderr is None


@pytest.fixture
def restless_threads():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_eight_threads_lose_no_step(capsys, restless_threads):
    clock = Clock()
    with shown(8 * 1000 + 2, every=10, clock=clock) as done:
        threads = [threading.Thread(target=lambda: [done(SMALLER) for _ in range(1000)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clock.now += 16_002
        done(FAILED)
    assert capsys.readouterr().err == (
        "gpukmeans: 8,001 of 8,002 files, 1.0 megapixels/s, 3200.0 MB saved, 0:00:02 left, 1 failed\n"
    )


# Child processes on pseudo terminals.

START = f"""
import sys, threading
import typer
from gpukmeans_cli.terminal.messages import say, warn
from gpukmeans_cli.terminal.progress import Step, shown

SMALLER = {SMALLER!r}
FAILED = {FAILED!r}
LINES = {LINES!r}
"""
SPEAKING = """
with shown(6) as done:
    for line in LINES:
        done(SMALLER)
        typer.echo(line)
    warn("[b]one[/b] failed")
    done(FAILED)
"""


class Terminal:
    """Both ends of a pseudo terminal, and all that was written on it."""

    def __init__(self, columns):
        import fcntl
        import termios

        self.columns = columns
        self.reader, self.writer = os.openpty()
        fcntl.ioctl(self.writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._written = bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        try:
            while data := os.read(self.reader, 1 << 16):
                self._written += data
        except OSError:  # nobody has the other end open any more
            pass

    def close(self):
        os.close(self.writer)
        self._thread.join()
        os.close(self.reader)
        self.written = self._written.decode()

    def screen(self):
        """The lines that stand there at the end, those that the terminal broke whole again."""
        rows, row, column = [""], 0, 0
        for escape, char in re.findall(r"\x1b\[([?\d;]*[A-Za-z])|([^\x1b])", self.written):
            if escape == "2K":
                rows[row] = ""
            elif escape.endswith("A"):
                row -= int(escape[:-1])
                assert row >= 0
            elif escape:
                assert escape[-1] in "mhl", escape
            elif char == "\r":
                column = 0
            elif char == "\n":
                row += 1
                rows += [""] * (row == len(rows))
            else:
                rows[row] = rows[row][:column].ljust(column) + char + rows[row][column + 1 :]
                column += 1
        return [line for line in rows if line]


def child(code, out="terminal", err="terminal", columns=100, **environ):
    """Exit code, and what was written on stdout and stderr: bytes, or the Terminal, which both may share."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environ = {**kept, "PYTHONPATH": str(ROOT / "scripts"), "TERM": "xterm-256color", "PYTHONUTF8": "1", **environ}
    terminals = {name: Terminal(columns) for name in {out, err} - {"pipe"}}
    ends = [terminals[name].writer if name in terminals else subprocess.PIPE for name in (out, err)]
    process = subprocess.Popen(
        [sys.executable, "-c", START + code], stdin=subprocess.DEVNULL, stdout=ends[0], stderr=ends[1], env=environ
    )
    piped = process.communicate(timeout=120)
    for terminal in terminals.values():
        terminal.close()
    return process.returncode, terminals.get(out, piped[0]), terminals.get(err, piped[1])


on_a_terminal = pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo terminals here")


@on_a_terminal
@pytest.mark.parametrize("columns", [100, 40])
def test_lines_stand_above_the_bar_unharmed_and_the_bar_is_gone_at_the_end(columns):
    code, terminal, _ = child(SPEAKING, columns=columns)
    assert code == 0
    assert "6 of 6 files" in terminal.written
    assert terminal.screen() == [*LINES, "gpukmeans: [b]one[/b] failed"]
    assert terminal.written.rindex("\x1b[?25h") > terminal.written.rindex("\x1b[?25l")


@on_a_terminal
def test_the_bar_is_full_of_news_where_there_is_room():
    code, _, terminal = child("with shown(7) as done:\n  for _ in range(2): done(SMALLER)\n  done(FAILED)")
    assert code == 0
    words = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", terminal.written)
    assert re.search(r"━ 3 of 7 files, [\d,]+\.\d megapixels/s, 800.0 kB saved, \d:\d\d:\d\d left, 1 failed", words)


@on_a_terminal
@pytest.mark.parametrize(("seconds", "left"), [(10, "0:00:20"), (14, "0:00:16"), (5000, "0:00:10")])
def test_the_time_left_counts_down_by_no_more_than_the_file_that_is_worked_on(seconds, left):
    code, _, terminal = child(
        f"""
now = 0
with shown(3, clock=lambda: now) as done:
    now = 10
    done(SMALLER)
    now = {seconds}
"""
    )
    assert code == 0
    assert f" 1 of 3 files, 0.2 megapixels/s, 400.0 kB saved, {left} left" in terminal.written


@on_a_terminal
def test_after_the_last_file_no_time_is_left():
    code, _, terminal = child(
        """
now = 0
with shown(2, clock=lambda: now) as done:
    now = 10
    done(SMALLER)
    done(SMALLER)
    now = 14
"""
    )
    assert code == 0
    assert " 2 of 2 files, 0.4 megapixels/s, 800.0 kB saved, 0:00:00 left" in terminal.written


@on_a_terminal
def test_where_others_may_write_to_the_terminal_there_is_no_bar():
    code, _, terminal = child("with shown(3, prefix='rank 0 of 2: ', every=0) as done:\n  done(FAILED)")
    assert code == 0
    assert "\x1b" not in terminal.written
    assert [line[:37] for line in terminal.screen()] == ["gpukmeans: rank 0 of 2: 1 of 3 files,"]


@on_a_terminal
def test_a_narrow_terminal_has_a_bar_of_one_row():
    code, _, terminal = child("with shown(1000) as done:\n  for _ in range(200): done(SMALLER)", columns=40)
    assert code == 0
    words = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", terminal.written)
    rows = [row for row in re.split(r"[\r\n]+", words) if row]
    assert re.search(r"━ 200 of 1,000 files, \d:\d\d:\d\d left$", rows[-1].rstrip())
    assert all(len(row) <= 40 for row in rows)


@on_a_terminal
def test_a_stdout_in_a_pipe_gets_its_own_bytes_only():
    code, out, terminal = child(SPEAKING + "\nsys.stdout.buffer.write(b'\\x00\\xff')", out="pipe")
    assert code == 0
    assert out == "".join(f"{line}\n" for line in LINES).encode() + b"\x00\xff"
    assert "6 of 6 files" in terminal.written
    assert terminal.screen() == ["gpukmeans: [b]one[/b] failed"]


@on_a_terminal
def test_a_stdout_in_a_pipe_stays_the_object_that_it_was():
    same = "before = sys.stdout\nwith shown(9): assert sys.stdout is before\nassert sys.stdout is before"
    assert child(same, out="pipe")[0] == 0


@on_a_terminal
def test_a_stdout_on_another_terminal_gets_its_own_lines_only():
    code, other, terminal = child(SPEAKING, out="other")
    assert code == 0
    assert other.written == "".join(f"{line}\r\n" for line in LINES)
    assert terminal.screen() == ["gpukmeans: [b]one[/b] failed"]


@on_a_terminal
def test_a_stderr_in_a_pipe_has_plain_lines_and_leaves_a_terminal_alone():
    code, terminal, err = child(SPEAKING.replace("shown(6)", "shown(6, every=0)"), err="pipe")
    assert code == 0
    assert terminal.written == "".join(f"{line}\r\n" for line in LINES)
    lines = err.decode().splitlines()
    assert [line[:23] for line in lines[:5]] == [f"gpukmeans: {n} of 6 files" for n in range(1, 6)]
    assert lines[5:] == ["gpukmeans: [b]one[/b] failed"]


@on_a_terminal
@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_its_cursor_has_plain_lines(term):
    code, _, terminal = child("with shown(3, every=0) as done: done(SMALLER)", TERM=term)
    assert code == 0
    assert re.fullmatch(r"gpukmeans: 1 of 3 files, [\d,.]+ megapixels/s, 400.0 kB saved, .* left\r\n", terminal.written)


@on_a_terminal
def test_a_bar_without_color_has_none():
    colors = r"\x1b\[(?:[\d;]*;)?[34]8;"
    assert re.search(colors, child(SPEAKING)[1].written)
    code, terminal, _ = child(SPEAKING, NO_COLOR="1")
    assert code == 0
    assert not re.search(colors, terminal.written)
    assert "━ 6 of 6 files" in re.sub(r"\x1b\[[\d;]*m", "", terminal.written)
    assert terminal.screen() == [*LINES, "gpukmeans: [b]one[/b] failed"]


@on_a_terminal
def test_no_variable_of_rich_parts_the_bar_from_its_terminal():
    code, terminal, _ = child(SPEAKING, TTY_COMPATIBLE="0", TTY_INTERACTIVE="0", FORCE_COLOR="")
    assert code == 0
    assert "6 of 6 files" in terminal.written
    assert terminal.screen() == [*LINES, "gpukmeans: [b]one[/b] failed"]


@on_a_terminal
@pytest.mark.parametrize("quiet", ["9, quiet=True", "1"])
def test_quiet_or_one_file_leave_a_terminal_alone_and_rich_where_it_is(quiet):
    code, terminal, _ = child(
        f"with shown({quiet}) as done: done(SMALLER); typer.echo('a line')\nassert 'rich.progress' not in sys.modules"
    )
    assert (code, terminal.written) == (0, "a line\r\n")


@on_a_terminal
@pytest.mark.parametrize(("error", "code"), [("KeyboardInterrupt", -2), ("ValueError", 1)])
def test_after_an_error_the_bar_is_gone_the_cursor_back_and_the_streams_are_what_they_were(error, code):
    returned, terminal, _ = child(
        f"""
streams = sys.stdout, sys.stderr
try:
    with shown(3) as done:
        done(SMALLER)
        typer.echo("begun")
        raise {error}
finally:
    assert (sys.stdout, sys.stderr) == streams
    typer.echo("ended")
"""
    )
    assert returned == code
    assert terminal.screen()[:3] == ["begun", "ended", "Traceback (most recent call last):"]
    assert terminal.screen()[-1] == error
    assert terminal.written.rindex("\x1b[?25h") > terminal.written.rindex("\x1b[?25l")


@on_a_terminal
def test_an_unfinished_line_is_written_at_the_end():
    code, terminal, _ = child("with shown(3): print('one\\ntwo', end=''); sys.stdout.flush()\nprint(' words')")
    assert code == 0
    assert terminal.screen() == ["one", "two words"]


@on_a_terminal
def test_an_encoding_of_few_characters_is_no_way_past_the_bar():
    code, terminal, _ = child(
        "with shown(3) as done: done(SMALLER); say('größer'); say('b')", PYTHONUTF8="0", PYTHONIOENCODING="ascii"
    )
    assert code == 0
    assert terminal.screen() == [r"gr\xf6\xdfer", "b"]


@on_a_terminal
def test_lines_and_steps_of_eight_threads_come_through_whole():
    code, terminal, _ = child(
        """
sys.setswitchinterval(1e-6)

def work(name):
    for n in range(1000):
        done(SMALLER)
        if n % 50 == 0:
            typer.echo(f"{name} {n} " + name * 150, err=n % 100 == 0)

with shown(8000) as done:
    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""
    )
    assert code == 0
    assert sorted(terminal.screen()) == sorted(f"{c} {n} {c * 150}" for c in "abcdefgh" for n in range(0, 1000, 50))
    assert "8,000 of 8,000 files" in terminal.written
    assert "3200.0 MB saved" in terminal.written


@on_a_terminal
def test_no_piece_of_a_line_is_lost_between_threads():
    code, terminal, _ = child(
        """
sys.setswitchinterval(1e-6)
with shown(9):
    threads = [threading.Thread(target=lambda: [sys.stdout.write(c) for c in "abcdefgh" * 300]) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print()
"""
    )
    assert code == 0
    assert sorted(terminal.screen()[0]) == sorted("abcdefgh" * 2400)
