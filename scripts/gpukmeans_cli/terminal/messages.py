"""Lines of text on stdout (results) and stderr (warnings), with unprintable characters of file names escaped."""

import sys
from typing import TextIO

import typer


def print_line(text: str) -> None:
    """Print one line on stdout."""
    typer.echo(one_line(text, _encoding(sys.stdout)))


def warn(text: str) -> None:
    """Print one line on stderr that begins with the name of the command."""
    typer.echo(f"gpukmeans: {one_line(text, _encoding(sys.stderr))}", err=True)


def warn_ignored_frames(name: object, n_frames: int) -> None:
    """Warn that only the first of `n_frames` frames was used, if there are more."""
    if n_frames > 1:
        warn(f"{name}: took the first of {n_frames} frames")


def one_line(text: str, encoding: str = "utf-8") -> str:
    """The text with line ends, control characters and characters outside the encoding escaped."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _encoding(stream: TextIO | None) -> str:
    """The encoding of a stream. The stream is None if the parent process has closed it."""
    return stream.encoding if stream is not None else "utf-8"
