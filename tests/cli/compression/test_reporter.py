import json
from pathlib import Path

import pytest
from helpers.example_report import REPORT

from gpukmeans_cli.compression.pipeline import Outcome
from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.reporter import Voice
from gpukmeans_cli.system.atomic_files import ImageError

JOB = Job(source=Path("a.jpg"), target=Path("a-4.png"))


def outcome(frames_left_out=0):
    return Outcome(REPORT, frames_left_out, "matmul, the fastest", {"read": 0.25})


def test_a_file_that_was_done_is_a_line_on_stdout(capsys):
    Voice().done(outcome())
    assert capsys.readouterr() == (f"{REPORT.line()}\n", "")


def test_the_line_goes_aside_where_stdout_is_for_a_picture(capsys):
    Voice(aside=True).done(outcome())
    assert capsys.readouterr() == ("", f"gpukmeans: {REPORT.line()}\n")


def test_json_takes_the_place_of_the_line(capsys):
    Voice(as_json=True).done(outcome())
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (REPORT.as_json(), "")


def test_frames_left_out_are_noted(capsys):
    Voice().done(outcome(3))
    assert capsys.readouterr().err == "gpukmeans: photos/sea.jpg: took the first of 4 frames\n"


@pytest.mark.parametrize("verbose", [True, False])
def test_quiet_leaves_errors_alone(capsys, verbose):
    voice = Voice(quiet=True, verbose=verbose)
    voice.done(outcome(3))
    voice.skipped(JOB)
    assert capsys.readouterr() == ("", "")
    voice.failed(JOB, ImageError("is empty"))
    assert capsys.readouterr() == ("", "gpukmeans: a.jpg: is empty\n")


def test_verbose_tells_of_engine_end_stages_and_files_passed_over(capsys):
    voice = Voice(verbose=True)
    voice.done(outcome())
    voice.skipped(JOB)
    assert capsys.readouterr().err.splitlines() == [
        "gpukmeans: photos/sea.jpg: engine matmul, the fastest",
        "gpukmeans: photos/sea.jpg: converged after 32 iterations",
        "gpukmeans: photos/sea.jpg: read 0.250 s",
        "gpukmeans: a.jpg: skipped, a-4.png is there",
    ]


def test_what_was_not_done_is_json_too(capsys):
    voice = Voice(as_json=True)
    voice.skipped(JOB)
    voice.failed(JOB, ImageError("is empty"))
    out, err = capsys.readouterr()
    assert list(map(json.loads, out.splitlines())) == [
        {"input": "a.jpg", "output": "a-4.png", "skipped": True},
        {"input": "a.jpg", "error": "is empty"},
    ]
    assert err == "gpukmeans: a.jpg: is empty\n"
