"""Memory that the allocator keeps after it was freed."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

# Bytes that may be kept. Less is used again by the next images, and would have to be mapped again: for photos of 0.4
# megapixels, which leave 10 MB, that took a tenth of the time.
_KEPT = 1 << 25


class _AllocatorInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def return_freed_memory() -> None:
    """Return freed memory of more than 32 MiB to the system, where the allocator can (glibc); elsewhere nothing.

    glibc keeps freed blocks below 32 MB, between others that are in use. Without this, compressing 24 megapixels held
    70 MB more at its peak, and an animation of 16 megapixels a frame 90 MB. It takes less than a millisecond.
    """
    trim = _function("malloc_trim")
    if trim is None:
        return
    info = _function("mallinfo2", _AllocatorInfo)  # since glibc 2.33
    if info is None or info().fordblks > _KEPT:
        trim(0)


@cache
def _function(name: str, result: type = ctypes.c_int) -> Callable[..., Any] | None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function.restype = result
    return function
