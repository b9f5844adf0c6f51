"""Targets, which choose the number of colors and the price of a bit: a size, a PSNR or a quality.

A target has a limit and a cost. The limit applies to the size of the file or to the error of the image. The excess of
an image is the logarithm of its size or error divided by the limit, so the image reaches the target if its excess is at
most 0. Among the images that reach the target, the best has the lowest cost: the least visible error if the size has
the limit, or the smallest size if the error has the limit.

If the optimizer of `map_to_palette` chooses the indices of a still, two changes make its file smaller: fewer colors,
and a higher price of a bit (`--lossy`, see `mapping`). `search` finds the pair of a number of colors and a price that
reaches the target at the lowest cost. For other images, `search_colors` finds the number of colors. A try quantizes and
encodes the image once.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpukmeans_cli.compression.quality_scale import error_of_quality, quality_of_error
from gpukmeans_cli.system.atomic_files import ImageError
from gpukmeans_cli.terminal.formatting import format_count, format_size

_UNITS = {"": 1, "k": 1000, "kb": 1000, "m": 1_000_000, "mb": 1_000_000}

# Numbers of colors that are tried with different prices, and the largest number of tries.
N_COLORS, MAX_TRIES = (4, 8, 16, 32, 48, 64, 96, 128, 192, 256), 12

# Price of a bit of the first try, and the highest price. A try whose excess is from -_CLOSE to 0 ends the search for
# the price at its number of colors.
_FIRST_PRICE, _HIGHEST_PRICE, _CLOSE = 15.0, 600.0, 0.01

# First estimate of the slope: the absolute change of the excess when the natural logarithm of the price changes by 1.
_SLOPE = 0.25

# The guess of the best number of colors, after the first try, is at least the highest number times exp(-_FEWEST).
_FEWEST = 3.0


class Candidate(Protocol):
    """An image in some number of colors."""

    @property
    def psnr(self) -> float | None: ...

    @property
    def n_bytes(self) -> int: ...

    @property
    def visible_error(self) -> float: ...


class Target(Protocol):
    """A limit for an image, and a cost to minimize among the images within the limit."""

    def excess(self, candidate: Candidate) -> float:
        """Natural logarithm of the size or error divided by its limit. It is at most 0 if the target is reached."""
        ...

    def cost(self, candidate: Candidate) -> float:
        """The value to minimize."""
        ...

    @property
    def sign(self) -> int:
        """1 if the excess grows with the price of a bit, -1 if it falls."""
        ...

    def measure(self, candidate: Candidate) -> str:
        """The value of the candidate that the target limits, as text."""
        ...

    def failure(self, candidate: Candidate, n_colors: int) -> str:
        """Why the target is out of reach: the end of a sentence about the closest candidate, which has `n_colors`."""
        ...


@dataclass(frozen=True)
class MinPsnr:
    """The smallest file with at least this PSNR."""

    decibels: float
    sign = 1

    def excess(self, candidate: Candidate) -> float:
        return -math.inf if candidate.psnr is None else (self.decibels - candidate.psnr) * math.log(10) / 10

    def cost(self, candidate: Candidate) -> float:
        return candidate.n_bytes

    def measure(self, candidate: Candidate) -> str:
        return "lossless" if candidate.psnr is None else f"{candidate.psnr:.2f} dB"

    def failure(self, candidate: Candidate, n_colors: int) -> str:
        return _out_of_reach(f"reaches {self.measure(candidate)}", n_colors, f"--min-psnr {self.decibels:g}")


@dataclass(frozen=True)
class MinQuality:
    """The smallest file with at least this quality, 0 to 100 (`quality_scale`)."""

    quality: float
    sign = 1

    def excess(self, candidate: Candidate) -> float:
        error, limit = candidate.visible_error, error_of_quality(self.quality)
        return -math.inf if error == 0 else math.inf if limit == 0 else math.log(error / limit)

    def cost(self, candidate: Candidate) -> float:
        return candidate.n_bytes

    def measure(self, candidate: Candidate) -> str:
        return f"quality {quality_of_error(candidate.visible_error):.1f}"

    def failure(self, candidate: Candidate, n_colors: int) -> str:
        return _out_of_reach(f"reaches {self.measure(candidate)}", n_colors, f"--quality {self.quality:g}")


@dataclass(frozen=True)
class MaxBytes:
    """The least visible error in a file of at most this size."""

    limit: int
    sign = -1

    def excess(self, candidate: Candidate) -> float:
        return math.log(candidate.n_bytes / self.limit)

    def cost(self, candidate: Candidate) -> float:
        return candidate.visible_error

    def measure(self, candidate: Candidate) -> str:
        return format_size(candidate.n_bytes)

    def failure(self, candidate: Candidate, n_colors: int) -> str:
        return _out_of_reach(f"takes {self.measure(candidate)}", n_colors, f"--max-bytes {format_size(self.limit)}")


def _out_of_reach(closest: str, n_colors: int, option: str) -> str:
    return f"{closest} with {format_count(n_colors, 'color')}, {option} is out of reach"


@dataclass(frozen=True)
class Choice:
    """A number of colors and a price of a bit.

    The price is in hundredths of the mean squared error (`mapping`). None is the default price.
    """

    n_colors: int
    lossy: float | None


def search(target: Target, max_colors: int, quantize: Callable[[int, float], Candidate]) -> Choice:
    """The number of colors and the price of a bit of the try that reaches the target at the lowest cost.

    The first try has the most colors. From its excess, the search guesses the best number of colors. For each number of
    colors, it looks for the price whose excess is just at most 0. It continues with the next smaller or larger numbers
    as long as the cost falls. If none of `MAX_TRIES` tries reaches the target, the price is 0, and `search_colors`
    searches the number of colors.

    Args:
        target: the limit and the cost.
        max_colors: the highest number of colors, up to 256.
        quantize: function from a number of colors and a price to the image.

    Raises:
        ImageError: if the target is out of reach.
    """
    numbers = [*(n for n in N_COLORS if n < max_colors), max_colors]
    tries = _Tries(target, quantize)
    place = tries.first_place(numbers)
    best = tries.best_price(numbers[place])
    for step in (-1, 1):  # fewer colors, and if these are not better, more
        if best is None and step != target.sign:
            continue  # the excess grows in this direction
        start = best
        for n_colors in numbers[place + step :: step] if place + step >= 0 else []:
            found = tries.best_price(n_colors)
            if best is not None and (found is None or found[0] >= best[0]):
                break
            best = found or best
        if best is not start:
            break
    if best is not None:
        return best[1]
    return Choice(search_colors(target, max_colors, lambda n: quantize(n, 0.0)), 0.0)


def search_colors(target: Target, max_colors: int, quantize: Callable[[int], Candidate]) -> int:
    """The number of colors, from 1 to `max_colors`, that reaches the target.

    With a limit of the error it is the fewest colors, and with a limit of the size the most colors.

    Raises:
        ImageError: if the target is out of reach.
    """

    def reaches(n_colors: int) -> bool:
        return target.excess(quantize(n_colors)) <= 0

    if target.sign > 0:  # more colors have a smaller error
        n_colors = _first_true(reaches, max_colors)
        if n_colors > max_colors:
            raise ImageError(target.failure(quantize(max_colors), max_colors))
        return n_colors
    if reaches(max_colors):
        return max_colors
    n_colors = _first_true(lambda n: not reaches(n), max_colors) - 1
    if n_colors < 1:
        raise ImageError(target.failure(quantize(1), 1))
    return n_colors


class _Tries:
    """The tries of a search, at most `MAX_TRIES`."""

    def __init__(self, target: Target, quantize: Callable[[int, float], Candidate]) -> None:
        self.left = MAX_TRIES
        self._target, self._quantize = target, quantize
        self._slope, self._price = _SLOPE, _FIRST_PRICE

    def first_place(self, numbers: Sequence[int]) -> int:
        """The likely position of the lowest cost in ascending numbers of colors, from a try with the last one."""
        self.left -= 1
        excess = self._target.sign * self._target.excess(self._quantize(numbers[-1], self._price))
        # The guess takes the size as proportional to the number of colors, and the error as inversely proportional. If
        # the limit is a third of the size of this try, or three times its error, the guess is a third of its colors.
        guess = numbers[-1] * math.exp(min(max(excess, -_FEWEST), 0.0))
        return min(range(len(numbers)), key=lambda place: abs(math.log(numbers[place] / guess)))

    def best_price(self, n_colors: int) -> tuple[float, Choice] | None:
        """The lowest cost of the tries with `n_colors` that reach the target, and the choice; None if none does.

        The excess is nearly linear in the logarithm of the price. So the next price is where the line through the last
        two tries has the excess 0.
        """
        best: tuple[float, Choice] | None = None
        points: list[tuple[float, float]] = []
        price = self._price
        while self.left > 0:
            self.left -= 1
            candidate = self._quantize(n_colors, price)
            excess = self._target.excess(candidate)
            if excess <= 0:
                cost = self._target.cost(candidate)
                best = min(best or (math.inf, Choice(0, 0)), (cost, Choice(n_colors, price)), key=lambda each: each[0])
            if excess == -math.inf or -_CLOSE <= excess <= 0:
                break
            points.append((math.log(price), excess))
            following = self._next_price(points)
            if not _is_new(following, points):
                break
            price = following
        if points:
            self._price = price
        return best

    def _next_price(self, points: list[tuple[float, float]]) -> float:
        log_price, excess = points[-1]
        if len(points) > 1:
            (before, excess_before) = points[-2]
            slope = self._target.sign * (excess - excess_before) / (log_price - before)
            self._slope = min(max(slope, _SLOPE / 5), _SLOPE * 5)
        # The next price aims slightly inside the limit, since a try outside the limit is wasted.
        aimed = log_price - self._target.sign * (excess + _CLOSE / 2) / self._slope
        # If some tries reach the target and others miss it, the next price is between them.
        inside = [x for x, y in points if y <= 0]
        outside = [x for x, y in points if y > 0]
        if inside and outside:
            low, high = sorted((self._edge(inside), self._edge(outside, outer=True)))
            aimed = min(max(aimed, low + (high - low) / 8), high - (high - low) / 8)
        return min(max(math.exp(aimed), 0.5), _HIGHEST_PRICE)

    def _edge(self, log_prices: list[float], *, outer: bool = False) -> float:
        """Logarithm of the price nearest to the limit, of tries that reach the target or, with `outer`, miss it."""
        return max(log_prices) if (self._target.sign > 0) != outer else min(log_prices)


def _is_new(price: float, points: list[tuple[float, float]]) -> bool:
    return all(abs(math.log(price) - x) > 1e-3 for x, _ in points)


def parse_size(text: str) -> int:
    """The number of bytes in a text such as 40000, 40k or 1.5MB, in decimal units. ValueError if invalid or below 1."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"a size is a number of bytes such as 40000, 40k or 1.5M, got {text!r}")
    n_bytes = round(float(match[1]) * _UNITS[match[2]])
    if n_bytes < 1:
        raise ValueError(f"a size must be at least 1 byte, got {text!r}")
    return n_bytes


def _first_true(condition: Callable[[int], bool], last: int) -> int:
    """The smallest number from 1 to `last` that fulfills a monotone condition; `last` + 1 if none does."""
    return 1 + bisect_left(range(1, last + 1), True, key=condition)
