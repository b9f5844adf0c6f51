"""Batches that can be read again and again."""

import threading
import time

import torch

X = torch.arange(20.0).view(10, 2)
W = torch.arange(10)


class Again:
    """Something that can be iterated again, and has neither a length nor slices."""

    def __iter__(self):
        return iter([X[:4], X[4:]])


def no_reader_is_left():
    def names():
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("gpukmeans-batches")]

    wait_for(lambda: not names())
    return not names()


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
