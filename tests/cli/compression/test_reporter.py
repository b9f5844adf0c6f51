import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.example_report import REPORT

from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.reporter import Reporter
from gpukmeans_cli.compression.result import CompressionResult
from gpukmeans_cli.system.atomic_files import ImageError

JOB = Job(source=Path("a.jpg"), output=Path("a-4.png"))


def result(dropped_frames=0):
    return CompressionResult(REPORT, dropped_frames, "matmul, the fastest", {"read": 0.25})


def test_a_compressed_file_is_a_line_on_stdout(capsys):
    Reporter().done(result())
    assert capsys.readouterr() == (f"{REPORT.line()}\n", "")


def test_the_line_goes_to_stderr_if_an_image_goes_to_stdout(capsys):
    Reporter(text_to_stderr=True).done(result())
    assert capsys.readouterr() == ("", f"gpukmeans: {REPORT.line()}\n")


def test_with_json_an_object_is_printed_instead_of_a_line(capsys):
    Reporter(as_json=True).done(result())
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (REPORT.as_json(), "")


def test_dropped_frames_give_a_warning(capsys):
    Reporter().done(result(3))
    assert capsys.readouterr().err == "gpukmeans: photos/sea.jpg: took the first of 4 frames\n"


def test_optimizing_without_kernels_is_a_warning(capsys):
    Reporter().done(replace(result(), lacks_kernels=True))
    assert capsys.readouterr().err == (
        "gpukmeans: photos/sea.jpg: optimized dithering is slow without the compiled kernels; --effort 0 is quick\n"
    )


@pytest.mark.parametrize("verbose", [True, False])
def test_quiet_prints_errors_only(capsys, verbose):
    reporter = Reporter(quiet=True, verbose=verbose)
    reporter.done(replace(result(3), lacks_kernels=True))
    reporter.skipped(JOB)
    assert capsys.readouterr() == ("", "")
    reporter.failed(JOB, ImageError("is empty"))
    assert capsys.readouterr() == ("", "gpukmeans: a.jpg: is empty\n")


def test_verbose_prints_engine_end_stages_and_skipped_files(capsys):
    reporter = Reporter(verbose=True)
    reporter.done(result())
    reporter.skipped(JOB)
    assert capsys.readouterr().err.splitlines() == [
        "gpukmeans: photos/sea.jpg: engine matmul, the fastest",
        "gpukmeans: photos/sea.jpg: converged after 32 iterations",
        "gpukmeans: photos/sea.jpg: read 0.250 s",
        "gpukmeans: a.jpg: skipped, a-4.png exists",
    ]


def test_a_broken_animation_is_a_warning_and_verbose_prints_chunks_left_out_and_tries(capsys):
    damaged = replace(
        result(), broken_animation=True, left_out=("left out gAMA: its length is wrong",), tries=("try 1",)
    )
    warning = "gpukmeans: photos/sea.jpg: took the default image, since the frames of the animation are broken"
    Reporter().done(damaged)
    assert capsys.readouterr().err.splitlines() == [warning]
    Reporter(verbose=True).done(damaged)
    first, *others = capsys.readouterr().err.splitlines()
    left_out = "gpukmeans: photos/sea.jpg: left out gAMA: its length is wrong"
    assert (first, others[:2]) == (warning, [left_out, "gpukmeans: photos/sea.jpg: try 1"])


@pytest.mark.parametrize("verbose", [True, False])
def test_the_traceback_of_an_unexpected_exception_is_printed_with_verbose_only(capsys, verbose):
    error = ImageError("cannot be decoded")
    error.traceback = "Traceback of two\nlines\n"
    Reporter(verbose=verbose).failed(JOB, error)
    expected = "gpukmeans: a.jpg: cannot be decoded\n" + ("Traceback of two\nlines\n" if verbose else "")
    assert capsys.readouterr().err == expected


def test_skipped_and_failed_files_are_json_too(capsys):
    reporter = Reporter(as_json=True)
    reporter.skipped(JOB)
    reporter.failed(JOB, ImageError("is empty"))
    out, err = capsys.readouterr()
    assert list(map(json.loads, out.splitlines())) == [
        {"input": "a.jpg", "output": "a-4.png", "skipped": True},
        {"input": "a.jpg", "error": "is empty"},
    ]
    assert err == "gpukmeans: a.jpg: is empty\n"
