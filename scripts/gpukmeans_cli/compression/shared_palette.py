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

# Colors, uint8 (M, C), and counts, int64 (M,), of the images of a rank; None if no image can be read.
_Counts = tuple[np.ndarray, np.ndarray] | None


def find_shared_palette(jobs: Sequence[Job], settings: Settings, ranks: RankStore | None = None) -> np.ndarray:
    """The result of `fit_shared_palette`, uint8 (K, C). On the CPU, a forked process computes it if forks work.

    With several ranks, each rank counts the colors of its own images. The main rank fits the palette to the sum of all
    counts, as one process would. All ranks return this palette or raise the same ImageError.
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
    """One palette, uint8 (K, C), fitted to the colors of all images. Images that cannot be read are left out.

    ImageError if no image can be read, StoppedError if `settings.stop` is set.
    """
    return _fit(sum_histograms(sources, settings), settings)


def sum_histograms(sources: Iterable[Path], settings: Settings) -> ColorHistogram | None:
    """The sum of the color histograms of all images that can be read, on `settings.device`; None if none can.

    StoppedError if `settings.stop` is set.
    """
    # With `any_device`, small images are counted on the CPU. Histograms on two devices cannot be added.
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
            continue  # the error is reported when the image is compressed
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
    """The result of `work`. On the CPU, a forked process computes it if forks work. ImageError if that is killed.

    `compress_all` forks its workers from this process later. If torch had computed in several threads here, a forked
    worker would wait forever for these threads, which a fork does not copy.
    """
    forks = settings.device.type == "cpu" and ProcessPool.unsupported_reason() is None
    pool = ProcessPool(1) if forks else InlinePool()
    stop = pool.event()

    def on_killed(_: None) -> R:
        raise ImageError(f"no shared palette was found, {WORKER_KILLED}")

    settings = replace(settings, stop=stop)
    with closing(in_order(pool, lambda _: work(settings), [None], stop=stop, on_lost=on_killed)) as results:
        return next(results)
