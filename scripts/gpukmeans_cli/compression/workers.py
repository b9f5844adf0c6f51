"""Worker pools for compression: how many workers, and whether they are processes or threads."""

import os
from functools import partial

import torch

from gpukmeans_cli.system.worker_pool import InlinePool, ProcessPool, ThreadPool, WorkerPool

# One thread at a time uses the GPU while the others decode and encode.
_MAX_GPU_WORKERS = 16

WORKER_KILLED = "the worker process was killed, perhaps for its memory"


def default_workers(device: torch.device, local_ranks: int = 1) -> int:
    """The default number of files in work at a time. The ranks of a machine, `local_ranks`, divide its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = max(1, cores // local_ranks)
    return min(cores, _MAX_GPU_WORKERS) if device.type == "cuda" else cores


def pool_for(device: torch.device, n_workers: int) -> WorkerPool:
    """A pool of `n_workers`: processes on the CPU if the platform can fork, else threads."""
    if n_workers <= 1:
        return InlinePool()
    # More threads of torch than cores would only wait for each other.
    n_threads = max(1, torch.get_num_threads() // n_workers)
    if device.type == "cpu" and ProcessPool.unsupported_reason() is None:
        # Clustering is many short operations, between which threads would wait for Python's lock.
        return ProcessPool(n_workers, partial(torch.set_num_threads, n_threads))
    torch.set_num_threads(n_threads)
    return ThreadPool(n_workers)
