"""Atomic writes: a file is written completely or not at all. Also paths of standard streams, and checks of paths."""

import errno
import os
import secrets
import sys
from pathlib import Path
from traceback import format_exception, format_exception_only
from typing import BinaryIO, NamedTuple, Self

# Suffixes of the image formats that can be written. Defined here, since this module imports nothing slow.
SUFFIXES = (".png", ".gif", ".webp")

STDIO = Path("-")
"""Standard input as the path of an input, standard output as the path of an output."""


class ImageError(Exception):
    """An image cannot be read or written. The text states the problem and a remedy.

    The command prints the path of the input before the text. For a problem with another file, such as the output, the
    text begins with the path of that file.
    """

    traceback: str | None = None
    """The traceback of an exception that caused this error; None if the cause is known. It is kept by pickling."""

    def caused_by(self, error: Exception) -> Self:
        """This error, with the traceback of the exception that caused it."""
        self.traceback = "".join(format_exception(error))
        return self


def unexpected_error(error: Exception) -> ImageError:
    """The ImageError for an unexpected exception, with its traceback."""
    reason = " ".join("".join(format_exception_only(error)).split())
    text = f"failed by a bug of gpukmeans ({reason}); compress --verbose prints the traceback"
    return ImageError(text).caused_by(error)


def stream_name(path: Path | str, stream: str = "standard input") -> str:
    """The path as text, or the name of the `stream` if the path is `STDIO`."""
    return stream if str(path) == str(STDIO) else str(path)


def check_exists(path: Path) -> None:
    """Raise ImageError if this input does not exist. There is no error if its folder cannot be searched."""
    try:
        if path != STDIO:
            os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("does not exist; check the path") from None
    except (OSError, ValueError):
        pass  # opening the file raises a better error


class FileVersion(NamedTuple):
    """Properties of a file that change when it is written to or replaced."""

    device: int
    inode: int
    n_bytes: int
    mtime_ns: int

    @staticmethod
    def of(file: BinaryIO) -> "FileVersion":
        """The version of an open file."""
        status = os.fstat(file.fileno())
        return FileVersion(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def write_atomically(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a file of these bytes, completely or not at all. ImageError, beginning with the path, if that fails.

    The file has the default permissions of new files. With `overwrite` a symbolic link stays, and its target is
    replaced. Bytes for `STDIO` are written to standard output, whose OSError is raised unchanged.
    """
    if path == STDIO:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    check_free(path, overwrite=overwrite)
    try:
        _write(path, data, overwrite)
    except OSError as error:
        raise ImageError(f"{path} {write_error_reason(error)}") from error


def check_free(path: Path, *, overwrite: bool) -> None:
    """Raise ImageError, beginning with the path, if the path exists. With `overwrite` a regular file may exist."""
    if path == STDIO:
        return
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder; name a file in it")
        if path.exists() and not path.is_file():
            # Root could replace /dev/null or a pipe by a file, which is never intended.
            raise ImageError(f"{path} is not a regular file; choose another path")
        if not overwrite and os.path.lexists(path):
            raise FileExistsError
    except OSError as error:
        raise ImageError(f"{path} {write_error_reason(error)}") from error


def make_folder(path: Path) -> None:
    """Create the folder and its missing parents. ImageError, beginning with the path, if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file has its name" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        raise ImageError(f"{path} cannot be created ({reason}); choose another folder") from error


def check_inside(path: Path, folder: Path) -> None:
    """Raise ImageError, beginning with the path, if a symbolic link in the path leads out of its parent `folder`."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ImageError(f"{path} leads out of {folder} by a symbolic link; remove the link")


def check_folder(path: Path) -> None:
    """Raise the ImageError of `write_atomically` if the folder of `path` does not exist."""
    if not path.parent.is_dir():
        raise ImageError(f"{path} {write_error_reason(FileNotFoundError())}")


def temporary_path(path: Path) -> Path:
    """A new random name in the folder of `path`, or of the target if `path` is a symbolic link."""
    return Path(os.path.realpath(path)).with_name(f".{secrets.token_hex(8)}.tmp")


def check_writable(path: Path) -> None:
    """Raise the ImageError of `write_atomically` if no file can be created in the folder of `path`."""
    check_folder(path)
    temporary = temporary_path(path)
    try:
        temporary.open("xb").close()
        temporary.unlink()
    except FileNotFoundError as error:  # the folder exists, but cannot hold files, like /proc
        raise ImageError(f"{path} cannot be written, its folder cannot contain files; choose another folder") from error
    except OSError as error:
        raise ImageError(f"{path} {write_error_reason(error)}") from error


def write_error_reason(error: OSError) -> str:
    """The reason why a file could not be written: the end of a sentence that begins with its path."""
    if isinstance(error, FileExistsError):
        return "already exists; use --force to overwrite it"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "cannot be written, its folder does not exist; create the folder or choose another"
    if isinstance(error, PermissionError):
        return "cannot be written, because its folder is read-only; choose another folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "cannot be written, the disk is full; free some space or choose another folder"
    return f"cannot be written ({error.strerror or error}); choose another path"


def _write(path: Path, data: bytes, overwrite: bool) -> None:
    target = Path(os.path.realpath(path))
    # A file of the module tempfile could be read by its owner only.
    temporary = temporary_path(target)
    try:
        with temporary.open("xb") as file:
            file.write(data)
        move_to(temporary, target, overwrite=overwrite)
    finally:
        temporary.unlink(missing_ok=True)


def move_to(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Move a closed file to `path` in the same folder, atomically. OSError, and no change, if that fails.

    With `overwrite` a symbolic link stays, and its target is replaced. Without it, an existing file is a
    FileExistsError, and the temporary name may remain.
    """
    if overwrite:
        os.replace(temporary, os.path.realpath(path))
    else:
        _move_to_free_name(temporary, path)


def _move_to_free_name(temporary: Path, target: Path) -> None:
    """Move without overwriting. FileExistsError if the target exists, which `os.rename` would replace."""
    try:
        os.link(temporary, target)
        return
    except FileExistsError:
        raise
    except OSError:
        pass  # the file system has no hard links (FAT, some network folders): reserve the name instead
    target.open("xb").close()
    try:
        os.replace(temporary, target)
    except BaseException:
        target.unlink()
        raise
