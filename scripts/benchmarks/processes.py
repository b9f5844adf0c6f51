"""Whole processes: what they cost from start to end."""

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Cost(NamedTuple):
    """Of a process and its children: seconds by the clock, seconds of all cores, and the most memory held, in bytes."""

    seconds: float
    cpu_seconds: float
    peak_bytes: float


def run(command: Sequence[str]) -> Cost:
    """What the command costs; what it prints on stdout is dropped. RuntimeError if it fails. Not on Windows."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"{command} failed with exit code {child.returncode}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def medians(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, Cost]:
    """For each command the median of each cost over so many runs; the commands take turns, after one that warms up."""
    rounds = [{name: run(command) for name, command in commands.items()} for _ in range(1 + runs)][1:]
    return {
        name: Cost(*map(statistics.median, zip(*(each[name] for each in rounds), strict=True))) for name in commands
    }
