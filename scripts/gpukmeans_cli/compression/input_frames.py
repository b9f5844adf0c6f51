"""The frames of an input image on the device, and the histogram of their colors."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from gpukmeans import ColorHistogram, has_alpha, unique_colors
from gpukmeans_cli.compression.settings import Settings, StageTimer
from gpukmeans_cli.formats.frames import Recomputed
from gpukmeans_cli.formats.source import Source
from gpukmeans_cli.images.channels import add_all, common_channels, with_channels

# With `any_device`, images of fewer pixels are clustered on the CPU. A palette of 16 to 256 colors for a photo of this
# size takes one CPU core 7 to 11 ms (2026-12-01). On a GPU it takes 400 to 900 launches and up to 40 synchronizations,
# by count 3 to 5 ms. Nothing was measured on a GPU.
MIN_GPU_PIXELS = 1 << 12


def in_output_encoding(source: Source, suffix: str, settings: Settings) -> Source:
    """The source, converted to sRGB if the output cannot keep the color encoding of the source.

    The output is sRGB if its format cannot store the encoding, if colors are given, if the color space of the
    clustering is derived from sRGB, or if `strip` removes a profile, which may contain private data.
    """
    profile, chunks = source.metadata.icc_profile, source.metadata.color_chunks
    needs_srgb = settings.given_colors is not None or settings.space != "srgb"
    is_stored = suffix == ".png" or (suffix == ".webp" and not chunks)
    if profile is not None and profile[16:20] == b"GRAY":  # valid only with grey samples
        is_stored = suffix == ".png" and source.channels == 1
    removes_profile = settings.strip and profile is not None
    return source.in_srgb() if needs_srgb or removes_profile or not is_stored else source


def frames_and_histogram(
    source: Source, settings: Settings, timer: StageTimer
) -> tuple[Iterable[Tensor], ColorHistogram]:
    """The frames of a source, uint8 (H, W, C) each, on the device that processes them, and the histogram of all colors.

    The frames of an animation are decoded again whenever they are iterated over. Fully transparent pixels become 0 in
    all channels. A still may share its memory with `source.frames`, whose pixels then change, too.
    """
    is_small = source.n_frames * source.height * source.width < MIN_GPU_PIXELS
    device = torch.device("cpu") if settings.any_device and is_small else settings.device

    def prepared(frame: np.ndarray) -> Tensor:
        timer.lap("read")
        image = _with_palette_channels(torch.from_numpy(frame).to(device), settings)
        if has_alpha(image.shape[2]):
            image.mul_(image[..., -1:] > 0)  # as `clear_transparent_pixels`, without a copy
        return image

    def counted(frame: Tensor) -> ColorHistogram:
        histogram = unique_colors(frame)
        timer.lap("count colors")
        return histogram

    # A loop variable would keep a frame in memory while the next is decoded.
    frames = Recomputed(lambda: map(prepared, source.frames))
    if source.animation is None:
        frames = list(frames)
    histogram = add_all(map(counted, frames))
    assert histogram is not None  # a source has at least one frame
    return frames, histogram


def _with_palette_channels(image: Tensor, settings: Settings) -> Tensor:
    """The image with enough channels for its own colors and for the given colors."""
    given = settings.given_colors
    return image if given is None else with_channels(image, common_channels(image.shape[-1], given.shape[1]))
