"""Whether Triton is installed, in a version that compiles the kernels, and where there are kernels."""

import functools
import importlib.util

from torch import Tensor

MAX_WIDTH = 8
"""The number of channels up to which `gpukmeans.distance` adds from left to right, as the fused kernels do."""


def has_kernels(tensor: Tensor) -> bool:
    """Whether there are kernels for the device of the tensor."""
    return tensor.device.type == "cuda" and unavailable_reason() is None


@functools.cache
def unavailable_reason() -> str | None:
    """The reason why there are no Triton kernels, a clause, or None if there are."""
    if importlib.util.find_spec("triton") is None:
        return "it needs triton, which is not installed"
    import triton.language

    if not hasattr(triton.language, "tuple"):
        return f"it needs triton 3.3 or later, got {triton.__version__}"
    return None
