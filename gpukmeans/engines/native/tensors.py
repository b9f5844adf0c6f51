"""Tensors as arguments of native kernels: supported tensors, allocation, addresses, and the kernel for a dtype."""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gpukmeans.engines.native.library import load, unavailable_reason


def takes(*tensors: Tensor, dtype: torch.dtype) -> bool:
    """Whether native kernels can be called for these tensors: plain (see `is_plain`), of this dtype, on the CPU.

    The result is False without native kernels. It is also False in code that `torch.compile` compiles, and under a mode
    that replaces torch operations, because kernels are not torch operations.
    """
    return (
        not torch.compiler.is_compiling()
        and unavailable_reason() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and all(is_plain(tensor) and tensor.is_cpu and tensor.dtype == dtype for tensor in tensors)
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether the values of a tensor are in memory at its address, so that a kernel can read them.

    The result is False for sparse tensors, for subclasses such as `FakeTensor`, and for the tensors inside `torch.vmap`
    and other transformations.
    """
    internals: Any = torch._C  # Any, because torch._C has no types
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not internals._functorch.is_functorch_wrapped_tensor(tensor)
    )


def kernel(name: str, *argtypes: Any, restype: Any = None, dtype: torch.dtype | None = None) -> Callable[..., Any]:
    """The C function `gpukmeans_` + `name` of the library for this CPU.

    Args:
        name: the name in C without the prefix, and without the suffix of a dtype.
        *argtypes: the ctypes of the arguments.
        restype: the ctype of the result, None for a function without a result.
        dtype: float32 or float64 if there is a function for each of them. The name in C then ends in `_f32` or `_f64`.
    """
    suffix = "" if dtype is None else "_f32" if dtype == torch.float32 else "_f64"
    return load().function(f"gpukmeans_{name}{suffix}", *argtypes, restype=restype)


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """An uninitialized tensor on the CPU, whatever the default device is."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    """A tensor of zeros on the CPU, whatever the default device is."""
    return torch.zeros(shape, dtype=dtype, device="cpu")


def padded(tensor: Tensor, *shape: int) -> Tensor:
    """A contiguous tensor of this shape: the given tensor, with zeros appended along each dimension."""
    sizes = [n for length, given in zip(shape[::-1], tensor.shape[::-1], strict=True) for n in (0, length - given)]
    return torch.nn.functional.pad(tensor, sizes).contiguous()


def addresses(*tensors: Tensor | None) -> list[int | None]:
    """The addresses of the first elements of tensors, None (a null pointer) for None."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def point_to(arguments: ctypes.Structure, tensors: Mapping[str, Tensor]) -> None:
    """Set pointers of a structure to the first elements of tensors, by name.

    The tensors must be contiguous. The caller must keep references to them as long as kernels use the structure.
    """
    for name, tensor in tensors.items():
        setattr(arguments, name, tensor.data_ptr())
