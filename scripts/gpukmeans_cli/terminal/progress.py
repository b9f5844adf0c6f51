"""Progress on stderr: a bar for many files, or a line from time to time, and a single line that is redrawn."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from io import TextIOBase
from typing import TYPE_CHECKING, TextIO

from gpukmeans_cli.terminal.formatting import format_size
from gpukmeans_cli.terminal.messages import one_line, warn

if TYPE_CHECKING:
    from rich.console import Console


_ERASE_LINE = "\r\x1b[2K"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One finished file. Sizes are in bytes."""

    pixels: int
    """0 if the file failed or was skipped."""
    bytes_in: int
    bytes_out: int
    failed: bool = False
    """The sizes of a failed file are not counted."""


@contextmanager
def show_progress(
    total: int,
    *,
    quiet: bool = False,
    prefix: str = "",
    every: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[Step], None]]:
    """Progress of `total` files: yields the function to call, from any thread, after each file.

    On a terminal that can redraw lines, a bar stays below all lines that are printed, and is removed at the end. Until
    then, text streams without a `buffer`, which write complete lines, replace sys.stderr, and sys.stdout if both are
    the same terminal.

    Elsewhere, a line is written when a file is finished and at least `every` seconds of `clock` have passed since the
    start and since the last line. The last file writes no line. Each line begins with `prefix`. With a prefix there is
    no bar, since other processes may write to the same terminal. With `quiet`, and for fewer than two files, nothing is
    written.
    """
    if quiet or total < 2:
        yield lambda step: None
    elif not prefix and supports_bar(sys.stderr):
        with _bar(total, clock) as done:
            yield done
    else:
        yield _lines(total, prefix, every, clock)


@contextmanager
def changing_line(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows a text on stderr in place of the previous text. The last text is erased at the end.

    With `quiet`, and if stderr is not a terminal that can redraw a line, nothing is written. A failed write raises no
    error, since it must not end hours of work. Rich is not used, since its displays raise the error.
    """
    if quiet or not supports_bar(sys.stderr):
        yield lambda text: None
        return
    stream = sys.stderr

    def redraw(line: str) -> None:
        with suppress(OSError):
            stream.write(f"{_ERASE_LINE}{line}")
            stream.flush()

    def show(text: str) -> None:
        n_columns = shutil.get_terminal_size().columns - 1
        redraw(one_line(f"gpukmeans: {text}", stream.encoding)[:n_columns])

    try:
        yield show
    finally:
        redraw("")


@dataclass(frozen=True, kw_only=True)
class _Totals:
    """Sums over the steps so far."""

    files: int = 0
    pixels: int = 0
    saved: int = 0
    failed: int = 0
    seconds: float = 0
    """Time from the start to the last step."""

    def plus(self, step: Step, seconds: float) -> "_Totals":
        return _Totals(
            files=self.files + 1,
            pixels=self.pixels + step.pixels,
            saved=self.saved + (0 if step.failed else step.bytes_in - step.bytes_out),
            failed=self.failed + step.failed,
            seconds=seconds,
        )

    def text(self, total: int, seconds: float, max_length: int | None = None) -> str:
        """The progress after `seconds` as text. Items after the number of files are left out to reach `max_length`."""
        items = [f"{self.files:,} of {total:,} files"]
        if self.seconds > 0:
            size = f"{format_size(abs(self.saved))} {'larger' if self.saved < 0 else 'saved'}"
            left = timedelta(seconds=round(self._seconds_left(total, seconds)))
            items += [f"{self.pixels / 1e6 / self.seconds:,.1f} megapixels/s", size, f"{left} left"]
        if self.failed:
            items.append(f"{self.failed:,} failed")
        while max_length is not None and len(items) > 1 and len(", ".join(items)) > max_length:
            del items[1]
        return ", ".join(items)

    def _seconds_left(self, total: int, seconds: float) -> float:
        """The estimated time for the remaining files, at the mean rate so far.

        Between steps the estimate decreases with the clock, by the mean time of one file at most.
        """
        per_file = self.seconds / self.files
        return max(0.0, per_file * (total - self.files) - min(per_file, seconds - self.seconds))


def supports_bar(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal that can redraw a line."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _lines(total: int, prefix: str, every: float, clock: Callable[[], float]) -> Callable[[Step], None]:
    """The function that counts steps and writes lines."""
    lock = threading.Lock()
    totals = _Totals()
    start = last = clock()

    def done(step: Step) -> None:
        nonlocal totals, last
        with lock:  # held while writing, so that lines are in the order of their counts
            now = clock()
            totals = totals.plus(step, now - start)
            if now - last >= every and totals.files < total:
                last = now
                warn(prefix + totals.text(total, now - start))

    return done


@contextmanager
def _bar(total: int, clock: Callable[[], float]) -> Iterator[Callable[[Step], None]]:
    """Shows a bar on stderr and yields the function that counts steps."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    lock = threading.Lock()
    totals = _Totals()
    start = clock()
    # `supports_bar` was true. Without these arguments rich would decide again, from environment variables.
    console = Console(file=sys.stderr, force_terminal=True, force_interactive=True, force_jupyter=False)

    class TotalsColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            max_length = console.width - 5  # at least four characters of bar and a space remain
            return Text(totals.text(total, clock() - start, max_length), no_wrap=True, overflow="ellipsis")

    progress = Progress(
        BarColumn(),
        TotalsColumn(table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
        redirect_stdout=False,  # `_StreamAboveBar` says why
        redirect_stderr=False,
        refresh_per_second=4,
    )
    task = progress.add_task("", total=total)

    def done(step: Step) -> None:
        nonlocal totals
        with lock:
            totals = totals.plus(step, clock() - start)
        progress.advance(task)  # outside the lock, since rich takes a lock of its own

    streams = [sys.stderr] + [sys.stdout] * _same_terminal(sys.stdout, sys.stderr)
    above = [_StreamAboveBar(console, stream) for stream in streams]
    try:
        with progress, redirect_stderr(above[0]), redirect_stdout(above[1] if above[1:] else sys.stdout):
            yield done
    finally:
        for stream in above:
            stream.write_rest()


def _same_terminal(stream: TextIO | None, terminal: TextIO) -> bool:
    if stream is None or not stream.isatty():
        return False
    return os.fstat(stream.fileno()).st_rdev == os.fstat(terminal.fileno()).st_rdev


class _StreamAboveBar(TextIOBase):
    """A text stream of the bar's terminal. It writes complete lines above the bar, unchanged.

    Rich's own redirection fails 11 of the 42 tests of this module. Its stream has a `buffer` and no encoding, so that
    `typer.echo` writes to the `buffer` and overwrites the bar.
    """

    def __init__(self, console: "Console", stream: TextIO) -> None:
        self._console = console
        self._stream = stream
        self._lock = threading.Lock()
        self._incomplete = ""

    # The base class has read-only properties, but its type stubs declare attributes.
    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.errors

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        from rich.segment import Segment, Segments

        if not isinstance(text, str):  # typer writes bytes to detect binary streams
            raise TypeError(f"write() needs str, got {type(text).__name__}")
        with self._lock:
            lines, newline, self._incomplete = (self._incomplete + text).rpartition("\n")
        if newline:
            # Rich writes segments unchanged. It would wrap a str and expand its tabs and markup.
            self._console.print(Segments([Segment(lines + newline)]), soft_wrap=True)
        return len(text)

    def write_rest(self) -> None:
        """Write a last incomplete line. The bar must have been removed."""
        with self._lock:
            rest, self._incomplete = self._incomplete, ""
        self._stream.write(rest)
        self._stream.flush()
