"""EXIF: the entries of its directories (IFDs), and new bytes for pixels that have been turned upright."""

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

PREFIX = b"Exif\0\0"

ORIENTATION = 0x0112
_EXIF_IFD = 0x8769
_WIDTHS, _HEIGHTS = (0x0100, 0xA002), (0x0101, 0xA003)  # tags of the image sizes, in the first and in the Exif IFD
_THUMBNAILS = ((0x0201, 0x0202), (0x0111, 0x0117))  # tags of offset and length, of a JPEG or of one strip of pixels
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SHORT, _LONG = 3, 4


@dataclass(frozen=True)
class Entry:
    """An entry of an IFD."""

    position: int
    tag: int
    kind: int
    count: int
    value: int
    """The value if it is a single SHORT or LONG; the offset of the values if they have more than 4 bytes."""

    @property
    def size(self) -> int:
        """The number of bytes of the values."""
        return _TYPE_SIZES.get(self.kind, 0) * self.count


def first_ifd(exif: bytes) -> Iterator[Entry]:
    """The entries of the first IFD. KeyError if the bytes are not EXIF, struct.error if the bytes are cut off."""
    order = _byte_order(exif)
    return _entries(exif, order, *struct.unpack_from(f"{order}I", exif, 4))


def upright_exif(exif: bytes, orientation: int, size: tuple[int, int]) -> bytes | None:
    """The EXIF for pixels that were turned by `orientation`, 1..8, and now have `size`, width and height.

    The orientation in the result is 1. If the pixels were turned, the result has no thumbnail. If the sides were
    swapped, the sizes in the result are `size`. Nothing else changes, since moved data would break the absolute offsets
    in maker notes. If the first IFD is invalid, the result is None, or KeyError or struct.error is raised.
    """
    while exif.startswith(PREFIX):
        exif = exif[len(PREFIX) :]
    order, upright, entries = _byte_order(exif), bytearray(exif), list(first_ifd(exif))
    if any(entry.size > 4 and entry.value + entry.size > len(exif) for entry in entries):
        return None
    if orientation >= 5:
        with contextlib.suppress(struct.error):
            entries += [
                nested for ifd in entries if ifd.tag == _EXIF_IFD for nested in _entries(exif, order, ifd.value)
            ]
    for entry in entries:
        if entry.tag == ORIENTATION:
            _set_value(upright, order, replace(entry, kind=_SHORT), 1)
        elif entry.tag in (*_WIDTHS, *_HEIGHTS) and orientation >= 5:
            _set_value(upright, order, entry, size[entry.tag in _HEIGHTS])
    return bytes(upright) if orientation == 1 else _without_thumbnail(upright, order)


def _byte_order(exif: bytes) -> str:
    return {b"II*\0": "<", b"MM\0*": ">"}[exif[:4]]


def _entries(exif: bytes, order: str, ifd: int) -> Iterator[Entry]:
    (n_entries,) = struct.unpack_from(f"{order}H", exif, ifd)
    for position in range(ifd + 2, ifd + 2 + 12 * n_entries, 12):
        tag, kind, count, value = struct.unpack_from(f"{order}HHII", exif, position)
        if (kind, count) == (_SHORT, 1):
            (value,) = struct.unpack_from(f"{order}H", exif, position + 8)
        yield Entry(position, tag, kind, count, value)


def _set_value(exif: bytearray, order: str, entry: Entry, value: int) -> None:
    if entry.kind == _SHORT and value < 1 << 16:
        struct.pack_into(f"{order}HIHH", exif, entry.position + 2, _SHORT, 1, value, 0)
    else:
        struct.pack_into(f"{order}HII", exif, entry.position + 2, _LONG, 1, value)


def _without_thumbnail(exif: bytearray, order: str) -> bytes:
    """The EXIF without the second IFD and its thumbnail. Their bytes are set to 0, or cut off at the end."""
    (ifd,) = struct.unpack_from(f"{order}I", exif, 4)
    (n_entries,) = struct.unpack_from(f"{order}H", exif, ifd)
    link = ifd + 2 + 12 * n_entries
    with contextlib.suppress(struct.error):
        (second,) = struct.unpack_from(f"{order}I", exif, link)
        struct.pack_into(f"{order}I", exif, link, 0)
        if not second:
            return bytes(exif)
        entries = list(_entries(bytes(exif), order, second))
        spans = [(second, second + 2 + 12 * len(entries) + 4)]
        # Values before the second IFD are kept, since entries of the first IFD may have the same offset.
        spans += [(entry.value, entry.value + entry.size) for entry in entries if entry.size > 4]
        values = {entry.tag: entry.value for entry in entries if entry.count == 1}
        spans += [(values[at], values[at] + values[length]) for at, length in _THUMBNAILS if {at, length} <= {*values}]
        for start, end in sorted(spans, reverse=True):
            if start >= second:
                is_end = end + 4 > len(exif)  # padding may follow
                exif[start:] = b"" if is_end else bytes(end - start) + exif[end:]
    return bytes(exif)
