"""The cells of a comparison as text: a block for each measure, a line for each case, a column for each peer."""

from collections.abc import Callable, Sequence

from benchmarks.clustering import FEW, MANY, MEMORY_LIMIT, Case, Cell
from benchmarks.peers import PEERS


def table(cells: Sequence[Cell]) -> str:
    """Three blocks of lines."""
    blocks = {
        f"Milliseconds per iteration (between runs of {FEW} and {MANY}, of medians)": _milliseconds,
        f"Peak memory beyond what is held before, MB (at most {MEMORY_LIMIT / 1e6:,.0f})": _megabytes,
        f"Inertia after {MANY} iterations: of float64, and by how much each differs": _difference,
    }
    return "\n\n".join(f"{title}\n{_block(cells, show, show is _difference)}" for title, show in blocks.items())


def _block(cells: Sequence[Cell], show: Callable[[Cell], str], with_reference: bool) -> str:
    lines = [["", *(["float64"] if with_reference else []), *PEERS]]
    for case in dict.fromkeys(Case(cell.n, cell.d, cell.k) for cell in cells):
        of_case = {cell.peer: cell for cell in cells if (cell.n, cell.d, cell.k) == (case.n, case.d, case.k)}
        reference = [f"{of_case[next(iter(PEERS))].reference:.2f}"] if with_reference else []
        shown = [f"fails: {cell.fails[:40]}" if (cell := of_case[peer]).fails else show(cell) for peer in PEERS]
        lines.append([str(case), *reference, *shown])
    return aligned(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of equally many cells, each column as wide as its widest cell and flush right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def _milliseconds(cell: Cell) -> str:
    assert cell.seconds_per_iteration is not None
    return f"{cell.seconds_per_iteration * 1e3:,.1f}" if cell.seconds_per_iteration > 0 else "lost in noise"


def _megabytes(cell: Cell) -> str:
    assert cell.peak_bytes is not None
    return f"{cell.peak_bytes / 1e6:,.1f}"


def _difference(cell: Cell) -> str:
    assert cell.inertia is not None
    return f"{cell.inertia / cell.reference - 1:+.0e}"
