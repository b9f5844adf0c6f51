"""Transfers of small tensors between a GPU and the host, several in one copy, because each copy takes about 15 µs."""

from collections.abc import Sequence

import torch
from torch import Tensor


def on_host(*tensors: Tensor) -> list[Tensor]:
    """Tensors of one device on the CPU. Each has a multiple of 8 bytes. This synchronizes with a GPU once."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors)
    return _unpacked(_packed(tensors).cpu(), tensors)


def from_host(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    """CPU tensors on a device, contiguous. Each has a multiple of 8 bytes. This does not synchronize with a GPU."""
    if device.type == "cpu":
        return list(tensors)
    # A driver copies few bytes of pageable memory to its own buffer before the call returns.
    return _unpacked(_packed(tensors).to(device, non_blocking=True), tensors)


def _packed(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten().view(torch.int64) for tensor in tensors])


def _unpacked(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = packed.split([tensor.nbytes // 8 for tensor in like])
    return [part.view(tensor.dtype).view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
