"""The number of threads of torch in tests."""

import contextlib

import torch


@contextlib.contextmanager
def threads(n):
    """Sets the number of threads. Only for native kernels, because idle threads of torch keep cores busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
