"""One file through the whole line: read, count colors, cluster, map the pixels, write, report."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpukmeans.engines.selection import ENGINES
from gpukmeans.images.colorspace import COLOR_SPACES, hide_invisible
from gpukmeans.images.histogram import ColorHistogram, unique_colors
from gpukmeans.images.palette import Palette, fit_palette, mean_squared_error, with_invisible
from gpukmeans.images.quantization import apply_palette
from gpukmeans_cli.compression.result import Report
from gpukmeans_cli.compression.targets import Goal
from gpukmeans_cli.formats.animation import encode_animation
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.source import Source, read_source
from gpukmeans_cli.formats.still import encode_still
from gpukmeans_cli.images.channels import add_histograms, channels_of_both, with_channels
from gpukmeans_cli.images.quality import peak_signal_to_noise
from gpukmeans_cli.system.atomic_files import STDIO, ImageError, check_free, check_inside, make_folder, publish
from gpukmeans_cli.system.device import within_memory
from gpukmeans_cli.system.worker_pool import Event

# Pictures of fewer pixels are clustered on the CPU unless a device was asked for: so few colors are less work than the
# 60 launches of a round. Chosen by that count and not by measuring, as no GPU was at hand.
_FEW_PIXELS = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for every file of a run."""

    n_colors: int
    """Of the palette, at most, where there is neither a goal nor a palette."""
    device: torch.device
    any_device: bool = False
    """Whether the CPU may do instead, where moving a picture to the device would cost more."""
    goal: Goal | None = None
    palette: np.ndarray | None = None
    """Colors (K, C) to map to, in place of clustering."""
    fixed: np.ndarray | None = None
    """Colors (F, C) that the palette has in any case."""
    space: str = "srgb"
    dither: str = "none"
    dither_strength: float = 1.0
    force: bool = False
    strip: bool = False
    optimize: bool = False
    allow_larger: bool = False
    max_pixels: int | None = None
    clustering: dict[str, Any] = field(default_factory=dict)
    """Options of `fit_palette`."""
    seed: int = 0
    root: Path | None = None
    """The folder that outputs may not leave, and that folders are made in for them."""
    dry_run: bool = False
    """Whether all is done but to write."""
    turn: AbstractContextManager[Any] | None = None
    """What a file waits for before it is clustered, where several are worked on and one at a time fits the device."""
    stop: Event = field(default_factory=threading.Event)
    """Set when work should end before anything more is written."""


class StoppedError(Exception):
    """Work that was given up because it was asked to stop."""


@dataclass(frozen=True)
class Outcome:
    """A report, with what `--verbose` and a note to the user need beside it."""

    report: Report
    frames_left_out: int
    engine: str
    """Its name, and why it."""
    stages: dict[str, float]
    """Seconds of each stage."""


