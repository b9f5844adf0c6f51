"""Files of rows. Opening a file reads its shape and dtype, and later only the requested rows are read."""

import json
import mmap
import os
import pickle
import struct
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from gpukmeans_cli.system.atomic_files import FileVersion

KEYED_SUFFIXES = (".safetensors", ".pt", ".pth")
"""Suffixes of files that hold tensors by name."""
SUFFIXES = (".npy", *KEYED_SUFFIXES)

_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
_SAFETENSORS_DTYPES = dict(zip(("F16", "BF16", "F32", "F64", "U8", "I8", "I16", "I32", "I64"), _DTYPES, strict=True))


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without the prefix "torch."."""
    return str(dtype).removeprefix("torch.")


class RowFileError(Exception):
    """A file has no rows that can be read. The text is one sentence that begins with its path."""


class RowFile(Protocol):
    """A file of rows (N, D) whose header has been read."""

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, start: int, target: Tensor) -> None:
        """Fill `target` (n, D), contiguous and of the dtype of the file, with the rows from `start`.

        OSError, whose text begins with the path, if the file is missing or has changed since it was opened.
        """
        ...


def open_row_file(path: Path, key: str | None = None) -> RowFile:
    """Open a file of rows (N, D) by its suffix, without reading a row. `key` names one of several tensors.

    RowFileError if the file is missing or damaged, or if its content is not rows of numbers.
    """
    suffix = path.suffix.lower()
    if os.path.isdir(path):
        raise RowFileError(f"{path}: is a folder; name the files in it, such as '{path}/*.npy'")
    if suffix not in SUFFIXES:
        raise RowFileError(f"{path}: rows are read from files that end in {', '.join(SUFFIXES)}")
    try:
        if os.path.lexists(path) and not os.path.isfile(path):
            raise RowFileError(f"{path}: is not a regular file, so that single rows cannot be read")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise RowFileError(f"{path}: is empty, 0 bytes")
            if suffix == ".npy":
                return _open_npy(path, file)
            return _open_safetensors(path, file, key) if suffix == ".safetensors" else _open_pt(path, file, key)
    except OSError as error:
        raise RowFileError(f"{path}: {_read_error_reason(error)}") from None


@dataclass(frozen=True, kw_only=True)
class _BaseRowFile(ABC):
    path: Path
    shape: tuple[int, int]
    dtype: torch.dtype
    version: FileVersion

    def read(self, start: int, target: Tensor) -> None:
        if not len(target):
            return
        try:
            with self.path.open("rb") as file:
                # Checked before the file is mapped: access to pages beyond its end would kill the process.
                is_unchanged = FileVersion.of(file) == self.version
                if is_unchanged:
                    self._copy_rows(file, start, target)
        except OSError as error:
            raise OSError(f"{self.path}: {_read_error_reason(error)}") from None
        except RowFileError as error:
            raise OSError(str(error)) from None
        if not is_unchanged:
            raise OSError(f"{self.path}: has changed while it was being read; leave it as it is and start anew")

    @abstractmethod
    def _copy_rows(self, file: BinaryIO, start: int, target: Tensor) -> None: ...


@dataclass(frozen=True, kw_only=True)
class _ContiguousFile(_BaseRowFile):
    """Rows stored contiguously from a byte offset: .npy and .safetensors."""

    offset: int

    def _copy_rows(self, file: BinaryIO, start: int, target: Tensor) -> None:
        # Mapped pages count as memory of the process, so only the requested rows are mapped, and only during the copy.
        n_bytes = target.numel() * target.itemsize
        begin = self.offset + start * (n_bytes // len(target))
        padding = begin % mmap.ALLOCATIONGRANULARITY
        with mmap.mmap(file.fileno(), padding + n_bytes, access=mmap.ACCESS_READ, offset=begin - padding) as mapped:
            view = np.frombuffer(mapped, np.uint8, n_bytes, padding)
            target.view(torch.uint8).numpy().reshape(-1)[:] = view
            del view  # an existing view prevents closing the map


@dataclass(frozen=True, kw_only=True)
class _TorchFile(_BaseRowFile):
    """Rows in a file of torch.save. Each read opens the file again, which takes 0.3 ms."""

    key: str | None

    def _copy_rows(self, file: BinaryIO, start: int, target: Tensor) -> None:
        target.copy_(_select_tensor(_load(self.path), self.path, self.key)[start : start + len(target)])


def _open_npy(path: Path, file: BinaryIO) -> RowFile:
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran_order, dtype = readers[version](file)
    except Exception as error:  # numpy parses the header as Python, which can raise many errors
        if isinstance(error, OSError):
            raise
        raise RowFileError(f"{path}: is not a .npy file of numbers, or is damaged") from None
    if dtype.hasobject:
        raise RowFileError(f"{path}: holds Python objects, which are not read; save an array of numbers")
    if dtype.byteorder == ">":
        raise RowFileError(
            f"{path}: is stored in big-endian order; save it by numpy with .astype('{dtype.newbyteorder('<').str}')"
        )
    shape = _checked_shape(path, shape)
    if is_fortran_order and min(shape) > 1:
        remedy = "np.save(PATH, np.ascontiguousarray(np.load(PATH)))"
        raise RowFileError(f"{path}: is stored in Fortran order, column by column; save it row by row, by {remedy}")
    torch_dtype = _checked_dtype(path, getattr(torch, dtype.name, None), dtype.name)
    return _open_contiguous(path, file, shape, torch_dtype, file.tell())


def _open_safetensors(path: Path, file: BinaryIO, key: str | None) -> RowFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):  # checks the header and the size of the file
            pass
    except SafetensorError as error:
        raise RowFileError(f"{path}: is not a .safetensors file, or is damaged or truncated ({error})") from None
    (n_bytes,) = struct.unpack("<Q", file.read(8))
    entries = json.loads(file.read(n_bytes))
    entries.pop("__metadata__", None)
    entry = entries[_select_key(path, list(entries), key)]
    dtype = _checked_dtype(path, _SAFETENSORS_DTYPES.get(entry["dtype"]), entry["dtype"])
    offset = 8 + n_bytes + entry["data_offsets"][0]
    return _open_contiguous(path, file, _checked_shape(path, entry["shape"]), dtype, offset)


def _open_pt(path: Path, file: BinaryIO, key: str | None) -> RowFile:
    if file.read(4) != b"PK\x03\x04":
        raise RowFileError(f"{path}: is not a file of torch.save, or older than torch 1.6; save it again by torch.save")
    tensor = _select_tensor(_load(path), path, key)
    if tensor.is_meta:
        raise RowFileError(f"{path}: holds a meta tensor, which has no values; save a tensor with values")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        raise RowFileError(f"{path}: holds a tensor that is not dense; save tensor.to_dense()")
    dtype = _checked_dtype(path, tensor.dtype, dtype_name(tensor.dtype))
    shape = _checked_shape(path, tensor.shape)
    if not tensor.is_contiguous():
        raise RowFileError(f"{path}: is not stored row by row; save tensor.contiguous()")
    return _TorchFile(path=path, shape=shape, dtype=dtype, version=FileVersion.of(file), key=key)


def _open_contiguous(path: Path, file: BinaryIO, shape: tuple[int, int], dtype: torch.dtype, offset: int) -> RowFile:
    version = FileVersion.of(file)
    expected = offset + shape[0] * shape[1] * dtype.itemsize
    if version.n_bytes < expected:
        raise RowFileError(
            f"{path}: is truncated: {shape[0]:,} x {shape[1]:,} {dtype_name(dtype)} take "
            f"{expected:,} bytes, and it has {version.n_bytes:,}"
        )
    return _ContiguousFile(path=path, shape=shape, dtype=dtype, version=version, offset=offset)


def _load(path: Path) -> object:
    """The object in a file of torch.save, memory-mapped. Pickled code is not run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise RowFileError(
            f"{path}: holds Python objects, which are not read; save a tensor, or a dict of tensors"
        ) from None
    except (RuntimeError, ValueError, EOFError):
        raise RowFileError(f"{path}: is not a file of torch.save, or is damaged or truncated") from None


