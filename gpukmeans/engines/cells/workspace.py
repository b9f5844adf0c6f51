"""Reused memory for temporary tensors."""

import math
from collections.abc import Sequence

from torch import Tensor


class Workspace:
    """Temporary tensors by name. A tensor overwrites the memory of the last one of the same name.

    The allocator returns large blocks to the system; to allocate them again took a third of the time of an iteration.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def table(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """An uninitialized tensor of this shape, with the dtype and device of `like`."""
        length = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or len(memory) < length or memory.dtype != like.dtype or memory.device != like.device:
            self._memory[name] = memory = like.new_empty(length)
        return memory[:length].view(tuple(shape))
