"""Small animations for tests: lists of frames, palettes with indices, and files."""

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from gpukmeans_cli.formats.animation import decode_animation, encode_animation
from gpukmeans_cli.formats.frames import Animation
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.png_repair import stored_file
from gpukmeans_cli.formats.reading import as_rgba, open_for_decoding
from gpukmeans_cli.formats.stored_file import StoredFile
from gpukmeans_cli.system.atomic_files import ImageError

DISPOSE_NONE, DISPOSE_BACKGROUND, DISPOSE_PREVIOUS = 0, 1, 2
BLEND_SOURCE, BLEND_OVER = 0, 1
RED, GREEN, BLUE, TRANSPARENT = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (0, 0, 0, 0)
PALETTE = np.array([RED, GREEN, BLUE, (9, 9, 9, 255)], dtype=np.uint8)
WITH_TRANSPARENT = np.array([TRANSPARENT, GREEN, BLUE], dtype=np.uint8)

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
GIF_COLORS = bytes([*RED[:3], *GREEN[:3], *BLUE[:3], 9, 9, 9])


def moving_square(n_frames: int = 5, mode: str = "RGB") -> list[Image.Image]:
    frames = []
    for step in range(n_frames):
        frame = Image.new("RGBA", (20, 12), TRANSPARENT if mode == "RGBA" else BLUE)
        frame.paste(RED, (3 * step, 2, 3 * step + 4, 6))
        frame.paste(GREEN, (15, 8, 18, 10))
        frames.append(frame.convert(mode))
    return frames


def save_frames(path: Path, frames: Sequence[Image.Image], **options: object) -> Path:
    if path.suffix == ".webp":
        options = {"lossless": True, "exact": True, **options}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def rgba_of(frames: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(frame.convert("RGBA")) for frame in frames])


def read_animation(path: Path, *, max_pixels: int | None = None) -> Animation | None:
    """The animation in a file, or None for another file, as in `decode_animation`."""
    with open_for_decoding(path, max_pixels) as file:
        return decode_animation(file, StoredFile.of(path, stored_file(file)), max_pixels)


def read(path: Path, **options: int) -> Animation:
    """The animation in a file, with its frames as one array of RGBA (F, height, width, 4)."""
    found = read_animation(path, **options)
    assert found is not None
    return replace(found, frames=np.stack([as_rgba(frame) for frame in found.frames]))


def visible(frames: np.ndarray) -> np.ndarray:
    """Frames (..., 4) with all channels set to 0 where alpha is 0."""
    return np.where(frames[..., 3:] == 0, 0, frames)


def error_of(path: Path, **options: int) -> str:
    """The message of the `ImageError` that reading the file raises. It has one line, without the path."""
    with pytest.raises(ImageError) as caught:
        read_animation(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) not in message
    return message


def animation_of(durations: Sequence[float], *, plays: int = 0, metadata: Metadata | None = None) -> Animation:
    """An animation without frames, with these properties for an encoder."""
    return Animation(
        frames=[],
        height=0,
        width=0,
        channels=4,
        durations=tuple(durations),
        plays=plays,
        mode="RGBA",
        format="GIF",
        n_bytes=0,
        upright=True,
        metadata=metadata or Metadata(),
    )


def decoded_by_pillow(data: bytes) -> tuple[np.ndarray, list[float], int | None]:
    """Frames (F, height, width, 4), durations in ms and the number of repetitions in the file, decoded by Pillow."""
    image = Image.open(io.BytesIO(data))
    frames, durations = [], []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        frames.append(np.asarray(image.convert("RGBA")))
        durations.append(image.info["duration"])
    return np.stack(frames), durations, image.info.get("loop")


