"""The ranks of one run, which `torchrun` starts side by side, and which of them this process is."""

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
    """An environment that names no rank, though it seems to, or others out of reach; its text is one sentence."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which rank this process is, of how many, and which of those on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """How many are on its machine."""

    @property
    def leads(self) -> bool:
        """Whether this is the rank that speaks for all."""
        return self.rank == 0

    @property
    def prefix(self) -> str:
        """What to put before a line that holds for this rank only; nothing where there is no other."""
        return "" if self.size == 1 else f"rank {self.rank} of {self.size}: "


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that `torchrun` gave this process, or that of one alone. RankError for one that cannot be."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not any(name in environment for name in names[:2]):
        return Place()
    came = ", ".join(f"{name}={environment.get(name, 'missing')}" for name in names)
    try:
        rank, size, local_rank = (int(environment[name]) for name in names[:3])
        local_size = int(environment.get(names[3], 1))
    except (KeyError, ValueError):
        rank, size, local_rank, local_size = -1, 0, -1, 0
    if not (0 <= rank < size and 0 <= local_rank <= rank and 1 <= local_size <= size):
        raise RankError(f"a rank below WORLD_SIZE and a LOCAL_RANK are wanted, as torchrun sets them, got {came}")
    return Place(rank=rank, size=size, local_rank=local_rank, local_size=local_size)


def device_name(name: str, place: Place) -> str:
    """The name of this rank's device where all were asked for "auto" or "cuda": of several GPUs, each has its own."""
    import torch

    several = place.size > 1 and torch.cuda.is_available()
    return f"cuda:{place.local_rank}" if several and name in ("auto", "cuda") else name


@contextlib.contextmanager
def process_group(place: Place, device: "torch.device", timeout: timedelta | None = None) -> "Iterator[ProcessGroup]":
    """The group of all ranks, by NCCL where their devices are GPUs, else by gloo. Inside, all must do the same."""
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Alone there is nobody to meet, so no address is asked for.
    store = dist.HashStore() if place.size == 1 else None  # pyright: ignore[reportPrivateImportUsage] # documented
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        rank=place.rank,
        world_size=place.size,
        store=store,
        timeout=timeout,
    )
    try:
        yield dist.group.WORLD  # pyright: ignore[reportReturnType] # there is one by now
    finally:
        dist.destroy_process_group()
