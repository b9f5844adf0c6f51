"""Many files through the pipeline, several at a time, and what became of each told in their order."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from gpukmeans.images.histogram import ColorHistogram
from gpukmeans_cli.compression.pipeline import (
    Outcome,
    Settings,
    colors_of_all,
    compress_picture,
    palette_of,
    shared_palette,
)
from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.reporter import Voice
from gpukmeans_cli.compression.summary import Summary
from gpukmeans_cli.system.atomic_files import STDIO, ImageError
from gpukmeans_cli.system.rank_env import Place
from gpukmeans_cli.system.rank_store import Meeting
from gpukmeans_cli.system.worker_pool import Alone, Crew, Processes, Threads, in_order
from gpukmeans_cli.terminal.messages import warn
from gpukmeans_cli.terminal.progress import Step, shown

# Threads beside a GPU, which one of them feeds while the others decode and encode.
_MOST_BESIDE_A_GPU = 16

R = TypeVar("R")

_ALONE = Meeting(Place())

_KILLED = "the process that worked on it was killed, perhaps for its memory"


@dataclass(frozen=True)
class _Skipped:
    """A file whose output is there, or that was not begun."""

    told: bool


def compress_all(
    jobs: Sequence[Job],
    settings: Settings,
    voice: Voice,
    *,
    n_workers: int | None = None,
    skip_existing: bool = False,
    fail_fast: bool = False,
    ranks: Meeting = _ALONE,
) -> bool:
    """Whether no file failed; each has been told of, and more than one are summed up on stderr.

    By default as many files are worked on at a time as there are cores, on CUDA up to 16, where one after the other
    is clustered. With `fail_fast` no file is begun after one failed. An interruption ends what is under way before it
    is written, and is raised.

    Of several ranks, each is given its own files, which share the cores of its machine; that which leads tells how far
    it is, and sums up the files of all when they are done. RankError if they cannot meet.
    """
    here = ranks.place
    usual = default_workers(settings.device, here.local_size)
    crew = crew_for(settings.device, min(n_workers or usual, len(jobs)))
    stop, failure = crew.event(), crew.event()
    turn = threading.Lock() if settings.device.type == "cuda" else None
    settings = replace(settings, stop=stop, turn=turn)
    summary = Summary(planned=len(jobs))
    start = time.perf_counter()

    def work(job: Job) -> Outcome | ImageError | _Skipped:
        if fail_fast and failure.is_set():
            return _Skipped(told=False)
        result = _do(job, settings, skip_existing)
        if isinstance(result, ImageError):
            failure.set()
        return result

    def lost(job: Job) -> ImageError:
        failure.set()
        return ImageError(f"{_KILLED}; try fewer --jobs")

    untold: dict[int, Outcome | ImageError | _Skipped] = {}
    # Until those of all are known, each rank can only speak for itself.
    total, prefix = summary, here.prefix
    try:
        with shown(len(jobs), quiet=voice.quiet or not here.leads, prefix=here.prefix) as step:

            def seen(place: int, result: Outcome | ImageError | _Skipped) -> None:
                untold[place] = result
                step(_step(result))

            with closing(in_order(crew, work, jobs, stop=stop, seen=seen, lost=lost)) as results:
                for place, result in enumerate(results):
                    del untold[place]
                    _tell(jobs[place], result, voice, summary)
        total, prefix = Summary.of(ranks.gather(summary) or []), ""
    except KeyboardInterrupt:
        if len(jobs) > 1 and here.leads and not voice.quiet:
            warn("interrupted; --skip-existing goes on where this ended")
        for place in sorted(untold):  # which wait for the turn of one that was given up
            _tell(jobs[place], untold[place], voice, summary)
        raise
    finally:
        if total.planned > 1 and not voice.quiet:
            for line in total.lines(time.perf_counter() - start):
                warn(prefix + line)
    return not summary.failures


def palette_for_all(jobs: Sequence[Job], settings: Settings, ranks: Meeting = _ALONE) -> np.ndarray:
    """The colors (K, C) that `shared_palette` finds for these pictures. ImageError as it says.

    Of several ranks, each counts the colors of its own pictures, and that which leads finds the palette that one
    process would find for all of them; each gets it, or the error.
    """
    sources = [job.source for job in jobs]
    if ranks.place.size == 1:
        return _apart(partial(shared_palette, sources), settings)
    parts = ranks.gather(_or_error(lambda: _apart(partial(_counted, sources), settings)))
    found = ranks.share(None if parts is None else _or_error(lambda: _palette_of_ranks(parts, settings)))
    if isinstance(found, ImageError):
        raise found
    return found


# Colors (M, C) and counts (M,), or None where there is no picture.
_Counted = tuple[np.ndarray, np.ndarray] | None


def _counted(sources: Sequence[Path], settings: Settings) -> _Counted:
    histogram = colors_of_all(sources, settings)
    return None if histogram is None else (histogram.colors.cpu().numpy(), histogram.counts.cpu().numpy())


def _palette_of_ranks(parts: Sequence[_Counted | ImageError], settings: Settings) -> np.ndarray:
    for rank, part in enumerate(parts):
        if isinstance(part, ImageError):
            raise ImageError(f"rank {rank}: {part}")

    def find(settings: Settings) -> np.ndarray:
        tensors = (map(torch.from_numpy, part) for part in parts if isinstance(part, tuple))
        moved = ([tensor.to(settings.device) for tensor in pair] for pair in tensors)
        return palette_of((ColorHistogram(colors=colors, counts=counts) for colors, counts in moved), settings)

    return _apart(find, settings)


def _or_error(work: Callable[[], R]) -> R | ImageError:
    try:
        return work()
    except ImageError as error:
        return error


def _apart(work: Callable[[Settings], R], settings: Settings) -> R:
    """What `work` gives. ImageError if that takes all memory.

    On the CPU it is done in a process of its own: copies of one in which threads of torch have been at work, as
    `compress_all` makes, would wait for ever for threads that they do not have.
    """
    crew = Processes(1) if settings.device.type == "cpu" and Processes.obstacle() is None else Alone()
    stop = crew.event()

    def lost(_: None) -> R:
        raise ImageError(f"no palette to share was found, {_KILLED}")

    with closing(in_order(crew, lambda _: work(replace(settings, stop=stop)), [None], stop=stop, lost=lost)) as results:
        return next(results)


def default_workers(device: torch.device, sharing: int = 1) -> int:
    """How many files are worked on at a time on that device unless it is said, where so many share the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = max(1, cores // sharing)
    return min(cores, _MOST_BESIDE_A_GPU) if device.type == "cuda" else cores


def crew_for(device: torch.device, n_workers: int) -> Crew:
    """Who works on so many files at a time."""
    if n_workers <= 1:
        return Alone()
    # Beside those of ours, threads of torch would only wait for each other.
    n_threads = max(1, torch.get_num_threads() // n_workers)
    if device.type == "cpu" and Processes.obstacle() is None:
        # Rounds of the clustering are many short operations, between which threads would wait for Python's lock.
        return Processes(n_workers, partial(torch.set_num_threads, n_threads))
    torch.set_num_threads(n_threads)
    return Threads(n_workers)


def _do(job: Job, settings: Settings, skip_existing: bool) -> Outcome | ImageError | _Skipped:
    if job.problem is not None:
        return ImageError(job.problem)
    if skip_existing and job.target != STDIO and os.path.lexists(job.target):
        return _Skipped(told=True)
    try:
        return compress_picture(job.source, job.target, settings)
    except ImageError as error:
        return error


def _step(result: Outcome | ImageError | _Skipped) -> Step:
    if not isinstance(result, Outcome):
        return Step(pixels=0, bytes_in=0, bytes_out=0, failed=isinstance(result, ImageError))
    report = result.report
    pixels = report.width * report.height * report.frames
    return Step(pixels=pixels, bytes_in=report.bytes_in, bytes_out=report.bytes_out)


def _tell(job: Job, result: Outcome | ImageError | _Skipped, voice: Voice, summary: Summary) -> None:
    if isinstance(result, Outcome):
        summary.add(result.report, result.stages)
        voice.done(result)
    elif isinstance(result, ImageError):
        summary.failures.append((str(job.source), str(result)))
        voice.failed(job, result)
    elif result.told:
        summary.skipped += 1
        voice.skipped(job)
