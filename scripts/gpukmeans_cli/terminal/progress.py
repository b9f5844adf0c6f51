"""How far the work on many files is: a bar on a terminal, now and then a line elsewhere, and all of it on stderr."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from io import TextIOBase
from typing import TYPE_CHECKING, TextIO

from gpukmeans_cli.compression.result import format_size
from gpukmeans_cli.terminal.messages import warn

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Step:
    """One file that has been dealt with. Sizes are in bytes."""

    pixels: int
    """0 where it failed or was skipped."""
    bytes_in: int
    bytes_out: int
    failed: bool = False
    """Of a file that failed the sizes do not count."""


@contextmanager
def shown(
    total: int,
    *,
    quiet: bool = False,
    prefix: str = "",
    every: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[Step], None]]:
    """While files are worked on: yields what is to be called, from any thread, when one of `total` files is done.

    Where stderr is a terminal, a bar stands below all that is printed meanwhile, and is gone at the end. sys.stderr is
    replaced for that long, and so is sys.stdout if it is the same terminal: by text streams, which have no `buffer`. A
    line appears when it is complete. Any other stdout stays what it was.

    Where stderr is no terminal, or one that cannot move its cursor, a file that is done writes a line if the start and
    the last line are `every` seconds ago, by a clock that counts seconds; the last of the files writes none. So it is
    with a `prefix`, which then begins each line: where that is needed, others may write to the same terminal. With
    `quiet`, and for fewer than two files, nothing is written.
    """
    if quiet or total < 2:
        yield lambda step: None
    elif not prefix and can_hold_a_bar(sys.stderr):
        with _bar(total, clock) as done:
            yield done
    else:
        yield _lines(total, prefix, every, clock)


@dataclass(frozen=True, kw_only=True)
class _Tally:
    """What the steps so far add up to."""

    files: int = 0
    pixels: int = 0
    saved: int = 0
    failed: int = 0
    seconds: float = 0
    """From the start to the last step."""

    def plus(self, step: Step, seconds: float) -> "_Tally":
        return _Tally(
            files=self.files + 1,
            pixels=self.pixels + step.pixels,
            saved=self.saved + (0 if step.failed else step.bytes_in - step.bytes_out),
            failed=self.failed + step.failed,
            seconds=seconds,
        )

    def words(self, total: int, seconds: float, room: int | None = None) -> str:
        """How far it is after these seconds. What does not fit into `room` characters is left out, files never."""
        parts = [f"{self.files:,} of {total:,} files"]
        if self.seconds > 0:
            size = f"{format_size(abs(self.saved))} {'larger' if self.saved < 0 else 'saved'}"
            left = timedelta(seconds=round(self._left(total, seconds)))
            parts += [f"{self.pixels / 1e6 / self.seconds:,.1f} megapixels/s", size, f"{left} left"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        while room is not None and len(parts) > 1 and len(", ".join(parts)) > room:
            del parts[1]
        return ", ".join(parts)

    def _left(self, total: int, seconds: float) -> float:
        """Seconds that the other files take at the rate so far.

        They count down while the next file is worked on, but only by one file, however long that one takes.
        """
        each = self.seconds / self.files
        return max(0.0, each * (total - self.files) - min(each, seconds - self.seconds))


def can_hold_a_bar(stream: TextIO | None) -> bool:
    """Whether it is a terminal on which a line can be drawn anew."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _lines(total: int, prefix: str, every: float, clock: Callable[[], float]) -> Callable[[Step], None]:
    """What counts steps and writes lines."""
    lock = threading.Lock()
    tally = _Tally()
    start = last = clock()

    def done(step: Step) -> None:
        nonlocal tally, last
        with lock:  # while it writes too, so that lines come in the order of their numbers
            now = clock()
            tally = tally.plus(step, now - start)
            if now - last >= every and tally.files < total:
                last = now
                warn(prefix + tally.words(total, now - start))

    return done


@contextmanager
def _bar(total: int, clock: Callable[[], float]) -> Iterator[Callable[[Step], None]]:
    """A bar on stderr, and what counts steps for it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    lock = threading.Lock()
    tally = _Tally()
    start = clock()
    # What a terminal is has been decided; rich would ask further variables of the environment.
    console = Console(file=sys.stderr, force_terminal=True, force_interactive=True, force_jupyter=False)

    class Words(ProgressColumn):
        def render(self, task: Task) -> Text:
            room = console.width - 5  # the bar, which takes what is left, has no less than four and a space
            return Text(tally.words(total, clock() - start, room), no_wrap=True, overflow="ellipsis")

    progress = Progress(
        BarColumn(),
        Words(table_column=Column(no_wrap=True)),
        console=console,
        transient=True,
        redirect_stdout=False,  # rich would break long lines, and send those for another terminal or a file here
        redirect_stderr=False,
        refresh_per_second=4,
    )
    task = progress.add_task("", total=total)

    def done(step: Step) -> None:
        nonlocal tally
        with lock:
            tally = tally.plus(step, clock() - start)
        progress.advance(task)  # not under the lock, since this takes one of rich's

    streams = [sys.stderr] + [sys.stdout] * _same_terminal(sys.stdout, sys.stderr)
    above = [_Above(console, stream) for stream in streams]
    try:
        with progress, redirect_stderr(above[0]), redirect_stdout(above[1] if above[1:] else sys.stdout):
            yield done
    finally:
        for stream in above:
            stream.end()


def _same_terminal(stream: TextIO | None, terminal: TextIO) -> bool:
    if stream is None or not stream.isatty():
        return False
    return os.fstat(stream.fileno()).st_rdev == os.fstat(terminal.fileno()).st_rdev


class _Above(TextIOBase):
    """A stream of the terminal that a bar is on, whose lines go above the bar as they are.

    It has no `buffer`: bytes written past it would land on the bar.
    """

    def __init__(self, console: "Console", stream: TextIO) -> None:
        self._console = console
        self._stream = stream
        self._lock = threading.Lock()
        self._begun = ""

    # Properties, as they are in the base, where they cannot be set; type checkers think otherwise.
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

        if not isinstance(text, str):  # typer asks by trying
            raise TypeError(f"write() wants str, got {type(text).__name__}")
        with self._lock:
            lines, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            # Segments, which are what is written: text would be wrapped, and its tabs and brackets changed.
            self._console.print(Segments([Segment(lines + newline)]), soft_wrap=True)
        return len(text)

    def end(self) -> None:
        """Write what is left of a line that was not completed; there must be no bar any more."""
        with self._lock:
            rest, self._begun = self._begun, ""
        self._stream.write(rest)
        self._stream.flush()
