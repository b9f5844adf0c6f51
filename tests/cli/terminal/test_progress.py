"""Progress on stdout and stderr, also in child processes on pseudo terminals."""

import re
import sys
import threading

import pytest
from helpers.terminals import needs_pseudo_terminals, run_python

from gpukmeans_cli.terminal.progress import Step, changing_line, show_progress

SMALLER = Step(pixels=2_000_000, bytes_in=500_000, bytes_out=100_000)
LARGER = Step(pixels=2_000_000, bytes_in=100_000, bytes_out=350_000)
FAILED = Step(pixels=0, bytes_in=500_000, bytes_out=0, failed=True)
LONG = "photos/" + "a very long name, " * 12 + ".jpg"  # longer than the width of the terminals
LINES = ["[red]no markup[/red] :smile: 100%", "two  spaces  and 1234", LONG, "写真.png", "last"]


class Clock:
    """A clock that advances only when set."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def plain_lines(capsys, *steps, total, **options):
    """The lines on stderr, not a terminal, for steps given as (seconds since the one before, Step)."""
    clock = Clock()
    with show_progress(total, clock=clock, **options) as done:
        for seconds, step in steps:
            clock.now += seconds
            done(step)
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_a_line_has_files_speed_saved_bytes_and_time_left(capsys):
    assert plain_lines(capsys, (4, SMALLER), (4, SMALLER), (4, SMALLER), total=2_000) == [
        "gpukmeans: 3 of 2,000 files, 0.5 megapixels/s, 1.2 MB saved, 2:13:08 left"
    ]


def test_lines_are_at_least_the_interval_apart_and_none_is_at_the_end(capsys):
    lines = plain_lines(capsys, *[(3, SMALLER)] * 8, total=8, every=6)
    assert [line.split(" files")[0] for line in lines] == [
        "gpukmeans: 2 of 8",
        "gpukmeans: 4 of 8",
        "gpukmeans: 6 of 8",
    ]


def test_the_interval_starts_again_after_a_slow_file(capsys):
    lines = plain_lines(capsys, (19, SMALLER), (2, SMALLER), (7, SMALLER), (1, SMALLER), total=9)
    assert [line.split(" files")[0] for line in lines] == ["gpukmeans: 1 of 9", "gpukmeans: 4 of 9"]


def test_short_work_writes_no_line(capsys):
    assert plain_lines(capsys, *[(1, SMALLER)] * 9, total=20) == []


def test_larger_files_are_reported_as_larger(capsys):
    assert ", 250.0 kB larger, " in plain_lines(capsys, (10, LARGER), total=3)[0]
    assert ", 150.0 kB saved, " in plain_lines(capsys, (5, LARGER), (5, SMALLER), total=3)[0]


def test_a_file_that_failed_is_counted_and_saves_nothing(capsys):
    assert plain_lines(capsys, (2, SMALLER), (8, FAILED), total=4) == [
        "gpukmeans: 2 of 4 files, 0.2 megapixels/s, 400.0 kB saved, 0:00:10 left, 1 failed"
    ]


def test_a_clock_that_does_not_advance_is_no_error(capsys):
    assert plain_lines(capsys, (0, SMALLER), (0, FAILED), total=3, every=0) == [
        "gpukmeans: 1 of 3 files",
        "gpukmeans: 2 of 3 files, 1 failed",
    ]


def test_a_line_begins_with_the_prefix(capsys):
    assert plain_lines(capsys, (10, FAILED), (1, FAILED), total=3, prefix="rank 0 of 2: ") == [
        "gpukmeans: rank 0 of 2: 1 of 3 files, 0.0 megapixels/s, 0 bytes saved, 0:00:20 left, 1 failed"
    ]


@pytest.mark.parametrize(("total", "options"), [(9, {"quiet": True}), (1, {}), (0, {})])
def test_quiet_or_few_files_write_nothing(capsys, total, options):
    assert plain_lines(capsys, (99, SMALLER), (99, SMALLER), total=total, **options) == []


def test_a_closed_stderr_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with show_progress(9, every=0) as done:
        done(SMALLER)
    assert sys.stderr is None


@pytest.fixture
def frequent_thread_switches():
    """Threads are switched as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_eight_threads_lose_no_step(capsys, frequent_thread_switches):
    clock = Clock()
    with show_progress(8 * 1000 + 2, every=10, clock=clock) as done:
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
from gpukmeans_cli.terminal.messages import print_line, warn
from gpukmeans_cli.terminal.progress import Step, changing_line, show_progress

SMALLER = {SMALLER!r}
FAILED = {FAILED!r}
LINES = {LINES!r}
"""
PRINTING = """
with show_progress(6) as done:
    for line in LINES:
        done(SMALLER)
        typer.echo(line)
    warn("[b]one[/b] failed")
    done(FAILED)
