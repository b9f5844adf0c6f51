import os
import signal
import sys

import numpy as np
import pytest
import torch
from helpers.image_files import noise, save

from gpukmeans_cli.compression import shared_palette
from gpukmeans_cli.compression.plan import plan
from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.compression.shared_palette import find_shared_palette, fit_shared_palette
from gpukmeans_cli.system.atomic_files import ImageError
from gpukmeans_cli.system.device import within_memory

CPU = torch.device("cpu")


def test_the_shared_palette_is_that_of_all_readable_images(photos):
    jobs, settings = plan([photos], name="4", recursive=True), Settings(n_colors=4, device=CPU)
    torch.set_num_threads(1)  # as in a forked process
    expected = fit_shared_palette([job.source for job in jobs], settings)
    assert np.array_equal(find_shared_palette(jobs, settings), expected)
    with pytest.raises(ImageError, match="none of the images can be read"):
        find_shared_palette([job for job in jobs if job.source.name == "05.png"], settings)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_the_palette_is_found_in_a_process_of_its_own(photos, monkeypatch):
    monkeypatch.setattr(shared_palette, "fit_shared_palette", lambda sources, settings: np.array([[os.getpid()]]))
    assert find_shared_palette(plan([photos / "01.png"], name="4"), Settings(n_colors=4, device=CPU)) != os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_a_killed_process_is_an_image_error(photos, monkeypatch):
    monkeypatch.setattr(
        shared_palette, "fit_shared_palette", lambda sources, settings: os.kill(os.getpid(), signal.SIGKILL)
    )
    with pytest.raises(ImageError, match="no shared palette was found, the worker process was killed"):
        find_shared_palette(plan([photos / "01.png"], name="4"), Settings(n_colors=4, device=CPU))


@pytest.mark.parametrize("size", [2, 3, 20])
def test_ranks_find_the_palette_that_one_process_finds(photos, run_on_ranks, size):
    save(noise(9, 9), photos / "grey.png")
    save(noise(9, 9, 4), photos / "alpha.png")
    jobs, settings = plan([photos], name="4", recursive=True), Settings(n_colors=4, device=CPU)
    expected = fit_shared_palette([job.source for job in jobs], settings)
    for palette in run_on_ranks(jobs, size, lambda jobs, ranks: find_shared_palette(jobs, settings, ranks)):
        assert np.array_equal(palette, expected)


def test_images_that_no_rank_can_read_are_an_error_on_all_ranks(photos, run_on_ranks):
    jobs, settings = plan([photos / "05.png", photos / "missing.png"], name="4"), Settings(n_colors=4, device=CPU)
    errors = run_on_ranks(jobs, 2, lambda jobs, ranks: find_shared_palette(jobs, settings, ranks))
    assert errors == ["none of the images can be read, so there is no palette to share"] * 2


def test_an_error_of_one_rank_is_raised_on_all_ranks(photos, run_on_ranks, monkeypatch):
    def sum_histograms(sources, settings):
        if photos / "01.png" in sources:
            raise MemoryError
        return original(sources, settings)

    original = shared_palette.sum_histograms
    monkeypatch.setattr(shared_palette, "sum_histograms", within_memory(CPU)(sum_histograms))
    jobs, settings = plan([photos], name="4", recursive=True), Settings(n_colors=4, device=CPU)
    errors = run_on_ranks(jobs, 3, lambda jobs, ranks: find_shared_palette(jobs, settings, ranks))
    assert errors == ["rank 1: out of memory; use a smaller image"] * 3
