"""Ranks that are threads of one process."""

from concurrent.futures import ThreadPoolExecutor

import torch.distributed as dist

from gpukmeans_cli.system.rank_env import RankEnv
from gpukmeans_cli.system.rank_store import RankStore


def run_on_ranks(work, size):
    """The result of `work(ranks)`, or the exception that it raises, for each of `size` ranks."""
    store = dist.HashStore()

    def run_rank(rank):
        try:
            return work(RankStore(RankEnv(rank=rank, size=size, local_rank=rank, local_size=size), store))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run_rank, range(size), timeout=60))
