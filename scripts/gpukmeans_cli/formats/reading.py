"""Image decoding: any file that Pillow reads becomes uint8 pixels."""

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
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from gpukmeans import has_alpha
from gpukmeans_cli.formats.apng_decoding import apng_parts, default_image, parse_apng
from gpukmeans_cli.formats.color import profile_transform, with_color_chunks
from gpukmeans_cli.formats.composition import compose
from gpukmeans_cli.formats.exif import ORIENTATION
from gpukmeans_cli.formats.gif_decoding import gif_parts
from gpukmeans_cli.formats.gif_scan import parse_gif
from gpukmeans_cli.formats.indices import row_blocks
from gpukmeans_cli.formats.metadata import Metadata, read_metadata, read_orientation
from gpukmeans_cli.formats.png_repair import repaired, stored_file, without_animation
from gpukmeans_cli.formats.stored_file import open_error_reason
from gpukmeans_cli.system.atomic_files import STDIO, ImageError

# Pixels converted at a time, which bounds the memory beside the decoded image and the result.
STRIP_PIXELS = 1 << 18

# Pillow mode -> mode of the result. All other modes with colors (YCbCr, CMYK, LAB, HSV, RGBX, ...) become RGB.
_WITH_ALPHA = {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}

_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")

# Without this handler, Pillow's log messages would be printed on stderr, where an error is one line.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# libtiff prints messages even about files that it can read. The call prevents these messages, except if Pillow
# links libtiff statically.
with contextlib.suppress(AttributeError, OSError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)

_PHOTOMETRIC, _TILE_WIDTH, _TILE_HEIGHT = 262, 322, 323  # tags of TIFF
_WHITE_IS_ZERO = 0
_WHITE_16 = 65535


class DamagedImageError(ImageError):
    """An error for a file that no decoder accepts."""


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """The first frame of an image file, decoded and upright."""

    pixels: np.ndarray  # uint8 (height, width, C), C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA
    mode: str  # the mode that Pillow reports for the file as stored
    format: str  # Pillow's name of the format: "PNG", "JPEG", ...
    frames: int  # frames in the file; only the first is read
    n_bytes: int  # size of the file
    upright: bool  # whether the file stores the frame upright; False for TIFF, whose orientation Pillow applies
    metadata: Metadata


def read_image(path: Path, *, max_pixels: int | None = None) -> DecodedImage:
    """The first frame of an image file, turned by its EXIF orientation as in browsers.

    The pixels are a new, writable, C-contiguous array. Alpha comes from an alpha channel or from a transparent
    color (PNG, GIF), and is dropped if every pixel is opaque. Color profiles are applied only to CMYK, which becomes
    sRGB. The default image of an APNG is used only if it is a frame, or if the frames cannot be decoded.

    Samples of 16 bits, grey or RGB, are reduced to their high byte, as in browsers. A transparent color is compared at
    16 bits. Grey of mode `I` has 16 bits if all values are in 0..65535. Otherwise its range from the smallest to the
    largest value is scaled to 0..255 and rounded. Grey of mode `F` is scaled from 0..1 if all values are in that range,
    otherwise from the range of the finite values. An image of equal values outside 0..65535 (`I`) or 0..1 (`F`)
    becomes black. NaN and -inf become black, and inf becomes white. A TIFF whose white is 0 is inverted.

    Raises ImageError for a file that is missing, unreadable, not an image, damaged, without pixels, or of more than
    `max_pixels` pixels. The default of `max_pixels` is the limit at which Pillow raises, twice
    `Image.MAX_IMAGE_PIXELS`.
    """
    with open_for_decoding(path, max_pixels) as file:
        return decode_image(file)


@contextlib.contextmanager
def open_for_decoding(path: Path, max_pixels: int | None) -> Iterator[BinaryIO]:
    """A seekable file, open while Pillow's limit of pixels is `max_pixels`. `STDIO` is standard input.

    If Pillow would refuse a PNG for some of its ancillary chunks, the file is a `RepairedFile` without them.

    ImageError if the file cannot be opened. Every exception inside the `with` block becomes an ImageError, too, since
    one file must not end the run, and Pillow raises many kinds while it decodes, converts or reads metadata.
    """
    with decoder_errors(), _open(path) as file, PILLOW_LIMIT.set_to(max_pixels):
        try:
            yield repaired(file)
        except MemoryError as error:
            raise ImageError("is too large for the memory of this machine; make it smaller first") from error


def _open(path: Path) -> BinaryIO:
    try:
        if path == STDIO:
            if sys.stdin is None:
                raise ImageError("cannot be read, since standard input is closed; send an image in by < or |")
            return io.BytesIO(sys.stdin.buffer.read())
        file = path.open("rb")
        if file.seekable():
            return file
        with file:  # a pipe
            return io.BytesIO(file.read())
    except OSError as error:
        raise ImageError(open_error_reason(error)) from error


