import ctypes
import sys

import numpy as np
import pytest

from gpukmeans_cli.system.memory import return_freed_memory


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the allocator is not glibc"
)
def test_freed_memory_between_blocks_in_use_is_returned_to_the_system():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) << 12

    return_freed_memory()
    before = resident()
    # Blocks below 128 KiB are never mapped alone.
    blocks = [np.ones(100_000, dtype=np.uint8) for _ in range(1000)]
    kept = blocks[::2]
    del blocks
    return_freed_memory()
    assert 45e6 < resident() - before < 70e6
    assert len(kept) == 500
