"""Bytes that become a file: whole or not at all."""

import errno
import os
import secrets
import sys
from pathlib import Path

# The formats that a picture can be written in; said here, where nothing slow is imported.
SUFFIXES = (".png", ".gif", ".webp")

STDIO = Path("-")
"""What stands for standard input where a file to read is asked for, and for standard output where one to write is."""


class ImageError(Exception):
    """A picture that cannot be read or written: what is wrong and what to do, as a sentence to put after its path.

    Where the trouble is with another file, the one to be written, the sentence begins with that path.
    """


def publish(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Make `path` a file of these bytes, or raise ImageError with the path in front and leave all as it was.

    Bytes for `STDIO` go to standard output; an OSError if that cannot take them is raised as it is.

    The file appears whole or not at all, and with the permissions of any new file. With `overwrite` a symbolic link
    is followed: the file it points to is replaced and the link stays.
    """
    if path == STDIO:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    check_free(path, overwrite=overwrite)
    try:
        _save(path, data, overwrite)
    except OSError as error:
        raise ImageError(f"{path} {why_unwritten(error)}") from error


def check_free(path: Path, *, overwrite: bool) -> None:
    """ImageError, with the path in front, if anything is there but, with `overwrite`, a file. `STDIO` is free."""
    if path == STDIO:
        return
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder; name a file in it")
        if path.exists() and not path.is_file():
            # Replacing /dev/null or a pipe by a file is never meant, and root could.
            raise ImageError(f"{path} is not a regular file; choose another path")
        if not overwrite and os.path.lexists(path):
            raise FileExistsError
    except OSError as error:
        raise ImageError(f"{path} {why_unwritten(error)}") from error


def make_folder(path: Path) -> None:
    """Make the folder and those that it lies in, unless they are there. ImageError, with the path in front, if not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (
            "a file is in its place" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        )
        raise ImageError(f"{path} cannot be made ({reason}); choose another folder") from error


def check_inside(path: Path, folder: Path) -> None:
    """ImageError, with the path in front, if a symbolic link in it leads out of the folder that it begins with."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ImageError(f"{path} leads out of {folder} by a symbolic link; remove the link")


def check_folder(path: Path) -> None:
    """ImageError, as `publish` would raise it after all the work, if there is no folder to write `path` in."""
    if not path.parent.is_dir():
        raise ImageError(f"{path} {why_unwritten(FileNotFoundError())}")


def temporary_for(path: Path) -> Path:
    """A name that no file has, in the folder of the file that `path`, perhaps a link, leads to."""
    return Path(os.path.realpath(path)).with_name(f".{secrets.token_hex(8)}.tmp")


def check_writable(path: Path) -> None:
    """ImageError, as `publish` would raise it after all the work, if no file can be made beside `path`."""
    check_folder(path)
    temporary = temporary_for(path)
    try:
        temporary.open("xb").close()
        temporary.unlink()
    except FileNotFoundError as error:  # as the folder is there, one that takes no files
        raise ImageError(f"{path} cannot be written, its folder takes no files; choose another folder") from error
    except OSError as error:
        raise ImageError(f"{path} {why_unwritten(error)}") from error


def why_unwritten(error: OSError) -> str:
    """What to say after the path of a file that could not be written."""
    if isinstance(error, FileExistsError):
        return "already exists; use --force to overwrite it"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "cannot be written, its folder does not exist; create the folder or choose another"
    if isinstance(error, PermissionError):
        return "cannot be written, its folder may not be changed; choose another folder"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "cannot be written, the disk is full; free some space or choose another folder"
    return f"cannot be written ({error.strerror or error}); choose another path"


def _save(path: Path, data: bytes, overwrite: bool) -> None:
    target = Path(os.path.realpath(path))
    # Not by tempfile, which would leave the file readable by its owner only.
    temporary = temporary_for(target)
    try:
        with temporary.open("xb") as file:
            file.write(data)
        give_name(temporary, target, overwrite=overwrite)
    finally:
        temporary.unlink(missing_ok=True)


def give_name(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Make a file that lies in the same folder, and is closed, the one at `path`. OSError, and no change, if not.

    With `overwrite` a symbolic link is followed. Without it a FileExistsError keeps what is there, and the temporary
    name may stay.
    """
    if overwrite:
        os.replace(temporary, os.path.realpath(path))
    else:
        _move_to_free_name(temporary, path)


def _move_to_free_name(temporary: Path, target: Path) -> None:
    """Give the file its name, or raise FileExistsError; a rename would replace a file that appeared meanwhile."""
    try:
        os.link(temporary, target)
        return
    except FileExistsError:
        raise
    except OSError:
        pass  # no hard links on this disk (FAT, some network folders): take the name first, then fill it
    target.open("xb").close()
    try:
        os.replace(temporary, target)
    except BaseException:
        target.unlink()
        raise