class _PillowLimit:
    """Pillow's limit of pixels and the warning filters, which are set while decoders run.

    Both are global to the process, and the workers that share a GPU are threads. Without a lock, 167 of 400 reads with
    two limits in 8 threads were wrongly accepted or refused. With the default limit, `_set` doubles the value that it
    finds and later restores that value. Without a lock, a thread may find and restore a value that another thread has
    doubled. After 400 such reads, the limit was 2**33 times as large as before. A test covers both faults:
    `test_threads_with_different_limits_each_have_their_own`.

    Threads with the same limit run concurrently, and a thread with another limit waits until they have finished. A
    plain lock would decode one image at a time, although Pillow's decoders release the interpreter lock. The gain needs
    free cores. On two cores that other programs used, too, two threads decoded two JPEG images of 1.4 megapixels (400
    tries). With this lock the best time was 8.0 ms and the median 10.7 ms. With a plain lock the best time was 9.1 ms
    and the median 10.2 ms.

    Pillow warns above MAX_IMAGE_PIXELS, and raises only above twice that number. Here the warning is an error, so that
    MAX_IMAGE_PIXELS itself is the limit, even for images inside a file (ICO, TIFF tiles).
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_users = 0
        self._max_pixels: int | None = None
        self._to_restore = contextlib.ExitStack()

    @contextlib.contextmanager
    def set_to(self, max_pixels: int | None) -> Iterator[None]:
        """Inside the `with` block, Pillow prints no warning, and raises above the limit before it allocates memory."""
        with self._changed:
            self._changed.wait_for(lambda: not self._n_users or self._max_pixels == max_pixels)
            if not self._n_users:
                self._set(max_pixels)
            self._n_users += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_users -= 1
                if not self._n_users:
                    self._to_restore.close()
                    self._changed.notify_all()

    def _set(self, max_pixels: int | None) -> None:
        self._max_pixels = max_pixels
        self._to_restore.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS
        self._to_restore.callback(setattr, Image, "MAX_IMAGE_PIXELS", before)
        if max_pixels is not None:
            Image.MAX_IMAGE_PIXELS = max_pixels
        elif before is not None:
            Image.MAX_IMAGE_PIXELS = 2 * before


PILLOW_LIMIT = _PillowLimit()
"""The only instance. Decoders run inside `PILLOW_LIMIT.set_to(...)`."""


def decode_image(file: BinaryIO) -> DecodedImage:
    """The result of `read_image` for a file from `open_for_decoding`, whose position must be 0."""
    try:
        return _decode_image(file)
    except DamagedImageError:
        still = without_animation(file)
        if still is None:
            raise
        return _decode_image(still)


def _decode_image(file: BinaryIO) -> DecodedImage:
    with decoder_errors():
        opened = open_image(file)
        mode, orientation = opened.mode, read_orientation(opened)  # read before decoding, which may change the mode
        image, shown, frames = _first_frame(opened, file)
    kind, metadata = image.format or "", read_metadata(image, orientation)
    if kind == "PNG":
        metadata = with_color_chunks(metadata, file)
    profile = image.info.get("icc_profile") if mode == "CMYK" else None
    with decoder_errors():
        _make_upright(shown, orientation)
    pixels = pixels_of(shown, None if profile is None else profile_transform(profile, mode))
    del opened, image, shown  # frees memory before the copy without alpha
    return DecodedImage(
        pixels=_without_opaque_alpha(pixels),
        mode=mode,
        format=kind,
        frames=frames,
        n_bytes=file_size(file),
        upright=kind != "TIFF" and orientation == 1,
        metadata=metadata,
    )


class _FirstFrame(NamedTuple):
    """The first frame, as stored with its metadata and as a viewer shows it, and the number of frames."""

    stored: ImageFile.ImageFile
    shown: Image.Image
    n_frames: int


def _first_frame(image: ImageFile.ImageFile, file: BinaryIO) -> _FirstFrame:
    """The first frame of an image that is not decoded yet. For use inside `decoder_errors`."""
    is_hidden = getattr(image, "default_image", False)  # an APNG whose default image is not a frame
    if image.format != "GIF" and not is_hidden:
        n_frames = max(1, getattr(image, "n_frames", 1))
        decode_frame(image)
        return _FirstFrame(image, image, n_frames)
    if is_hidden:
        apng = parse_apng(file)
        image = decode_png(default_image(file))
        parts, n_frames, size = apng_parts(apng, file, rgba_of_png), len(apng.frames), (apng.height, apng.width)
    else:
        gif = parse_gif(file)
        parts, n_frames, size = gif_parts(gif, file), len(gif.frames), (gif.height, gif.width)
    canvas, _ = next(compose(parts, *size))
    shown = Image.fromarray(canvas)
    return _FirstFrame(image, shown.convert("LA") if image.mode in (*_GREY, "LA") else shown, n_frames)


def file_size(file: BinaryIO) -> int:
    """The size in bytes of the file as stored, including the chunks that a `RepairedFile` omits.

    The position of the stored file moves to its end.
    """
    return stored_file(file).seek(0, os.SEEK_END)


@contextlib.contextmanager
def decoder_errors() -> Iterator[None]:
    """Inside the `with` block, every exception of a decoder except MemoryError becomes an ImageError."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(_too_many_pixels(str(error))) from error
    except UnidentifiedImageError as error:
        raise DamagedImageError("is not an image that Pillow can read; convert it to PNG or JPEG first") from error
    except Exception as error:
        # For a broken file the forty decoders raise OSError, SyntaxError, struct.error, IndexError, AssertionError, ...
        # Errors of this package cannot be distinguished from errors of a decoder, so the traceback is kept.
        reason = " ".join(str(error).split()) or type(error).__name__
        text = f"cannot be decoded ({reason}); if it is damaged, copy or export it again"
        raise DamagedImageError(text).caused_by(error) from error


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """The image in a file. Only its header is read. For use inside `decoder_errors`."""
    if not file.read(1):
        raise ImageError("is empty (0 bytes); copy or export it again")
    file.seek(0)
    image = Image.open(file)
    if 0 in image.size:
        raise ImageError("has no pixels; export it again")
    _check_tiles(image)
    return image


