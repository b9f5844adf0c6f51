"""One file of rows: what it holds is known from its header, and only the rows that are asked for are read."""

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

from gpukmeans.validation import short_name

KEYED = (".safetensors", ".pt", ".pth")
"""Suffixes of files that hold tensors by name."""
SUFFIXES = (".npy", *KEYED)

_DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
_NUMPY = {short_name(dtype): dtype for dtype in _DTYPES}
_SAFETENSORS = dict(zip(("F16", "BF16", "F32", "F64", "U8", "I8", "I16", "I32", "I64"), _DTYPES, strict=True))


class ShardError(Exception):
    """A file that holds no rows to read: a sentence with its path in front."""


class Shard(Protocol):
    """A file of rows."""

    @property
    def path(self) -> Path: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def read(self, start: int, target: Tensor) -> None:
        """Fill `target` (n, D), of the shard's dtype and contiguous, with the rows from `start`.

        OSError, a sentence with the path in front, if the file is gone or is not what it was when it was opened.
        """
        ...


def open_shard(path: Path, key: str | None = None) -> Shard:
    """The rows (N, D) in a file, by its suffix; of several tensors in it those of that key. No row is read yet.

    ShardError for what is no such file, or holds something else.
    """
    suffix = path.suffix.lower()
    if os.path.isdir(path):
        raise ShardError(f"{path}: is a folder; name the files in it, such as '{path}/*.npy'")
    if suffix not in SUFFIXES:
        raise ShardError(f"{path}: rows are read from files that end in {', '.join(SUFFIXES)}")
    try:
        if os.path.lexists(path) and not os.path.isfile(path):
            raise ShardError(f"{path}: is not a regular file, so that its rows cannot be read in parts")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ShardError(f"{path}: is empty, 0 bytes")
            if suffix == ".npy":
                return _open_npy(path, file)
            return _open_safetensors(path, file, key) if suffix == ".safetensors" else _open_pt(path, file, key)
    except OSError as error:
        raise ShardError(f"{path}: {_why_unread(error)}") from None


@dataclass(frozen=True, kw_only=True)
class _State:
    """What of a file changes where another is put in its place, or where it is written to."""

    device: int
    inode: int
    n_bytes: int
    modified: int

    @classmethod
    def of(cls, file: BinaryIO) -> "_State":
        found = os.fstat(file.fileno())
        return cls(device=found.st_dev, inode=found.st_ino, n_bytes=found.st_size, modified=found.st_mtime_ns)


@dataclass(frozen=True, kw_only=True)
class _Opened(ABC):
    path: Path
    shape: tuple[int, int]
    dtype: torch.dtype
    state: _State

    def read(self, start: int, target: Tensor) -> None:
        if not len(target):
            return
        try:
            with self.path.open("rb") as file:
                # Before it is mapped: touching what is no longer there would end the process.
                same = _State.of(file) == self.state
                if same:
                    self._copy(file, start, target)
        except OSError as error:
            raise OSError(f"{self.path}: {_why_unread(error)}") from None
        except ShardError as error:
            raise OSError(str(error)) from None
        if not same:
            raise OSError(f"{self.path}: has changed while it was being read; leave it as it is and start anew")

    @abstractmethod
    def _copy(self, file: BinaryIO, start: int, target: Tensor) -> None: ...


@dataclass(frozen=True, kw_only=True)
class _Plain(_Opened):
    """Rows that lie one after the other from some byte of the file."""

    offset: int

    def _copy(self, file: BinaryIO, start: int, target: Tensor) -> None:
        # Only these rows are mapped, and only while they are copied: mapped pages count as memory of the process.
        n_bytes = target.numel() * target.itemsize
        first = self.offset + start * (n_bytes // len(target))
        ahead = first % mmap.ALLOCATIONGRANULARITY
        with mmap.mmap(file.fileno(), ahead + n_bytes, access=mmap.ACCESS_READ, offset=first - ahead) as mapped:
            there = np.frombuffer(mapped, np.uint8, n_bytes, ahead)
            target.view(torch.uint8).numpy().reshape(-1)[:] = there
            del there  # else the map could not be closed


@dataclass(frozen=True, kw_only=True)
class _Archived(_Opened):
    """Rows in a file of torch.save, which knows where they lie; opening it takes 0.3 ms."""

    key: str | None

    def _copy(self, file: BinaryIO, start: int, target: Tensor) -> None:
        target.copy_(_tensor_in(_load(self.path), self.path, self.key)[start : start + len(target)])


def _open_npy(path: Path, file: BinaryIO) -> Shard:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, dtype = read(file)
    except Exception as error:  # as numpy parses the header as Python, it may be any of many
        if isinstance(error, OSError):
            raise
        raise ShardError(f"{path}: is no .npy file of numbers, or is damaged") from None
    if dtype.hasobject:
        raise ShardError(f"{path}: holds Python objects, which are not read; save an array of numbers")
    if dtype.byteorder == ">":
        raise ShardError(
            f"{path}: has its bytes in big-endian order; save it by numpy with .astype('{dtype.newbyteorder('<').str}')"
        )
    shape = _checked_shape(path, shape)
    if by_columns and min(shape) > 1:
        how = "np.save(PATH, np.ascontiguousarray(np.load(PATH)))"
        raise ShardError(f"{path}: lies in Fortran order, column by column; save it row by row, by {how}")
    known = _checked_dtype(path, _NUMPY.get(dtype.name), dtype.name)
    return _plain(path, file, shape, known, file.tell())


def _open_safetensors(path: Path, file: BinaryIO, key: str | None) -> Shard:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):  # which checks the header, and the size of the file
            pass
    except SafetensorError as error:
        raise ShardError(f"{path}: is no .safetensors file, or is damaged or truncated ({error})") from None
    (n_bytes,) = struct.unpack("<Q", file.read(8))
    entries = json.loads(file.read(n_bytes))
    entries.pop("__metadata__", None)
    entry = entries[_chosen(path, list(entries), key)]
    dtype = _checked_dtype(path, _SAFETENSORS.get(entry["dtype"]), entry["dtype"])
    return _plain(path, file, _checked_shape(path, entry["shape"]), dtype, 8 + n_bytes + entry["data_offsets"][0])