def _select_tensor(loaded: object, path: Path, key: str | None) -> Tensor:
    if isinstance(loaded, Tensor):
        if key is not None:
            raise RowFileError(f"{path}: holds a tensor without a name; leave --key {key} out")
        return loaded.detach()
    if not isinstance(loaded, Mapping):
        raise RowFileError(f"{path}: holds neither a tensor nor a dict of tensors, but a {type(loaded).__name__}")
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    return tensors[_select_key(path, list(tensors), key)].detach()


def _select_key(path: Path, names: list[str], key: str | None) -> str:
    """`key`, or the only name. RowFileError if there is no such tensor, or if `key` is missing."""
    if key in names or (key is None and len(names) == 1):
        return names[0] if key is None else key
    if not names:
        raise RowFileError(f"{path}: holds no tensor")
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    if key is None:
        raise RowFileError(f"{path}: holds {len(names)} tensors; name one by --key: {listed}")
    raise RowFileError(f"{path}: holds no tensor {key}; there is {listed}")


def _checked_shape(path: Path, shape: "tuple[int, ...] | list[int] | torch.Size") -> tuple[int, int]:
    if len(shape) != 2 or shape[0] < 0 or shape[1] < 1:
        raise RowFileError(f"{path}: expected rows of numbers, of shape (N, D), got shape {tuple(shape)}")
    return int(shape[0]), int(shape[1])


def _checked_dtype(path: Path, dtype: torch.dtype | None, name: str) -> torch.dtype:
    if dtype not in _DTYPES:
        names = ", ".join(map(dtype_name, _DTYPES))
        raise RowFileError(f"{path}: expected numbers of dtype {names}, got {name}")
    return dtype


def _read_error_reason(error: OSError) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "cannot be read; check its permissions"
    return f"cannot be read ({error.strerror or error})"
