"""The results of a comparison as text: blocks of lines for cases and columns for packages."""

from collections.abc import Callable, Sequence

from benchmarks.clustering import FEW, MANY, MEMORY_LIMIT, Result
from benchmarks.peers import PEERS


def table(results: Sequence[Result]) -> str:
    """Time per iteration, peak memory and inertia: three blocks of lines."""
    blocks = {
        f"Milliseconds per iteration (difference of the medians of runs of {FEW} and {MANY})": _milliseconds,
        f"Peak memory in addition to the points, MB (at most {MEMORY_LIMIT / 1e6:,.0f})": _megabytes,
        f"Inertia after {MANY} iterations: in float64, and the relative difference of each": _difference,
    }
    return "\n\n".join(f"{title}\n{_block(results, show, show is _difference)}" for title, show in blocks.items())


def _block(results: Sequence[Result], show: Callable[[Result], str], with_reference: bool) -> str:
    lines = [["", *(["float64"] if with_reference else []), *PEERS]]
    for case in dict.fromkeys(map(str, results)):
        of_case = {each.peer: each for each in results if str(each) == case}
        reference = [f"{of_case[next(iter(PEERS))].reference:.2f}"] if with_reference else []
        shown = [f"fails: {each.error[:40]}" if (each := of_case[peer]).error else show(each) for peer in PEERS]
        lines.append([case, *reference, *shown])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of equally many cells, right-aligned; each column is as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def _milliseconds(result: Result) -> str:
    assert result.seconds_per_iteration is not None
    return f"{result.seconds_per_iteration * 1e3:,.1f}" if result.seconds_per_iteration > 0 else "below noise"


def _megabytes(result: Result) -> str:
    assert result.peak_bytes is not None
    return f"{result.peak_bytes / 1e6:,.1f}"


def _difference(result: Result) -> str:
    assert result.inertia is not None
    return f"{result.inertia / result.reference - 1:+.0e}"
