"""Conversion of input arrays to tensors, and of results to arrays of the library of the input.

The module recognizes arrays of NumPy, pandas and SciPy by type and interface. It never imports these libraries.
"""

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class SupportsDLPack(Protocol):
    """An array that supports DLPack, such as an array of NumPy, JAX or CuPy."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...

    def __dlpack_device__(self) -> Any: ...


@runtime_checkable
class SupportsArray(Protocol):
    """An object that NumPy converts to an array, such as a DataFrame."""

    def __array__(self) -> Any: ...


Array = SupportsDLPack | SupportsArray
"""An array of another library: NumPy's, one that supports DLPack, or a DataFrame of numbers."""


def as_tensor(values: Any, name: str, *, mapped: bool = False) -> Any:
    """The tensor of an array. Any other object is returned unchanged.

    The arrays that are converted are arrays of NumPy or of a library with DLPack, and a DataFrame or Series of numbers.
    Tensors, streams and arrays on disk (HDF5, zarr, memory maps) are returned unchanged. Array and tensor share memory
    where torch supports it.

    Args:
        values: the array, or any other object.
        name: the name of the values in errors.
        mapped: whether a memory map is read into a tensor instead of returned unchanged.

    Raises:
        TypeError: for sparse and masked arrays, columns that are not numbers, and a dtype that torch does not have.

    Example:
        >>> import numpy
        >>> as_tensor(numpy.ones((1, 2)), "x")
        tensor([[1., 1.]], dtype=torch.float64)
    """
    if isinstance(values, Tensor):
        return values
    check_dense(values, name)
    if _is_frame(values):
        return _from_numpy(_numbers(values, name), name)
    if _is_numpy(values):
        return values if _is_memory_map(values) and not mapped else _from_numpy(values, name)
    return _from_dlpack(values, name) if hasattr(values, "__dlpack__") else values


def to_tensor(values: Any, name: str) -> Tensor:
    """The tensor itself, or the tensor of an array or a memory map. TypeError for any other object."""
    tensor = as_tensor(values, name, mapped=True)
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor or an array, got {type(values).__name__}")
    return tensor


def weights_tensor(values: Any, name: str) -> Tensor:
    """The tensor of weights. A boolean mask becomes uint8 weights of 0 and 1. TypeError for any other object."""
    tensor = to_tensor(values, name)
    return tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor


def converter_for(x: Any) -> Callable[[Tensor], Any]:
    """A function that converts a result to an array of the library of `x`.

    For a DataFrame the result is an array of NumPy. For a tensor, and for a library without `from_dlpack`, the result
    stays a tensor.

    Example:
        >>> import numpy
        >>> converter_for(numpy.zeros(2))(torch.ones(1))
        array([1.], dtype=float32)
    """
    if isinstance(x, Tensor):
        return _unchanged
    if _is_numpy(x) or _is_frame(x):
        return _to_numpy
    from_dlpack = getattr(_library_of(x), "from_dlpack", None) if hasattr(x, "__dlpack__") else None
    return _unchanged if from_dlpack is None else functools.partial(_to_library, from_dlpack)


def check_dense(values: Any, name: str) -> None:
    """TypeError for a sparse matrix or array of another library."""
    # The attribute is looked up on the type, because a DataFrame with a column "nnz" has an attribute "nnz".
    if not isinstance(values, Tensor) and hasattr(type(values), "nnz"):
        raise TypeError(f"{name} must be dense, got a sparse {type(values).__name__}: call its toarray()")


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


# Functions and not lambdas, because a converter is pickled with its estimator.
def _to_numpy(tensor: Tensor) -> Any:
    return tensor.numpy(force=True)


def _to_library(from_dlpack: Callable[[Tensor], Any], tensor: Tensor) -> Any:
    return from_dlpack(tensor.detach())


def _is_numpy(values: Any) -> bool:
    """Whether this is an array of NumPy. A scalar of NumPy is not."""
    return any((base.__module__, base.__name__) == ("numpy", "ndarray") for base in type(values).__mro__)


def _is_memory_map(values: Any) -> bool:
    # The type does not suffice: an array computed from a memory map is a `numpy.memmap` whose `_mmap` is None.
    return getattr(values, "_mmap", None) is not None


def _is_frame(values: Any) -> bool:
    """Whether this is a DataFrame or a Series, of pandas or of a library with its interface."""
    return hasattr(values, "to_numpy") and hasattr(values, "__array__") and not isinstance(values, type)


def _numbers(frame: Any, name: str) -> Any:
    """The array of a DataFrame or Series. TypeError unless all of its columns are numbers."""
    array = frame.to_numpy()
    if array.dtype.kind != "O":
        return array
    dtypes = getattr(frame, "dtypes", None)
    columns = list(dtypes) if isinstance(dtypes, Iterable) else [dtypes]
    if others := sorted({str(dtype) for dtype in columns if getattr(dtype, "kind", "O") not in "biuf"}):
        kind = type(frame).__name__
        raise TypeError(f"{name} must have columns of numbers only, got a {kind} with columns of {', '.join(others)}")
    # Missing numbers become NaN, which raises an error later.
    return frame.to_numpy("float64", na_value=float("nan"))


def _from_numpy(values: Any, name: str) -> Tensor:
    if hasattr(values, "mask"):
        raise TypeError(
            f"{name} must be an array without a mask, got {type(values).__name__}: give masked points weights of 0"
        )
    native, size = values.dtype.newbyteorder("="), values.dtype.itemsize
    # torch warns or raises for an array that fails one of these conditions, so the array is copied. The copy of a
    # memory map reads the whole file.
    shared = (
        values.flags.writeable
        and not _is_memory_map(values)
        and native == values.dtype
        and all(stride >= 0 and stride % max(1, size) == 0 for stride in values.strides)
    )
    try:
        return torch.from_numpy(values if shared else values.astype(native, subok=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be of a dtype that torch has, got an array of {values.dtype} ({error})") from None


def _from_dlpack(values: Any, name: str) -> Tensor:
    try:
        return torch.from_dlpack(values)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        kind = type(values).__name__
        raise TypeError(f"{name} must be an array that DLPack shares with torch, got {kind} ({error})") from None


def _library_of(x: Any) -> Any:
    """The module of the array library of `x`."""
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    return importlib.import_module(type(x).__module__.partition(".")[0])
