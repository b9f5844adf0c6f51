"""Progress of a clustering on stderr: a changing line on a terminal, elsewhere a line from time to time."""

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
    """Counts rows and iterations, from any thread, and shows each change."""

    def __init__(self, fraction: float, show: Callable[["ClusterProgress"], None], clock: Callable[[], float]) -> None:
        """`fraction` of all rows are read by this process, from 0 to 1."""
        self._fraction = fraction
        self._show = show
        self._clock = clock
        self._lock = threading.Lock()
        self._stage = "initial centers"
        self._stage_start = clock(), 0
        """Time and rows read at the start of the stage or iteration."""
        self._rate = 0.0
        self._rows_read = 0
        self.n_iterations = 0

    def add_rows(self, n_rows: int) -> None:
        """Count rows that were read."""
        with self._lock:
            self._rows_read += n_rows
            self._show(self)

    def end_iteration(self, n_iter: int, inertia: float, shift: float) -> None:
        """Count a finished iteration. The arguments are those of the callback of `kmeans`."""
        with self._lock:
            self._measure_rate()
            self._stage_start = self._clock(), self._rows_read
            self.n_iterations = n_iter
            self._stage = f"iteration {n_iter:,}, inertia {inertia:.6g}, centers moved up to {shift:.3g}"
            self._show(self)

    def begin_stage(self, stage: str) -> None:
        """Set the name of the work from now on."""
        with self._lock:
            self._stage = stage
            self._stage_start = self._clock(), self._rows_read

    @property
    def rows_read(self) -> int:
        """The number of rows that this process has read."""
        return self._rows_read

    def text(self) -> str:
        """The stage, and the estimated rows per second of all ranks: the last rate until there is a new one."""
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
    """Show the progress of a clustering. This process reads `fraction` of all rows, from 0 to 1.

    On a terminal, one line changes and is erased at the end. Elsewhere a line is written every `interval` seconds, and
    with `every_iteration` after each iteration. With `quiet` nothing is written.
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
            with contextlib.suppress(OSError):  # a full disk of the log must not end hours of work
                warn(progress.text())

    return write_line