"""


def child(code, *args, **options):
    """`run_python` of code after START."""
    return run_python(START + code, *args, **options)


@needs_pseudo_terminals
@pytest.mark.parametrize("columns", [100, 40])
def test_lines_are_above_the_bar_unchanged_and_the_bar_is_removed_at_the_end(columns):
    code, terminal, _ = child(PRINTING, columns=columns)
    assert code == 0
    assert "6 of 6 files" in terminal.written
    assert terminal.screen() == [*LINES, "gpukmeans: [b]one[/b] failed"]
    assert terminal.written.rindex("\x1b[?25h") > terminal.written.rindex("\x1b[?25l")


@needs_pseudo_terminals
def test_a_wide_bar_has_all_items():
    code, _, terminal = child("with show_progress(7) as done:\n  for _ in range(2): done(SMALLER)\n  done(FAILED)")
    assert code == 0
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", terminal.written)
    assert re.search(r"━ 3 of 7 files, [\d,]+\.\d megapixels/s, 800.0 kB saved, \d:\d\d:\d\d left, 1 failed", text)


@needs_pseudo_terminals
@pytest.mark.parametrize(("seconds", "left"), [(10, "0:00:20"), (14, "0:00:16"), (5000, "0:00:10")])
def test_the_time_left_decreases_by_the_time_of_one_file_at_most(seconds, left):
    code, _, terminal = child(
        f"""
now = 0
with show_progress(3, clock=lambda: now) as done:
    now = 10
    done(SMALLER)
    now = {seconds}
"""
    )
    assert code == 0
    assert f" 1 of 3 files, 0.2 megapixels/s, 400.0 kB saved, {left} left" in terminal.written


@needs_pseudo_terminals
def test_the_time_left_is_0_after_the_last_file():
    code, _, terminal = child(
        """
now = 0
with show_progress(2, clock=lambda: now) as done:
    now = 10
    done(SMALLER)
    done(SMALLER)
    now = 14
"""
    )
    assert code == 0
    assert " 2 of 2 files, 0.4 megapixels/s, 800.0 kB saved, 0:00:00 left" in terminal.written


@needs_pseudo_terminals
def test_a_prefix_disables_the_bar():
    code, _, terminal = child("with show_progress(3, prefix='rank 0 of 2: ', every=0) as done:\n  done(FAILED)")
    assert code == 0
    assert "\x1b" not in terminal.written
    assert [line[:37] for line in terminal.screen()] == ["gpukmeans: rank 0 of 2: 1 of 3 files,"]


@needs_pseudo_terminals
def test_a_narrow_terminal_has_a_bar_of_one_row():
    code, _, terminal = child("with show_progress(1000) as done:\n  for _ in range(200): done(SMALLER)", columns=40)
    assert code == 0
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", terminal.written)
    rows = [row for row in re.split(r"[\r\n]+", text) if row]
    assert re.search(r"━ 200 of 1,000 files, \d:\d\d:\d\d left$", rows[-1].rstrip())
    assert all(len(row) <= 40 for row in rows)


@needs_pseudo_terminals
def test_a_stdout_pipe_receives_only_its_own_bytes():
    code, out, terminal = child(PRINTING + "\nsys.stdout.buffer.write(b'\\x00\\xff')", out="pipe")
    assert code == 0
    assert out == "".join(f"{line}\n" for line in LINES).encode() + b"\x00\xff"
    assert "6 of 6 files" in terminal.written
    assert terminal.screen() == ["gpukmeans: [b]one[/b] failed"]


@needs_pseudo_terminals
def test_a_stdout_pipe_is_not_replaced():
    same = "before = sys.stdout\nwith show_progress(9): assert sys.stdout is before\nassert sys.stdout is before"
    assert child(same, out="pipe")[0] == 0


@needs_pseudo_terminals
def test_a_stdout_on_another_terminal_receives_only_its_own_lines():
    code, other, terminal = child(PRINTING, out="other")
    assert code == 0
    assert other.written == "".join(f"{line}\r\n" for line in LINES)
    assert terminal.screen() == ["gpukmeans: [b]one[/b] failed"]


@needs_pseudo_terminals
def test_a_stderr_pipe_receives_lines_and_a_stdout_terminal_no_bar():
    code, terminal, err = child(PRINTING.replace("show_progress(6)", "show_progress(6, every=0)"), err="pipe")
    assert code == 0
    assert terminal.written == "".join(f"{line}\r\n" for line in LINES)
    lines = err.decode().splitlines()
    assert [line[:23] for line in lines[:5]] == [f"gpukmeans: {n} of 6 files" for n in range(1, 6)]
    assert lines[5:] == ["gpukmeans: [b]one[/b] failed"]


@needs_pseudo_terminals
@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_without_cursor_movement_receives_lines(term):
    code, _, terminal = child("with show_progress(3, every=0) as done: done(SMALLER)", TERM=term)
    assert code == 0
    assert re.fullmatch(r"gpukmeans: 1 of 3 files, [\d,.]+ megapixels/s, 400.0 kB saved, .* left\r\n", terminal.written)


@needs_pseudo_terminals
def test_no_color_disables_the_colors_of_the_bar():
    colors = r"\x1b\[(?:[\d;]*;)?[34]8;"
    assert re.search(colors, child(PRINTING)[1].written)
    code, terminal, _ = child(PRINTING, NO_COLOR="1")
    assert code == 0
    assert not re.search(colors, terminal.written)
    assert "━ 6 of 6 files" in re.sub(r"\x1b\[[\d;]*m", "", terminal.written)
    assert terminal.screen() == [*LINES, "gpukmeans: [b]one[/b] failed"]


@needs_pseudo_terminals
def test_environment_variables_of_rich_do_not_disable_the_bar():
    code, terminal, _ = child(PRINTING, TTY_COMPATIBLE="0", TTY_INTERACTIVE="0", FORCE_COLOR="")
    assert code == 0
    assert "6 of 6 files" in terminal.written
    assert terminal.screen() == [*LINES, "gpukmeans: [b]one[/b] failed"]


@needs_pseudo_terminals
@pytest.mark.parametrize("quiet", ["9, quiet=True", "1"])
def test_quiet_or_one_file_show_no_bar_and_do_not_import_rich(quiet):
    code, terminal, _ = child(
        f"with show_progress({quiet}) as done: done(SMALLER); typer.echo('a line')\n"
        "assert 'rich.progress' not in sys.modules"
    )
    assert (code, terminal.written) == (0, "a line\r\n")


@needs_pseudo_terminals
@pytest.mark.parametrize(("error", "code"), [("KeyboardInterrupt", -2), ("ValueError", 1)])
def test_after_an_error_the_bar_is_removed_and_cursor_and_streams_are_restored(error, code):
    returned, terminal, _ = child(
        f"""
