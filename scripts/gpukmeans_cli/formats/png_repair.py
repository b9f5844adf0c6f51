"""PNG files without broken ancillary chunks. Browsers ignore these chunks, but Pillow refuses the whole file."""

from __future__ import annotations

import io
import zlib
from collections import Counter
from typing import BinaryIO

from PIL import PngImagePlugin

from gpukmeans_cli.formats.png_chunks import ANIMATION, StoredChunk, is_ancillary, scan_chunks

# Lengths of the bodies of chunks that browsers accept.
_LENGTHS = {b"gAMA": (4,), b"cHRM": (32,), b"sRGB": (1,), b"pHYs": (9,)}
_KEY_LENGTHS = {0: range(2, 1 << 31), 2: range(6, 1 << 31), 3: range(257)}  # the same for tRNS, by color type
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")

# Keywords of texts that Pillow confuses with properties of the pixels.
_RESERVED = (b"transparency", b"interlace", b"bbox", b"default_image", b"disposal", b"blend")


class RepairedFile(io.BytesIO):
    """The content of a PNG file without some of its chunks."""

    def __init__(self, data: bytes, stored: BinaryIO, left_out: tuple[str, ...] = ()) -> None:
        super().__init__(data)
        self.stored = stored
        """The file with all chunks."""
        self.left_out = left_out
        """A phrase with the reason for each kind of chunk that was left out."""


def repaired(file: BinaryIO) -> BinaryIO:
    """The file at its beginning, or a `RepairedFile` if it is a PNG from which ancillary chunks must be left out.

    Chunks that browsers ignore are left out: chunks of wrong checksum, length or compression, and a second tRNS.
    Valid chunks for which Pillow refuses or misreads the file are left out, too: texts and profiles of more than
    `MAX_TEXT_CHUNK` bytes unpacked, texts above `MAX_TEXT_MEMORY` in all, and texts with the keyword of a property of
    the pixels.
    """
    broken: list[StoredChunk] = []
    reasons: Counter[tuple[str, str]] = Counter()
    color_type, n_text, has_key = 0, 0, False
    for chunk in scan_chunks(file):
        if chunk.kind == b"IHDR":
            file.seek(chunk.start + 17)
            color_type = int.from_bytes(file.read(1), "big")
        elif is_ancillary(chunk.kind):
            reason, size = _problem(chunk, color_type)
            n_text += size
            if chunk.kind == b"tRNS" and reason is None:
                reason = "it is not the first" if has_key else None
                has_key = True
            if reason is None and size and n_text > PngImagePlugin.MAX_TEXT_MEMORY:
                reason = "all texts together are too large"
            if reason is not None:
                broken.append(chunk)
                reasons[chunk.kind.decode("latin-1"), reason] += 1
    notes = [f"left out {f'{n} x ' if n > 1 else ''}{kind}: {reason}" for (kind, reason), n in reasons.items()]
    return _without(file, broken, tuple(notes)) if broken else _rewound(file)


def without_animation(file: BinaryIO) -> RepairedFile | None:
    """An APNG file as a PNG of its default image; None for any other file."""
    chunks = [chunk for chunk in scan_chunks(file) if chunk.kind in ANIMATION]
    return _without(file, chunks) if chunks else None


def stored_file(file: BinaryIO) -> BinaryIO:
    """The file with all chunks from which a `RepairedFile` was made; any other file itself."""
    return file.stored if isinstance(file, RepairedFile) else file


def left_out(file: BinaryIO) -> tuple[str, ...]:
    """Phrases about the chunks that a `RepairedFile` omits; none for any other file."""
    return file.left_out if isinstance(file, RepairedFile) else ()


def _rewound(file: BinaryIO) -> BinaryIO:
    file.seek(0)
    return file


def _without(file: BinaryIO, chunks: list[StoredChunk], notes: tuple[str, ...] = ()) -> RepairedFile:
    parts, position = [], 0
    for chunk in chunks:
        file.seek(position)
        parts.append(file.read(chunk.start - position))
        position = chunk.end
    file.seek(position)
    return RepairedFile(b"".join([*parts, file.read()]), stored_file(file), left_out(file) + notes)


def _problem(chunk: StoredChunk, color_type: int) -> tuple[str | None, int]:
    """The reason to leave out a chunk, or None, and the number of bytes of its text or profile."""
    kind, body = chunk.kind, chunk.body
    if not chunk.is_intact:
        return "its checksum is wrong", 0
    lengths = _KEY_LENGTHS.get(color_type) if kind == b"tRNS" else _LENGTHS.get(kind)
    if lengths is not None and len(body) not in lengths:
        return "its length is wrong", 0
    keyword, _, value = body.partition(b"\0")
    if kind in _TEXTS and keyword in _RESERVED:
        return f"Pillow takes the keyword {keyword.decode()} for a property of the pixels", 0
    if kind == b"iTXt":
        if value[:1] in (b"", b"\0") or value.count(b"\0", 2) < 2:
            return None, len(value)
        value = value[1:2] + value[2:].split(b"\0", 2)[2]
    elif kind not in (b"iCCP", b"zTXt"):
        return None, len(value) if kind == b"tEXt" else 0
    if value[:1] != b"\0":
        return "its compression method is unknown", 0
    return _unpacking_problem(value[1:])


def _unpacking_problem(packed: bytes) -> tuple[str | None, int]:
    unpacker = zlib.decompressobj()
    try:
        size = len(unpacker.decompress(packed, PngImagePlugin.MAX_TEXT_CHUNK))
    except zlib.error:
        return "it cannot be unpacked", 0
    if unpacker.unconsumed_tail:
        return f"it unpacks to more than {PngImagePlugin.MAX_TEXT_CHUNK >> 20} MiB", 0
    return (None, size) if unpacker.eof else ("it is cut off", 0)