@st.composite
def animations(draw: st.DrawFn, alphas: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A palette, and the indices (F, height, width) of frames. Each frame changes some pixels of the frame before."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_colors = draw(st.sampled_from([1, 2, 3, 4, 5, 16, 17, 200, 255, 256]))
    channels = draw(st.integers(1, 4))
    n_frames, height, width = draw(st.integers(2, 6)), draw(st.integers(1, 19)), draw(st.integers(1, 19))
    palette = rng.integers(0, 256, (n_colors, channels), dtype=np.uint8)
    if channels in (2, 4):
        palette[:, -1] = rng.choice(alphas, n_colors)
        palette[palette[:, -1] == 0] = 0
    indices = np.repeat(rng.integers(0, n_colors, (1, height, width), dtype=np.uint8), n_frames, axis=0)
    for number in range(1, n_frames):
        indices[number] = indices[number - 1]
        changed = rng.random((height, width)) < draw(st.sampled_from([0, 0.05, 0.5, 1]))
        indices[number, changed] = rng.integers(0, n_colors, changed.sum())
    return palette, indices


def rgba_at(palette: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The colors at the indices as RGBA, converted by Pillow."""
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[palette.shape[1]]
    row = Image.frombytes(mode, (len(palette), 1), palette.tobytes()).convert("RGBA")
    return np.asarray(row)[0][indices]


def check_round_trip(palette: np.ndarray, indices: np.ndarray, suffix: str, folder: Path) -> None:
    """Assert that an encoded animation is unchanged when Pillow and `read_animation` decode it."""
    durations = [float(10 * (1 + 3 * number)) for number in range(len(indices))]
    data = encode_animation(palette, indices, animation_of(durations, plays=3), suffix)
    expected = visible(rgba_at(palette, indices))
    frames, times, loop = decoded_by_pillow(data)
    np.testing.assert_array_equal(visible(frames), expected)
    assert times == durations
    assert loop == (2 if suffix == ".gif" else 3)  # a GIF stores repetitions after the first play
    path = folder / f"written{suffix}"
    path.write_bytes(data)
    np.testing.assert_array_equal(visible(read(path).frames), expected)
    assert (read(path).durations, read(path).plays) == (tuple(durations), 3)


def square_indices(n_frames: int = 5, *, fill: int = 0) -> np.ndarray:
    indices = np.full((n_frames, 40, 60), fill, dtype=np.uint8)
    for step in range(n_frames):
        indices[step, 10:18, 5 + 8 * step : 13 + 8 * step] = 1
    return indices


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def handmade_apng(
    size: tuple[int, int],
    frames: Sequence[tuple[tuple[int, int, int, int], tuple[int, int], tuple[int, int, int, int]]],
    *,
    default_image: bool = False,
    delay: tuple[int, int] = (1, 10),
) -> bytes:
    """An APNG of RGBA frames of one color. A frame is (left, top, width, height), (dispose_op, blend_op), color."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 0))
    parts = [PNG_MAGIC, header, chunk(b"acTL", struct.pack(">II", len(frames), 0))]
    if default_image:
        parts.append(chunk(b"IDAT", zlib.compress((b"\0" + bytes(GREEN) * size[0]) * size[1])))
    number = 0
    for position, ((left, top, width, height), operations, color) in enumerate(frames):
        control = struct.pack(">IIIIIHHBB", number, width, height, left, top, *delay, *operations)
        pixels = zlib.compress((b"\0" + bytes(color) * width) * height)
        parts.append(chunk(b"fcTL", control))
        number += 1
        if position or default_image:
            parts.append(chunk(b"fdAT", struct.pack(">I", number) + pixels))
            number += 1
        else:
            parts.append(chunk(b"IDAT", pixels))
    return b"".join([*parts, chunk(b"IEND", b"")])


def gif_of(width: int, height: int, *blocks: bytes, colors: bytes = GIF_COLORS) -> bytes:
    """A GIF of these blocks, with a global color table unless `colors` is empty."""
    flags = 0x80 | (len(colors) // 3 - 1).bit_length() - 1 if colors else 0
    return b"".join([b"GIF89a", struct.pack("<HHBBB", width, height, flags, 0, 0), colors, *blocks, b";"])


def gif_frame(
    left: int, top: int, pixels: np.ndarray, *, disposal: int = 0, delay: int = 10, transparent: int | None = None
) -> bytes:
    """The blocks of a frame of color indices (height, width)."""
    flags = disposal << 2 | (transparent is not None)
    control = b"\x21\xf9\x04" + struct.pack("<BHBB", flags, delay, transparent or 0, 0)
    return control + gif_image(left, top, pixels)


def gif_loop(number: int, *, name: bytes = b"NETSCAPE2.0") -> bytes:
    """The application extension with the number of repetitions; 0 repeats forever."""
    return b"\x21\xff\x0b" + name + b"\x03\x01" + struct.pack("<HB", number, 0)


def gif_image(left: int, top: int, pixels: np.ndarray, *, colors: bytes = b"") -> bytes:
    """The block of a frame without graphic control extension; `colors` is a local color table."""
    flags = 0x80 | (len(colors) // 3 - 1).bit_length() - 1 if colors else 0
    bits = max(2, int(pixels.max(initial=0)).bit_length())
    shown = pixels if pixels.size else np.zeros((1, 1), dtype=np.uint8)  # decoders do not read pixels of an empty frame
    packed = bytes([bits]) + Image.fromarray(shown).tobytes("gif", "L", bits, 0) + b"\0"
    return b"," + struct.pack("<HHHHB", left, top, *pixels.shape[::-1], flags) + colors + packed
