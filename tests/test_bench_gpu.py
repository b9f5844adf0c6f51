"""`python scripts/bench.py gpu`, in its small form on the pretended device."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from helpers import pretended_cuda
from typer.testing import CliRunner

pytest.importorskip("triton")
sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))

import bench
from benchmarks import gpu
from benchmarks.gpu_child import BITS, TIMES, Row

# Processes that take the part of `benchmarks.gpu_child`: the case "long" takes too long, and "broken" ends its process.
CHILD = """
import json, sys, time

def send(**message):
    print(json.dumps(message), flush=True)

send(machine={"device": "none"})
for name in sys.argv[1:]:
    send(begin=name)
    if name == "long":
        time.sleep(60)
    if name == "broken":
        sys.exit(3)
    send(row={"case": f"first of {name}", "milliseconds": 2})
    send(row={"case": f"second of {name}", "note": "equal"})
    send(end=name)
    if name == "last of a process":
        sys.exit(1)
"""


BELOW_NOISE = "not measured: below noise"


def rows_of(*names, case_limit=60, seconds=60, machines=None):
    command = [sys.executable, "-S", "-c", CHILD]
    show = (machines if machines is not None else []).append
    limits = {"case_limit": case_limit, "end": time.monotonic() + seconds}
    return list(gpu.ChildCases(command, names, os.environ, show, **limits))


def names_and_notes(rows):
    return [(row.case, row.note) for row in rows]


A, B = [[(f"first of {name}", ""), (f"second of {name}", "equal")] for name in "ab"]


class TestCases:
    def test_cases_run_in_one_process(self):
        machines = []
        assert names_and_notes(rows_of("a", "b", machines=machines)) == A + B
        assert machines == [{"device": "none"}]

    def test_a_case_that_takes_too_long_is_stopped_and_the_others_run(self):
        rows = names_and_notes(rows_of("a", "long", "b", case_limit=1))
        assert rows == [*A, ("long", "stopped: after 1 seconds"), *B]

    def test_a_case_that_ends_the_process_fails_and_the_others_run(self):
        rows = names_and_notes(rows_of("broken", "b"))
        assert rows == [("broken", "fails: its process ended with exit code 3"), *B]

    def test_a_process_may_end_after_a_case(self):
        rows = names_and_notes(rows_of("last of a process", "b"))
        assert rows[2:] == B

    def test_cases_after_the_last_second_are_named(self):
        rows = names_and_notes(rows_of("long", "b", seconds=2))
        assert rows == [("long", "stopped: out of time for all cases"), ("b", "not measured: out of time")]


class TestRows:
    ROW = Row(case="a case", milliseconds=4.0, mark=3.0, n_bytes=9.6e9, n_operations=989e9, peak_bytes=3 << 20)

    def test_a_mark_and_the_peaks_of_an_h200(self):
        cells = gpu.cells(self.ROW, "NVIDIA H200")
        assert cells == ("a case", "4.000", "3", "MISSED", "2", "memory", "2.00", "3.0")

    def test_the_peak_that_limits_a_row(self):
        row = Row(case="", milliseconds=3.0, mark=3.0, n_bytes=4.8e9, n_operations=2 * 989e9)
        assert gpu.cells(row, "NVIDIA H200") == ("", "3.000", "3", "met", "2", "fp16 tensor", "1.50", "")

    def test_a_mark_is_not_judged_on_another_device(self):
        assert gpu.cells(self.ROW, "another")[2:7] == ("3", "not judged", "", "", "")

    def test_a_row_without_a_figure_has_its_reason(self):
        row = Row(case="a case", mark=3.0, n_bytes=1.0, note="not installed")
        assert [cell for cell in gpu.cells(row, "NVIDIA H200") if cell] == ["a case", "not installed"]


@pytest.mark.skipif(pretended_cuda.unsupported_reason() is not None, reason="there is no pretended CUDA device")
def test_all_cases_run_in_small(tmp_path):
    path = tmp_path / "figures.json"
    run = CliRunner().invoke(bench.app, ["gpu", "--small", "--json", str(path)])
    assert run.exit_code == 0, run.output
    assert "The device is pretended" in run.output
    assert "met" not in run.output.split()
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures["machine"]["device"] == "pretended"
    rows = figures["rows"]
    assert sum(row["note"] == "equal" for row in rows) >= len(BITS)
    assert sum(row["milliseconds"] is not None or row["note"] == BELOW_NOISE for row in rows) >= len(TIMES) - 2
    assert {row["note"] for row in rows} <= {"", "equal", "not installed", BELOW_NOISE, "not measured: sizes are small"}
    assert not [row for row in rows if row["mark"] or row["peak_bytes"] or row["least_milliseconds"]]
    assert all(row["case"] in run.output for row in rows)