def _check_tiles(image: ImageFile.ImageFile) -> None:
    """Raise ImageError if a tile of a TIFF has more pixels than the limit, since each tile is decoded as a whole."""
    tags = getattr(image, "tag_v2", {})
    n_pixels = tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0)
    if Image.MAX_IMAGE_PIXELS is not None and n_pixels > Image.MAX_IMAGE_PIXELS:
        raise ImageError(too_many_pixels(n_pixels, " in a tile"))


def decode_png(data: bytes) -> ImageFile.ImageFile:
    """The decoded image of a PNG file. For use inside `decoder_errors`."""
    image = Image.open(io.BytesIO(data), formats=["PNG"])
    decode_frame(image)
    return image


def rgba_of_png(data: bytes) -> np.ndarray:
    """The RGBA pixels, uint8 (height, width, 4), of a PNG file. For use inside `decoder_errors`."""
    return as_rgba(pixels_of(decode_png(data)))


def decode_frame(image: ImageFile.ImageFile) -> None:
    """Decode the current frame in place. For use inside `decoder_errors`."""
    _scale_transparent_grey(image)
    low_bytes = _low_bytes_of_color_key(image)
    image.load()
    if low_bytes is not None:
        _apply_color_key(image, low_bytes)
    if image.mode == "P" and image.palette is None:
        raise SyntaxError("it has no palette")


def _too_many_pixels(message: str) -> str:
    """The error message for Pillow's message, whose first number is the number of pixels."""
    size = re.search(r"\d+", message)
    return too_many_pixels(size.group() if size else "too many")


def too_many_pixels(count: int | str, where: str = "") -> str:
    """The error message for a file of `count` pixels, where `where` is "" or for example " in 9 frames"."""
    limit = f"the limit is {Image.MAX_IMAGE_PIXELS}; if you trust the file, raise it by --max-pixels"
    return f"has {count} pixels{where}, {limit}"


def _scale_transparent_grey(image: ImageFile.ImageFile) -> None:
    """Scale the transparent grey of a PNG of 1 to 8 bits to 0..255, since Pillow scales only the pixels.

    The file stores the transparent grey in two bytes. Only the lower byte counts, as in browsers.
    """
    factors = {"1": 255, "L;2": 85, "L;4": 17, "L": 1}
    rawmode = image.tile[0][3] if image.format == "PNG" and image.tile else None
    if isinstance(rawmode, str) and rawmode in factors and "transparency" in image.info:
        grey = (image.info["transparency"] & 255) * factors[rawmode]
        # At 1 bit, some versions of Pillow have already scaled the grey.
        image.info["transparency"] = min(255, grey) if rawmode == "1" else grey


def _low_bytes_of_color_key(image: ImageFile.ImageFile) -> Image.Image | None:
    """The low bytes of a 16-bit RGB PNG with a transparent color that is not decoded yet; None for another image."""
    tile = image.tile[0] if image.format == "PNG" and image.tile else None
    if tile is None or tile[3] != "RGB;16B" or "transparency" not in image.info or image.fp is None:
        return None
    position = image.fp.tell()
    image.fp.seek(0)
    low_bytes = Image.open(image.fp)
    # Pillow keeps the high byte of each sample. Read as little-endian, that is the low byte of a big-endian sample.
    # Old versions of Pillow have no class for a tile, so it is a plain tuple.
    low_bytes.tile = [(*tile[:3], "RGB;16L")]  # pyright: ignore[reportAttributeAccessIssue]
    low_bytes.load()
    image.fp.seek(position)
    return low_bytes


