"""A process that runs one K-means package on one set of points: python -m benchmarks.child PEER FOLDER LIMIT

PEER is a name for `benchmarks.peers.find`. FOLDER contains points.npy, first.npy (the initial centers) and optionally
weights.npy. Each line of stdin is a request, "check N" or "time N". Each line of stdout is the answer, a JSON object.
`check` writes the centers after N iterations to FOLDER/PEER.npy. Its answer has `peak_bytes`, the growth of the peak
resident memory during the call. `time` answers with the `seconds` of N iterations. The answer to a failed request has
an `error`. A request also fails if it allocates LIMIT bytes more than the process has after a first call. Linux only.
"""

import functools
import json
import re
import resource
import sys
from pathlib import Path

import numpy as np

from benchmarks.peers import Fit, find
from benchmarks.processes import seconds_of, status_bytes


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
            if not warm:  # a first call loads the libraries and starts the threads
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
    before = status_bytes("VmRSS")
    centers = fit(x, first, n_iter)
    return centers, status_bytes("VmHWM") - before


def _limit_memory(limit: int) -> None:
    """Let larger allocations fail with an error. Otherwise the system would kill a process when memory runs out."""
    resource.setrlimit(resource.RLIMIT_AS, (status_bytes("VmSize") + limit, resource.RLIM_INFINITY))


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or re.search("not enough memory|can't allocate|bad_alloc", text):
        return "out of memory"
    return text.splitlines()[0]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
