"""Time, inertia and peak memory of gpukmeans and other K-means packages, from the same points and initial centers.

In this folder, a peer is a package or program that gpukmeans is compared with.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from benchmarks.marks import FailedError
from benchmarks.peers import PEERS, scikit_learn
from benchmarks.processes import ENVIRONMENT

OURS = "gpukmeans"

# Iterations of the two timed runs. The seconds per iteration are the difference of both medians, divided by the
# difference of both numbers. This excludes work that each run does once, such as the last assignment.
FEW, MANY = 1, 3
# Maximum number of pairs of timed runs of a peer. A peer that has been timed for TIME_LIMIT seconds runs no more.
REPEATS, TIME_LIMIT = 9, 5.0
# Accepted relative difference of an inertia from that of scikit-learn in float64. Rounding in float32 assigns some
# points to another center at nearly the same distance.
TOLERANCE, TOLERANCE_OF_OURS = 1e-4, 1e-6
# Bytes that a process may allocate after its start. An allocation beyond them fails.
MEMORY_LIMIT = 8 << 30


@dataclass(frozen=True)
class Case:
    """N points of D coordinates, K clusters."""

    n: int
    d: int
    k: int

    def __str__(self) -> str:
        return f"{self.n // 1000}k x {self.d}, K = {self.k}"


FULL = [Case(n, d, k) for n, d in ((200_000, 3), (100_000, 32), (100_000, 128)) for k in (16, 256, 1000)]
QUICK = [Case(20_000, 3, 16), Case(10_000, 32, 16), Case(10_000, 128, 16)]


@dataclass(frozen=True, kw_only=True)
class Result(Case):
    """The figures of one peer on one case, or the `error` that prevented them."""

    peer: str
    reference: float
    """Inertia of scikit-learn in float64 after `MANY` iterations."""
    error: str | None = None
    inertia: float | None = None
    peak_bytes: int | None = None
    seconds_per_iteration: float | None = None


def compare(cases: Sequence[Case]) -> list[Result]:
    """A result for each case and peer. Raises FailedError if gpukmeans fails.

    Each peer runs each case in a separate process. The centers of all peers are checked first, then the peers are timed
    alternately. Progress is printed on stderr.
    """
    results = []
    for case in cases:
        results += _compare_on(case)
        print(f"{case} done", file=sys.stderr, flush=True)
    return results


def _compare_on(case: Case) -> list[Result]:
    x, first = sample(case)
    reference = inertia(x, scikit_learn(x.astype(np.float64), first.astype(np.float64), MANY))
    checked, children = {}, {}
    errors: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        np.save(f"{folder}/points.npy", x)
        np.save(f"{folder}/first.npy", first)
        for peer in PEERS:
            child = stack.enter_context(child_of(peer, folder))
            try:
                checked[peer] = _check(child, peer, Path(folder), x, reference)
                children[peer] = child
            except FailedError as error:
                if peer == OURS:
                    raise
                errors[peer] = str(error)
        seconds = time_alternately(children, errors, (FEW, MANY))
    return [
        Result(
            *astuple(case),
            peer=peer,
            reference=reference,
            error=errors.get(peer),
            inertia=checked[peer][0] if peer in checked else None,
            peak_bytes=checked[peer][1] if peer in checked else None,
            seconds_per_iteration=slope(seconds[peer], (FEW, MANY)) if peer in seconds else None,
        )
        for peer in PEERS
    ]


def sample(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, D) of a mixture and initial centers (K, D) among them, float32, the same in every run.

    The mixture has 1000 overlapping components, so that no cluster becomes empty. Packages treat empty clusters
    differently.
    """
    rng = np.random.default_rng(0)
    means = rng.normal(size=(1000, case.d))
    x = (means[rng.integers(len(means), size=case.n)] + rng.normal(size=(case.n, case.d))).astype(np.float32)
    return x, x[rng.choice(case.n, case.k, replace=False)]


def inertia(x: np.ndarray, centers: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Inertia in float64: the sum of weighted squared distances of points to their nearest centers."""
    centers = centers.astype(np.float64)
    total = 0.0
    for start in range(0, len(x), 8192):
        block = x[start : start + 8192].astype(np.float64)
        nearest = ((centers**2).sum(axis=1) - 2 * block @ centers.T).argmin(axis=1)
        sqdist = ((block - centers[nearest]) ** 2).sum(axis=1)
        total += float(sqdist.sum() if weights is None else sqdist @ weights[start : start + 8192])
    return total


def _check(child: subprocess.Popen[str], peer: str, folder: Path, x: np.ndarray, reference: float) -> tuple[float, int]:
    """Inertia and peak memory of a peer. FailedError if its centers are wrong."""
    peak = int(request(child, "check", MANY)["peak_bytes"])
    value = inertia(x, np.load(folder / f"{peer}.npy"))
    relative_error = value / reference - 1
    if not abs(relative_error) <= (TOLERANCE_OF_OURS if peer == OURS else TOLERANCE):  # also true of NaN
        raise FailedError(f"inertia {relative_error:+.1e}")
    return value, peak


def time_alternately(
    children: Mapping[str, subprocess.Popen[str]], errors: dict[str, str], counts: Sequence[int]
) -> dict[str, list[float]]:
    """Median seconds of each peer for each number of iterations in `counts`. Errors of peers are added to `errors`."""
    seconds_by_peer: dict[str, list[list[float]]] = {peer: [] for peer in children}
    spent = dict.fromkeys(children, 0.0)
    for _ in range(REPEATS):
        for peer, child in children.items():
            if peer in errors or spent[peer] >= TIME_LIMIT:
                continue
            try:
                seconds = [request(child, "time", n_iter)["seconds"] for n_iter in counts]
            except FailedError as error:
                errors[peer] = str(error)
                continue
            seconds_by_peer[peer].append(seconds)
            spent[peer] += sum(seconds)
    return {
        peer: [statistics.median(runs) for runs in zip(*pairs, strict=True)]
        for peer, pairs in seconds_by_peer.items()
        if peer not in errors
    }


def slope(seconds: Sequence[float], counts: Sequence[int]) -> float:
    """Seconds per iteration, from the seconds of two runs of `counts[0]` and `counts[1]` iterations."""
    return (seconds[1] - seconds[0]) / (counts[1] - counts[0])


@contextmanager
def child_of(peer: str, folder: str) -> Iterator[subprocess.Popen[str]]:
    """A process of `benchmarks.child` with as many threads as cores; it ends with the context."""
    n = str(os.cpu_count())
    # Waiting threads spin, which is the default. With OMP_WAIT_POLICY=passive, an iteration of many short operations
    # took 16 ms instead of 9.6. But if other programs use the cores, spinning makes single calls 10 times slower, and
    # the medians are useless.
    threads = {"OMP_NUM_THREADS": n, "OPENBLAS_NUM_THREADS": n, "MKL_NUM_THREADS": n}
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.child", peer, folder, str(MEMORY_LIMIT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **threads, "PYTHONWARNINGS": "ignore"},
        cwd=folder,  # `-m` imports from the working directory first
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def request(child: subprocess.Popen[str], what: str, n_iter: int) -> dict[str, float]:
    """The answer of a child to "check" or "time". FailedError if it fails or has ended."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(f"{what} {n_iter}\n")
        child.stdin.flush()
        line = child.stdout.readline()
    except BrokenPipeError:
        line = ""
    if not line:
        raise FailedError(f"process ended with {child.wait()}")
    answer = json.loads(line)
    if "error" in answer:
        raise FailedError(answer["error"])
    return answer
