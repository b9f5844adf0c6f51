"""The CUDA devices of tests: the pretended one, and a real one where there is one. A plugin of pytest."""

import contextlib

import pytest
import torch

from helpers import pretended_cuda

_REASON = pretended_cuda.unsupported_reason()

CUDA_DEVICES = [
    pytest.param("pretended", marks=pytest.mark.skipif(_REASON is not None, reason=str(_REASON))),
    pytest.param(
        "real", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


@contextlib.contextmanager
def cuda_device(kind):
    """Inside the context there is a CUDA device of this kind. Gives the log of the pretended one, else None."""
    if kind == "real":
        yield None
        return
    with pretended_cuda.pretended_cuda() as log:
        yield log


@pytest.fixture(params=CUDA_DEVICES)
def cuda(request):
    """The name of a CUDA device, in a context in which there is one."""
    with cuda_device(request.param):
        yield "cuda"


def moved(value, device):
    """The value, with each tensor in it on the device: a tensor, or a list, tuple or dictionary of values."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(item, device) for item in value)
    return value
