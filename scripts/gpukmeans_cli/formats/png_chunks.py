"""Building blocks of PNG files, still or animated: chunks, packed samples, scanlines and metadata."""

import io
import re
import struct
import zlib
from collections.abc import Container, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from gpukmeans_cli.formats.metadata import Metadata

MAGIC = b"\x89PNG\r\n\x1a\n"

_XMP = "XML:com.adobe.xmp"
_KEYWORD = re.compile(r"[ -~¡-ÿ]{1,79}")  # the keywords that PNG allows

# Chunks on which the shown pixels of a still depend, and the additional chunks of animations.
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT"}
ANIMATION = {b"acTL", b"fcTL", b"fdAT"}

# Pillow rejects a file with a compressed text or profile of more bytes than this after decompression.
_MAX_DECOMPRESSED = 1 << 20


def png_file(*chunks: bytes) -> bytes:
    """The PNG file of these chunks; IEND is added."""
    return b"".join([MAGIC, *chunks, chunk(b"IEND", b"")])


def chunk(kind: bytes, body: bytes) -> bytes:
    """The bytes of one chunk, with length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def parse_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of the chunks of a PNG file in memory, as in `read_chunks`."""
    return ((kind, body) for kind, body, _ in read_chunks(io.BytesIO(data)))


class IntactChunk(NamedTuple):
    """A chunk with the right checksum, and the position of its body in the PNG file."""

    kind: bytes
    body: bytes
    start: int


def read_chunks(file: BinaryIO) -> Iterator[IntactChunk]:
    """The chunks of a PNG file, including IEND. SyntaxError if the file is cut off or a checksum is wrong.

    The caller may move the position of the file between two chunks.
    """
    start, kind = len(MAGIC), b""
    while kind != b"IEND":
        file.seek(start)
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        body, checksum = file.read(length), file.read(4)
        if len(checksum) < 4:
            raise SyntaxError("it is cut off")
        if int.from_bytes(checksum, "big") != zlib.crc32(body, zlib.crc32(kind)):
            raise SyntaxError("a chunk is broken")
        yield IntactChunk(kind, body, start + 8)
        start += 12 + length


class StoredChunk(NamedTuple):
    """A chunk at the positions `start` to `end` of a PNG file. Body and checksum are empty unless it `is_ancillary`."""

    kind: bytes
    start: int
    end: int
    body: bytes
    checksum: bytes

    @property
    def is_intact(self) -> bool:
        """Whether the checksum of an ancillary chunk is right."""
        return int.from_bytes(self.checksum, "big") == zlib.crc32(self.body, zlib.crc32(self.kind))


def scan_chunks(file: BinaryIO) -> Iterator[StoredChunk]:
    """The chunks of a PNG file before IEND, even broken chunks; no chunks for other files.

    The caller may move the position of the file between two chunks.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        return
    start = len(MAGIC)
    while start + 8 <= size:
        file.seek(start)
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND" or not kind.isalpha():
            return
        has_body = is_ancillary(kind)
        body = file.read(length) if has_body else b""
        yield StoredChunk(kind, start, start + 12 + length, body, file.read(4) if has_body else b"")
        start += 12 + length


def is_ancillary(kind: bytes) -> bool:
    """Whether decoders may ignore chunks of this kind. Chunks of an animation are no ancillary chunks here."""
    return kind[:1].islower() and kind not in ANIMATION


def without_metadata(data: bytes, color_kinds: Container[bytes], *, animated: bool) -> bytes | None:
    """The PNG file with only the chunks of pixels and of frames, and the chunks of `color_kinds`.

    None for a broken file, and for a file with frames if `animated` is false.
    """
    try:
        chunks = list(parse_chunks(data))
    except SyntaxError:
        return None
    if not animated and any(kind in ANIMATION for kind, _ in chunks):
        return None
    kept = _PIXELS | ANIMATION
    return png_file(*(chunk(kind, body) for kind, body in chunks if kind in kept or kind in color_kinds))


def index_bit_depth(n_colors: int) -> int:
    """The lowest bit depth, 1, 2, 4 or 8, that stores indices into a palette of `n_colors`."""
    return next(bits for bits in (1, 2, 4, 8) if n_colors <= 2**bits)


def pack_samples(samples: np.ndarray, bit_depth: int) -> np.ndarray:
    """Samples (height, width) packed to rows of bytes, uint8 (height, ceil(width * bit_depth / 8)).

    The leftmost sample of a byte is in its highest bits.
    """
    per_byte = 8 // bit_depth
    height, width = samples.shape
    rows = np.zeros((height, -(-width // per_byte)), dtype=np.uint8)
    for position in range(per_byte):
        column = samples[:, position::per_byte]
        rows[:, : column.shape[1]] |= column << np.uint8(8 - bit_depth * (position + 1))
    return rows


def scanlines(rows: np.ndarray, filter_type: int) -> np.ndarray:
    """The uncompressed data of IDAT: each row of bytes after its filter type."""
    return np.pad(rows, ((0, 0), (1, 0)), constant_values=filter_type)


def metadata_before_plte(metadata: Metadata) -> Iterator[bytes]:
    """The chunks of the color encoding, which must precede PLTE. Profiles too large for Pillow are left out."""
    for kind, body in metadata.color_chunks:
        yield chunk(kind, body)
    if metadata.icc_profile is not None and len(metadata.icc_profile) <= _MAX_DECOMPRESSED:
        yield chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc_profile, 9))


def metadata_before_idat(metadata: Metadata) -> Iterator[bytes]:
    """The other metadata chunks: resolution, EXIF, XMP and texts. Values that PNG cannot store are left out."""
    # Other resolutions, in pixels a meter, would round to 0 or overflow the field.
    if metadata.dpi is not None and all(0.0127 <= dpi < 5e7 for dpi in metadata.dpi):
        per_meter = [int(dpi / 0.0254 + 0.5) for dpi in metadata.dpi]
        yield chunk(b"pHYs", struct.pack(">IIB", *per_meter, 1))
    elif metadata.pixel_aspect is not None:
        yield chunk(b"pHYs", struct.pack(">IIB", *metadata.pixel_aspect, 0))
    if metadata.exif is not None:
        yield chunk(b"eXIf", metadata.exif)
    if metadata.xmp is not None:
        # XMP is not compressed, as its standard requires, so that programs find it in files of any format.
        yield chunk(b"iTXt", _XMP.encode() + b"\0\0\0\0\0" + metadata.xmp)
    for key, text in metadata.text.items():
        keyword = " ".join(key.split())  # PNG allows only single blanks between words
        if not (keyword == _XMP and metadata.xmp is not None) and _KEYWORD.fullmatch(keyword):
            yield _text_chunk(keyword.encode("latin-1"), text)


def _text_chunk(keyword: bytes, text: str) -> bytes:
    """The chunk of a text, in Latin-1 if possible, else in UTF-8. The text is compressed if that is smaller."""
    try:
        body, kind = text.encode("latin-1"), b"tEXt"
    except UnicodeEncodeError:
        body, kind = text.encode("utf-8", errors="replace"), b"iTXt"
    compressed = zlib.compress(body, 9)
    smaller = len(compressed) + 1 < len(body) <= _MAX_DECOMPRESSED
    if kind == b"iTXt":
        return chunk(kind, keyword + (b"\0\1\0\0\0" + compressed if smaller else b"\0\0\0\0\0" + body))
    return chunk(b"zTXt", keyword + b"\0\0" + compressed) if smaller else chunk(kind, keyword + b"\0" + body)
