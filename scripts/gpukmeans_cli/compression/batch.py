"""Compression of many files, several at a time. Results are reported in the order of the inputs."""

import os
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from gpukmeans_cli.compression.pipeline import compress_image
from gpukmeans_cli.compression.plan import Job
from gpukmeans_cli.compression.reporter import Reporter
from gpukmeans_cli.compression.result import CompressionResult
from gpukmeans_cli.compression.settings import Settings, StoppedError
from gpukmeans_cli.compression.summary import Summary
from gpukmeans_cli.compression.workers import WORKER_KILLED, default_workers, pool_for
from gpukmeans_cli.system.atomic_files import STDIO, ImageError, check_exists, stream_name, unexpected_error
from gpukmeans_cli.system.rank_env import RankEnv
from gpukmeans_cli.system.rank_store import RankStore
from gpukmeans_cli.system.worker_pool import in_order
from gpukmeans_cli.terminal.messages import warn
from gpukmeans_cli.terminal.progress import Step, changing_line, show_progress


@dataclass(frozen=True)
class _Skipped:
    """The result for a file that was neither compressed nor failed."""

    output_exists: bool
    """Whether the output exists or the file is an earlier output; False if another file failed with `fail_fast`."""


_JobResult = CompressionResult | ImageError | _Skipped


def compress_all(
    jobs: Sequence[Job],
    settings: Settings,
    reporter: Reporter,
    *,
    n_workers: int | None = None,
    skip_existing: bool = False,
    fail_fast: bool = False,
    ranks: RankStore | None = None,
) -> bool:
    """Compress all files, and return whether none failed.

    Results are reported in the order of the inputs. With several files a summary is printed on stderr.

    By default one worker runs for each core. With CUDA at most 16 run, since one file at a time uses the GPU. With
    `fail_fast` no file is started after a failure. A KeyboardInterrupt stops the workers before they write, and is
    raised again.

    With several ranks, each rank calls this function with its own jobs, and the cores of a machine are divided among
    its ranks. The main rank shows progress and summarizes the files of all ranks. RankError if the ranks cannot
    communicate.
    """
    ranks = ranks or RankStore(RankEnv())
    env = ranks.env
    pool = pool_for(settings.device, min(n_workers or default_workers(settings.device, env.local_size), len(jobs)))
    stop, failure = pool.event(), pool.event()
    gpu_lock = threading.Lock() if settings.device.type == "cuda" else None
    settings = replace(settings, stop=stop, gpu_lock=gpu_lock)
    # With several files, workers in other processes would write their tries over the progress bar.
    shows_tries = settings.target is not None and len(jobs) == 1 and not env.prefix and not reporter.quiet
    summary = Summary(planned=len(jobs))
    start = time.perf_counter()

    def work(job: Job) -> _JobResult:
        if fail_fast and failure.is_set():
            return _Skipped(output_exists=False)
        with changing_line(quiet=not shows_tries) as on_try:
            result = _run(job, replace(settings, on_try=on_try), skip_existing)
        if isinstance(result, ImageError):
            failure.set()
        return result

    def on_killed(job: Job) -> ImageError:
        failure.set()
        return ImageError(f"{WORKER_KILLED}; try fewer --jobs")

    unreported: dict[int, _JobResult] = {}
    # An interrupt may prevent `gather`. Then each rank prints its own summary.
    total, prefix = summary, env.prefix
    try:
        with show_progress(len(jobs), quiet=reporter.quiet or not env.is_main, prefix=env.prefix) as advance:

            def on_completed(index: int, result: _JobResult) -> None:
                unreported[index] = result
                advance(_progress_step(result))

            with closing(in_order(pool, work, jobs, stop=stop, on_result=on_completed, on_lost=on_killed)) as results:
                for index, result in enumerate(results):
                    del unreported[index]
                    _report(jobs[index], result, reporter, summary)
        total, prefix = Summary.total(ranks.gather(summary) or []), ""
    except KeyboardInterrupt:
        if len(jobs) > 1 and env.is_main and not reporter.quiet:
            warn("interrupted; run again with --skip-existing to continue")
        for index in sorted(unreported):  # completed while an earlier file was in work
            _report(jobs[index], unreported[index], reporter, summary)
        raise
    finally:
        if total.planned > 1 and not reporter.quiet:
            for line in total.lines(time.perf_counter() - start):
                warn(prefix + line)
    return not summary.failures


def _run(job: Job, settings: Settings, skip_existing: bool) -> _JobResult:
    if job.problem is not None:
        return ImageError(job.problem)
    if job.is_earlier_output:
        return _Skipped(output_exists=True)
    try:
        check_exists(job.source)
    except ImageError as error:
        return error
    if skip_existing and job.output != STDIO and os.path.lexists(job.output):
        return _Skipped(output_exists=True)
    try:
        return compress_image(job.source, job.output, settings)
    except ImageError as error:
        return error
    except StoppedError:
        raise
    except Exception as error:
        if job.output == STDIO and isinstance(error, OSError):
            raise  # no other file can be written to standard output, which is full or closed
        return unexpected_error(error)


def _progress_step(result: _JobResult) -> Step:
    if not isinstance(result, CompressionResult):
        return Step(pixels=0, bytes_in=0, bytes_out=0, failed=isinstance(result, ImageError))
    report = result.report
    pixels = report.width * report.height * report.frames
    return Step(pixels=pixels, bytes_in=report.bytes_in, bytes_out=report.bytes_out)


def _report(job: Job, result: _JobResult, reporter: Reporter, summary: Summary) -> None:
    if isinstance(result, CompressionResult):
        summary.add(result.report, result.stages)
        reporter.done(result)
    elif isinstance(result, ImageError):
        summary.failures.append((stream_name(job.source), str(result)))
        reporter.failed(job, result)
    elif result.output_exists:
        summary.skipped += 1
        reporter.skipped(job)
