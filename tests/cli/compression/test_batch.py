import errno
import multiprocessing
import os
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.image_files import files

from gpukmeans_cli.compression import batch
from gpukmeans_cli.compression.batch import compress_all
from gpukmeans_cli.compression.plan import Job, plan
from gpukmeans_cli.compression.reporter import Reporter
from gpukmeans_cli.compression.settings import Settings, StoppedError
from gpukmeans_cli.system.atomic_files import STDIO
from gpukmeans_cli.system.rank_env import RankEnv, RankError
from gpukmeans_cli.system.rank_store import RankStore

CPU = torch.device("cpu")


def run(folder, *, settings=None, reporter=None, **options):
    jobs = plan([folder], name="4", recursive=True, folder=folder / "out")
    settings = replace(settings or Settings(n_colors=4, device=CPU), root=folder / "out")
    return compress_all(jobs, settings, reporter or Reporter(), **options)


@pytest.mark.parametrize("n_workers", [1, 3, 99])
def test_files_are_reported_in_order_with_every_number_of_workers(photos, capsys, n_workers):
    assert not run(photos, n_workers=n_workers)
    out, err = capsys.readouterr()
    done = [f"{number:02}" for number in range(12) if number != 5]
    assert [os.path.basename(line.split(" -> ")[0]) for line in out.splitlines()] == [f"{name}.png" for name in done]
    assert files(photos / "out").keys() == {photos / "out" / f"{name}-4.png" for name in done}
    failure, summary, again = err.splitlines()
    assert "05.png: is not an image" in failure
    assert summary.startswith("gpukmeans: 11 of 12 files done, 1 failed, ")
    assert again == failure.replace("gpukmeans: ", "gpukmeans: failed: ")


def test_the_number_of_workers_does_not_change_the_outputs(photos):
    run(photos, n_workers=1, reporter=Reporter(quiet=True))
    alone = files(photos / "out")
    run(photos, n_workers=3, reporter=Reporter(quiet=True), settings=Settings(n_colors=4, device=CPU, force=True))
    assert files(photos / "out") == alone


def test_skip_existing_compresses_only_missing_outputs(photos, capsys):
    run(photos)
    (photos / "out" / "03-4.png").unlink()
    kept = files(photos / "out")
    capsys.readouterr()
    run(photos, skip_existing=True)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "1 of 12 files done, 10 skipped, 1 failed, " in err
    assert files(photos / "out").items() >= kept.items()
    assert (photos / "out" / "03-4.png").is_file()


def test_fail_fast_begins_no_file_after_a_failure(photos, capsys):
    assert not run(photos, n_workers=1, fail_fast=True)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5
    assert "5 of 12 files done, 1 failed, 6 not finished, " in err


def test_a_single_file_has_no_summary(photos, capsys):
    jobs = plan([photos / "01.png"], name="4")
    assert compress_all(jobs, Settings(n_colors=4, device=CPU), Reporter())
    assert capsys.readouterr().err == ""


def test_quiet_prints_errors_only(photos, capsys):
    run(photos, reporter=Reporter(quiet=True))
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("n_workers", [1, 2])
def test_an_unexpected_exception_fails_its_file_only(photos, capsys, monkeypatch, n_workers, verbose):
    compress = batch.compress_image

    def fail_for_one(source, *args):
        if source.stem == "03":
            raise ZeroDivisionError("by\nzero")
        return compress(source, *args)

    monkeypatch.setattr(batch, "compress_image", fail_for_one)
    assert not run(photos, n_workers=n_workers, reporter=Reporter(verbose=verbose))
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(files(photos / "out")) == 10
    assert "03.png: failed by a bug of gpukmeans (ZeroDivisionError: by zero)" in err
    assert ("Traceback" in err, "in fail_for_one" in err) == (verbose, verbose)


