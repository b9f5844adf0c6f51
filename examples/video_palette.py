"""One palette for all frames of a video, without flicker, written as an animated GIF.

The frames are read twice, one at a time: first their histograms are added, then each frame is mapped to the palette of
the sum. Ordered dithering depends on the color and the place of a pixel only. So a pixel that stays the same in the
video stays the same in the result. A palette for each frame, or error diffusion, would make it flicker.

    python examples/video_palette.py                # a synthesized video
    python examples/video_palette.py animation.gif
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from gpukmeans import IndexedImage, fit_palette, map_to_palette, quantize, unique_colors
from gpukmeans.images.dithering import DitheringName

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Video = Callable[[], Iterator[Tensor]]  # each call reads the frames again, uint8 (H, W, 3)


def synthesized_video(n_frames: int = 12, height: int = 60, width: int = 80) -> Iterator[Tensor]:
    """A disc that changes its color and moves over a still background with gradients."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    background = torch.stack([x * 255 // width, y * 255 // height, 160 - y * 100 // height], dim=2)
    for number in range(n_frames):
        center_x, center_y, radius = width * number // n_frames, height // 2, height // 6
        disc = (x - center_x).square() + (y - center_y).square() < radius**2
        color = torch.tensor([255, 40 + 16 * number, 255 - 20 * number])
        yield torch.where(disc[..., None], color, background).to(torch.uint8).to(DEVICE)


def frames_of(path: Path) -> Iterator[Tensor]:
    """The frames of an animated GIF, PNG or WebP, without alpha."""
    with Image.open(path) as animation:
        for frame in ImageSequence.Iterator(animation):
            yield torch.from_numpy(np.array(frame.convert("RGB"))).to(DEVICE)


def in_shared_palette(video: Video, n_colors: int, dither: DitheringName = "bayer") -> Iterator[IndexedImage]:
    """The frames in the palette of the whole video. Only one frame is in memory at a time."""
    histogram = sum(unique_colors(frame) for frame in video())
    palette = fit_palette(histogram, n_colors)
    for frame in video():
        yield map_to_palette(frame, histogram, palette, dither=dither)


def in_own_palettes(video: Video, n_colors: int) -> Iterator[IndexedImage]:
    """Each frame in a palette of its own, for comparison."""
    return (quantize(frame, n_colors, dither="bayer") for frame in video())


def flickering_pixels(video: Video, result: Iterable[IndexedImage]) -> int:
    """The number of pixels that change in the result from one frame to the next, but not in the video."""
    count = 0
    pairs = pairwise((frame, few.pixels()) for frame, few in zip(video(), result, strict=True))
    for (frame, few), (next_frame, next_few) in pairs:
        count += int(((frame == next_frame).all(dim=2) & (few != next_few).any(dim=2)).sum())
    return count


def as_pillow(image: IndexedImage) -> Image.Image:
    """The frame as an image of Pillow with a palette."""
    picture = Image.fromarray(image.indices.cpu().numpy())
    picture.putpalette(image.palette.cpu().numpy().tobytes())
    return picture


def write_gif(path: Path, frames: Iterable[IndexedImage]) -> None:
    """Write frames that share a palette as a GIF, which stores the palette once."""
    first, *others = map(as_pillow, frames)
    first.save(path, save_all=True, append_images=others, duration=80, loop=0, optimize=False)


def main() -> None:
    """Write a video in 32 colors and print how many pixels flicker, for three ways to make it."""
    parser = argparse.ArgumentParser(description="Write a video as a GIF with one palette.")
    parser.add_argument("animation", type=Path, nargs="?", help="GIF, PNG or WebP; by default a synthesized video")
    parser.add_argument("-k", "--colors", type=int, default=32, help="colors of the palette, 1 to 256")
    parser.add_argument("-o", "--output", type=Path, default=Path("video.gif"))
    args = parser.parse_args()
    video = synthesized_video if args.animation is None else lambda: frames_of(args.animation)
    for name, result in {
        "a palette for each frame": in_own_palettes(video, args.colors),
        "one palette, error diffusion": in_shared_palette(video, args.colors, dither="floyd-steinberg"),
        "one palette, ordered dithering": in_shared_palette(video, args.colors),
    }.items():
        print(f"{flickering_pixels(video, result):>8} flickering pixels: {name}")
    write_gif(args.output, in_shared_palette(video, args.colors))
    print(f"{args.output}: {args.output.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
