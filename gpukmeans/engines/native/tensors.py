"""Conditions on the tensors of native kernels: they are on the CPU, and their values are at their address."""

from typing import Any

import torch
from torch import Tensor

from gpukmeans.engines.native.library import unavailable_reason


def takes(*tensors: Tensor, dtype: torch.dtype) -> bool:
    """Whether there are native kernels for these tensors: plain, strided, of this dtype, on the CPU.

    Subclasses, such as `FakeTensor`, and the tensors of `torch.vmap` and other transformations are not plain. The
    result is False in compiled code, and under a mode that replaces torch operations, because kernels are not torch
    operations.
    """
    return (
        not torch.compiler.is_compiling()
        and unavailable_reason() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and all(is_plain(tensor) and tensor.is_cpu and tensor.dtype == dtype for tensor in tensors)
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether the values of a tensor are at its address. This excludes subclasses, and tensors inside `torch.vmap`."""
    internals: Any = torch._C  # Any, because torch._C has no types
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not internals._functorch.is_functorch_wrapped_tensor(tensor)
    )
