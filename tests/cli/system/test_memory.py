import ctypes
import subprocess
import sys

import pytest

# Prints by how many bytes the process has grown after every second block is freed.
FREES = """
from gpukmeans_cli.system.memory import return_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) << 12

return_freed_memory()
before = resident()
# Blocks below 128 KiB are never mapped alone.
blocks = [b"1" * 100_000 for _ in range(1000)]
kept = blocks[::2]
del blocks
return_freed_memory()
print(resident() - before)
"""

USES = """
import resource
from gpukmeans_cli.system.memory import return_freed_memory

last = []

def use():
    blocks = [b"1" * 100_000 for _ in range(100)]
    last.append(b"1" * 100_000)  # what is free below a block in use stays mapped
    del blocks
    return_freed_memory()

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the allocator is not glibc"
)
def test_freed_memory_between_blocks_in_use_is_returned_to_the_system():
    # A process of its own has no freed memory before.
    output = subprocess.run([sys.executable, "-c", FREES], check=True, capture_output=True, text=True).stdout
    assert 45e6 < int(output) < 70e6


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the allocator is not glibc 2.33"
)
def test_a_little_freed_memory_is_kept_to_be_used_again():
    output = subprocess.run([sys.executable, "-c", USES], check=True, capture_output=True, text=True).stdout
    assert int(output) < 4000  # each use takes 2,400 pages, which would be mapped again after a return
