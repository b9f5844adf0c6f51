"""Metadata of image files: color profile, resolution, EXIF, XMP and texts."""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from PIL import Image

# Limit of each item, and of all texts together. An RGB profile is seldom above 1 MB.
MAX_BYTES = 1 << 22

# Modes for which an RGB profile is valid. CMYK, LAB and HSV become RGB by Pillow's own formulas.
_RGB = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr")

_PREFIX = b"Exif\0\0"
_ORIENTATION, _X_RESOLUTION = 0x0112, 0x011A
_DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)  # description, camera, software, date, ...
_SUB_IFDS = (0x8769, 0x8825)  # Exif and GPS
_ORIENTATION_IN_XMP = re.compile(rb"""(tiff:Orientation(?:>|\s*=\s*["'])\s*)[2-8](?=\s*["'<])""")
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Metadata of an image file, for pixels that are upright."""

    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    exif: bytes | None = None
    """EXIF as a TIFF file, without the prefix b"Exif\\0\\0"; its orientation is 1, upright."""
    xmp: bytes | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    """The texts of a PNG by their keywords, the comment of a GIF as "Comment"."""


def read_metadata(image: Image.Image, orientation: int = 1) -> Metadata:
    """The metadata of an open Pillow image, for its pixels once turned by `orientation`. `info` must be unchanged.

    A PNG must be loaded, since its texts may follow the pixels. Invalid items and items longer than `MAX_BYTES` are
    left out. A color profile is kept if it is for RGB, or for grey where the image is grey, and if Pillow does not
    convert the image from another color space (CMYK, LAB, HSV).

    Resolutions are swapped where the orientation swaps the sides. The tags of a TIFF are its EXIF: those that describe
    the image are kept, those that describe the file are not.
    """
    return Metadata(
        icc_profile=_icc_profile(image),
        dpi=_dpi(image, orientation),
        exif=_exif(image),
        xmp=_xmp(image),
        text=_text(image),
    )


def read_orientation(image: Image.Image) -> int:
    """The orientation 1..8 that browsers turn an image by, 1 for none. The image must be open but not loaded.

    It is that of EXIF, a single SHORT in the first IFD. Without effect are XMP, EXIF in WebP, EXIF after the pixels of
    a PNG or in its texts, and invalid values. Of a TIFF the XMP orientation is removed, by which Pillow would turn it.
    """
    with contextlib.suppress(Exception):  # invalid EXIF raises many kinds
        orientation = _orientation_of_tiff(image) if image.format == "TIFF" else _orientation_of_exif(image)
        return orientation if orientation in range(1, 9) else 1
    return 1


def _orientation_of_tiff(image: Image.Image) -> int:
    exif = image.getexif()
    if _ORIENTATION not in getattr(image, "tag_v2", {}):
        exif.pop(_ORIENTATION, None)
    return exif.get(_ORIENTATION, 1)


def _orientation_of_exif(image: Image.Image) -> int:
    exif = image.info.get("exif", b"")
    # Pillow returns a text "exif" of a PNG, without the prefix, like its chunk eXIf.
    if image.format == "WEBP" or (image.format == "PNG" and not exif.startswith(_PREFIX)):
        return 1
    exif = exif.removeprefix(_PREFIX)
    return next(
        (
            struct.unpack_from(f"{order}H", exif, entry + 8)[0]
            for order, entry, *field in _first_ifd(exif)
            if field == [_ORIENTATION, 3, 1]
        ),
        1,
    )


def _first_ifd(exif: bytes) -> Iterator[tuple[str, int, int, int, int]]:
    """Byte order, position, tag, type and count of each entry. struct.error where it is cut off."""
    order = {b"II*\0": "<", b"MM\0*": ">"}[exif[:4]]
    (ifd,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, ifd)
    for entry in range(ifd + 2, ifd + 2 + 12 * count, 12):
        yield order, entry, *struct.unpack_from(f"{order}HHI", exif, entry)


def _icc_profile(image: Image.Image) -> bytes | None:
    profile = _bounded(image.info.get("icc_profile"))
    if profile is None:
        return None
    grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    valid = {b"RGB ": grey or image.mode in _RGB, b"GRAY": grey}
    return profile if valid.get(profile[16:20], False) else None


def _bounded(data: object) -> bytes | None:
    """The bytes; None if empty, too long or not bytes, since a text of a PNG may have the key of another item."""
    return data if isinstance(data, bytes) and 0 < len(data) <= MAX_BYTES else None


def _dpi(image: Image.Image, orientation: int) -> tuple[float, float] | None:
    with contextlib.suppress(Exception):  # missing, no pair, or fractions by 0
        stored = image.format not in ("JPEG", "MPO", "TIFF") or image.info.get("jfif_unit")
        if not stored and _X_RESOLUTION not in image.getexif():
            return None  # Pillow's default would be 72, and 1 for a TIFF
        dpi = image.info["dpi"]
        x, y = float(dpi[0]), float(dpi[1])
        if isinstance(dpi, tuple) and math.isfinite(x * y) and min(x, y) > 0 and max(x, y) < 1e8:  # as PNG can store
            return (y, x) if orientation >= 5 else (x, y)
    return None


def _exif(image: Image.Image) -> bytes | None:
    with contextlib.suppress(Exception):  # invalid EXIF raises many kinds
        data = image.info.get("exif")
        if image.format == "TIFF":
            data = _exif_of_tiff(image)
        elif data is None and "Raw profile type exif" in image.info:
            # ImageMagick's form: a line with the name, one with the length, then hex digits.
            data = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
        data = _bounded(data)
        return None if data is None else _upright(data)
    return None


def _exif_of_tiff(image: Image.Image) -> bytes | None:
    tags, kept = image.getexif(), Image.Exif()
    for tag in _DESCRIPTIVE:
        if tag in tags:
            kept[tag] = tags[tag]
    for tag in _SUB_IFDS:
        if ifd := tags.get_ifd(tag):
            kept[tag] = ifd
    return kept.tobytes() if len(kept) else None


def _upright(exif: bytes) -> bytes | None:
    """The EXIF with any orientation set to 1; None, struct.error or KeyError if its first IFD is invalid.

    Only the 12 bytes of that entry change. Rewriting the EXIF would break the absolute offsets in maker notes.
    """
    while exif.startswith(_PREFIX):
        exif = exif[6:]
    upright = bytearray(exif)
    for order, entry, tag, kind, length in _first_ifd(exif):
        (offset,) = struct.unpack_from(f"{order}I", exif, entry + 8)
        size = _TYPE_SIZES.get(kind, 0) * length
        if size > 4 and offset + size > len(exif):
            return None
        if tag == _ORIENTATION:
            struct.pack_into(f"{order}HHIHH", upright, entry, tag, 3, 1, 1, 0)
    return bytes(upright)


def _xmp(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp", image.info.get("XML:com.adobe.xmp"))
    xmp = _bounded(xmp.encode() if isinstance(xmp, str) else xmp)
    return None if xmp is None else _ORIENTATION_IN_XMP.sub(rb"\g<1>1", xmp)


def _text(image: Image.Image) -> dict[str, str]:
    texts = {}
    if image.format == "GIF" and (comment := image.info.get("comment")):
        texts = {"Comment": _decoded(comment)}
    elif image.format == "PNG":
        # The strings in info are the texts.
        texts = {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}
    kept, remaining = {}, MAX_BYTES
    for key, value in texts.items():
        size = len(key) + len(value.encode(errors="replace"))
        if size <= remaining and key != "XML:com.adobe.xmp" and not key.startswith("Raw profile type "):
            kept[key] = value
            remaining -= size
    return kept


def _decoded(comment: bytes) -> str:
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")
