"""Cost of processes: wall-clock seconds, CPU seconds and peak memory."""

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SCRIPTS = Path(__file__).resolve().parents[1]
IMPORT_TORCH = [sys.executable, "-c", "import torch"]
# The environment of a child process that runs a module of this folder, from any working directory.
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)])}


class ProcessError(RuntimeError):
    """A process failed. `last_line` is its last line on stderr, or its exit code if it wrote none."""

    def __init__(self, command: Sequence[str], exit_code: int, stderr: str) -> None:
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        self.last_line = lines[-1] if lines else f"exit code {exit_code}"
        super().__init__(f"{command} failed with exit code {exit_code}: {self.last_line}")


def status_bytes(field: str) -> int:
    """A number of bytes from the status of this process, such as "VmRSS", its resident memory. Linux only."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


class Cost(NamedTuple):
    """Wall-clock seconds, CPU seconds and peak resident memory in bytes of a process and its children."""

    seconds: float
    cpu_seconds: float
    peak_bytes: float


# Runs a command, discards its stdout, and prints the fields of `Cost`.
_MEASURE = """
import os, sys, time
start = time.perf_counter()
null = os.open(os.devnull, os.O_WRONLY)
actions = [(os.POSIX_SPAWN_DUP2, null, 1)]
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(command: Sequence[str]) -> Cost:
    """The cost of a command, whose stdout is discarded. ProcessError if it fails. Not on Windows.

    The peak memory of a child process is at least that of the process that starts it. A small Python process therefore
    starts and measures the command.
    """
    measured = subprocess.run([sys.executable, "-S", "-c", _MEASURE, *command], capture_output=True, text=True)
    if measured.returncode != 0:
        raise ProcessError(command, measured.returncode, measured.stderr)
    return Cost(*map(float, measured.stdout.split()))


def seconds_of(call: Callable[[], object]) -> float:
    """Wall-clock seconds of a call in this process."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def medians(commands: Mapping[str, Sequence[str]], runs: int) -> dict[str, Cost]:
    """For each command the median costs of `runs` runs. The commands alternate; a first run of each is not counted."""
    costs = [{name: run(command) for name, command in commands.items()} for _ in range(1 + runs)][1:]
    return {name: Cost(*map(statistics.median, zip(*(each[name] for each in costs), strict=True))) for name in commands}
