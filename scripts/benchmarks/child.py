"""A process that runs one peer on one set of points: python -m benchmarks.child PEER FOLDER LIMIT

PEER is a name for `benchmarks.peers.find`. FOLDER contains points.npy, first.npy (the initial centers) and optionally
weights.npy. Each line of stdin, "check N" or "time N", is answered by one line of JSON. `check` writes the centers
after N iterations to PEER.npy and returns `peak_bytes`, the growth of the peak resident memory during the call. `time`
returns the `seconds` of N iterations. A failure returns `error`; so does a call that needs LIMIT bytes more than the
process has after the start. Linux only.
"""

import functools
import json
import re
import resource
import sys
from pathlib import Path

import numpy as np

from benchmarks.peers import Fit, find
from benchmarks.processes import seconds_of


def main(peer: str, folder: str, limit: int) -> None:
    """Answer requests until the input ends."""
    x, first = np.load(f"{folder}/points.npy"), np.load(f"{folder}/first.npy")
    bare = fit = find(peer)
    if Path(f"{folder}/weights.npy").exists():
        fit = functools.partial(bare, weights=np.load(f"{folder}/weights.npy"))
    warm = False
    for line in sys.stdin:
        what, n_iter = line.split()
        try:
            if not warm:  # loads the libraries and starts the threads
                bare(x[:2048].copy(), first[:16].copy(), 1)
                _limit_memory(limit)
                warm = True
            if what == "check":
                centers, peak = _check(fit, x, first, int(n_iter))
                np.save(f"{folder}/{peer}.npy", centers)
                answer = {"peak_bytes": peak}
            else:
                answer = {"seconds": seconds_of(functools.partial(fit, x, first, int(n_iter)))}
        except Exception as error:
            answer = {"error": _reason(error)}
        print(json.dumps(answer), flush=True)


def _check(fit: Fit, x: np.ndarray, first: np.ndarray, n_iter: int) -> tuple[np.ndarray, int]:
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current memory
    before = _memory("VmRSS")
    centers = fit(x, first, n_iter)
    return centers, _memory("VmHWM") - before


def _limit_memory(limit: int) -> None:
    """Make an allocation above the limit fail, before the system kills a process."""
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + limit, resource.RLIM_INFINITY))


def _memory(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or re.search("not enough memory|can't allocate|bad_alloc", text):
        return "out of memory"
    return text.splitlines()[0]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
