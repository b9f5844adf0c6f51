"""Memory that the allocator keeps after it was freed."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def return_freed_memory() -> None:
    """Return freed memory to the system, where the allocator can (glibc); elsewhere nothing.

    glibc keeps freed blocks below 32 MB, between others that are in use. Without this, compressing 24 megapixels held
    70 MB more at its peak, and an animation of 16 megapixels a frame 90 MB. It takes less than a millisecond.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
