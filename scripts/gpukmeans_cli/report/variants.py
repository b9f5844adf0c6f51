"""One photo in several numbers of colors: the file that each makes, its palette, and how that was found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpukmeans.images.histogram import ColorHistogram
from gpukmeans_cli.compression.pipeline import Clock, Settings, colors_of, is_kept, picture_in_colors
from gpukmeans_cli.formats.source import Source, read_still
from gpukmeans_cli.formats.still import encode_pixels
from gpukmeans_cli.images.channels import with_color
from gpukmeans_cli.images.palette_usage import Shares, most_first
from gpukmeans_cli.report.color_pca import Plane, drawn_rows, fit_plane
from gpukmeans_cli.system.device import within_memory

# Of points that are drawn: so many still show the shape of a cloud, and take a browser no time.
MOST_POINTS = 2000

_SHOWN_BY_BROWSERS = ("PNG", "JPEG", "WEBP", "GIF")
_SHOWN_ALIKE = ("1", "L", "LA", "P", "RGB", "RGBA")  # CMYK, say, each program turns into RGB in its own way


@dataclass(frozen=True, kw_only=True)
class Trial(Shares):
    """The photo in so many colors, of which those that no pixel wears are left out."""

    n_colors: int
    """Asked for."""
    data: bytes
    """The PNG that `compress --allow-larger` writes."""
    kept: bool
    """Whether `compress` would rather keep the photo's file as it is, which is a PNG and no larger."""
    psnr: float | None
    """In dB; None where nothing was lost."""
    inertia: tuple[float, ...]
    """After each round of Lloyd's loop; none where there was nothing to cluster."""
    centers: np.ndarray
    """Where the entries of the palette lie in the plane of the cloud (K', 2), as `Plane.place` says."""
    center_colors: np.ndarray
    """Their colors (K', 3 or 4)."""
    labels: np.ndarray
    """For each point of the cloud the entry of the palette that it belongs to (N,)."""

    @property
    def n_iter(self) -> int:
        return len(self.inertia)


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Distinct colors of the photo, as points in a plane."""

    points: np.ndarray
    """Where they lie (N, 2), as `Plane.place` says; N is at most `MOST_POINTS`."""
    colors: np.ndarray
    """uint8 (N, 3), or (N, 4) with alpha."""
    times: np.ndarray
    """How many times each was drawn (N,), at least once."""
    share: float
    """Of the variance of the colors, what lies in the plane: 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Trials:
    """A photo, and what became of it in each number of colors."""

    width: int
    height: int
    n_colors: int
    """Distinct ones of the photo."""
    n_bytes: int
    """Of its file."""
    frames_left_out: int
    original: bytes
    """A file that browsers show as the photo: its own, or one without loss."""
    original_suffix: str
    cloud: Cloud
    trials: tuple[Trial, ...]
    """In the order asked for."""


def try_colors(path: Path, numbers: Sequence[int], settings: Settings) -> Trials:
    """The first frame of a photo in each of these numbers of colors. ImageError if it cannot be read or memory ends."""
    with within_memory(settings.device):
        source = read_still(path, max_pixels=settings.max_pixels)
        original, suffix = _original(source)
        image, histogram = colors_of(source, settings)
        plane = fit_plane(histogram, settings.space)
        rows, times = drawn_rows(histogram.counts, MOST_POINTS)
        chosen = torch.from_numpy(rows).to(image.device)
        colors = histogram.colors[chosen]
        return Trials(
            width=image.shape[2],
            height=image.shape[1],
            n_colors=len(histogram.colors),
            n_bytes=source.n_bytes,
            frames_left_out=source.frames_in_file - 1,
            original=original,
            original_suffix=suffix,
            cloud=Cloud(points=plane.place(colors), colors=with_color(colors), times=times, share=plane.share),
            trials=tuple(_trial(source, image, histogram, n, plane, chosen, settings) for n in numbers),
        )


def _original(source: Source) -> tuple[bytes, str]:
    """The photo's own file if all browsers show it as it was read, else one of its pixels; and its suffix."""
    as_it_is = source.upright and source.frames_in_file == 1 and source.mode in _SHOWN_ALIKE
    if as_it_is and source.format in _SHOWN_BY_BROWSERS:
        return source.original(), f".{source.format.lower()}"
    return encode_pixels(source.pixels[0], source.metadata)


def _trial(
    source: Source,
    image: Tensor,
    histogram: ColorHistogram,
    n_colors: int,
    plane: Plane,
    chosen: Tensor,
    settings: Settings,
) -> Trial:
    inertia: list[float] = []

    def watch(n_iter: int, value: Tensor, shift: Tensor) -> None:
        inertia.append(float(value))

    watched = replace(settings, clustering={**settings.clustering, "callback": watch})
    found = picture_in_colors(source, image, histogram, n_colors, ".png", watched, Clock(image.device))
    assert found.fit is not None  # as no colors were given
    counts = np.bincount(found.indices.ravel(), minlength=len(found.colors))
    worn = most_first(with_color(torch.from_numpy(found.colors)), counts)
    return Trial(
        n_colors=n_colors,
        data=found.data,
        kept=is_kept(source, found, ".png", settings),
        colors=worn.colors,
        counts=worn.counts,
        psnr=found.psnr,
        inertia=tuple(inertia),
        centers=plane.place(found.fit.colors),
        center_colors=with_color(found.fit.colors),
        labels=found.fit.labels[chosen].cpu().numpy(),
    )
