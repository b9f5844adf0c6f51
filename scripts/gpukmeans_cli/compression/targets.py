"""Targets that choose the number of colors: a minimal PSNR with the fewest colors, or a maximal size with the most."""

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gpukmeans_cli.system.atomic_files import ImageError
from gpukmeans_cli.terminal.formatting import format_size

_UNITS = {"": 1, "k": 1000, "kb": 1000, "m": 1_000_000, "mb": 1_000_000}


class Candidate(Protocol):
    """An image in some number of colors."""

    @property
    def psnr(self) -> float | None: ...

    @property
    def n_bytes(self) -> int: ...


@dataclass(frozen=True)
class MinPsnr:
    """The fewest colors with at least this PSNR."""

    decibels: float

    def search(self, max_colors: int, quantize: Callable[[int], Candidate]) -> int:
        """The number of colors, from 1 to `max_colors`. One color less was tried and has a lower PSNR.

        ImageError if `max_colors` are too few.
        """

        def is_reached(n_colors: int) -> bool:
            psnr = quantize(n_colors).psnr
            return psnr is None or psnr >= self.decibels

        n_colors = _first_true(is_reached, max_colors)
        if n_colors > max_colors:
            best = f"{quantize(max_colors).psnr:.2f} dB with {max_colors} colors"
            raise ImageError(f"reaches {best}, --min-psnr {self.decibels:g} is out of reach")
        return n_colors


@dataclass(frozen=True)
class MaxBytes:
    """The most colors with a file of at most this size."""

    limit: int

    def search(self, max_colors: int, quantize: Callable[[int], Candidate]) -> int:
        """The number of colors, from 1 to `max_colors`. One color more was tried and makes a larger file.

        ImageError if one color makes a larger file.
        """
        if quantize(max_colors).n_bytes <= self.limit:
            return max_colors
        n_colors = _first_true(lambda n: quantize(n).n_bytes > self.limit, max_colors) - 1
        if n_colors < 1:
            smallest = format_size(quantize(1).n_bytes)
            raise ImageError(f"takes {smallest} with 1 color, --max-bytes {format_size(self.limit)} is out of reach")
        return n_colors


Target = MinPsnr | MaxBytes


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
    """The smallest number from 1 to `last` that fulfills a monotone condition, or `last` + 1."""
    return 1 + bisect_left(range(1, last + 1), True, key=condition)