def _open_pt(path: Path, file: BinaryIO, key: str | None) -> Shard:
    if file.read(4) != b"PK\x03\x04":
        raise ShardError(f"{path}: is no file of torch.save, or one of before torch 1.6; save it again by torch.save")
    tensor = _tensor_in(_load(path), path, key)
    if tensor.is_meta:
        raise ShardError(f"{path}: holds a meta tensor, which has no values; save one that has")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        raise ShardError(f"{path}: holds a tensor that is not dense; save tensor.to_dense()")
    dtype = tensor.dtype if tensor.dtype in _DTYPES else None
    dtype = _checked_dtype(path, dtype, short_name(tensor.dtype))
    shape = _checked_shape(path, tensor.shape)
    if not tensor.is_contiguous():
        raise ShardError(f"{path}: does not lie row by row; save tensor.contiguous()")
    return _Archived(path=path, shape=shape, dtype=dtype, state=_State.of(file), key=key)


def _plain(path: Path, file: BinaryIO, shape: tuple[int, int], dtype: torch.dtype, offset: int) -> Shard:
    state = _State.of(file)
    wanted = offset + shape[0] * shape[1] * dtype.itemsize
    if state.n_bytes < wanted:
        raise ShardError(
            f"{path}: is truncated: {shape[0]:,} x {shape[1]:,} {short_name(dtype)} take "
            f"{wanted:,} bytes, and it has {state.n_bytes:,}"
        )
    return _Plain(path=path, shape=shape, dtype=dtype, state=state, offset=offset)


def _load(path: Path) -> object:
    """What torch.save has put into the file, mapped into memory; of pickles only what is data."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise ShardError(
            f"{path}: holds Python objects, which are not read; save a tensor, or a dict of tensors"
        ) from None
    except (RuntimeError, ValueError, EOFError):
        raise ShardError(f"{path}: is no file of torch.save, or is damaged or truncated") from None


def _tensor_in(loaded: object, path: Path, key: str | None) -> Tensor:
    if isinstance(loaded, Tensor):
        if key is not None:
            raise ShardError(f"{path}: holds a tensor without a name; leave --key {key} out")
        return loaded.detach()
    if not isinstance(loaded, Mapping):
        raise ShardError(f"{path}: holds neither a tensor nor a dict of tensors, but a {type(loaded).__name__}")
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    return tensors[_chosen(path, list(tensors), key)].detach()


def _chosen(path: Path, names: list[str], key: str | None) -> str:
    """The key, if there is such a tensor, or the only name."""
    if key in names or (key is None and len(names) == 1):
        return names[0] if key is None else key
    if not names:
        raise ShardError(f"{path}: holds no tensor")
    held = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    if key is None:
        raise ShardError(f"{path}: holds {len(names)} tensors; name one by --key: {held}")
    raise ShardError(f"{path}: holds no tensor {key}; there is {held}")


def _checked_shape(path: Path, shape: "tuple[int, ...] | list[int] | torch.Size") -> tuple[int, int]:
    if len(shape) != 2 or shape[0] < 0 or shape[1] < 1:
        raise ShardError(f"{path}: wanted are rows of numbers, of shape (N, D), got shape {tuple(shape)}")
    return int(shape[0]), int(shape[1])


def _checked_dtype(path: Path, dtype: torch.dtype | None, name: str) -> torch.dtype:
    if dtype is None:
        names = ", ".join(map(short_name, _DTYPES))
        raise ShardError(f"{path}: wanted are numbers of {names}, got {name}")
    return dtype


def _why_unread(error: OSError) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "may not be read; change its permissions"
    return f"cannot be read ({error.strerror or error})"
