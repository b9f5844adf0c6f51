import os
import sys

import torch

from gpukmeans_cli.compression.workers import default_workers, pool_for
from gpukmeans_cli.system.worker_pool import InlinePool, ProcessPool, ThreadPool, in_order

CPU = torch.device("cpu")


def test_workers_are_processes_on_the_cpu_and_threads_on_a_gpu_and_divide_the_threads_of_torch(monkeypatch):
    torch.set_num_threads(4)
    assert isinstance(pool_for(CPU, 1), InlinePool)
    assert torch.get_num_threads() == 4
    if sys.platform == "linux":
        pool = pool_for(CPU, 2)
        assert isinstance(pool, ProcessPool)
        assert list(in_order(pool, lambda _: torch.get_num_threads(), [0], stop=pool.event(), on_lost=str)) == [2]
        assert torch.get_num_threads() == 4
    assert isinstance(pool_for(torch.device("cuda"), 2), ThreadPool)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(4)
    monkeypatch.setattr(ProcessPool, "unsupported_reason", staticmethod(lambda: "no fork"))
    assert isinstance(pool_for(CPU, 8), ThreadPool)
    assert torch.get_num_threads() == 1


def test_by_default_there_is_a_worker_for_each_core_but_at_most_16_for_a_gpu(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(40), raising=False)
    assert (default_workers(CPU), default_workers(torch.device("cuda"))) == (40, 16)


def test_the_ranks_of_a_machine_divide_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(40), raising=False)
    assert [default_workers(CPU, local_ranks) for local_ranks in (2, 3, 40, 50)] == [20, 13, 1, 1]
    assert [default_workers(torch.device("cuda"), local_ranks) for local_ranks in (2, 8)] == [16, 5]
