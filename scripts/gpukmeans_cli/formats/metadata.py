"""What a picture file says beside its pixels: color profile, resolution, EXIF, XMP and texts."""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

# Longer ones are left out; of texts those that no longer fit. A profile for RGB is seldom above 1 MB.
MAX_BYTES = 1 << 22

# Modes whose pixels mean what a profile for RGB says. CMYK, LAB and HSV become RGB by Pillow's own formulas.
_RGB = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr")

_WIDTH, _ORIENTATION, _X_RESOLUTION = 0x0100, 0x0112, 0x011A
_DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)  # description, camera, software, date, ...
_SUBFOLDERS = (0x8769, 0x8825)  # EXIF's own tags, and where on earth
_ORIENTATION_IN_XMP = re.compile(rb"""(tiff:Orientation(?:>|\s*=\s*["'])\s*)[2-8](?=\s*["'<])""")
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a picture file says beside its pixels."""

    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    exif: bytes | None = None
    """EXIF as a TIFF file, without the prefix b"Exif\\0\\0"; its orientation is upright."""
    xmp: bytes | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    """The texts of a PNG by their keywords, the comment of a GIF as "Comment"."""


def read_metadata(image: Image.Image) -> Metadata:
    """What the file of a Pillow image says, for pixels that are turned upright; before `info` is changed.

    A PNG must have been loaded, for its texts may come last. Whatever is broken, or longer than `MAX_BYTES`, is left
    out. A color profile is kept if it is for RGB, or for grey where the image is grey, and if the image is not
    converted by Pillow from another color space (CMYK, LAB, HSV).

    Resolutions are swapped where turning swaps the sides. Of a TIFF, whose tags are its EXIF, those that describe the
    picture are kept, and none that describe the file.
    """
    return Metadata(
        icc_profile=_icc_profile(image),
        dpi=_dpi(image),
        exif=_exif(image),
        xmp=_xmp(image),
        text=_text(image),
    )


def read_orientation(image: Image.Image) -> int:
    """1..8 as in EXIF, from EXIF or XMP; 1, upright, where it is not said or cannot be read."""
    with contextlib.suppress(Exception):  # ValueError, struct.error, SyntaxError, ...
        orientation = image.getexif().get(_ORIENTATION, 1)
        return orientation if orientation in range(2, 9) else 1
    return 1


def _icc_profile(image: Image.Image) -> bytes | None:
    profile = _bounded(image.info.get("icc_profile"))
    if profile is None:
        return None
    grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    fitting = {b"RGB ": grey or image.mode in _RGB, b"GRAY": grey}
    return profile if fitting.get(profile[16:20], False) else None


def _bounded(data: object) -> bytes | None:
    """The bytes, unless there are none or too many. A text of a PNG may have taken the name of other metadata."""
    return data if isinstance(data, bytes) and 0 < len(data) <= MAX_BYTES else None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    with contextlib.suppress(Exception):  # none, no pair, or fractions by 0
        said = image.format not in ("JPEG", "MPO", "TIFF") or image.info.get("jfif_unit")
        if not said and _X_RESOLUTION not in image.getexif():
            return None  # where the file says nothing Pillow says 72, and 1 for a TIFF
        dpi = image.info["dpi"]
        x, y = float(dpi[0]), float(dpi[1])
        if isinstance(dpi, tuple) and math.isfinite(x * y) and min(x, y) > 0 and max(x, y) < 1e8:  # as a PNG can hold
            return (y, x) if _sides_swap(image) else (x, y)
    return None


def _sides_swap(image: Image.Image) -> bool:
    if image.format == "TIFF":
        # Pillow has turned it and forgotten the orientation, but not its width.
        return image.getexif().get(_WIDTH) != image.width
    return read_orientation(image) >= 5


def _exif(image: Image.Image) -> bytes | None:
    with contextlib.suppress(Exception):  # as many kinds as there are ways to be broken
        data = image.info.get("exif")
        if image.format == "TIFF":
            data = _exif_of_tiff(image)
        elif data is None and "Raw profile type exif" in image.info:
            # How ImageMagick writes it: a line for the name, one for the length, then hexadecimal.
            data = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
        data = _bounded(data)
        return None if data is None else _upright(data)
    return None


def _exif_of_tiff(image: Image.Image) -> bytes | None:
    tags, kept = image.getexif(), Image.Exif()
    for tag in _DESCRIPTIVE:
        if tag in tags:
            kept[tag] = tags[tag]
    for tag in _SUBFOLDERS:
        if folder := tags.get_ifd(tag):
            kept[tag] = folder
    return kept.tobytes() if len(kept) else None


def _upright(exif: bytes) -> bytes | None:
    """The EXIF with orientation 1 where it had one; None if its first folder is broken.

    Only the 12 bytes of that entry change: written anew, what cameras put there by absolute offset would be lost.
    """
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return None
    (folder,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, folder)
    upright = bytearray(exif)
    for at in range(folder + 2, folder + 2 + 12 * count, 12):
        tag, kind, length, offset = struct.unpack_from(f"{order}HHII", exif, at)
        size = _TYPE_SIZES.get(kind, 0) * length
        if size > 4 and offset + size > len(exif):
            return None
        if tag == _ORIENTATION:
            struct.pack_into(f"{order}HHIHH", upright, at, tag, 3, 1, 1, 0)
    return bytes(upright)


def _xmp(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp", image.info.get("XML:com.adobe.xmp"))
    xmp = _bounded(xmp.encode() if isinstance(xmp, str) else xmp)
    return None if xmp is None else _ORIENTATION_IN_XMP.sub(rb"\g<1>1", xmp)


def _text(image: Image.Image) -> dict[str, str]:
    if image.format == "GIF":
        comment = image.info.get("comment", b"")
        found = {"Comment": _decoded(comment)} if comment else {}
    elif image.format == "PNG":
        # Whatever else is in info is no string.
        found = {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}
    else:
        found = {}
    kept, left = {}, MAX_BYTES
    for key, value in found.items():
        size = len(key) + len(value.encode(errors="replace"))
        if size <= left and key != "XML:com.adobe.xmp" and not key.startswith("Raw profile type "):
            kept[key] = value
            left -= size
    return kept


def _decoded(comment: bytes) -> str:
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")
