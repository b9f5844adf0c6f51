import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.picture_files import files, noise, save

from gpukmeans_cli.compression import batch
from gpukmeans_cli.compression.batch import compress_all, crew_for, default_workers, palette_for_all
from gpukmeans_cli.compression.pipeline import Settings, StoppedError, shared_palette
from gpukmeans_cli.compression.plan import plan
from gpukmeans_cli.compression.reporter import Voice
from gpukmeans_cli.system.atomic_files import STDIO, ImageError
from gpukmeans_cli.system.device import within_memory
from gpukmeans_cli.system.rank_env import Place, RankError
from gpukmeans_cli.system.rank_store import Meeting
from gpukmeans_cli.system.worker_pool import Alone, Processes, Threads, in_order

CPU = torch.device("cpu")


@pytest.fixture
def photos(tmp_path):
    """Twelve pictures of different sizes, and one file that is none."""
    for number in range(12):
        save(noise(5 + number, 7, 3), tmp_path / f"{number:02}.png")
    (tmp_path / "05.png").write_text("no picture")
    return tmp_path


@pytest.fixture(autouse=True)
def _threads_of_torch():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(folder, *, settings=None, voice=None, **options):
    jobs = plan([folder], name="4", recursive=True, folder=folder / "out")
    settings = replace(settings or Settings(n_colors=4, device=CPU), root=folder / "out")
    return compress_all(jobs, settings, voice or Voice(), **options)


@pytest.mark.parametrize("n_workers", [1, 3, 99])
def test_files_are_told_of_in_their_order_whatever_the_number_of_threads(photos, capsys, n_workers):
    assert not run(photos, n_workers=n_workers)
    out, err = capsys.readouterr()
    done = [f"{number:02}" for number in range(12) if number != 5]
    assert [os.path.basename(line.split(" -> ")[0]) for line in out.splitlines()] == [f"{name}.png" for name in done]
    assert files(photos / "out").keys() == {photos / "out" / f"{name}-4.png" for name in done}
    failure, summary, again = err.splitlines()
    assert "05.png: is not an image" in failure
    assert summary.startswith("gpukmeans: 11 of 12 files done, 1 failed, ")
    assert again == failure.replace("gpukmeans: ", "gpukmeans: failed: ")


def test_the_number_of_threads_does_not_change_a_byte(photos):
    run(photos, n_workers=1, voice=Voice(quiet=True))
    alone = files(photos / "out")
    run(photos, n_workers=3, voice=Voice(quiet=True), settings=Settings(n_colors=4, device=CPU, force=True))
    assert files(photos / "out") == alone


def test_a_second_run_goes_on_where_the_first_ended(photos, capsys):
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


def test_after_a_failure_no_file_is_begun_if_so_asked(photos, capsys):
    assert not run(photos, n_workers=1, fail_fast=True)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5
    assert "5 of 12 files done, 1 failed, 6 not begun or given up, " in err


def test_a_single_file_needs_no_summary(photos, capsys):
    jobs = plan([photos / "01.png"], name="4")
    assert compress_all(jobs, Settings(n_colors=4, device=CPU), Voice())
    assert capsys.readouterr().err == ""


def test_quiet_leaves_errors_alone(photos, capsys):
    run(photos, voice=Voice(quiet=True))
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_a_mistake_of_ours_in_a_thread_is_not_hidden(photos, monkeypatch):
    def fail(*args):
        raise ZeroDivisionError

    monkeypatch.setattr(batch, "compress_picture", fail)
    with pytest.raises(ZeroDivisionError):
        run(photos, n_workers=2)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_an_interruption_ends_what_is_under_way_and_leaves_nothing_half_done(photos, capsys, monkeypatch):
    def tell(*args):
        original(*args)
        signal.raise_signal(signal.SIGINT)

    original = batch._tell
    monkeypatch.setattr(batch, "_tell", tell)
    with pytest.raises(KeyboardInterrupt):
        run(photos, n_workers=2)
    monkeypatch.setattr(batch, "_tell", original)
    assert "interrupted; --skip-existing goes on where this ended" in capsys.readouterr().err
    written = files(photos / "out")
    assert written
    assert all(path.name.endswith("-4.png") for path in written)
    run(photos, skip_existing=True, voice=Voice(quiet=True))
    assert len(files(photos / "out")) == 11
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")
def test_what_was_written_before_an_interruption_is_told_of_though_one_before_it_was_not_done(
    photos, capsys, monkeypatch
):
    def compress_picture(source, target, settings):
        if source.name == "00.png":
            while not settings.stop.is_set():
                time.sleep(0.001)
            raise StoppedError
        return original(source, target, settings)

    def step(result):
        steps.append(result)
        if len(steps) == 4:
            signal.raise_signal(signal.SIGINT)
        return original_step(result)

    steps, original, original_step = [], batch.compress_picture, batch._step
    monkeypatch.setattr(batch, "compress_picture", compress_picture)
    monkeypatch.setattr(batch, "_step", step)
    with pytest.raises(KeyboardInterrupt):
        run(photos, n_workers=2)
    out, err = capsys.readouterr()
    assert [line.split(" -> ")[0][-6:] for line in out.splitlines()] == [f"0{n}.png" for n in (1, 2, 3, 4)]
    assert "4 of 12 files done, 8 not begun or given up, " in err


