"""Lines for people, safe to print whatever a file is called."""

import sys
from typing import TextIO

import typer


def say(text: str) -> None:
    """Print one line on stdout."""
    typer.echo(one_line(text, _encoding(sys.stdout)))


def warn(text: str) -> None:
    """Print one line on stderr, with the name of the command before it."""
    typer.echo(f"gpukmeans: {one_line(text, _encoding(sys.stderr))}", err=True)


def warn_of_frames(name: object, n_frames: int) -> None:
    """Print on stderr that the first of so many frames was taken, if there are others."""
    if n_frames > 1:
        warn(f"{name}: took the first of {n_frames} frames")


def one_line(text: str, encoding: str = "utf-8") -> str:
    """The text with what would break the line, the terminal or the encoding escaped."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _encoding(stream: TextIO | None) -> str:
    """That of the stream; there is no stream where the caller has closed it."""
    return stream.encoding if stream is not None else "utf-8"
