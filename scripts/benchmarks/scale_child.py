"""One rank that clusters the rows of a file: python scale_child.py FILE K RUNS WHAT THREADS, alone or under torchrun

WHAT is a list of tasks with commas: `reading` the file, one iteration over a `tensor` or the `stream`, or seeding by
`k-means||` or `random` with one iteration over the stream. The tasks run alternately, RUNS times after a first time
that is not counted. Rank 0 prints a line of JSON: the number of rows and, for each task, the seconds of each run.
THREADS is the number of threads of torch, 0 for all cores.
"""

import collections
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from gpukmeans_cli.system.startup import import_torch

import_torch()  # as the command does: limits how long idle threads spin

import torch

from benchmarks.processes import seconds_of
from gpukmeans import Batches, InitName, kmeans
from gpukmeans_cli.rows.table import RowRange, open_row_table, rank_rows
from gpukmeans_cli.system.rank_env import process_group, rank_env

# Number of iterations that are timed after the first, whose time would include the start of threads.
_ITERATIONS = 3


def main(path: str, n_clusters: int, runs: int, what: list[str], threads: int) -> None:
    """Measure on all ranks; rank 0 prints."""
    if threads:
        torch.set_num_threads(threads)
    here = rank_env()
    rows = open_row_table([Path(path)])
    stream = Batches(RowRange(rows, *rank_rows(len(rows), here.rank, here.size)))
    first = rows[0 : 100 * n_clusters][::100].clone()
    held = rows[0 : len(rows)] if "tensor" in what else None

    def seed(init: InitName) -> float:
        return seconds_of(lambda: kmeans(stream, n_clusters, init=init, max_iter=1))

    with process_group(here, torch.device("cpu")) as group:
        measurements: dict[str, Callable[[], list[float]]] = {
            "reading": lambda: [seconds_of(lambda: collections.deque(stream, maxlen=0))],
            "tensor": lambda: _seconds_of_iterations(held, first, None),
            "stream": lambda: _seconds_of_iterations(stream, first, group if here.size > 1 else None),
            "k-means||": lambda: [seed("k-means||")],
            "random": lambda: [seed("random")],
        }
        seconds: dict[str, list[float]] = {name: [] for name in what}
        for _ in range(1 + runs):
            for name in what:
                seconds[name].append(min(measurements[name]()))
    if here.is_main:
        print(json.dumps({"rows": len(rows), **{name: times[1:] for name, times in seconds.items()}}))


def _seconds_of_iterations(x: Any, first: torch.Tensor, group: Any) -> list[float]:
    ends: list[float] = []
    kmeans(
        x,
        len(first),
        init=first,
        max_iter=1 + _ITERATIONS,
        tol=0.0,
        group=group,
        callback=lambda *_: ends.append(time.perf_counter()),
    )
    return [after - before for before, after in itertools.pairwise(ends)]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(","), int(sys.argv[5]))
