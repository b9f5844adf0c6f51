"""Which tensors the native kernels take: those whose values are at their address, on the CPU."""

from typing import Any

import torch
from torch import Tensor

from gpukmeans.engines.native.library import unavailable_reason


def takes(*tensors: Tensor, dtype: torch.dtype) -> bool:
    """Whether there are native kernels and these tensors are plain: strided, of this dtype, on the CPU.

    Subclasses, as `FakeTensor`, and the tensors of `torch.vmap` and other transformations are not plain. No tensor is
    taken in code that is compiled, or under a mode that replaces operations of torch, as kernels are no operations.
    """
    return (
        not torch.compiler.is_compiling()
        and unavailable_reason() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and all(is_plain(tensor) and tensor.is_cpu and tensor.dtype == dtype for tensor in tensors)
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether the values of a tensor are at its address: no subclass, no tensor of a transformation as `vmap`."""
    internals: Any = torch._C  # what is inside it has no types
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not internals._functorch.is_functorch_wrapped_tensor(tensor)
    )
