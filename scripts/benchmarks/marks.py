"""Marks: each compares a figure of gpukmeans with one of a peer, and says whether a limit is met.

A peer is a package or program, or a limit or count that is printed in its place.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from benchmarks import pngquant
from benchmarks.processes import ProcessError


class FailedError(Exception):
    """A program or package cannot run a case, or its result is wrong. The message is the reason."""


class NotMeasuredError(Exception):
    """A case cannot be measured here. `mark` is printed instead of its marks."""

    def __init__(self, mark: "Mark") -> None:
        super().__init__(mark.error)
        self.mark = mark


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A figure of gpukmeans, `ours`, and of a peer, `theirs`, in one case, with the limit of their ratio.

    Without a limit the ratio is only reported. The limit is an upper limit, or with `at_least` a lower limit. With
    `by_difference` it limits the difference instead of the ratio. `error` is the reason for missing figures.
    """

    case: str
    peer: str
    ours: float = math.nan
    theirs: float = math.nan
    unit: str = "ms"
    limit: float | None = None
    at_least: bool = False
    by_difference: bool = False
    error: str | None = None

    @property
    def value(self) -> float:
        """`ours` divided by `theirs`, or with `by_difference` `ours` minus `theirs`."""
        return self.ours - self.theirs if self.by_difference else self.ours / self.theirs

    @property
    def verdict(self) -> str:
        """ "met", "MISSED", "reported", or why there is none."""
        if self.error is not None:
            return self.error
        if self.limit is None:
            return "reported"
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return f"{'at least' if self.at_least else 'at most'} {self.limit}: {'met' if met else 'MISSED'}"

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.case:56} {self.error}"
        value = f"{self.value:+.3f}" if self.by_difference else f"{self.value:.3f}"
        figures = f"{_cell(self.ours)} {_cell(self.theirs)} {self.unit:2} {self.peer:14} {value:>8}"
        return f"{self.case:56} {figures} {self.verdict}"


HEAD = f"{'':56} {'gpukmeans':>12} {'peer':>12}    {'':14} {'compared':>8}"


def not_measured(case: str, peer: str) -> Mark:
    """The mark of a case whose peer is not installed."""
    return Mark(case=case, peer=peer, error=f"not measured: {peer} is not installed")


def need_pngquant(case: str) -> None:
    """NotMeasuredError if pngquant is not installed."""
    if pngquant.version() is None:
        raise NotMeasuredError(not_measured(case, "pngquant"))


def measure(cases: Mapping[str, Callable[[], Iterator[Mark]]]) -> Iterator[Mark]:
    """The marks of all cases, each as soon as it is measured. A case that fails yields one mark with the error."""
    for name, case in cases.items():
        try:
            yield from case()
        except NotMeasuredError as error:
            yield error.mark
        except (FailedError, ProcessError) as error:  # the other marks are measured
            yield Mark(case=name, peer="", error=f"fails: {error}")


def _cell(figure: float) -> str:
    return f"{figure:12,.4f}" if abs(figure) < 1 else f"{figure:12,.2f}"
