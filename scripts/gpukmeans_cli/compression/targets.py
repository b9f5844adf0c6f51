"""Goals in place of a number of colors: a quality to reach with the fewest, or a size to keep with the most."""

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gpukmeans_cli.compression.result import format_size
from gpukmeans_cli.system.atomic_files import ImageError

_UNITS = {"": 1, "k": 1000, "kb": 1000, "m": 1_000_000, "mb": 1_000_000}


class Candidate(Protocol):
    """A picture of some number of colors."""

    @property
    def psnr(self) -> float | None: ...

    @property
    def n_bytes(self) -> int: ...


@dataclass(frozen=True)
class MinPsnr:
    """The fewest colors whose picture reaches so many dB."""

    decibels: float

    def search(self, most: int, picture_of: Callable[[int], Candidate]) -> int:
        """The number of colors, from 1 to `most`, or ImageError. One color less has been tried and does not do."""

        def reaches(n_colors: int) -> bool:
            psnr = picture_of(n_colors).psnr
            return psnr is None or psnr >= self.decibels

        found = _first(reaches, most)
        if found > most:
            best = f"{picture_of(most).psnr:.2f} dB with {most} colors"
            raise ImageError(f"reaches {best}, --min-psnr {self.decibels:g} is out of reach")
        return found


@dataclass(frozen=True)
class MaxBytes:
    """The most colors whose file is no larger than that."""

    limit: int

    def search(self, most: int, picture_of: Callable[[int], Candidate]) -> int:
        """The number of colors, from 1 to `most`, or ImageError. One color more has been tried and does not fit."""
        if picture_of(most).n_bytes <= self.limit:
            return most
        found = _first(lambda n_colors: picture_of(n_colors).n_bytes > self.limit, most) - 1
        if found < 1:
            smallest = format_size(picture_of(1).n_bytes)
            raise ImageError(f"takes {smallest} with 1 color, --max-bytes {format_size(self.limit)} is out of reach")
        return found


Goal = MinPsnr | MaxBytes


def parse_size(text: str) -> int:
    """Bytes of a text such as 40000, 40k or 1.5MB, in decimal units; ValueError for what is none, or below 1."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"a size is a number of bytes such as 40000, 40k or 1.5M, got {text!r}")
    n_bytes = round(float(match[1]) * _UNITS[match[2]])
    if n_bytes < 1:
        raise ValueError(f"a size must be at least 1 byte, got {text!r}")
    return n_bytes


def _first(holds: Callable[[int], bool], most: int) -> int:
    """The first number from 1 to `most` for which it holds, when it holds for all that follow; else `most` + 1."""
    return 1 + bisect_left(range(1, most + 1), True, key=holds)
