"""Metadata of image files: color profile, resolution, EXIF, XMP and texts."""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

from gpukmeans_cli.formats.exif import ORIENTATION, PREFIX, first_ifd, upright_exif

# The limit, in bytes, of each item, and of all texts together. An RGB profile seldom has more than 1 MB.
MAX_BYTES = 1 << 22

# Modes for which an RGB profile is valid. CMYK, LAB and HSV become RGB by Pillow's own formulas.
_RGB = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr")

_X_RESOLUTION = 0x011A
_DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)  # description, camera, software, date, ...
_SUB_IFDS = (0x8769, 0x8825)  # Exif and GPS
_ORIENTATION_IN_XMP = re.compile(rb"""(tiff:Orientation(?:>|\s*=\s*["'])\s*)[2-8](?=\s*["'<])""")


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Metadata of an image file, for pixels that are upright."""

    icc_profile: bytes | None = None
    color_chunks: tuple[tuple[bytes, bytes], ...] = ()
    """Kind and body of each chunk of a PNG that defines colors, other than a profile; see `formats.color`."""
    dpi: tuple[float, float] | None = None
    pixel_aspect: tuple[int, int] | None = None
    """Pixels per unit of length in x and y, where the unit is unknown; None if they are equal or missing."""
    exif: bytes | None = None
    """EXIF as a TIFF file, without the prefix b"Exif\\0\\0". Its orientation is 1, upright."""
    xmp: bytes | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    """The texts of a PNG by keyword, or the comment of a GIF with the keyword "Comment"."""


def read_metadata(image: Image.Image, orientation: int = 1) -> Metadata:
    """The metadata of an open Pillow image, valid for its pixels after they are turned by `orientation`.

    `image.info` must be unchanged. A PNG must be loaded, since its texts may follow the pixels. Invalid items and items
    longer than `MAX_BYTES` are left out. A whole color profile is kept if it is for grey and the image is grey, or if
    it is for RGB and Pillow does not convert the image from another color space (CMYK, LAB, HSV).

    Resolutions are swapped if the orientation swaps the sides. The EXIF of a turned image has the sizes of the upright
    image, and no thumbnail, since a thumbnail would not be upright. The EXIF of a TIFF is made of its tags: tags that
    describe the image are kept, and tags that describe the file are left out.
    """
    return Metadata(
        icc_profile=_icc_profile(image),
        dpi=_dpi(image, orientation),
        pixel_aspect=_pixel_aspect(image, orientation),
        exif=_exif(image, orientation),
        xmp=_xmp(image),
        text=_text(image),
    )


def read_orientation(image: Image.Image) -> int:
    """The orientation of an image, 1..8, that browsers apply; 1 for none. The image must be open but not loaded.

    The orientation is a single SHORT in the first IFD of EXIF. XMP, EXIF in WebP, EXIF after the pixels of a PNG, EXIF
    in the texts of a PNG, and invalid values have no effect. If only the XMP of a TIFF has an orientation, it is
    removed from the EXIF of the image, since Pillow would apply it.
    """
    with contextlib.suppress(Exception):  # invalid EXIF raises many kinds of exceptions
        orientation = _orientation_of_tiff(image) if image.format == "TIFF" else _orientation_of_exif(image)
        return orientation if orientation in range(1, 9) else 1
    return 1


def _orientation_of_tiff(image: Image.Image) -> int:
    exif = image.getexif()
    if ORIENTATION not in getattr(image, "tag_v2", {}):
        exif.pop(ORIENTATION, None)
    return exif.get(ORIENTATION, 1)


def _orientation_of_exif(image: Image.Image) -> int:
    exif = image.info.get("exif", b"")
    # Under this key Pillow returns the chunk eXIf of a PNG with the prefix, and a text "exif" without it.
    if image.format == "WEBP" or (image.format == "PNG" and not exif.startswith(PREFIX)):
        return 1
    exif = exif.removeprefix(PREFIX)
    entries = (entry for entry in first_ifd(exif) if (entry.tag, entry.kind, entry.count) == (ORIENTATION, 3, 1))
    return next((entry.value for entry in entries), 1)


def _icc_profile(image: Image.Image) -> bytes | None:
    profile = _bounded(image.info.get("icc_profile"))
    if profile is None or not _is_whole(profile):
        return None
    grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    valid = {b"RGB ": grey or image.mode in _RGB, b"GRAY": grey}
    return profile if valid.get(profile[16:20], False) else None


def _is_whole(profile: bytes) -> bool:
    """Whether the header, the table of tags and the tags of the profile are complete."""
    with contextlib.suppress(struct.error):
        size, n_tags = struct.unpack_from(">I124xI", profile)
        tags = (struct.unpack_from(">4xII", profile, 132 + 12 * number) for number in range(n_tags))
        return size <= len(profile) and all(offset + length <= size for offset, length in tags)
    return False


def _bounded(data: object) -> bytes | None:
    """The bytes; None if they are empty or too long, or for a str: a text of a PNG that has the key of the item."""
    return data if isinstance(data, bytes) and 0 < len(data) <= MAX_BYTES else None


def _dpi(image: Image.Image, orientation: int) -> tuple[float, float] | None:
    with contextlib.suppress(Exception):  # the value is missing, no pair, or a fraction with denominator 0
        stored = image.format not in ("JPEG", "MPO", "TIFF") or image.info.get("jfif_unit")
        if not stored and _X_RESOLUTION not in image.getexif():
            return None  # without a stored resolution Pillow returns 72, or 1 for a TIFF
        dpi = image.info["dpi"]
        x, y = float(dpi[0]), float(dpi[1])
        if isinstance(dpi, tuple) and math.isfinite(x * y) and min(x, y) > 0 and max(x, y) < 1e8:  # as PNG can store
            return (y, x) if orientation >= 5 else (x, y)
    return None


def _pixel_aspect(image: Image.Image, orientation: int) -> tuple[int, int] | None:
    aspect = image.info.get("aspect")  # of a PNG
    if image.format in ("JPEG", "MPO") and image.info.get("jfif_unit") == 0:
        aspect = image.info.get("jfif_density")
    if not isinstance(aspect, tuple) or min(aspect) < 1 or aspect[0] == aspect[1]:
        return None
    return aspect[::-1] if orientation >= 5 else aspect


def _exif(image: Image.Image, orientation: int) -> bytes | None:
    with contextlib.suppress(Exception):  # invalid EXIF raises many kinds of exceptions
        data = image.info.get("exif")
        if image.format == "TIFF":
            data = _exif_of_tiff(image)
        elif data is None and "Raw profile type exif" in image.info:
            # ImageMagick writes an empty line, a line with the name, a line with the length, then lines of hex digits.
            data = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
        data = _bounded(data)
        if data is not None:
            width, height = image.size
            if orientation >= 5 and image.format != "TIFF":  # Pillow has turned a TIFF
                width, height = height, width
            return upright_exif(data, orientation, (width, height))
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


def _xmp(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp", image.info.get("XML:com.adobe.xmp"))
    xmp = _bounded(xmp.encode() if isinstance(xmp, str) else xmp)
    return None if xmp is None else _ORIENTATION_IN_XMP.sub(rb"\g<1>1", xmp)


def _text(image: Image.Image) -> dict[str, str]:
    texts = {}
    if image.format == "GIF" and (comment := image.info.get("comment")):
        texts = {"Comment": _decoded(comment)}
    elif image.format == "PNG":
        # Only texts are strings in `info`.
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
