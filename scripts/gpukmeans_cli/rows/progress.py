"""Progress of a clustering on stderr: one line that is redrawn on a terminal, otherwise a new line now and then."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gpukmeans_cli.terminal.messages import warn
from gpukmeans_cli.terminal.progress import changing_line, supports_bar

_MIN_REDRAW_SECONDS = 0.25


class ClusterProgress:
    """Counters of rows and iterations, whose methods may be called from any thread."""

    def __init__(self, fraction: float, show: Callable[["ClusterProgress"], None], clock: Callable[[], float]) -> None:
        """`fraction` of all rows, from 0 to 1, are read by this process. `show` is called after each count."""
        self._fraction = fraction
        self._show = show
        self._clock = clock
        self._lock = threading.Lock()
        self._stage = "initial centers"
        self._stage_start = clock(), 0
        """Seconds of the clock, and number of rows read, at the start of the stage or iteration."""
        self._rate = 0.0
        self._rows_read = 0
        self.n_iterations = 0

    def add_rows(self, n_rows: int) -> None:
        """Add a number of rows that this process has read."""
        with self._lock:
            self._rows_read += n_rows
            self._show(self)

    def end_iteration(self, n_iter: int, inertia: float, shift: float) -> None:
        """Record the end of an iteration. The arguments are those that `kmeans` passes to its callback."""
        with self._lock:
            self._measure_rate()
            self._stage_start = self._clock(), self._rows_read
            self.n_iterations = n_iter
            self._stage = f"iteration {n_iter:,}, inertia {inertia:.6g}, centers moved up to {shift:.3g}"
            self._show(self)

    def begin_stage(self, stage: str) -> None:
        """Begin another stage, such as "labels". `text` begins with its name."""
        with self._lock:
            self._stage = stage
            self._stage_start = self._clock(), self._rows_read

    @property
    def rows_read(self) -> int:
        """The number of rows that this process has read."""
        return self._rows_read

    def text(self) -> str:
        """The stage, and an estimate of the rows per second that all ranks read.

        The rate is measured anew after the first second of a stage or iteration. Until then it is the last rate.
        """
        self._measure_rate()
        return f"{self._stage}, {self._rate:,.0f} rows/s" if self._rate else self._stage

    def _measure_rate(self) -> None:
        start, rows_before = self._stage_start
        seconds = self._clock() - start
        if seconds >= 1 and self._rows_read > rows_before and self._fraction > 0:
            self._rate = (self._rows_read - rows_before) / self._fraction / seconds


@contextmanager
def cluster_progress(
    fraction: float = 1.0,
    *,
    quiet: bool = False,
    every_iteration: bool = False,
    interval: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[ClusterProgress]:
    """Show the progress of a clustering. `fraction` is the part of all rows that this process reads, from 0 to 1.

    On a terminal, one line is redrawn, and erased at the end. Otherwise a count at least `interval` seconds after the
    last line writes a new line. With `every_iteration`, each iteration writes one too. With `quiet` nothing is written.
    """
    if quiet:
        yield ClusterProgress(fraction, lambda progress: None, clock)
    elif not supports_bar(sys.stderr):
        yield ClusterProgress(fraction, _line_writer(every_iteration, interval, clock), clock)
    else:
        last_time = clock() - _MIN_REDRAW_SECONDS
        with changing_line() as show:

            def redraw(progress: ClusterProgress) -> None:
                nonlocal last_time
                if clock() - last_time >= _MIN_REDRAW_SECONDS:
                    last_time = clock()
                    show(progress.text())

            yield ClusterProgress(fraction, redraw, clock)


def _line_writer(
    every_iteration: bool, interval: float, clock: Callable[[], float]
) -> Callable[[ClusterProgress], None]:
    last_time, last_iteration = clock(), 0

    def write_line(progress: ClusterProgress) -> None:
        nonlocal last_time, last_iteration
        if clock() - last_time >= interval or (every_iteration and progress.n_iterations > last_iteration):
            last_time, last_iteration = clock(), progress.n_iterations
            with contextlib.suppress(OSError):  # stderr may be a file on a full disk, which must not end hours of work
                warn(progress.text())

    return write_line
