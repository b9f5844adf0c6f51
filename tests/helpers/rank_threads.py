"""Ranks that are threads of one process."""

from concurrent.futures import ThreadPoolExecutor

import torch.distributed as dist

from gpukmeans_cli.system.rank_env import Place
from gpukmeans_cli.system.rank_store import Meeting


def as_ranks(do, size):
    """What each of so many ranks gets back from `do`, or the exception that it raises."""
    store = dist.HashStore()

    def one(rank):
        try:
            return do(Meeting(Place(rank=rank, size=size, local_rank=rank, local_size=size), store))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size), timeout=60))
