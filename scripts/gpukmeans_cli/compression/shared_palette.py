"""One palette for several images: K-means over the sum of their color histograms."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from gpukmeans import ColorHistogram
from gpukmeans_cli.compression.input_frames import frames_and_histogram
from gpukmeans_cli.compression.palette_fit import fit_colors
from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.settings import Settings, StageTimer, StoppedError
from gpukmeans_cli.compression.workers import WORKER_KILLED
from gpukmeans_cli.formats.source import read_source
from gpukmeans_cli.images.channels import add_all
from gpukmeans_cli.system.atomic_files import ImageError
from gpukmeans_cli.system.device import within_memory
from gpukmeans_cli.system.rank_env import RankEnv
from gpukmeans_cli.system.rank_store import RankStore
from gpukmeans_cli.system.worker_pool import InlinePool, ProcessPool, in_order

R = TypeVar("R")

# Colors (M, C) and counts (M,), or None without a readable image.
_Counts = tuple[np.ndarray, np.ndarray] | None


def find_shared_palette(jobs: Sequence[Job], settings: Settings, ranks: RankStore | None = None) -> np.ndarray:
    """The palette (K, C) of `fit_shared_palette`, found in a separate process where that is possible.

    With several ranks, each rank counts the colors of its own images and the main rank finds the palette that one
    process would find for all of them. All ranks return it, or raise the same ImageError.
    """
    ranks = ranks or RankStore(RankEnv())
    sources = [job.source for job in jobs]
    if ranks.env.size == 1:
        return _run_isolated(partial(fit_shared_palette, sources), settings)
    counts = ranks.gather(_result_or_error(partial(_count_colors, sources), settings))
    palette = ranks.broadcast(None if counts is None else _result_or_error(partial(_fit_counts, counts), settings))
    if isinstance(palette, ImageError):
        raise palette
    return palette


def fit_shared_palette(sources: Iterable[Path], settings: Settings) -> np.ndarray:
    """The palette (K, C) with a small error over the pixels of all these images, without the unreadable ones.

    ImageError if none is readable, StoppedError if `settings.stop` is set.
    """
    return _fit(sum_histograms(sources, settings), settings)


def sum_histograms(sources: Iterable[Path], settings: Settings) -> ColorHistogram | None:
    """The sum of the histograms of all readable images, on the device; None if there are none.

    StoppedError if `settings.stop` is set.
    """
    # Histograms can be added only on one device.
    settings = replace(settings, any_device=False)
    with within_memory(settings.device):
        return add_all(_histograms(sources, settings))


def _histograms(sources: Iterable[Path], settings: Settings) -> Iterator[ColorHistogram]:
    for path in sources:
        if settings.stop.is_set():
            raise StoppedError
        try:
            source = read_source(path, max_pixels=settings.max_pixels).in_srgb()
        except ImageError:
            continue  # reported later, when the image is compressed
        yield frames_and_histogram(source, settings, StageTimer(settings.device))[1]


def _fit(histogram: ColorHistogram | None, settings: Settings) -> np.ndarray:
    if histogram is None:
        raise ImageError("none of the images can be read, so there is no palette to share")
    with within_memory(settings.device):
        return fit_colors(histogram, settings.n_colors, settings).colors.cpu().numpy()


def _count_colors(sources: Sequence[Path], settings: Settings) -> _Counts:
    histogram = sum_histograms(sources, settings)
    return None if histogram is None else (histogram.colors.cpu().numpy(), histogram.counts.cpu().numpy())


def _fit_counts(counts_by_rank: Sequence[_Counts | ImageError], settings: Settings) -> np.ndarray:
    for rank, counts in enumerate(counts_by_rank):
        if isinstance(counts, ImageError):
            raise ImageError(f"rank {rank}: {counts}")
    with within_memory(settings.device):
        arrays = (counts for counts in counts_by_rank if isinstance(counts, tuple))
        tensors = ([torch.from_numpy(array).to(settings.device) for array in pair] for pair in arrays)
        return _fit(add_all(ColorHistogram(colors=colors, counts=counts) for colors, counts in tensors), settings)


def _result_or_error(work: Callable[[Settings], R], settings: Settings) -> R | ImageError:
    try:
        return _run_isolated(work, settings)
    except ImageError as error:
        return error


def _run_isolated(work: Callable[[Settings], R], settings: Settings) -> R:
    """The result of `work`, for the CPU computed in a separate process where forks work. ImageError if it is killed.

    If torch computed in this process, later forks such as the workers of `compress_all` would wait forever for threads
    of torch, which forks do not have.
    """
    forks = settings.device.type == "cpu" and ProcessPool.unsupported_reason() is None
    pool = ProcessPool(1) if forks else InlinePool()
    stop = pool.event()

    def on_killed(_: None) -> R:
        raise ImageError(f"no shared palette was found, {WORKER_KILLED}")

    settings = replace(settings, stop=stop)
    with closing(in_order(pool, lambda _: work(settings), [None], stop=stop, on_lost=on_killed)) as results:
        return next(results)