def _apply_color_key(image: ImageFile.ImageFile, low_bytes: Image.Image) -> None:
    """Replace the transparent color of a decoded 16-bit RGB PNG by alpha, since Pillow compares only high bytes."""
    key = np.array(image.info.pop("transparency"))
    alpha = np.empty((image.height, image.width), dtype=np.uint8)
    for (rows, high), (_, low) in zip(_strips(image), _strips(low_bytes), strict=True):
        is_key = (np.asarray(high) == key >> 8) & (np.asarray(low) == key & 255)
        alpha[rows] = np.where(is_key.all(axis=-1), 0, 255)
    image.putalpha(Image.fromarray(alpha))


def _make_upright(image: Image.Image, orientation: int) -> None:
    # Otherwise exif_transpose writes the EXIF to `info`, which fails for tags of invalid types.
    image.info = {key: value for key, value in image.info.items() if key == "transparency"}
    if image.format != "TIFF":  # Pillow turns a TIFF when it decodes
        exif = image.getexif()
        exif.clear()
        exif[ORIENTATION] = orientation
        ImageOps.exif_transpose(image, in_place=True)


def pixels_of(image: Image.Image, to_rgb: ImageCms.ImageCmsTransform | None = None) -> np.ndarray:
    """The pixels of a decoded image as in `DecodedImage`, but with alpha even if all pixels are opaque.

    `to_rgb` converts the mode of the image to RGB. If it is None, Pillow converts without a color profile.
    """
    if image.mode in _GREY:
        return _grey_pixels(image)
    target = _WITH_ALPHA.get(image.mode, "RGB")
    if image.mode in ("P", "RGB") and image.has_transparency_data:
        target = "RGBA"
    pixels = np.empty((image.height, image.width, len(target)), dtype=np.uint8)
    for rows, strip in _strips(image):
        if to_rgb is not None:
            strip = to_rgb.apply(strip)
        # A conversion to the same mode would copy.
        pixels[rows] = np.asarray(strip if strip.mode == target else strip.convert(target))
    return pixels


def as_rgba(colors: np.ndarray) -> np.ndarray:
    """Colors, uint8 (..., C) with C as in `DecodedImage`, as a new array of RGBA (..., 4).

    The same work in torch (`with_channels`) would start its threads in the process that reads a `--palette`. The
    workers forked from that process then hang in their first torch operation on a large tensor.
    """
    channels = colors.shape[-1]
    rgba = np.full((*colors.shape[:-1], 4), 255, dtype=np.uint8)
    rgba[..., :3] = colors[..., :3] if channels >= 3 else colors[..., :1]
    if has_alpha(channels):
        rgba[..., 3] = colors[..., -1]
    return rgba


def _grey_pixels(image: Image.Image) -> np.ndarray:
    if image.mode == "1":
        image = image.convert("L")
    transparent = image.info.get("transparency")
    low, high = _grey_range(image)
    # Pillow inverts TIFFs whose white is 0 only up to 8 bits.
    is_negative = image.mode != "L" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    pixels = np.empty((image.height, image.width, 1 if transparent is None else 2), dtype=np.uint8)
    for rows, strip in _strips(image):
        values = np.asarray(strip)
        if image.mode == "L":
            grey = values
        elif image.mode != "F" and high == _WHITE_16:
            grey = values >> 8
        else:
            grey = _scaled(values, low, high)
        pixels[rows, :, 0] = 255 - grey if is_negative else grey
        if transparent is not None:
            pixels[rows, :, 1] = np.where(values == transparent, 0, 255)
    return pixels


def _grey_range(image: Image.Image) -> tuple[float, float]:
    """The values of the samples that become black and white."""
    if image.mode not in ("I", "F"):
        return 0, 255 if image.mode == "L" else _WHITE_16
    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        values = np.asarray(strip, dtype=np.float64)
        finite = values[np.isfinite(values)]
        low, high = finite.min(initial=low), finite.max(initial=high)
    white = _WHITE_16 if image.mode == "I" else 1
    return (0, white) if low >= 0 and high <= white else (low, high)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    finite = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.rint((finite - low) * (255 / (high - low) if high > low else 0))


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Slices of rows, and the strip of the image in each."""
    for rows in row_blocks(image.height, image.width, STRIP_PIXELS):
        is_whole = rows == slice(0, image.height)  # a crop would copy the image
        yield rows, image if is_whole else image.crop((0, rows.start, image.width, rows.stop))


def _without_opaque_alpha(pixels: np.ndarray) -> np.ndarray:
    if has_alpha(pixels.shape[2]) and pixels[..., -1].min() == 255:
        return pixels[..., :-1].copy()
    return pixels
