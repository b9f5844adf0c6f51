"""The library of compiled kernels: its files, the hash of its sources, and how it is loaded.

hatch_build.py, which compiles the library, runs this file before the package can be imported. So this file imports only
the standard library.
"""

import ctypes
import functools
import hashlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_SUFFIX = ".dll" if os.name == "nt" else ".so"

# One library is for every CPU of the architecture. On x86-64 a second one is for CPUs of the level x86-64-v3 (AVX2).
# Because of the two dots in the names, pkgutil does not list the files as modules.
BASELINE_FILE, V3_FILE = f"_kernels.baseline{_SUFFIX}", f"_kernels.v3{_SUFFIX}"


def fields(kind: type, *names: str) -> list[tuple[str, type]]:
    """Fields of a ctypes structure with these names, all of the same ctype."""
    return [(name, kind) for name in names]


class NativeUnavailable(RuntimeError):  # noqa: N818 (not "...Error": GPUKMEANS_NATIVE=0 makes it intended)
    """Error if there are no native kernels. The message is the reason, as a clause without a period."""


class Library:
    """A loaded library of kernels. The constructor raises NativeUnavailable if the file cannot be loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._functions: dict[str, Any] = {}
        try:
            _check_complete(path)
            self._handle = ctypes.CDLL(str(path))
            self._built_from = self.function("gpukmeans_source_hash", restype=ctypes.c_uint64)()
        except (OSError, AttributeError) as error:
            raise NativeUnavailable(f"{path.name} cannot be loaded: {error}") from None

    def function(self, name: str, *argtypes: Any, restype: Any = ctypes.c_int) -> Callable[..., Any]:
        """The exported function of this name. The first request sets its types, and later requests do not change them.

        A call of the returned function releases Python's global lock.

        Args:
            name: the name in C, which begins with `gpukmeans_`.
            *argtypes: the ctypes of the arguments.
            restype: the ctype of the result, None for a function without a result.
        """
        if name not in self._functions:
            function = self._handle[name]
            function.argtypes, function.restype = argtypes, restype
            self._functions[name] = function
        return self._functions[name]

    def is_built_from(self, sources: int) -> bool:
        """Whether the library was compiled from sources with this hash."""
        return self._built_from == sources


def load() -> Library:
    """The library for this CPU, loaded at the first call. NativeUnavailable if there are no native kernels."""
    outcome = _load_once()
    if isinstance(outcome, str):
        raise NativeUnavailable(outcome)
    return outcome


def unavailable_reason() -> str | None:
    """The reason why there are no native kernels, as a clause without a period, or None if there are kernels."""
    outcome = _load_once()
    return outcome if isinstance(outcome, str) else None


# No lock: after a fork it could stay locked in the child. Two threads may both load the library, which has no state.
@functools.cache
def _load_once() -> Library | str:
    if os.environ.get("GPUKMEANS_NATIVE") == "0":
        return "GPUKMEANS_NATIVE=0 turns the native kernels off"
    try:
        return load_from(_FOLDER)
    except NativeUnavailable as error:
        return str(error)


def load_from(folder: Path) -> Library:
    """The library for this CPU from a folder. If the folder has sources, the library must be built from them."""
    sources = source_hash(folder)
    if not (folder / BASELINE_FILE).exists():
        raise NativeUnavailable(
            "gpukmeans was installed without native kernels, which happens where there is no C compiler"
            if sources is None
            else "the native kernels are not built; run `make native`"
        )
    library = Library(folder / BASELINE_FILE)
    if library.function("gpukmeans_supports_v3")():
        library = Library(folder / V3_FILE)
    if sources is not None and not library.is_built_from(sources):
        raise NativeUnavailable(f"{library.path.name} was built from other sources; run `make native`")
    return library


def source_hash(folder: Path) -> int | None:
    """A 64-bit hash of the C files and headers in a folder; None if there are none, as in an installed package."""
    files = sorted([*folder.glob("*.c"), *folder.glob("*.h")], key=lambda path: path.name)
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)} ".encode() + content)
    return int.from_bytes(digest.digest()[:8], "little") if files else None


def _check_complete(path: Path) -> None:
    """OSError for a truncated ELF file. The dynamic linker would load the file, and the process would crash."""
    content = path.read_bytes()
    if content[:4] != b"\x7fELF":
        return
    if len(content) < 64:
        raise OSError("the file is truncated")
    # The table of sections is at the end of the file. The header has its offset, entry size and entry count.
    (offset,), (size, count) = struct.unpack_from("<Q", content, 40), struct.unpack_from("<HH", content, 58)
    if len(content) < offset + size * count:
        raise OSError("the file is truncated")
