"""An image file that is read several times and must have the same content each time."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gpukmeans_cli.system.atomic_files import FileVersion, ImageError


@dataclass(frozen=True)
class StoredFile:
    """A path with the version of its file, or the bytes of a pipe, since a pipe can be read only once.

    The methods raise ImageError if the file has changed or is missing.
    """

    path: Path
    _content: bytes | FileVersion

    @staticmethod
    def of(path: Path, file: BinaryIO) -> "StoredFile":
        """The stored file of a path and the file that was opened there."""
        return StoredFile(path, file.getvalue() if isinstance(file, io.BytesIO) else FileVersion.of(file))

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, open for reading. Its version is checked before and after the `with` block."""
        if isinstance(self._content, bytes):
            yield io.BytesIO(self._content)
            return
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise ImageError(open_error_reason(error)) from error
        with file:
            self._check(file)
            yield file
            self._check(file)

    def read(self) -> bytes:
        """All bytes."""
        with self.open() as file:
            try:
                return file.read()
            except OSError as error:
                raise ImageError(open_error_reason(error)) from error

    def _check(self, file: BinaryIO) -> None:
        if FileVersion.of(file) != self._content:
            raise ImageError("has changed since it was read; try again")


def open_error_reason(error: OSError) -> str:
    """Why a file cannot be opened: the end of a sentence that begins with the path."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "does not exist; check the path"
    if isinstance(error, IsADirectoryError):
        return "is a folder; name an image file in it"
    if isinstance(error, PermissionError):
        return "cannot be read; check its permissions"
    return f"cannot be opened ({error.strerror}); check the path"