streams = sys.stdout, sys.stderr
try:
    with show_progress(3) as done:
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


@needs_pseudo_terminals
def test_an_unfinished_line_is_written_at_the_end():
    code, terminal, _ = child("with show_progress(3): print('one\\ntwo', end=''); sys.stdout.flush()\nprint(' words')")
    assert code == 0
    assert terminal.screen() == ["one", "two words"]


@needs_pseudo_terminals
def test_characters_outside_the_encoding_are_escaped():
    code, terminal, _ = child(
        "with show_progress(3) as done: done(SMALLER); print_line('größer'); print_line('b')",
        PYTHONUTF8="0",
        PYTHONIOENCODING="ascii",
    )
    assert code == 0
    assert terminal.screen() == [r"gr\xf6\xdfer", "b"]


@needs_pseudo_terminals
def test_lines_and_steps_of_eight_threads_are_complete():
    code, terminal, _ = child(
        """
sys.setswitchinterval(1e-6)

def work(name):
    for n in range(1000):
        done(SMALLER)
        if n % 50 == 0:
            typer.echo(f"{name} {n} " + name * 150, err=n % 100 == 0)

with show_progress(8000) as done:
    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""
    )
    assert code == 0
    assert sorted(terminal.screen()) == sorted(f"{c} {n} {c * 150}" for c in "abcdefgh" for n in range(0, 1000, 50))
    assert "8,000 of 8,000 files" in terminal.written
    assert "3200.0 MB saved" in terminal.written


@needs_pseudo_terminals
def test_no_character_of_a_line_is_lost_between_threads():
    code, terminal, _ = child(
        """
sys.setswitchinterval(1e-6)
with show_progress(9):
    threads = [threading.Thread(target=lambda: [sys.stdout.write(c) for c in "abcdefgh" * 300]) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print()
"""
    )
    assert code == 0
    assert sorted(terminal.screen()[0]) == sorted("abcdefgh" * 2400)


# One changing line


def test_no_text_is_shown_without_a_terminal(capsys):
    with changing_line() as show:
        show("not a terminal")
    assert capsys.readouterr() == ("", "")


LINE = """
with changing_line(quiet=QUIET) as show:
    show("first")
    show("größer\\n" + "a" * 200)
print("done")
"""


@needs_pseudo_terminals
def test_a_text_replaces_the_one_before_in_one_row_and_is_erased_at_the_end():
    code, terminal, _ = child(LINE.replace("QUIET", "False"), columns=40)
    assert code == 0
    line = r"gpukmeans: größer\n".ljust(39, "a")
    assert terminal.written == f"\r\x1b[2Kgpukmeans: first\r\x1b[2K{line}\r\x1b[2Kdone\r\n"


@needs_pseudo_terminals
@pytest.mark.parametrize(("quiet", "term"), [("True", "xterm"), ("False", "dumb")])
def test_no_text_is_shown_with_quiet_or_without_cursor_movement(quiet, term):
    code, terminal, _ = child(LINE.replace("QUIET", quiet), TERM=term)
    assert (code, terminal.written) == (0, "done\r\n")
