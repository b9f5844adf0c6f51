"""Sources of batches, and the threads that read them."""

import threading
import time

import torch

X = torch.arange(20.0).view(10, 2)
W = torch.arange(10)


class BatchIterable:
    """An iterable of batches without a length and without slices."""

    def __iter__(self):
        return iter([X[:4], X[4:]])


def no_reader_is_left():
    """Whether all threads that read batches end within 10 s."""

    def names():
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("gpukmeans-batches")]

    wait_for(lambda: not names())
    return not names()


def wait_for(condition):
    """Returns as soon as the condition is true, at the latest after 10 s."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
