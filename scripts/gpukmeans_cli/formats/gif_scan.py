"""Whether a GIF has several frames, found without decoding it, before torch and Pillow are imported."""

from pathlib import Path
from typing import BinaryIO

_IMAGE, _EXTENSION = 0x2C, 0x21


def is_animated_gif(path: Path) -> bool:
    """Whether this is a file of suffix .gif with at least two frames. False if it cannot be read or is damaged."""
    if path.suffix.lower() != ".gif":
        return False
    try:
        if not path.is_file():
            return False  # a pipe cannot be read twice
        with path.open("rb") as file:
            return _has_two_frames(file)
    except (OSError, ValueError, IndexError):  # reported when the file is read
        return False


def _has_two_frames(file: BinaryIO) -> bool:
    header = file.read(13)
    if header[:6] not in (b"GIF87a", b"GIF89a"):
        return False
    _skip_color_table(file, header[10])
    n_frames = 0
    while block := file.read(1):
        if block[0] == _IMAGE:
            n_frames += 1
            if n_frames == 2:
                return True
            _skip_color_table(file, file.read(9)[8])
        elif block[0] != _EXTENSION:
            return False
        file.seek(1, 1)  # the label of an extension, or the code size of an image
        while size := file.read(1)[0]:
            file.seek(size, 1)
    return False


def _skip_color_table(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, 1)
