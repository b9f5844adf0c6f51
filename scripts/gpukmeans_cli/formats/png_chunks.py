"""What PNGs are made of, still or moving: chunks, packed samples, and metadata."""

import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from gpukmeans_cli.formats.metadata import Metadata

MAGIC = b"\x89PNG\r\n\x1a\n"

_XMP = "XML:com.adobe.xmp"
_KEYWORD = re.compile(r"[ -~¡-ÿ]{1,79}")  # what PNG allows

# Pillow refuses a whole file for a packed text or profile that unpacks to more.
_LARGEST_PACKED = 1 << 20


def assembled(*parts: bytes) -> bytes:
    """The PNG of these chunks, to which IEND is added."""
    return b"".join([MAGIC, *parts, chunk(b"IEND", b"")])


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk, with length and check."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the chunks of a PNG, up to IEND. SyntaxError where it is cut off or a chunk is broken."""
    at, kind = len(MAGIC), b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body, check = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if len(check) < 4:
            raise SyntaxError("it is cut off")
        if int.from_bytes(check, "big") != zlib.crc32(body, zlib.crc32(kind)):
            raise SyntaxError("a chunk is broken")
        yield kind, body
        at += 12 + length


def depth_for(n_colors: int) -> int:
    """The fewest bits, 1, 2, 4 or 8, of an index of so many colors."""
    return next(bits for bits in (1, 2, 4, 8) if n_colors <= 2**bits)


def packed(samples: np.ndarray, depth: int) -> np.ndarray:
    """The bytes of the rows of samples (height, width): uint8 (height, ceil(width * depth / 8)).

    The left one of several samples is in the highest bits.
    """
    per_byte = 8 // depth
    height, width = samples.shape
    bytes_of_rows = np.zeros((height, -(-width // per_byte)), dtype=np.uint8)
    for place in range(per_byte):
        part = samples[:, place::per_byte]
        bytes_of_rows[:, : part.shape[1]] |= part << np.uint8(8 - depth * (place + 1))
    return bytes_of_rows


def rows_of(bytes_of_rows: np.ndarray, filter_type: int) -> bytes:
    """What is compressed: the rows, each after the number of its filter."""
    return np.pad(bytes_of_rows, ((0, 0), (1, 0)), constant_values=filter_type).tobytes()


def before_palette(metadata: Metadata) -> Iterator[bytes]:
    """The chunks of metadata that have to come before PLTE; no profile that readers would refuse."""
    if metadata.icc_profile is not None and len(metadata.icc_profile) <= _LARGEST_PACKED:
        yield chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc_profile, 9))


def before_pixels(metadata: Metadata) -> Iterator[bytes]:
    """The other chunks of metadata: those that PNG can say, in their places before IDAT."""
    # A resolution of nothing, or beyond what a field holds, is none.
    if metadata.dpi is not None and all(0.0127 <= dpi < 5e7 for dpi in metadata.dpi):
        per_meter = [int(dpi / 0.0254 + 0.5) for dpi in metadata.dpi]
        yield chunk(b"pHYs", struct.pack(">IIB", *per_meter, 1))
    if metadata.exif is not None:
        yield chunk(b"eXIf", metadata.exif)
    if metadata.xmp is not None:
        # Never packed: so the standard of XMP wants it, for programs that look for it in the bytes of any file.
        yield chunk(b"iTXt", _XMP.encode() + b"\0\0\0\0\0" + metadata.xmp)
    for keyword, text in metadata.text.items():
        if not (keyword == _XMP and metadata.xmp is not None) and _KEYWORD.fullmatch(keyword):
            yield _text_chunk(keyword.encode("latin-1"), text)


def _text_chunk(name: bytes, text: str) -> bytes:
    """A text as PNG wants it: Latin-1 where that can say it, otherwise UTF-8; packed if that is smaller."""
    try:
        content, kind = text.encode("latin-1"), b"tEXt"
    except UnicodeEncodeError:
        content, kind = text.encode("utf-8", errors="replace"), b"iTXt"
    packed = zlib.compress(content, 9)
    smaller = len(packed) + 1 < len(content) <= _LARGEST_PACKED
    if kind == b"iTXt":
        return chunk(kind, name + (b"\0\1\0\0\0" + packed if smaller else b"\0\0\0\0\0" + content))
    return chunk(b"zTXt", name + b"\0\0" + packed) if smaller else chunk(kind, name + b"\0" + content)