@dataclass
class Clock:
    """Seconds of the stages of one file."""

    device: torch.device
    stop: Event = field(default_factory=threading.Event)
    """Set when the stage at work should be the last one."""
    stages: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Ascribe the time since the last lap to a stage. StoppedError if it was the last one."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._last
        self._last = now
        if self.stop.is_set():
            raise StoppedError


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The picture in the colors of a palette: colors (K, C), and an index for each pixel of all frames (F, H, W)."""

    colors: np.ndarray
    indices: np.ndarray
    mse: float
    psnr: float | None
    fit: Palette | None
    """None where colors were given."""
    encode: Callable[[], bytes]

    @cached_property
    def data(self) -> bytes:
        """The file, made when it is first asked for, since not every goal asks."""
        return self.encode()

    @property
    def n_bytes(self) -> int:
        return len(self.data)

    @property
    def n_colors(self) -> int:
        """Those that some pixel wears."""
        return int(np.count_nonzero(np.bincount(self.indices.ravel())))


def compress_picture(source: Path, target: Path, settings: Settings) -> Outcome:
    """What became of `source`, after `target` has been written as a picture with a palette.

    ImageError if either file cannot be, if a goal is out of reach, or if memory runs out; `target` is then as it was.
    """
    if settings.root is not None:
        check_inside(target, settings.root)
    check_free(target, overwrite=settings.force)
    with within_memory(settings.device):
        return _compress(source, target, settings)


def shared_palette(sources: Iterable[Path], settings: Settings) -> np.ndarray:
    """The palette (K, C) that serves the pixels of all these pictures; those that cannot be read are left out.

    ImageError if none can be, StoppedError if asked to stop.
    """
    total = colors_of_all(sources, settings)
    return palette_of([] if total is None else [total], settings)


def colors_of_all(sources: Iterable[Path], settings: Settings) -> ColorHistogram | None:
    """The colors of all these pictures, on the device; those that cannot be read are left out, None if none can be.

    StoppedError if asked to stop.
    """
    # On one device, where histograms can be added.
    settings = replace(settings, any_device=False)
    total: ColorHistogram | None = None
    for path in sources:
        if settings.stop.is_set():
            raise StoppedError
        with within_memory(settings.device):
            try:
                source = read_source(path, max_pixels=settings.max_pixels)
            except ImageError:
                continue  # which is told when its turn comes to be written
            _, part = colors_of(source, settings)
            total = part if total is None else add_histograms(total, part)
    return total


def palette_of(parts: Iterable[ColorHistogram], settings: Settings) -> np.ndarray:
    """The palette (K, C) that serves all these histograms together. ImageError if there are none."""
    total: ColorHistogram | None = None
    with within_memory(settings.device):
        for part in parts:
            total = part if total is None else add_histograms(total, part)
        if total is None:
            raise ImageError("none of the pictures can be read, so there is no palette to share")
        return _fit(total, settings.n_colors, settings).colors.cpu().numpy()


def _compress(path: Path, target: Path, settings: Settings) -> Outcome:
    clock = Clock(settings.device, settings.stop)
    source = read_source(path, max_pixels=settings.max_pixels)
    suffix = ".png" if target == STDIO else target.suffix.lower()
    clock.lap("read")
    with settings.turn or nullcontext():
        if settings.turn is not None:
            clock.lap("wait")
        image, histogram = colors_of(source, settings)
        clock.lap("count colors")

        @cache
        def picture_of(n_colors: int) -> Picture:
            return picture_in_colors(source, image, histogram, n_colors, suffix, settings, clock)

        n_colors = settings.n_colors
        if settings.goal is not None:
            n_colors = settings.goal.search(min(256, len(histogram.colors)), picture_of)
        found = picture_of(n_colors)
    kept = is_kept(source, found, suffix, settings)
    if not settings.dry_run:
        _deliver(target, source.original() if kept else found.data, settings)
    clock.lap("write")
    n_frames, height, width, _ = source.pixels.shape
    report = Report(
        input=str(path),
        output=str(target),
        width=width,
        height=height,
        frames=n_frames,
        mode=source.mode,
        colors_in=len(histogram.colors),
        colors_out=len(histogram.colors) if kept else found.n_colors,
        bytes_in=source.n_bytes,
        bytes_out=source.n_bytes if kept else found.n_bytes,
        mse=0.0 if kept else found.mse,
        psnr=None if kept else found.psnr,
        iterations=found.fit.n_iter if found.fit else 0,
        converged=found.fit.converged if found.fit else True,
        kept=kept,
        written=not settings.dry_run,
        device=str(image.device),
        seconds=sum(clock.stages.values()),
    )
    engine = _engine_and_why(found.fit, histogram, settings)
    return Outcome(report, source.frames_in_file - n_frames, engine, clock.stages)


def _deliver(target: Path, data: bytes, settings: Settings) -> None:
    if settings.root is not None:
        check_inside(target, settings.root)
        make_folder(target.parent)
    publish(target, data, overwrite=settings.force)


def colors_of(source: Source, settings: Settings) -> tuple[Tensor, ColorHistogram]:
    """The image (F, H, W, C) of all frames on the device that is to work on it, and its histogram."""
    few = source.pixels[..., 0].size < _FEW_PIXELS
    device = torch.device("cpu") if settings.any_device and few else settings.device
    image = hide_invisible(_with_channels_of(torch.from_numpy(source.pixels).to(device), settings))
    return image, unique_colors(image.flatten(0, 1))


def picture_in_colors(
    source: Source,
    image: Tensor,
    histogram: ColorHistogram,
    n_colors: int,
    suffix: str,
    settings: Settings,
    clock: Clock,
) -> Picture:
    """The image (F, H, W, C) in so many colors, or in those that were given."""
    if settings.palette is None:
        fit = _fit(histogram, n_colors, settings)
        colors = fit.colors
    else:
        given = with_channels(torch.from_numpy(settings.palette), image.shape[-1]).to(image.device)
        fit, colors = None, with_invisible(given, histogram, 256)
    clock.lap("cluster")
    if fit is not None and (settings.dither == "none" or not settings.dither_strength):
        indices, mse = histogram.spread(fit.labels, image.flatten(0, 1)).view(image.shape[:3]), fit.mse
    else:
        indices = apply_palette(image, colors, dither=settings.dither, strength=settings.dither_strength).indices
        mse = mean_squared_error(image, colors, indices)
    found = colors.cpu().numpy(), indices.cpu().numpy()
    clock.lap("map pixels")
    psnr = peak_signal_to_noise(mse, image.shape[-1])

    def encode() -> bytes:
        data = _encoded(source, *found, suffix, settings)
        clock.lap("encode")
        return data

    return Picture(colors=found[0], indices=found[1], mse=mse, psnr=psnr, fit=fit, encode=encode)


def _encoded(source: Source, colors: np.ndarray, indices: np.ndarray, suffix: str, settings: Settings) -> bytes:
    metadata = Metadata() if settings.strip else source.metadata
    if source.animation is None:
        return encode_still(
            colors,
            indices[0],
            suffix,
            metadata=metadata,
            optimize=settings.optimize,
            whole_palette=settings.fixed is not None,
        )
    if settings.optimize:
        raise ImageError("is an animation, which --optimize cannot make smaller; leave it out")
    return encode_animation(colors, indices, replace(source.animation, metadata=metadata), suffix)


def _fit(histogram: ColorHistogram, n_colors: int, settings: Settings) -> Palette:
    fixed = None
    if settings.fixed is not None:
        fixed = with_channels(torch.from_numpy(settings.fixed), histogram.colors.shape[1]).to(histogram.colors.device)
        n_colors = max(n_colors, len(fixed))
    options = dict(settings.clustering)
    if histogram.colors.device.type == "cpu":
        # On a GPU, whose rounds are short, to be asked each round would be to wait for each.
        options.setdefault("callback", _asked_to(settings.stop))
    return fit_palette(
        histogram,
        n_colors,
        space=settings.space,
        fixed=fixed,
        generator=torch.Generator().manual_seed(settings.seed),
        **options,
    )


def _asked_to(stop: Event) -> Callable[..., bool]:
    """What ends the rounds of `kmeans` when it is time to stop."""
    return lambda n_iter, inertia, shift: stop.is_set()


def is_kept(source: Source, found: Picture, suffix: str, settings: Settings) -> bool:
    """Whether the input, of the format of this suffix, is no larger, so that it may stand for one of fewer colors.

    Not where colors were given, which the input need not have, nor where there is something to strip from it.
    """
    asked_for_more = settings.allow_larger or settings.palette is not None or settings.fixed is not None
    to_strip = settings.strip and source.metadata != Metadata()
    same_format = source.format.lower() == suffix.lower()[1:]
    return same_format and not asked_for_more and not to_strip and source.n_bytes <= found.n_bytes


def _with_channels_of(image: Tensor, settings: Settings) -> Tensor:
    """The image in the channels that it and the colors given need."""
    given = settings.palette if settings.palette is not None else settings.fixed
    return image if given is None else with_channels(image, channels_of_both(image.shape[-1], given.shape[1]))


def _engine_and_why(fit: Palette | None, histogram: ColorHistogram, settings: Settings) -> str:
    """The engine that was at work, and why not another."""
    if fit is None:
        return "none, since the colors were given"
    if fit.engine is None:
        return "none, since there are no more colors than asked for"
    points = COLOR_SPACES[settings.space].encode(histogram.colors)
    passed_over = [
        f"; {name} cannot: {reason}" for name, engine in ENGINES.items() if (reason := engine.obstacle(points))
    ]
    return f"{fit.engine}, the fastest for these colors{''.join(passed_over)}"
