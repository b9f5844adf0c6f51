"""Coordinates of the points and ticks of the charts, in units of an SVG drawing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpukmeans_cli.terminal.formatting import format_size

# Size of a chart, and edges of its plotted area. The margins fit five digits on the left, a line of text below, and the
# label of a point above.
WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 398, 36, 236

_STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Tick:
    """A position on an axis, and its label."""

    position: float
    text: str


@dataclass(frozen=True)
class Point:
    """A point of the chart: x from the left edge, y from the upper edge."""

    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Points in ascending order of x in a drawing of `WIDTH` x `HEIGHT`, with ticks on the lower and the left axis."""

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    limit: float | None = None
    """The x of a limit that is marked on the lower axis."""

    @property
    def path(self) -> str:
        """The line through all points, as the attribute `d` of an SVG path."""
        return line_through(self.points)


def line_through(points: Sequence[Point]) -> str:
    """The line through points, as the attribute `d` of an SVG path."""
    return "M" + "L".join(f"{point.x:g} {point.y:g}" for point in points)


def chart_sizes(sizes: Sequence[int], qualities: Sequence[float], limit: int | None = None) -> Chart:
    """The chart of quality (0 to 100) over file size (bytes, on a logarithmic axis) for at least one image.

    `limit` is a size in bytes that is marked if it lies between the smallest and the largest image.
    """
    y_ticks = [tick for tick in ticks_between(min(qualities), max(qualities), 4) if tick <= 100]
    low, high = y_ticks[0], y_ticks[-1]
    x_low, x_high = _with_margin(math.log(min(sizes)), math.log(max(sizes)), 0.06)
    ticks = [size for size in _round_sizes(math.exp(x_low), math.exp(x_high)) if size >= 1]
    return Chart(
        x_ticks=tuple(Tick(_x(math.log(size), x_low, x_high), _short_size(size)) for size in ticks),
        y_ticks=tuple(Tick(_y(value, low, high), f"{value:g}") for value in y_ticks),
        points=tuple(
            Point(_x(math.log(size), x_low, x_high), _y(quality, low, high))
            for size, quality in zip(sizes, qualities, strict=True)
        ),
        limit=None if limit is None or not min(sizes) <= limit <= max(sizes) else _x(math.log(limit), x_low, x_high),
    )


def chart_inertia(inertia: Sequence[float]) -> Chart:
    """The chart of inertia over one or more iterations, counted from 1. The axis of inertia begins at 0."""
    y_ticks = ticks_between(0, max(inertia) or 1, 4)
    low, high = y_ticks[0], y_ticks[-1]
    last = len(inertia)
    whole = [value for value in ticks_between(1, last, 6) if 1 <= value <= last and value == int(value)]
    return Chart(
        x_ticks=tuple(Tick(_x(value, 1, last), f"{value:g}") for value in sorted({1.0, *whole})),
        y_ticks=tuple(Tick(_y(value, low, high), short_number(value)) for value in y_ticks),
        points=tuple(Point(_x(n, 1, last), _y(value, low, high)) for n, value in enumerate(inertia, start=1)),
    )


def ticks_between(low: float, high: float, n_ticks: int) -> list[float]:
    """About `n_ticks` round numbers, evenly spaced, the first at most `low` and the last at least `high`."""
    if low == high:
        margin = max(1.0, abs(low) * 0.01)
        low, high = low - margin, high + margin
    rough = (high - low) / n_ticks
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * s for s in _STEPS if power * s >= rough * 0.999), 10 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(n * step, digits) for n in range(first, last + 1)]


def short_number(value: float) -> str:
    """A number with four significant digits and a metric prefix: 950, 1.5k, 24M."""
    for unit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{prefix}"
    return f"{value:.4g}"


def _round_sizes(low: float, high: float) -> list[float]:
    """At most six sizes from `low` to `high`, mostly 1, 2 or 5 times a power of ten. More labels would overlap."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in (_STEPS, (1, 5), (1,)):
        sizes = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(sizes) <= 6:
            return sizes or [math.exp((math.log(low) + math.log(high)) / 2)]
    return sizes[:: math.ceil(len(sizes) / 6)]


def _short_size(size: float) -> str:
    return format_size(round(size)).replace(".0 ", " ").replace("bytes", "B")


def _with_margin(low: float, high: float, ratio: float) -> tuple[float, float]:
    margin = (high - low) * ratio or 0.5
    return low - margin, high + margin


def _x(value: float, low: float, high: float) -> float:
    return round(LEFT + (value - low) / (high - low) * (RIGHT - LEFT), 1) if high > low else (LEFT + RIGHT) / 2


def _y(value: float, low: float, high: float) -> float:
    return round(BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP), 1)
