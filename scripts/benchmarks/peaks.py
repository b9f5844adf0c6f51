"""Peak memory of `gpukmeans compress`: large stills, and animations of many frames."""

import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pngquant import COMPRESS, NEAREST
from benchmarks.processes import run

# The target of the peak memory: bytes for each pixel of one frame, and a constant number of bytes.
BYTES_PER_PIXEL, CONSTANT = 16, 32e6

_SIZE = 6000, 4000
_WITH_DITHERING = ("floyd-steinberg", "blue-noise")


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The peak memory of a process, less the peak memory of a process for a picture of one pixel."""

    name: str
    n_pixels: int
    """Number of pixels of one frame."""
    n_bytes: float
    target: float
    """Limit of `n_bytes`. For an animation it includes twice the size of its output."""
    seconds: float


def peaks(photos: Sequence[np.ndarray], folder: Path) -> Iterator[Peak]:
    """Peaks at 20 colors, of files that are made in `folder` from RGB photos, uint8 (H, W, 3). Linux only."""
    _write_files(photos, folder)
    baseline, _ = _compress(folder / "pixel.png", folder)
    Image.MAX_IMAGE_PIXELS = None  # Pillow would warn of larger images
    for source in ("photo.jpg", "rgb.png", "rgba.png", "grey.png", "bit.png", "small.png", "flat.gif", "video.gif"):
        for dithering in ("none", *(_WITH_DITHERING if source.startswith(("rgb", "small")) else ())):
            n_bytes, seconds = _compress(folder / source, folder, "--dither", dithering)
            with Image.open(folder / source) as image:
                n_pixels, is_animated = image.width * image.height, getattr(image, "is_animated", False)
            target = BYTES_PER_PIXEL * n_pixels + CONSTANT
            if is_animated:
                target += 2 * (folder / "out.gif").stat().st_size
            name = source if dithering == "none" else f"{source}, {dithering}"
            yield Peak(name=name, n_pixels=n_pixels, n_bytes=n_bytes - baseline, target=target, seconds=seconds)


def _compress(path: Path, folder: Path, *options: str) -> tuple[float, float]:
    """Peak memory in bytes and seconds of a compression."""
    output = folder / f"out{'.gif' if path.suffix == '.gif' else '.png'}"
    command = [sys.executable, COMPRESS, str(path), "-k", "20", *NEAREST, "-o", str(output), "-f", "-q"]
    cost = run([*command, "--max-pixels", "200000000", "--allow-larger", "--device", "cpu", *options])
    return cost.peak_bytes, cost.seconds


def _write_files(photos: Sequence[np.ndarray], folder: Path) -> None:
    """Write the pictures that `peaks` measures, from RGB photos (H, W, 3)."""
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    photo = Image.fromarray(photos[0])
    large = photo.resize(_SIZE, Image.Resampling.LANCZOS)
    large.save(folder / "photo.jpg", quality=92)
    large.save(folder / "rgb.png", compress_level=1)
    large.convert("L").save(folder / "grey.png", compress_level=1)
    # Transparent outside an ellipse with a soft edge, opaque inside.
    y, x = np.ogrid[-1 : 1 : _SIZE[1] * 1j, -1 : 1 : _SIZE[0] * 1j]
    alpha = np.clip((0.9 - x * x - y * y) * 2000, 0, 255).astype(np.uint8)
    large.putalpha(Image.fromarray(alpha))
    large.save(folder / "rgba.png", compress_level=1)
    Image.new("1", (13_000, 13_000)).save(folder / "bit.png")
    photo.resize((1500, 1000), Image.Resampling.LANCZOS).save(folder / "small.png")
    _write_flat_gif(folder / "flat.gif")
    frames = [_frame(Image.fromarray(photos[number % len(photos)]), number) for number in range(380)]
    frames[0].save(folder / "video.gif", save_all=True, append_images=frames[1:], duration=40)


def _write_flat_gif(path: Path) -> None:
    """Ten frames of 4000 x 4000 pixels, each stored as a box of 2 x 2, in 250 bytes."""
    parts = [b"GIF89a" + struct.pack("<HHBBB", 4000, 4000, 0xF0, 0, 0) + bytes([255, 0, 0, 0, 0, 255])]
    for number in range(10):
        pixels = Image.new("L", (2, 2), number % 2).tobytes("gif", "L", 2, 0)
        control = b"\x21\xf9\x04" + struct.pack("<BHBB", 0, 10, 0, 0)
        parts.append(control + b"," + struct.pack("<HHHHB", number, number, 2, 2, 0) + b"\2" + pixels + b"\0")
    path.write_bytes(b"".join([*parts, b";"]))


def _frame(photo: Image.Image, number: int) -> Image.Image:
    left, top = (number * 7) % (photo.width - 472), (number * 3) % (photo.height - 298)
    return photo.crop((left, top, left + 472, top + 298)).quantize(256, Image.Quantize.FASTOCTREE)
