"""One rank at work on the rows of a file: python scale_child.py FILE K RUNS WHAT THREADS, alone or under torchrun

WHAT are names with commas: `reading` the file, a round over a `tensor`, a round over the `stream`, and of first centers
by `k-means||` or at `random` what they and the first round over the stream take. They take turns, RUNS times. Rank 0
prints a line of JSON: how many rows there are and, by those names, the seconds that each took. THREADS are those of
torch, or 0 for as many as there are cores.
"""

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from gpukmeans_cli.system.startup import import_torch

import_torch()  # as the command does, so that threads do not wait for each other by spinning

import torch

from gpukmeans import Batches, kmeans
from gpukmeans_cli.rows.table import Part, open_shards, share
from gpukmeans_cli.system.rank_env import place, process_group

# Of a run the first round is left out, since it also loads and starts things.
_ROUNDS = 3


def main(path: str, n_clusters: int, runs: int, what: list[str], threads: int) -> None:
    """Measure, and let rank 0 print."""
    if threads:
        torch.set_num_threads(threads)
    here = place()
    rows = open_shards([Path(path)])
    stream = Batches(Part(rows, *share(len(rows), here.rank, here.size)))
    first = rows[0 : 100 * n_clusters][::100].clone()
    held = rows[0 : len(rows)] if "tensor" in what else None
    with process_group(here, torch.device("cpu")) as group:
        ways: dict[str, Callable[[], list[float]]] = {
            "reading": lambda: [_seconds_of_reading(stream)],
            "tensor": lambda: _seconds_of_rounds(held, first, None),
            "stream": lambda: _seconds_of_rounds(stream, first, group if here.size > 1 else None),
            "k-means||": lambda: [_seconds_of_seeding(stream, n_clusters, "k-means||")],
            "random": lambda: [_seconds_of_seeding(stream, n_clusters, "random")],
        }
        seconds: dict[str, list[float]] = {name: [] for name in what}
        for _ in range(1 + runs):
            for name in what:
                seconds[name].append(min(ways[name]()))
    if here.leads:
        print(json.dumps({"rows": len(rows), **{name: times[1:] for name, times in seconds.items()}}))


def _seconds_of_reading(stream: Batches) -> float:
    start = time.perf_counter()
    for _ in stream:
        pass
    return time.perf_counter() - start


def _seconds_of_seeding(stream: Batches, n_clusters: int, init: str) -> float:
    start = time.perf_counter()
    kmeans(stream, n_clusters, init=init, max_iter=1)
    return time.perf_counter() - start


def _seconds_of_rounds(x: object, first: torch.Tensor, group: object) -> list[float]:
    ends: list[float] = []
    kmeans(
        x,  # pyright: ignore[reportArgumentType]
        len(first),
        init=first,
        max_iter=1 + _ROUNDS,
        tol=0.0,
        group=group,  # pyright: ignore[reportArgumentType]
        callback=lambda *_: ends.append(time.perf_counter()),
    )
    return [after - before for before, after in itertools.pairwise(ends)]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(","), int(sys.argv[5]))
