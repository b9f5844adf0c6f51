"""How far a clustering is, on stderr: a line that changes on a terminal, elsewhere now and then a line."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gpukmeans_cli.terminal.messages import one_line, warn
from gpukmeans_cli.terminal.progress import can_hold_a_bar

_FRAME = 0.25
"""Seconds that a line on a terminal stands at least."""


class Rounds:
    """Counts what it is told of, from any thread, and may say how far it is."""

    def __init__(self, share: float, say: Callable[["Rounds"], None], clock: Callable[[], float]) -> None:
        self._share = share
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._stage = "first centers"
        self._since = clock(), 0
        """When the round began, and what had been read by then."""
        self._rate = 0.0
        self._read = 0
        self.n_rounds = 0

    def seen(self, n_rows: int) -> None:
        """So many rows were read."""
        with self._lock:
            self._read += n_rows
            self._say(self)

    def ended(self, n_iter: int, inertia: float, shift: float) -> None:
        """A round is over."""
        with self._lock:
            self._measure()
            self._since = self._clock(), self._read
            self.n_rounds = n_iter
            self._stage = f"round {n_iter:,}, inertia {inertia:.6g}, centers moved up to {shift:.3g}"
            self._say(self)

    def begin(self, stage: str) -> None:
        """What is done from now on."""
        with self._lock:
            self._stage = stage
            self._since = self._clock(), self._read

    @property
    def read(self) -> int:
        """Rows that were read here."""
        return self._read

    def words(self) -> str:
        """How far it is, and how fast in this round, or right after it in the one before."""
        self._measure()
        return f"{self._stage}, {self._rate:,.0f} rows/s" if self._rate else self._stage

    def _measure(self) -> None:
        start, before = self._since
        seconds = self._clock() - start
        if seconds >= 1 and self._read > before and self._share > 0:
            self._rate = (self._read - before) / self._share / seconds


@contextmanager
def rounds_shown(
    share: float = 1.0,
    *,
    quiet: bool = False,
    each: bool = False,
    every: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Rounds]:
    """While points are clustered: yields what is to be told of rows and rounds.

    `share` is how many of all rows those are that are read here, from 0 to 1; rates are of all.

    Where stderr is a terminal, a line stands there, and is gone at the end. Elsewhere a line is written when the last
    one or the start is `every` seconds ago, or with `each` after each round. With `quiet` nothing is written.
    """
    if quiet:
        yield Rounds(share, lambda rounds: None, clock)
    elif not can_hold_a_bar(sys.stderr):
        yield Rounds(share, _lines(each, every, clock), clock)
    else:
        stream, last = sys.stderr, clock() - _FRAME

        def draw(rounds: Rounds) -> None:
            nonlocal last
            if clock() - last >= _FRAME:
                last = clock()
                room = shutil.get_terminal_size().columns - 1
                with contextlib.suppress(OSError):
                    stream.write("\r\x1b[2K" + one_line(f"gpukmeans: {rounds.words()}", stream.encoding)[:room])
                    stream.flush()

        try:
            yield Rounds(share, draw, clock)
        finally:
            with contextlib.suppress(OSError):
                stream.write("\r\x1b[2K")
                stream.flush()


def _lines(each: bool, every: float, clock: Callable[[], float]) -> Callable[[Rounds], None]:
    last, told = clock(), 0

    def say(rounds: Rounds) -> None:
        nonlocal last, told
        if clock() - last >= every or (each and rounds.n_rounds > told):
            last, told = clock(), rounds.n_rounds
            with contextlib.suppress(OSError):  # a log that is full ends no work of hours
                warn(rounds.words())

    return say
