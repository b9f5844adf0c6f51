"""A decoder of PNG files with a palette or grey levels, independent of Pillow, for tests of written files."""

import struct
import zlib

import numpy as np


def decode_png(data: bytes) -> np.ndarray:
    """The RGBA pixels (H, W, 4) of a file that is not interlaced and has up to 8 bits per pixel."""
    chunks = chunks_by_type(data)
    width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (kind in (0, 3), bits <= 8, interlaced) == (True, True, 0)
    rows = _unfiltered(zlib.decompress(chunks[b"IDAT"]), height, (width * bits + 7) // 8)
    samples = np.unpackbits(rows, axis=1).reshape(height, -1, bits)[:, :width]
    values = samples @ (1 << np.arange(bits)[::-1])
    if kind == 0:
        grey = (values * 255 // ((1 << bits) - 1)).astype(np.uint8)
        alpha = np.full_like(grey, 255)
        if b"tRNS" in chunks:
            alpha[values == struct.unpack(">H", chunks[b"tRNS"])[0]] = 0
        return np.stack([grey, grey, grey, alpha], axis=2)
    colors = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
    assert values.max() < len(colors) <= 1 << bits
    alpha = np.frombuffer(chunks.get(b"tRNS", b"").ljust(len(colors), b"\xff"), np.uint8)
    return np.column_stack([colors, alpha])[values]


def chunks_by_type(data: bytes) -> dict[bytes, bytes]:
    """The data of the chunks by type, joined for equal types. Asserts that each checksum is correct."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    offset, found = 8, dict[bytes, bytes]()
    while offset < len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        body = data[offset + 8 : offset + 8 + length]
        assert struct.unpack_from(">I", data, offset + 8 + length) == (zlib.crc32(kind + body),)
        found[kind] = found.get(kind, b"") + body
        offset += 12 + length
    assert kind == b"IEND"
    return found


def _unfiltered(data: bytes, height: int, n_bytes: int) -> np.ndarray:
    """The unfiltered rows (H, n_bytes). In `data`, each filtered row begins with its filter type."""
    filtered = np.frombuffer(data, np.uint8).reshape(height, 1 + n_bytes)
    rows = np.zeros((height + 1, n_bytes + 1), np.int64)  # zeros above and to the left
    for y, (kind, *values) in enumerate(filtered.tolist(), start=1):
        for x, value in enumerate(values, start=1):
            left, above, corner = (int(rows[place]) for place in ((y, x - 1), (y - 1, x), (y - 1, x - 1)))
            guess = left + above - corner
            nearest = min((left, above, corner), key=lambda byte, guess=guess: abs(guess - byte))  # the first of ties
            rows[y, x] = (value + (0, left, above, (left + above) // 2, nearest)[kind]) % 256
    return rows[1:, 1:].astype(np.uint8)
