"""Bits and times on one CUDA device, beside the marks for an H200, the limits of the device and two other packages.

Cases run in child processes, so that a case that takes too long or breaks CUDA does not end the others. Where the
packages of the command are missing, `python -m benchmarks.gpu` is `python scripts/bench.py gpu` without options.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.gpu_child import BITS, TIMES, Row
from benchmarks.processes import ENVIRONMENT

LIMIT, CASE_LIMIT = 480.0, 60.0
"""Seconds for all cases, and for each case."""

MARKED = "H200"
"""Part of the name of the device that marks are for."""

# The part of the time that comparisons of bits may take, and the largest number of processes that compare.
_SHARE_OF_BITS, _MAX_PROCESSES = 0.4, 8
# Seconds in which a child process starts.
_START = 120.0


@dataclass(frozen=True)
class Chip:
    """Peaks of a device, by its data sheet."""

    bytes_per_second: float
    operations_per_second: float
    """Dense products of matrices in fp16 on tensor cores; a multiplication and an addition are two operations."""


CHIPS = {"H200": Chip(4.8e12, 989e12)}
"""Peaks by a part of the name of the device."""


def chip_of(device: str) -> Chip | None:
    """The peaks of a device, None if they are not listed."""
    return next((chip for name, chip in CHIPS.items() if name in device), None)


def least_milliseconds(row: Row, chip: Chip | None) -> tuple[float, str] | None:
    """The least time of a row at the peaks of a device, and the peak that limits it. None if it is not known."""
    if chip is None:
        return None
    limits = []
    if row.n_bytes is not None:
        limits.append((row.n_bytes / chip.bytes_per_second * 1e3, "memory"))
    if row.n_operations is not None:
        limits.append((row.n_operations / chip.operations_per_second * 1e3, "fp16 tensor"))
    return max(limits, default=None)


HEAD = ("", "ms", "mark", "", "at peak, ms", "limit", "times", "peak memory, MiB")


def cells(row: Row, device: str) -> tuple[str, ...]:
    """The columns of `HEAD`. A mark is judged on an H200 only."""
    if row.milliseconds is None:
        return (row.case, row.note, *[""] * (len(HEAD) - 2))
    mark = verdict = ""
    if row.mark is not None:
        mark, is_met = f"{row.mark:g}", row.milliseconds <= row.mark
        verdict = ("met" if is_met else "MISSED") if MARKED in device else "not judged"
    least = least_milliseconds(row, chip_of(device))
    of_peak = ("", "", "") if least is None else (f"{least[0]:.3g}", least[1], f"{row.milliseconds / least[0]:.2f}")
    memory = "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:,.1f}"
    return (row.case, f"{row.milliseconds:,.3f}", mark, verdict, *of_peak, memory)


def as_line(columns: Sequence[str]) -> str:
    """A line of fixed columns."""
    case, milliseconds, *others = columns
    widths = (6, 10, 11, 11, 8, 16)
    return f"{case:62} {milliseconds:>12} " + " ".join(text.rjust(n) for text, n in zip(others, widths, strict=True))


def described(machine: dict[str, Any]) -> str:
    """The lines of the header."""
    device, chip = machine["device"], chip_of(machine["device"])
    memory = "" if machine["memory"] is None else f", {machine['memory'] / 2**30:.0f} GiB"
    lines = [f"{machine['date']}, {device}{memory}, driver {machine['driver']}, Python {machine['python']}"]
    lines.append(", ".join(f"{name} {machine[name]}" for name in ("torch", "triton", "flash-kmeans", "flashlib")))
    if device == "pretended":
        lines.append("The device is pretended: times are of the interpreter of Triton on a CPU, not of a GPU.")
    elif chip is None:
        lines.append("The peaks of this device are not listed, so times are not compared with them.")
    else:
        peaks = f"{chip.bytes_per_second / 1e12:g} TB/s, {chip.operations_per_second / 1e12:g} TFLOP/s in fp16"
        lines.append(f"Peaks: {peaks} on tensor cores, dense.")
    if MARKED not in device:
        lines.append(f"Marks are for an {MARKED}.")
    return "\n".join(lines)


def measure(*, small: bool, case_limit: float, limit: float, show: Callable[[dict[str, Any]], None]) -> Iterator[Row]:
    """The rows of all cases, each as soon as it is measured. `show` is called with the machine before the first row.

    A case takes at most `case_limit` seconds, and all cases take at most `limit` seconds.
    """
    start, is_pretended = time.monotonic(), not torch.cuda.is_available()
    shown = _Once(show)
    # On a pretended device a second process would only import torch again.
    n_processes = 1 if is_pretended else max(1, min(_MAX_PROCESSES, (os.cpu_count() or 1) // 2))
    groups = [[*BITS, *TIMES]] if is_pretended else [[*BITS], [*TIMES]]
    ends = [start + limit] if is_pretended else [start + limit * _SHARE_OF_BITS, start + limit]
    for i, (cases, end) in enumerate(zip(groups, ends, strict=True)):
        names = [case.__name__ for case in cases]
        parts = [part for at in range(n_processes) if (part := names[at::n_processes])] if i == 0 else [names]
        command = [sys.executable, "-m", "benchmarks.gpu_child", *(["--small"] if small else [])]
        environment = ENVIRONMENT | ({"TRITON_INTERPRET": "1"} if is_pretended else {})
        limits = {"case_limit": case_limit, "end": end}
        yield from _merged([ChildCases(command, part, environment, shown, **limits) for part in parts])


class _Once:
    """A function that is called once."""

    def __init__(self, function: Callable[[dict[str, Any]], None]) -> None:
        self._function, self._lock, self._is_called = function, threading.Lock(), False

    def __call__(self, argument: dict[str, Any]) -> None:
        with self._lock:
            if not self._is_called:
                self._function(argument)
            self._is_called = True


def _merged(parts: Sequence["ChildCases"]) -> Iterator[Row]:
    """The rows of parts that run at the same time."""
    if len(parts) == 1:
        yield from parts[0]
        return
    rows: queue.Queue[Row | None] = queue.Queue()

    def run(part: "ChildCases") -> None:
        try:
            for row in part:
                rows.put(row)
        finally:
            rows.put(None)

    for part in parts:
        threading.Thread(target=run, args=[part], daemon=True).start()
    n_ended = 0
    while n_ended < len(parts):
        if (row := rows.get()) is None:
            n_ended += 1
        else:
            yield row


class ChildCases:
    """The rows of cases, which run one after the other in a child process.

    After a case that ends the process, or that exceeds its limit, the other cases run in another process.

    Args:
        command: the process, whose arguments are the names of cases. `benchmarks.gpu_child` describes its messages.
        names: the cases.
        environment: environment variables of the process.
        show: is called with the machine for each process.
        case_limit: seconds for each case.
        end: time of `time.monotonic` at which the last case stops.
    """

    def __init__(
        self,
        command: Sequence[str],
        names: Sequence[str],
        environment: Mapping[str, str],
        show: Callable[[dict[str, Any]], None],
        *,
        case_limit: float,
        end: float,
    ) -> None:
        self._command, self._pending, self._environment = command, list(names), environment
        self._show, self._case_limit, self._end = show, case_limit, end

    def __iter__(self) -> Iterator[Row]:
        while self._pending and time.monotonic() < self._end:
            command = [*self._command, *self._pending]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._environment)
            messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
            reader = threading.Thread(target=_read, args=[process.stdout, messages], daemon=True)
            reader.start()
            try:
                yield from self._rows(process, messages)
            finally:
                process.kill()
                process.wait()
                reader.join()
        for name in self._pending:
            yield Row(case=name, note="not measured: out of time")

    def _rows(self, process: subprocess.Popen[str], messages: "queue.Queue[dict[str, Any] | None]") -> Iterator[Row]:
        """The rows of the pending cases, until the process ends or a case exceeds its limit."""
        has_begun, seconds = False, _START
        case_end = time.monotonic() + seconds
        while True:
            try:
                message = messages.get(timeout=max(0.0, min(case_end, self._end) - time.monotonic()))
            except queue.Empty:
                out_of_time = time.monotonic() >= self._end
                reason = "out of time for all cases" if out_of_time else f"after {seconds:g} seconds"
                yield Row(case=self._pending.pop(0), note=f"stopped: {reason}")
                return
            if message is None:
                if self._pending and (has_begun or process.wait() == 0):
                    note = f"fails: its process ended with exit code {process.wait()}"
                    yield Row(case=self._pending.pop(0), note=note)
                return
            if "machine" in message:
                self._show(message["machine"])
            elif "row" in message:
                yield Row(**message["row"])
            elif "begin" in message:
                has_begun, seconds = True, self._case_limit
                case_end = time.monotonic() + seconds
            else:
                self._pending.remove(message["end"])
                has_begun = False


def _read(lines: IO[str], messages: "queue.Queue[dict[str, Any] | None]") -> None:
    """Put the messages of a child process into a queue as they arrive, and None at their end."""
    with lines:
        for line in lines:
            messages.put(json.loads(line))
    messages.put(None)


def as_json(machine: dict[str, Any], rows: Sequence[Row]) -> str:
    """The machine and all rows, with the least time at the peaks of the device."""
    chip = chip_of(machine.get("device", ""))
    items = []
    for row in rows:
        item = {field.name: getattr(row, field.name) for field in fields(row)}
        least = least_milliseconds(row, chip) if row.milliseconds is not None else None
        items.append(item | {"least_milliseconds": least and least[0], "limit": least and least[1]})
    return json.dumps({"machine": machine, "rows": items}, indent=1)


def report(*, small: bool, case_limit: float, limit: float, json_path: Path | None) -> bool:
    """Measure all cases and print each row as it is measured, then a table. False if bits differ or a case fails.

    The figures are also written to a file, even if the process is interrupted.
    """
    machine: dict[str, Any] = {"device": ""}
    rows: list[Row] = []
    start = time.perf_counter()

    def show(found: dict[str, Any]) -> None:
        machine.update(found)
        print(f"{described(found)}\n\n{as_line(HEAD)}", flush=True)

    try:
        for row in measure(small=small, case_limit=case_limit, limit=limit, show=show):
            rows.append(row)
            print(as_line(cells(row, machine["device"])), flush=True)
    finally:
        if json_path is not None:
            json_path.write_text(as_json(machine, rows), encoding="utf-8")
    print(f"\nBits: {sum(row.note == 'equal' for row in rows)} results are equal on the CPU and on the device")
    for row in rows:
        if row.milliseconds is None and row.note != "equal":
            print(f"{row.case}: {row.note}")
    print(f"\n{described(machine) if 'date' in machine else ''}\n\n{as_line(HEAD)}")
    for row in rows:
        if row.milliseconds is not None:
            print(as_line(cells(row, machine["device"])))
    print(f"{time.perf_counter() - start:.0f} s", flush=True)
    return not any(row.fails for row in rows)


if __name__ == "__main__":
    sys.exit(not report(small=not torch.cuda.is_available(), case_limit=CASE_LIMIT, limit=LIMIT, json_path=None))
