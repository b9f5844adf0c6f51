"""Picture files in: any file that Pillow reads becomes a uint8 array."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from gpukmeans_cli.formats.metadata import Metadata, read_metadata, read_orientation
from gpukmeans_cli.system.atomic_files import STDIO, ImageError

# Pixels converted at a time: besides the decoded picture and the result only this much is held.
STRIP_PIXELS = 1 << 20

# Whatever else Pillow reads (YCbCr, CMYK, LAB, HSV, RGBX, ...) becomes RGB.
_WITH_ALPHA = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}

_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")

# What Pillow logs while it fails would stand on stderr beside our one sentence.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# ... and so would what libtiff prints by itself, also of files that it can read after all. Where it is built into
# Pillow out of reach it goes on printing.
with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)

_TILE_WIDTH, _TILE_HEIGHT = 322, 323  # tags of TIFF


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The first frame of a picture file, upright."""

    pixels: np.ndarray  # uint8 (height, width, C), C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA
    mode: str  # the mode Pillow reports for the file as stored
    format: str  # Pillow's name of the format: "PNG", "JPEG", ...
    frames: int  # frames in the file; only the first is read
    n_bytes: int  # size of the file
    upright: bool  # whether it is known to lie so in the file: of a TIFF it never is, as Pillow turns it by itself
    metadata: Metadata  # what the file says beside its pixels


def read_picture(path: Path, *, max_pixels: int | None = None) -> Picture:
    """The first frame of a picture file, turned upright by its EXIF orientation.

    The pixels are a fresh, writable, C-contiguous array. Alpha comes from an alpha channel or from a transparent
    color (PNG, GIF), and is left out if every pixel is opaque. Color profiles are not applied.

    Grey deeper than 8 bits is scaled to 0..255 and rounded: `I;16` from 0..65535; `I` from 0..65535 and `F` from 0..1
    if all values lie there, otherwise from the smallest to the largest finite value (a constant becomes black).
    NaN becomes black, an infinity the end it lies beyond.

    Raises ImageError for a file that is missing, unreadable, no picture, damaged, without pixels, or of more than
    `max_pixels` pixels; by default those that Pillow refuses (twice `Image.MAX_IMAGE_PIXELS`).
    """
    with opened(path, max_pixels) as file:
        return picture_in(file)


@contextlib.contextmanager
def opened(path: Path, max_pixels: int | None) -> Iterator[BinaryIO]:
    """The file, which can be read more than once, and Pillow at that limit of pixels; `STDIO` is standard input.

    ImageError if it cannot be opened or held.
    """
    with _open(path) as file, _PILLOW.within(max_pixels):
        try:
            yield file
        except MemoryError as error:
            raise ImageError("is too large for the memory of this machine; make it smaller first") from error


def _open(path: Path) -> BinaryIO:
    try:
        if path == STDIO:
            if sys.stdin is None:
                raise ImageError("cannot be read, since standard input is closed; send a picture in by < or |")
            return io.BytesIO(sys.stdin.buffer.read())
        file = path.open("rb")
        if file.seekable():
            return file
        with file:  # a pipe
            return io.BytesIO(file.read())
    except OSError as error:
        raise ImageError(why_unopened(error)) from error


def why_unopened(error: OSError) -> str:
    """The end of a sentence that begins with the path."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "does not exist; check the path"
    if isinstance(error, IsADirectoryError):
        return "is a folder; name an image file in it"
    if isinstance(error, PermissionError):
        return "may not be read; check its permissions"
    return f"cannot be opened ({error.strerror}); check the path"


class _Pillow:
    """Pillow's limit of pixels and the filters of warnings, which belong to the whole process, set while readers work.

    Readers of one limit work at the same time; those of another wait until all are done.

    Pillow raises only at twice MAX_IMAGE_PIXELS and warns before; with the warning made an error, MAX_IMAGE_PIXELS is
    the limit itself, also for the pictures that some formats keep inside (ICO, TIFF tiles).
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._readers = 0
        self._asked: int | None = None
        self._restored = contextlib.ExitStack()

    @contextlib.contextmanager
    def within(self, max_pixels: int | None) -> Iterator[None]:
        """Inside, Pillow warns of nothing and raises, before it takes memory, for more pixels than the limit."""
        with self._changed:
            self._changed.wait_for(lambda: not self._readers or self._asked == max_pixels)
            if not self._readers:
                self._set(max_pixels)
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                if not self._readers:
                    self._restored.close()
                    self._changed.notify_all()

    def _set(self, max_pixels: int | None) -> None:
        self._asked = max_pixels
        self._restored.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS
        self._restored.callback(setattr, Image, "MAX_IMAGE_PIXELS", before)
        if max_pixels is not None:
            Image.MAX_IMAGE_PIXELS = max_pixels
        elif before is not None:
            Image.MAX_IMAGE_PIXELS = 2 * before


_PILLOW = _Pillow()


def picture_in(file: BinaryIO) -> Picture:
    """What `read_picture` returns, of an open file (`opened`) at its beginning."""
    with decoding():
        image = open_image(file)
        frames = max(1, getattr(image, "n_frames", 1))
        load(image)
    mode, kind, metadata = image.mode, image.format or "", read_metadata(image)
    upright = kind != "TIFF" and read_orientation(image) == 1
    with decoding():
        _turn_upright(image)
    pixels = pixels_of(image)
    del image  # before the copy without alpha is made
    return Picture(
        pixels=_without_opaque_alpha(pixels),
        mode=mode,
        format=kind,
        frames=frames,
        n_bytes=size_of(file),
        upright=upright,
        metadata=metadata,
    )