def test_who_works_depends_on_the_device_and_threads_of_torch_make_room(monkeypatch):
    torch.set_num_threads(4)
    assert isinstance(crew_for(CPU, 1), Alone)
    assert torch.get_num_threads() == 4
    if sys.platform == "linux":
        crew = crew_for(CPU, 2)
        assert isinstance(crew, Processes)
        assert list(in_order(crew, lambda _: torch.get_num_threads(), [0], stop=crew.event(), lost=str)) == [2]
        assert torch.get_num_threads() == 4
    assert isinstance(crew_for(torch.device("cuda"), 2), Threads)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(4)
    monkeypatch.setattr(Processes, "obstacle", staticmethod(lambda: "none here"))
    assert isinstance(crew_for(CPU, 8), Threads)
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")
def test_a_file_whose_process_is_killed_fails_alone(photos, capsys, monkeypatch):
    def compress_picture(source, target, settings):
        if source.name == "03.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return original(source, target, settings)

    original = batch.compress_picture
    monkeypatch.setattr(batch, "compress_picture", compress_picture)
    assert not run(photos, n_workers=2)
    err = capsys.readouterr().err
    assert "03.png: the process that worked on it was killed, perhaps for its memory; try fewer --jobs" in err
    assert "10 of 12 files done, 2 failed, " in err


def test_a_palette_for_all_is_the_one_that_is_shared(photos):
    jobs, settings = plan([photos], name="4", recursive=True), Settings(n_colors=4, device=CPU)
    torch.set_num_threads(1)  # a copy of this process has no others
    expected = shared_palette([job.source for job in jobs], settings)
    assert np.array_equal(palette_for_all(jobs, settings), expected)
    with pytest.raises(ImageError, match="none of the pictures can be read"):
        palette_for_all([job for job in jobs if job.source.name == "05.png"], settings)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")
def test_threads_that_found_a_palette_are_not_missed_by_copies_of_this_process(photos, monkeypatch):
    monkeypatch.setattr(batch, "shared_palette", lambda sources, settings: np.array([[os.getpid()]]))
    assert palette_for_all(plan([photos / "01.png"], name="4"), Settings(n_colors=4, device=CPU)) != os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")
def test_memory_that_ends_while_a_palette_is_found_is_an_error(photos, monkeypatch):
    monkeypatch.setattr(batch, "shared_palette", lambda sources, settings: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ImageError, match="no palette to share was found, the process that worked on it was killed"):
        palette_for_all(plan([photos / "01.png"], name="4"), Settings(n_colors=4, device=CPU))


@pytest.fixture
def of_ranks(monkeypatch):
    """What `work` gives, or the error it raises, for the files of each of so many ranks, which are threads here."""

    def of_ranks(jobs, size, work):
        def one(rank):
            try:
                return work(jobs[rank::size], Meeting(Place(rank=rank, size=size), store))
            except ImageError as error:
                return str(error)

        store = torch.distributed.HashStore()
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(one, range(size), timeout=60))

    monkeypatch.setattr(Processes, "obstacle", staticmethod(lambda: "threads are not to be copied"))
    return of_ranks


