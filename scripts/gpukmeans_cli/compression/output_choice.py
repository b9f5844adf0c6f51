"""The output of a file: the compressed image, or the input if that is no larger."""

import os
from pathlib import Path
from typing import NamedTuple

from gpukmeans_cli.compression.quantized_image import QuantizedImage
from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.formats.source import Source
from gpukmeans_cli.system.atomic_files import STDIO, check_inside, make_folder, write_atomically


class Output(NamedTuple):
    """Outcome for one file: the bytes to write, if any."""

    kept: bool
    """Whether the input is kept, perhaps without its metadata, since a palette would not make the file smaller."""
    data: bytes | None
    """Content of the file to write; None if nothing is written, since the input is kept."""


def keeps_input(source: Source, picture: QuantizedImage, settings: Settings) -> bool:
    """Whether the input is kept, since `picture` is no smaller.

    The input is never kept with `allow_larger`, with given colors, which the input may lack, or if only the default
    image of an animation can be decoded.
    """
    return not _needs_palette(source, settings) and source.n_bytes <= picture.n_bytes


def find_output(source: Source, picture: QuantizedImage, output: Path, settings: Settings) -> Output:
    """The encoded picture, if it is smaller than the input, else the input.

    With `strip`, a PNG without its metadata is the third candidate. A kept input is copied if the output has the same
    format, and its path was given or is in an output folder. If the input cannot be copied, because the format differs
    or because `strip` cannot remove its metadata, the larger picture is written to a given path. Otherwise nothing is
    written.
    """
    if _needs_palette(source, settings):
        return Output(False, picture.data)
    has_same_format = source.format.lower() == picture.suffix[1:]
    stripped = source.original_without_metadata() if settings.strip and has_same_format else None
    if stripped is not None and len(stripped) < source.n_bytes and len(stripped) <= picture.n_bytes:
        return Output(True, stripped)
    if not keeps_input(source, picture, settings):
        return Output(False, picture.data)
    has_nothing_to_strip = not settings.strip or stripped is not None
    is_input = output != STDIO and os.path.realpath(output) == os.path.realpath(source.path)
    is_given = output == STDIO or not settings.optional_output
    if has_nothing_to_strip and is_input:
        return Output(True, None)
    if has_nothing_to_strip and has_same_format and (is_given or settings.root is not None):
        return Output(True, source.original() if stripped is None else stripped)
    return Output(False, picture.data) if is_given else Output(True, None)


def _needs_palette(source: Source, settings: Settings) -> bool:
    return settings.allow_larger or settings.given_colors is not None or source.broken_animation


def write_output(output: Path, data: bytes, settings: Settings) -> None:
    """Write the output atomically. ImageError if that fails or if a link leads out of `settings.root`."""
    if settings.root is not None:
        check_inside(output, settings.root)
        make_folder(output.parent)
    write_atomically(output, data, overwrite=settings.force)
