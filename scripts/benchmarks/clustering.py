"""gpukmeans beside other K-means packages on the same points and first centers: time, inertia, peak memory."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.peers import PEERS, scikit_learn

OURS = "gpukmeans"
SCRIPTS = Path(__file__).resolve().parents[1]

# Seconds per iteration are the difference between runs of so many iterations and of so few (of the medians of each), so
# that what a run does once, such as a last assignment, does not count.
FEW, MANY = 1, 3
# Pairs of such runs, and the seconds after which a peer gets no further pair.
ROUNDS, PATIENCE = 9, 5.0
# By how much of itself the inertia may differ from that of float64. Sums in float32 make neighboring centers trade
# points.
TOLERANCE, TOLERANCE_OF_OURS = 1e-4, 1e-6
# Bytes beyond what is held before a call that a peer may take; more counts as out of memory.
MEMORY_LIMIT = 8 << 30


class FailedError(Exception):
    """A peer cannot do a case, or does it wrong."""


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
class Cell:
    """What one peer did on one case: `fails` says why it did not, or there are figures."""

    peer: str
    n: int
    d: int
    k: int
    reference: float
    """Inertia after the same iterations in float64."""
    fails: str | None = None
    inertia: float | None = None
    peak_bytes: int | None = None
    seconds_per_iteration: float | None = None


def compare(cases: Sequence[Case]) -> list[Cell]:
    """A cell for each case and peer. Raises FailedError if it is gpukmeans that fails.

    Each peer does each case in a process of its own. Once the centers of all are checked, they are timed in turn.
    Progress goes to standard error.
    """
    cells = []
    for case in cases:
        cells += _compare_on(case)
        print(f"{case} done", file=sys.stderr, flush=True)
    return cells


def _compare_on(case: Case) -> list[Cell]:
    x, first = draw(case)
    reference = inertia(x, scikit_learn(x.astype(np.float64), first.astype(np.float64), MANY))
    checked, children = {}, {}
    fails: dict[str, str] = {}
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
                fails[peer] = str(error)
        seconds = time_in_turn(children, fails, (FEW, MANY))
    return [
        Cell(
            peer=peer,
            n=case.n,
            d=case.d,
            k=case.k,
            reference=reference,
            fails=fails.get(peer),
            inertia=checked[peer][0] if peer in checked else None,
            peak_bytes=checked[peer][1] if peer in checked else None,
            seconds_per_iteration=slope(seconds[peer], (FEW, MANY)) if peer in seconds else None,
        )
        for peer in PEERS
    ]


def draw(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, D) of a mixture and first centers (K, D) among them, float32, the same in every run.

    The 1000 components overlap, or clusters would run empty, where each package has a way of its own.
    """
    rng = np.random.default_rng(0)
    means = rng.normal(size=(1000, case.d))
    x = (means[rng.integers(len(means), size=case.n)] + rng.normal(size=(case.n, case.d))).astype(np.float32)
    return x, x[rng.choice(case.n, case.k, replace=False)]


def inertia(x: np.ndarray, centers: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Sum of weighted squared distances of points to their nearest center, in float64."""
    centers = centers.astype(np.float64)
    total = 0.0
    for start in range(0, len(x), 8192):
        block = x[start : start + 8192].astype(np.float64)
        nearest = ((centers**2).sum(axis=1) - 2 * block @ centers.T).argmin(axis=1)
        sqdist = ((block - centers[nearest]) ** 2).sum(axis=1)
        total += float(sqdist.sum() if weights is None else sqdist @ weights[start : start + 8192])
    return total


def _check(child: subprocess.Popen[str], peer: str, folder: Path, x: np.ndarray, reference: float) -> tuple[float, int]:
    """Inertia and peak memory of a peer whose centers are right."""
    peak = int(ask(child, "check", MANY)["peak_bytes"])
    found = inertia(x, np.load(folder / f"{peer}.npy"))
    off = found / reference - 1
    if not abs(off) <= (TOLERANCE_OF_OURS if peer == OURS else TOLERANCE):  # NaN is wrong too
        raise FailedError(f"inertia {off:+.1e}")
    return found, peak


def time_in_turn(
    children: Mapping[str, subprocess.Popen[str]], fails: dict[str, str], counts: Sequence[int]
) -> dict[str, list[float]]:
    """Of each peer the median seconds of each count of iterations; one that fails now goes to `fails`."""
    taken: dict[str, list[list[float]]] = {peer: [] for peer in children}
    spent = dict.fromkeys(children, 0.0)
    for _ in range(ROUNDS):
        for peer, child in children.items():
            if peer in fails or spent[peer] >= PATIENCE:
                continue
            try:
                seconds = [ask(child, "time", n_iter)["seconds"] for n_iter in counts]
            except FailedError as error:
                fails[peer] = str(error)
                continue
            taken[peer].append(seconds)
            spent[peer] += sum(seconds)
    return {
        peer: [statistics.median(runs) for runs in zip(*rounds, strict=True)]
        for peer, rounds in taken.items()
        if peer not in fails
    }


def slope(seconds: Sequence[float], counts: Sequence[int]) -> float:
    """Seconds per iteration, of the seconds that few and many iterations took."""
    return (seconds[1] - seconds[0]) / (counts[1] - counts[0])


@contextmanager
def child_of(peer: str, folder: str) -> Iterator[subprocess.Popen[str]]:
    """The process of `benchmarks.child`, with as many threads as there are cores, ended at the end."""
    n = str(os.cpu_count())
    # They wait as they do for users, by spinning. Beside other work that makes single calls 10 times slower and medians
    # useless; without it (OMP_WAIT_POLICY=passive) a round of many short operations took 16 ms where it takes 9.6.
    threads = {"OMP_NUM_THREADS": n, "OPENBLAS_NUM_THREADS": n, "MKL_NUM_THREADS": n}
    path = os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)])
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.child", peer, folder, str(MEMORY_LIMIT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **threads, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        cwd=folder,  # `-m` imports from there first
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def ask(child: subprocess.Popen[str], what: str, n_iter: int) -> dict[str, float]:
    """The answer of a child. FailedError if it fails, or is no more."""
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
    if "fails" in answer:
        raise FailedError(answer["fails"])
    return answer