@pytest.mark.parametrize("size", [2, 3, 20])
def test_ranks_find_the_palette_that_one_process_finds(photos, of_ranks, size):
    save(noise(9, 9), photos / "grey.png")
    save(noise(9, 9, 4), photos / "alpha.png")
    jobs, settings = plan([photos], name="4", recursive=True), Settings(n_colors=4, device=CPU)
    expected = shared_palette([job.source for job in jobs], settings)
    for found in of_ranks(jobs, size, lambda part, ranks: palette_for_all(part, settings, ranks)):
        assert np.array_equal(found, expected)


def test_pictures_that_no_rank_can_read_share_no_palette(photos, of_ranks):
    jobs, settings = plan([photos / "05.png", photos / "missing.png"], name="4"), Settings(n_colors=4, device=CPU)
    errors = of_ranks(jobs, 2, lambda part, ranks: palette_for_all(part, settings, ranks))
    assert errors == ["none of the pictures can be read, so there is no palette to share"] * 2


def test_a_rank_that_cannot_count_is_an_error_on_all(photos, of_ranks, monkeypatch):
    def colors_of_all(sources, settings):
        if photos / "01.png" in sources:
            raise MemoryError
        return original(sources, settings)

    original = batch.colors_of_all
    monkeypatch.setattr(batch, "colors_of_all", within_memory(CPU)(colors_of_all))
    jobs, settings = plan([photos], name="4", recursive=True), Settings(n_colors=4, device=CPU)
    errors = of_ranks(jobs, 3, lambda part, ranks: palette_for_all(part, settings, ranks))
    assert errors == ["rank 1: out of memory; use a smaller picture"] * 3


def test_the_first_rank_sums_up_the_files_of_all(photos, of_ranks, capsys):
    jobs, settings = plan([photos], name="4", recursive=True), Settings(n_colors=4, device=CPU)
    sound = of_ranks(jobs, 2, lambda part, ranks: compress_all(part, settings, Voice(), n_workers=1, ranks=ranks))
    out, err = capsys.readouterr()
    assert sound == [True, False]
    assert len(out.splitlines()) == 11
    failure, summary, again = err.splitlines()
    assert "05.png: is not an image" in failure
    assert summary.startswith("gpukmeans: 11 of 12 files done, 1 failed, ")
    assert again == failure.replace("gpukmeans: ", "gpukmeans: failed: ")


def test_a_rank_that_does_not_hear_of_the_others_speaks_for_itself(photos, capsys):
    class Alone(Meeting):
        def gather(self, thing):
            raise RankError("the others are gone")

    jobs, settings = plan([photos / "01.png", photos / "02.png"], name="4"), Settings(n_colors=4, device=CPU)
    with pytest.raises(RankError):
        compress_all(jobs, settings, Voice(), n_workers=1, ranks=Alone(Place(rank=1, size=2)))
    assert capsys.readouterr().err.startswith("gpukmeans: rank 1 of 2: 2 of 2 files done, ")


def test_a_file_called_as_standard_output_is_not_what_is_there_already(photos, monkeypatch, capsysbinary):
    monkeypatch.chdir(photos)
    (photos / "-").touch()
    jobs = plan([photos / "01.png"], name="4", output=STDIO)
    assert compress_all(jobs, Settings(n_colors=4, device=CPU), Voice(quiet=True), skip_existing=True)
    assert capsysbinary.readouterr().out.startswith(b"\x89PNG")


def test_beside_a_gpu_there_are_at_most_sixteen(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(40), raising=False)
    assert (default_workers(CPU), default_workers(torch.device("cuda"))) == (40, 16)


def test_ranks_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(40), raising=False)
    assert [default_workers(CPU, sharing) for sharing in (2, 3, 40, 50)] == [20, 13, 1, 1]
    assert [default_workers(torch.device("cuda"), sharing) for sharing in (2, 8)] == [16, 5]


def test_pixels_and_bytes_of_each_file_are_counted(photos, monkeypatch):
    steps = []

    @contextmanager
    def shown(total, *, quiet, prefix):
        yield steps.append

    monkeypatch.setattr(batch, "shown", shown)
    run(photos, voice=Voice(quiet=True))
    pixels = {7 * (5 + number) for number in range(12) if number != 5}
    assert {step.pixels for step in steps} == pixels | {0}
    assert [step.failed for step in steps].count(True) == 1
    assert np.all([step.bytes_in >= step.bytes_out > 0 for step in steps if not step.failed])
