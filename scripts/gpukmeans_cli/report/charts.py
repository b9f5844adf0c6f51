"""Charts as numbers: where lines, points and ticks are, for whatever draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpukmeans_cli.compression.result import format_size

# In units of the drawing. Room on the left for five digits, below for a line of text, above for a label of a point.
WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 398, 36, 236

_STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Tick:
    """A line across the chart, and what it stands for."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """A value of the chart: x from the left, y from above."""

    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Points from left to right in a box of `WIDTH` x `HEIGHT`, with ticks below and on the left."""

    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]

    @property
    def path(self) -> str:
        """The line through all points, as the attribute `d` of SVG."""
        return "M" + "L".join(f"{point.x:g} {point.y:g}" for point in self.points)


def chart_sizes(sizes: Sequence[int], psnrs: Sequence[float | None]) -> Chart:
    """Quality (dB) over size (bytes, each twice as many as far apart), of which there is at least one each.

    A picture without loss, whose quality is None, is at the upper edge.
    """
    known = [psnr for psnr in psnrs if psnr is not None]
    y_ticks = ticks_between(min(known), max(known), 4) if known else []
    low, high = (y_ticks[0], y_ticks[-1]) if known else (0.0, 1.0)
    x_low, x_high = _widened(math.log(min(sizes)), math.log(max(sizes)), 0.06)
    ticks = [size for size in _round_sizes(math.exp(x_low), math.exp(x_high)) if size >= 1]
    return Chart(
        x_ticks=tuple(Tick(_across(math.log(size), x_low, x_high), _short_size(size)) for size in ticks),
        y_ticks=tuple(Tick(_up(value, low, high), f"{value:g}") for value in y_ticks),
        points=tuple(
            Point(_across(math.log(size), x_low, x_high), TOP if psnr is None else _up(psnr, low, high))
            for size, psnr in zip(sizes, psnrs, strict=True)
        ),
    )


def chart_inertia(inertia: Sequence[float]) -> Chart:
    """Inertia over rounds, the first of which is 1; there is at least one."""
    y_ticks = ticks_between(min(inertia), max(inertia), 4)
    low, high = y_ticks[0], y_ticks[-1]
    last = len(inertia)
    rounds = [value for value in ticks_between(1, last, 6) if 1 <= value <= last and value == int(value)]
    return Chart(
        x_ticks=tuple(Tick(_across(value, 1, last), f"{value:g}") for value in sorted({1.0, *rounds})),
        y_ticks=tuple(Tick(_up(value, low, high), short_number(value)) for value in y_ticks),
        points=tuple(Point(_across(n, 1, last), _up(value, low, high)) for n, value in enumerate(inertia, start=1)),
    )


def ticks_between(low: float, high: float, about: int) -> list[float]:
    """Round numbers, evenly spaced, about so many, the first not above `low` and the last not below `high`."""
    if low == high:
        reach = max(1.0, abs(low) * 0.01)
        low, high = low - reach, high + reach
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * s for s in _STEPS if power * s >= rough * 0.999), 10 * power)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(n * step, digits) for n in range(first, last + 1)]


def short_number(value: float) -> str:
    """A number in four characters or little more: 950, 1.5k, 24M."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}"


def _round_sizes(low: float, high: float) -> list[float]:
    """Sizes of 1, 2 or 5 times a power of ten between the two, at most six, so that no two labels touch."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in (_STEPS, (1, 5), (1,)):
        found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= 6:
            return found or [math.exp((math.log(low) + math.log(high)) / 2)]
    return found[:: math.ceil(len(found) / 6)]


def _short_size(size: float) -> str:
    return format_size(round(size)).replace(".0 ", " ").replace("bytes", "B")


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    reach = (high - low) * share or 0.5
    return low - reach, high + reach


def _across(value: float, low: float, high: float) -> float:
    return round(LEFT + (value - low) / (high - low) * (RIGHT - LEFT), 1) if high > low else (LEFT + RIGHT) / 2


def _up(value: float, low: float, high: float) -> float:
    return round(BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP), 1)
