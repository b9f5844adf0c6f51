"""A clustering task from start to exit: process group, progress, interruptions, errors and the report."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import torch
from torch.distributed import ProcessGroup

from gpukmeans_cli.rows.progress import cluster_progress
from gpukmeans_cli.rows.reporter import ClusterReporter
from gpukmeans_cli.rows.run import ClusterTask, cluster_rows, prepare
from gpukmeans_cli.system.rank_env import RankEnv, RankError, process_group
from gpukmeans_cli.system.rank_store import CollectiveError, RankStore
from gpukmeans_cli.system.startup import Terminated, sigterm_as_interrupt


class PreparationError(Exception):
    """A task cannot be started. Nothing was computed or written. The text is one sentence, the same on all ranks."""


def run_task(task: ClusterTask, ranks: RankStore, timeout: timedelta | None, reporter: ClusterReporter) -> bool:
    """Run the task, report its result or error, and return whether it succeeded. All ranks return the same value.

    PreparationError if the task cannot be started, RankError if another rank is lost. Ctrl-C and SIGTERM are reported,
    then KeyboardInterrupt is raised.
    """
    env, prepared = ranks.env, None
    try:
        with sigterm_as_interrupt():
            prepared = prepare(task, ranks)
            quiet = reporter.quiet or not env.is_main
            with (
                _process_group(env, task.device, timeout) as group,
                cluster_progress(
                    prepared.rank_fraction(env), quiet=quiet, every_iteration=reporter.verbose
                ) as progress,
            ):
                outcome = cluster_rows(prepared, ranks, group, progress)
    except KeyboardInterrupt as interrupt:
        reporter.interrupted(task.checkpoint, terminated=isinstance(interrupt, Terminated), n_ranks=env.size)
        raise
    except CollectiveError as error:
        if prepared is None:
            raise PreparationError(str(error)) from None
        reporter.failed(str(error))
        return False
    reporter.done(outcome)
    return True


@contextlib.contextmanager
def _process_group(env: RankEnv, device: torch.device, timeout: timedelta | None) -> Iterator[ProcessGroup | None]:
    """The process group of all ranks; None for a single process. RankError if it cannot be initialized."""
    if env.size == 1:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(process_group(env, device, timeout))
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            text = f"{env.prefix}cannot join the process group ({reason}); start all ranks by torchrun"
            raise RankError(text) from None
        yield group