def size_of(file: BinaryIO) -> int:
    """The bytes of an open file, at whose end it then is."""
    return file.seek(0, os.SEEK_END)


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Inside, whatever a decoder stumbles over becomes an ImageError; MemoryError stays what it is."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(_too_many_pixels(str(error))) from error
    except UnidentifiedImageError as error:
        raise ImageError("is not an image that Pillow can read; convert it to PNG or JPEG first") from error
    except Exception as error:
        # Some forty decoders, each with its own ways to stumble over a broken file: OSError, SyntaxError, struct.error,
        # IndexError, AssertionError, ... What is ours to get wrong runs outside, so as not to pass for a bad file.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"cannot be decoded ({reason}); if it is damaged, copy or export it again") from error


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """The image in a file at its beginning, of which only the head has been read. For use inside `decoding`."""
    if not file.read(1):
        raise ImageError("is empty (0 bytes); copy or export it again")
    file.seek(0)
    image = Image.open(file)
    if 0 in image.size:
        raise ImageError("has no pixels; export it again")
    _check_tiles(image)
    return image


def _check_tiles(image: ImageFile.ImageFile) -> None:
    """ImageError if a tile of a TIFF, which is decoded as a whole, has more pixels than the limit, as no image may."""
    tags = getattr(image, "tag_v2", {})
    n_pixels = tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0)
    if Image.MAX_IMAGE_PIXELS is not None and n_pixels > Image.MAX_IMAGE_PIXELS:
        raise ImageError(too_many_pixels(n_pixels, " in a tile"))


def load(image: ImageFile.ImageFile) -> None:
    """Decode the current frame. For use inside `decoding`."""
    _spread_transparent_grey(image)
    image.load()
    if image.mode == "P" and image.palette is None:
        raise SyntaxError("it has no palette")


def _too_many_pixels(message: str) -> str:
    """The refusal, with the size from Pillow's own (the first number in it), for there is no image to ask yet."""
    size = re.search(r"\d+", message)
    return too_many_pixels(size.group() if size else "too many")


def too_many_pixels(count: int | str, where: str = "") -> str:
    """The refusal of a file of that many pixels, of an image or of what `where` says (" in 9 frames")."""
    limit = f"the limit is {Image.MAX_IMAGE_PIXELS}; if you trust the file, raise it by --max-pixels"
    return f"has {count} pixels{where}, {limit}"


def _spread_transparent_grey(image: ImageFile.ImageFile) -> None:
    """Scale the transparent grey of a PNG below 8 bits to 0..255, as Pillow does with the pixels but not with it."""
    steps = {"1": 255, "L;2": 85, "L;4": 17}
    rawmode = image.tile[0][3] if image.format == "PNG" and image.tile else None
    if isinstance(rawmode, str) and rawmode in steps and "transparency" in image.info:
        # Never above white: at 1 bit some versions of Pillow have scaled it already.
        image.info["transparency"] = min(255, image.info["transparency"] * steps[rawmode])


def _turn_upright(image: ImageFile.ImageFile) -> None:
    # Unreadable EXIF (ValueError, struct.error, ...) leaves the orientation unknown; the pixels are good all the same.
    with contextlib.suppress(Exception):
        image.getexif()
    # exif_transpose takes the EXIF just read, but would also write it back to info, which fails for tags of odd types.
    image.info = {key: value for key, value in image.info.items() if key == "transparency"}
    ImageOps.exif_transpose(image, in_place=True)


def pixels_of(image: Image.Image) -> np.ndarray:
    """The pixels of a decoded image as in `Picture`, with alpha also where all are opaque."""
    if image.mode in _GREY:
        return _grey_pixels(image)
    target = _WITH_ALPHA.get(image.mode, "RGB")
    if image.mode in ("P", "RGB") and image.has_transparency_data:
        target = "RGBA"
    pixels = np.empty((image.height, image.width, len(target)), dtype=np.uint8)
    for rows, strip in _strips(image):
        # Converting to the same mode would copy.
        pixels[rows] = np.asarray(strip if strip.mode == target else strip.convert(target))
    return pixels


def as_rgba(colors: np.ndarray) -> np.ndarray:
    """Colors (..., C) as in `Picture`, as RGBA (..., 4)."""
    channels = colors.shape[-1]
    rgba = np.full((*colors.shape[:-1], 4), 255, dtype=np.uint8)
    rgba[..., :3] = colors[..., :3] if channels >= 3 else colors[..., :1]
    if channels in (2, 4):
        rgba[..., 3] = colors[..., -1]
    return rgba


def _grey_pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "1":
        image = image.convert("L")
    transparent = image.info.get("transparency")
    low, high = _grey_range(image)
    pixels = np.empty((image.height, image.width, 1 if transparent is None else 2), dtype=np.uint8)
    for rows, strip in _strips(image):
        values = np.asarray(strip)
        pixels[rows, :, 0] = values if image.mode == "L" else _scaled(values, low, high)
        if transparent is not None:
            pixels[rows, :, 1] = np.where(values == transparent, 0, 255)
    return pixels


def _grey_range(image: Image.Image) -> tuple[float, float]:
    """The values that become black and white."""
    if image.mode not in ("I", "F"):
        return 0, 255 if image.mode == "L" else 65535
    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        values = np.asarray(strip, dtype=np.float64)
        finite = values[np.isfinite(values)]
        low, high = finite.min(initial=low), finite.max(initial=high)
    usual = 65535 if image.mode == "I" else 1
    return (0, usual) if low >= 0 and high <= usual else (low, high)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    known = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.rint((known - low) * (255 / (high - low) if high > low else 0))


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    height = max(1, STRIP_PIXELS // image.width)
    if height >= image.height:
        yield slice(None), image  # a crop would copy
        return
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _without_opaque_alpha(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[2] in (2, 4) and pixels[..., -1].min() == 255:
        return pixels[..., :-1].copy()
    return pixels
