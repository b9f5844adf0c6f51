"""Streams and ranks: rows per second of a stream, a tensor and two ranks, and peak memory over a large file."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.processes import SCRIPTS, run

CLUSTER = str(SCRIPTS / "cluster.py")

# Rows generated and written at a time.
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Rows per second, medians of several runs.

    `reading` is the rate of only reading the file. `tensor` is the rate of an iteration of Lloyd's loop over the rows
    in memory, and `stream` of an iteration over the rows in the file.
    """

    n_clusters: int
    reading: float
    tensor: float
    stream: float

    @property
    def ratio(self) -> float:
        """The time of `stream` relative to the slower of `reading` and `tensor`."""
        return min(self.reading, self.tensor) / self.stream


def write_rows(path: Path, n_rows: int, width: int) -> None:
    """Write points of 200 overlapping clusters, float32 (N, D), as .npy, block by block."""
    random = np.random.default_rng(0)
    means = random.standard_normal((200, width), np.float32) * 3
    header = {"descr": "<f4", "fortran_order": False, "shape": (n_rows, width)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n_rows, _BLOCK):
            n = min(_BLOCK, n_rows - start)
            block = means[random.integers(200, size=n)]
            block += random.standard_normal((n, width), np.float32)
            file.write(block.data)


def rates(path: Path, n_clusters: Sequence[int], runs: int) -> Iterator[Rates]:
    """The rates of one process with all cores on the rows of a file, for each number of clusters."""
    for k in n_clusters:
        rates_by_name = _measured(path, k, ["reading", "tensor", "stream"], runs)
        yield Rates(n_clusters=k, **rates_by_name)


def rates_of_ranks(path: Path, n_clusters: int, runs: int) -> dict[str, float]:
    """Rows per second of an iteration over a stream, by number of ranks and threads."""
    ways = {"1 rank, 1 thread": (1, 1), "1 rank, 2 threads": (2, 1), "2 ranks, 1 thread each": (1, 2)}
    return {name: _measured(path, n_clusters, ["stream"], runs, *way)["stream"] for name, way in ways.items()}


def seconds_of_seeding(path: Path, n_clusters: int, runs: int) -> dict[str, float]:
    """Seconds of the seeding from a stream and one iteration, for k-means|| and for random centers."""
    n_rows = len(np.load(path, mmap_mode="r"))
    rates_by_name = _measured(path, n_clusters, ["k-means||", "random"], runs)
    return {name: n_rows / rate for name, rate in rates_by_name.items()}


def peak_of_cluster(path: Path, n_clusters: int, max_iter: int) -> tuple[float, float]:
    """Peak memory in bytes and seconds of `gpukmeans cluster` as a whole process, over a file."""
    options = ["-k", str(n_clusters), "--max-iter", str(max_iter), "--init", "random", "-q", "-f"]
    cost = run([sys.executable, CLUSTER, str(path), *options, "-o", str(path.with_suffix(".safetensors"))])
    return cost.peak_bytes, cost.seconds


def _measured(
    path: Path, n_clusters: int, what: Sequence[str], runs: int, threads: int = 0, n_ranks: int = 1
) -> dict[str, float]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks)] if n_ranks > 1 else []
    program = [str(SCRIPTS / "benchmarks" / "scale_child.py"), str(path), str(n_clusters), str(runs), ",".join(what)]
    command = [sys.executable, *launcher, *program, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=SCRIPTS)
    if done.returncode != 0:
        raise RuntimeError(f"{command} failed: {done.stderr.strip().splitlines()[-1:]}")
    seconds = json.loads(done.stdout.strip().splitlines()[-1])
    n_rows = seconds.pop("rows")
    return {name: n_rows / statistics.median(times) for name, times in seconds.items()}
