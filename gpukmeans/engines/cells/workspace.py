"""Memory for tables that are made again and again."""

import math
from collections.abc import Sequence

from torch import Tensor


class Scratch:
    """Tables by name, each on the memory of the last one of that name, whose values are lost.

    An allocator gives large blocks back to the system, and to get them anew took a third of the time of a round.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def table(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """A table of this shape with unknown values, of the dtype and on the device of another tensor."""
        length = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or len(memory) < length or memory.dtype != like.dtype or memory.device != like.device:
            self._memory[name] = memory = like.new_empty(length)
        return memory[:length].view(tuple(shape))