def test_an_error_of_standard_output_ends_the_run(photos, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(batch, "compress_image", fail)
    with pytest.raises(OSError, match="No space"):
        compress_all([Job(source=photos / "03.png", output=STDIO)], Settings(n_colors=4, device=CPU), Reporter())


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_an_interruption_stops_the_workers_and_leaves_no_partial_files(photos, capsys):
    class InterruptingReporter(Reporter):
        def done(self, result):
            super().done(result)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(photos, n_workers=2, reporter=InterruptingReporter())
    assert "interrupted; run again with --skip-existing to continue" in capsys.readouterr().err
    written = files(photos / "out")
    assert written
    assert all(path.name.endswith("-4.png") for path in written)
    run(photos, skip_existing=True, reporter=Reporter(quiet=True))
    assert len(files(photos / "out")) == 11
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_files_written_before_an_interruption_are_reported_after_an_unfinished_one(photos, capsys, monkeypatch):
    def compress_image(source, output, settings):
        if source.name == "00.png":
            while not settings.stop.is_set():
                time.sleep(0.001)
            raise StoppedError
        return original(source, output, settings)

    @contextmanager
    def show_progress(*args, **options):
        def advance(step):
            steps.append(step)
            if len(steps) == 4:
                signal.raise_signal(signal.SIGINT)

        yield advance

    steps, original = [], batch.compress_image
    monkeypatch.setattr(batch, "compress_image", compress_image)
    monkeypatch.setattr(batch, "show_progress", show_progress)
    with pytest.raises(KeyboardInterrupt):
        run(photos, n_workers=2)
    out, err = capsys.readouterr()
    assert [line.split(" -> ")[0][-6:] for line in out.splitlines()] == [f"0{n}.png" for n in (1, 2, 3, 4)]
    assert "4 of 12 files done, 8 not finished, " in err


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_only_the_file_of_a_killed_process_fails(photos, capsys, monkeypatch):
    def compress_image(source, output, settings):
        if source.name == "03.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(source, output, settings)

    original = batch.compress_image
    monkeypatch.setattr(batch, "compress_image", compress_image)
    assert not run(photos, n_workers=2)
    err = capsys.readouterr().err
    assert "03.png: the worker process was killed, perhaps for its memory; try fewer --jobs" in err
    assert "10 of 12 files done, 2 failed, " in err


def test_the_main_rank_summarizes_the_files_of_all_ranks(photos, run_on_ranks, capsys):
    jobs, settings = plan([photos], name="4", recursive=True), Settings(n_colors=4, device=CPU)
    succeeded = run_on_ranks(
        jobs, 2, lambda jobs, ranks: compress_all(jobs, settings, Reporter(), n_workers=1, ranks=ranks)
    )
    out, err = capsys.readouterr()
    assert succeeded == [True, False]
    assert len(out.splitlines()) == 11
    failure, summary, again = err.splitlines()
    assert "05.png: is not an image" in failure
    assert summary.startswith("gpukmeans: 11 of 12 files done, 1 failed, ")
    assert again == failure.replace("gpukmeans: ", "gpukmeans: failed: ")


def test_a_rank_that_cannot_reach_the_others_prints_its_own_summary(photos, capsys):
    class UnreachableStore(RankStore):
        def gather(self, thing):
            raise RankError("the others are gone")

    jobs, settings = plan([photos / "01.png", photos / "02.png"], name="4"), Settings(n_colors=4, device=CPU)
    with pytest.raises(RankError):
        compress_all(jobs, settings, Reporter(), n_workers=1, ranks=UnreachableStore(RankEnv(rank=1, size=2)))
    assert capsys.readouterr().err.startswith("gpukmeans: rank 1 of 2: 2 of 2 files done, ")


def test_skip_existing_writes_to_standard_output_despite_a_file_of_that_name(photos, monkeypatch, capsysbinary):
    monkeypatch.chdir(photos)
    (photos / "-").touch()
    jobs = plan([photos / "01.png"], name="4", output=STDIO)
    assert compress_all(jobs, Settings(n_colors=4, device=CPU), Reporter(quiet=True), skip_existing=True)
    assert capsysbinary.readouterr().out.startswith(b"\x89PNG")


def test_the_progress_bar_gets_the_pixels_and_bytes_of_each_file(photos, monkeypatch):
    steps = []

    @contextmanager
    def show_progress(total, *, quiet, prefix):
        yield steps.append

    monkeypatch.setattr(batch, "show_progress", show_progress)
    run(photos, reporter=Reporter(quiet=True))
    pixels = {7 * (5 + number) for number in range(12) if number != 5}
    assert {step.pixels for step in steps} == pixels | {0}
    assert [step.failed for step in steps].count(True) == 1
    assert np.all([step.bytes_in >= step.bytes_out > 0 for step in steps if not step.failed])
