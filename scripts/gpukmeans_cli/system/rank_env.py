"""The rank of this process among the processes started by `torchrun`, and the process group of all ranks."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup


class RankError(Exception):
    """Invalid rank variables, or a lost connection to the other ranks. The text is one sentence."""


@dataclass(frozen=True, kw_only=True)
class RankEnv:
    """Rank of this process and number of processes: `rank` and `size` over all machines, the others on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which prints and writes files for all ranks."""
        return self.rank == 0

    @property
    def prefix(self) -> str:
        """The prefix of a printed line that concerns this rank only; empty for a single process."""
        return "" if self.size == 1 else f"rank {self.rank} of {self.size}: "


def rank_env(environment: Mapping[str, str] = os.environ) -> RankEnv:
    """The ranks that `torchrun` set as environment variables, else a single process. RankError if they are invalid."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not any(name in environment for name in names[:2]):
        return RankEnv()
    received = ", ".join(f"{name}={environment.get(name, 'missing')}" for name in names)
    try:
        rank, size, local_rank = (int(environment[name]) for name in names[:3])
        local_size = int(environment.get(names[3], 1))
    except (KeyError, ValueError):
        rank, size, local_rank, local_size = -1, 0, -1, 0
    if not (0 <= rank < size and 0 <= local_rank <= rank and 1 <= local_size <= size):
        raise RankError(f"expected a rank below WORLD_SIZE and a LOCAL_RANK, as torchrun sets them, got {received}")
    return RankEnv(rank=rank, size=size, local_rank=local_rank, local_size=local_size)


def device_name(name: str, env: RankEnv) -> str:
    """The name of the device of this rank. With several ranks, "auto" and "cuda" become the GPU of the local rank."""
    import torch

    has_own_gpu = env.size > 1 and torch.cuda.is_available()
    return f"cuda:{env.local_rank}" if has_own_gpu and name in ("auto", "cuda") else name


@contextlib.contextmanager
def process_group(env: RankEnv, device: "torch.device", timeout: timedelta | None = None) -> "Iterator[ProcessGroup]":
    """The process group of all ranks: NCCL on GPUs, else gloo. Inside, all ranks must make the same calls."""
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        torch.cuda.set_device(device)
    # A single process needs no rendezvous address.
    store = dist.HashStore() if env.size == 1 else None  # pyright: ignore[reportPrivateImportUsage] # documented
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", rank=env.rank, world_size=env.size, store=store, timeout=timeout
    )
    try:
        yield dist.group.WORLD  # pyright: ignore[reportReturnType] # not None after init_process_group
    finally:
        dist.destroy_process_group()
