"""The pipeline for one file: read, count colors, cluster, map the pixels, encode, write, report.

A still is decoded once. The frames of an animation are decoded again whenever they are needed, one at a time: to count
colors, and to be mapped to each palette that is tried, while they are encoded. So memory does not grow with them.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpukmeans import (
    COLOR_SPACES,
    ENGINES,
    ColorHistogram,
    ColorSpaceName,
    DitheringName,
    IndexedImage,
    Palette,
    apply_palette,
    fit_palette,
    flat_counts,
    map_to_palette,
    mean_squared_error,
    mean_visible_error,
    unique_colors,
    with_transparent_color,
)
from gpukmeans_cli.compression.drawings import DRAWING_QUALITY, drawing_weights, fewest_colors
from gpukmeans_cli.compression.quality_scale import error_of_quality
from gpukmeans_cli.compression.result import CompressionReport, CompressionResult
from gpukmeans_cli.compression.targets import Choice, Target, search, search_colors
from gpukmeans_cli.formats.animation import encode_animation
from gpukmeans_cli.formats.frames import Recomputed
from gpukmeans_cli.formats.indices import index_counts
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.source import Source, read_source
from gpukmeans_cli.formats.still import encode_still, is_repetitive
from gpukmeans_cli.images.channels import add_all, common_channels, with_channels, without_opaque_alpha
from gpukmeans_cli.images.quality import peak_signal_to_noise
from gpukmeans_cli.system.atomic_files import (
    STDIO,
    ImageError,
    check_free,
    check_inside,
    make_folder,
    write_atomically,
)
from gpukmeans_cli.system.device import within_memory
from gpukmeans_cli.system.memory import return_freed_memory
from gpukmeans_cli.system.worker_pool import Event
from gpukmeans_cli.terminal.formatting import format_count

# With `any_device`, images of fewer pixels are clustered on the CPU: on a GPU, the 60 kernel launches of an iteration
# would take longer. An estimate from that count, not a measurement: no GPU was available.
_MIN_GPU_PIXELS = 1 << 12

# Without native kernels the optimizer takes some ten seconds for this many pixels.
_MANY_PIXELS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that are the same for every file of a run."""

    n_colors: int
    """Maximal number of colors, without a target or a palette."""
    device: torch.device
    any_device: bool = False
    """Whether small images are clustered on the CPU, if moving them to the device would cost more."""
    target: Target | None = None
    palette: np.ndarray | None = None
    """Colors (K, C) to map to, instead of clustering."""
    fixed: np.ndarray | None = None
    """Colors (F, C) that every palette contains."""
    space: ColorSpaceName = "srgb"
    dither: DitheringName | None = "none"
    """None is the default of the file, see `mapping_options`."""
    dither_strength: float = 1.0
    lossy: float | None = 0.0
    """Price of a bit in hundredths of the mean squared error; None is the default of the dithering."""
    effort: int = 2
    """0 for the quickest to 3 for the smallest files."""
    keep_vivid: bool | None = None
    """Whether small vivid areas keep a color of their own; None with few colors, see `fit_colors`."""
    force: bool = False
    strip: bool = False
    allow_larger: bool = False
    optional_output: bool = False
    """Whether the names of the outputs are not given, so that none is needed where the input is kept."""
    max_pixels: int | None = None
    clustering: dict[str, Any] = field(default_factory=dict)
    """Options of `fit_palette`."""
    seed: int = 0
    root: Path | None = None
    """The folder that must contain all outputs; missing folders in it are created."""
    dry_run: bool = False
    """Whether the outputs are computed but not written."""
    gpu_lock: AbstractContextManager[Any] | None = None
    """Lock held while a file uses the GPU; None on the CPU."""
    stop: Event = field(default_factory=threading.Event)
    """Set to stop all work before anything else is written."""
    on_try: Callable[[str], None] = lambda text: None
    """Called with a text at the start of each try for the target."""


# Numbers of colors with which vivid areas keep one by default: with fewer, photos lose, with more, few areas gain.
_VIVID = range(8, 33)

# Rounds of the optimizer for each effort, and the price of a bit that looks best for its bytes.
_ROUNDS, DEFAULT_LOSSY = (1, 2, 4, 8), 15.0
_NEAREST: dict[str, Any] = {"dither": "none", "lossy": 0.0}


def mapping_options(settings: Settings, suffix: str, *, animated: bool) -> dict[str, Any]:
    """The options of `map_to_palette` for a file.

    By default a still has optimized dithering at a price of bits, unless the effort is 0, or the nearest colors make a
    smaller file of many repeats and of high quality: that is a drawing, which then has the fewest colors whose error
    hardly shows. Files other than PNGs, by their suffix, have the bits of a GIF, with which those of WebP become
    smaller, too. An animation has the nearest colors. ImageError if its frames would be optimized, one by one.
    """
    is_optimized = settings.effort > 0 and not animated
    dither = settings.dither or ("optimized" if is_optimized else "none")
    lossy = default_lossy(dither) if settings.lossy is None else settings.lossy
    if animated and (dither == "optimized" or lossy > 0):
        raise ImageError("is an animation, whose still areas --dither optimized and --lossy would let flicker")
    strength = settings.dither_strength
    return {
        "dither": "none" if strength == 0 else dither,
        "strength": strength,
        "lossy": lossy,
        "rounds": _ROUNDS[settings.effort],
        "rate": "png" if suffix == ".png" else "gif",
    }


def default_lossy(dither: str) -> float:
    """The price of a bit with this dithering, where none is given."""
    return DEFAULT_LOSSY if dither == "optimized" else 0.0


def takes_optimizer(mapping: dict[str, Any]) -> bool:
    """Whether these options of `map_to_palette` optimize the indices, instead of dithering or nearest colors."""
    return mapping["lossy"] > 0 or mapping["dither"] == "optimized"


class StoppedError(Exception):
    """Work that was stopped by `Settings.stop`."""


@dataclass
class StageTimer:
    """Seconds of each stage of one file."""

    device: torch.device
    stop: Event = field(default_factory=threading.Event)
    """Set to stop the work at the end of the current stage."""
    stages: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage, and return freed memory. StoppedError if `stop` is set."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return_freed_memory()
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._last
        self._last = now
        if self.stop.is_set():
            raise StoppedError


class Statistics(NamedTuple):
    """The number of pixels of each palette color (K,), and the mean squared error over all pixels."""

    counts: np.ndarray
    mse: float


class _StillAreas:
    """Pixels that do not change from frame to frame keep their index, since diffused errors would let them flicker."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor] | None = None

    def kept(self, frame: Tensor, indexed: IndexedImage) -> IndexedImage:
        """The indexed frame (H, W, C), with the indices of the last frame where the colors are those of the last."""
        indices = indexed.indices
        if self._last is not None:
            last_frame, last_indices = self._last
            indices = torch.where((frame == last_frame).all(dim=2), last_indices, indices)
        self._last = frame.clone(), indices  # decoders may draw the next frame into the same memory
        return IndexedImage(indexed.palette, indices)


@dataclass(kw_only=True)
class QuantizedImage:
    """An image in the colors of a palette. Its frames are mapped whenever their indices or their error are needed."""

    source: Source
    frames: Iterable[Tensor]
    """uint8 (H, W, C) each, on the device."""
    histogram: ColorHistogram
    """That of all frames."""
    palette: Tensor
    """uint8 (K, C). Optimized dithering changes it when the still is mapped."""
    fit: Palette | None
    """The fitted palette; None for a given palette."""
    suffix: str
    """That of the file format to encode."""
    settings: Settings
    mapping: dict[str, Any]
    """Options of `map_to_palette`. Those of a drawing may change when it is mapped."""
    timer: StageTimer
    _statistics: Statistics | None = None

    def indices(self) -> Iterator[np.ndarray]:
        """The palette indices of each frame, uint8 (H, W)."""
        counts, errors = [], []
        # The other ditherings of animations give a pixel an index that depends on its color and place alone.
        is_diffused = self.source.animation is not None and self.mapping["dither"] == "floyd-steinberg"
        still_areas = _StillAreas() if is_diffused else None

        def mapped(frame: Tensor) -> np.ndarray:
            indexed = self._map(frame)
            if still_areas is not None:
                indexed = still_areas.kept(frame, indexed)
            self.palette = indexed.palette
            indices = indexed.indices.cpu().numpy()
            if self._statistics is None:
                counts.append(index_counts(indices, len(self.palette)))
                errors.append(mean_squared_error(frame, indexed))
            self.timer.lap("map pixels")
            return indices

        # Unlike a loop, `map` holds no frame while the next is decoded.
        for indices in map(mapped, self.frames):
            yield indices
            self.timer.lap("encode")
        self._statistics = self._statistics or Statistics(np.sum(counts, axis=0), math.fsum(errors) / len(errors))

    def _map(self, frame: Tensor) -> IndexedImage:
        indexed = self._mapped(frame, self.mapping)
        if self._has_default_mapping and takes_optimizer(self.mapping):
            nearest = self._mapped(frame, _NEAREST)
            # Drawings repeat, which changed indices may break. So do gradients, but their nearest colors make bands.
            if (
                is_repetitive(nearest.indices.cpu().numpy())
                and mean_visible_error(frame, nearest) <= error_of_quality(DRAWING_QUALITY)
                and self._n_bytes(nearest) <= self._n_bytes(indexed)
            ):
                self.mapping = self.mapping | _NEAREST
                return self._with_fewer_colors(frame, nearest)
        return indexed

    def _with_fewer_colors(self, frame: Tensor, nearest: IndexedImage) -> IndexedImage:
        """The nearest colors of a drawing, or fewer of them, if their error hardly shows and they take fewer bytes."""
        if self.fit is None:
            return nearest
        weighted = replace(self.histogram, counts=drawing_weights(frame, self.histogram))
        space = "oklab" if self.settings.space == "srgb" else self.settings.space
        settings = replace(self.settings, space=space)
        fit = fewest_colors(lambda n: fit_colors(weighted, n, settings, [frame]), len(self.fit.colors))
        fewer = None if fit is None else map_to_palette(frame, self.histogram, fit, **_NEAREST)
        if fewer is None or self._n_bytes(fewer) >= self._n_bytes(nearest):
            return nearest
        self.fit = fit
        return fewer

    def _mapped(self, frame: Tensor, mapping: dict[str, Any]) -> IndexedImage:
        if self.fit is None:
            return apply_palette(frame, self.palette, **mapping)
        return map_to_palette(frame, self.histogram, self.fit, **mapping)

    @property
    def _has_default_mapping(self) -> bool:
        return self.settings.dither is None and self.settings.lossy is None

    def _n_bytes(self, indexed: IndexedImage) -> int:
        return len(self._encoded(indexed.palette, indexed.indices.cpu().numpy(), effort=1))

    def _encoded(self, palette: Tensor, indices: np.ndarray, effort: int) -> bytes:
        """The file of a still."""
        has_fixed = self.settings.fixed is not None
        colors = palette.cpu().numpy()
        return encode_still(
            colors, indices, self.suffix, metadata=self._metadata, effort=effort, whole_palette=has_fixed
        )

    @property
    def _metadata(self) -> Metadata:
        metadata = self.source.metadata
        return Metadata(color_chunks=metadata.color_chunks) if self.settings.strip else metadata

    @property
    def lacks_kernels(self) -> bool:
        """Whether the indices of many pixels are optimized on a CPU without native kernels, which is slow."""
        colors = self.histogram.colors
        optimizes_many = takes_optimizer(self.mapping) and self.source.height * self.source.width > _MANY_PIXELS
        return optimizes_many and colors.is_cpu and ENGINES["native"].unsupported_reason(colors) is not None

    @property
    def statistics(self) -> Statistics:
        if self._statistics is None:
            for _ in self.indices():
                pass
            assert self._statistics is not None
        return self._statistics

    @property
    def n_colors(self) -> int:
        """The number of colors that some pixel uses."""
        return int(np.count_nonzero(self.statistics.counts))

    @property
    def psnr(self) -> float | None:
        """In dB; None without error."""
        counts, mse = self.statistics
        # As `compare_pixels` counts: no alpha channel that only a given color has which no pixel uses.
        used = self.palette[torch.from_numpy(counts > 0).to(self.palette.device)]
        shown = (without_opaque_alpha(colors).shape[1] for colors in (self.histogram.colors, used))
        return peak_signal_to_noise(mse, common_channels(*shown))

    @cached_property
    def _still(self) -> list[np.ndarray]:
        """The indices of a still, which is mapped once."""
        return list(self.indices())

    @cached_property
    def data(self) -> bytes:
        """The encoded file."""
        if self.source.animation is None:
            (indices,) = self._still
            data = self._encoded(self.palette, indices, self.settings.effort)
        else:
            animation = replace(self.source.animation, metadata=self._metadata)
            data = encode_animation(self.palette.cpu().numpy(), Recomputed(self.indices), animation, self.suffix)
        self.timer.lap("encode")
        return data

    @property
    def visible_error(self) -> float:
        """Mean over all frames, in squared 8-bit levels, see `mean_visible_error`."""
        return self._mean_visible_error

    @cached_property
    def _mean_visible_error(self) -> float:
        indices = self._still if self.source.animation is None else self.indices()
        errors = [self._visible_error(*pair) for pair in zip(self.frames, indices, strict=True)]
        return math.fsum(errors) / len(errors)

    def _visible_error(self, frame: Tensor, indices: np.ndarray) -> float:
        return mean_visible_error(frame, IndexedImage(self.palette, torch.from_numpy(indices).to(frame.device)))

    @property
    def n_bytes(self) -> int:
        return len(self.data)

    def finish_on_device(self) -> None:
        """Do what needs the device: map a still, whose encoding does not need it, and encode an animation."""
        _ = self._still if self.source.animation is None else self.data


def compress_image(source: Path, output: Path, settings: Settings) -> CompressionResult:
    """The result of compressing the file `source` to `output`, an image with a palette.

    ImageError if `source` cannot be read, `output` cannot be written, the target is out of reach or memory runs out;
    `output` is then unchanged.
    """
    if settings.root is not None:
        check_inside(output, settings.root)
    check_free(output, overwrite=settings.force)
    with within_memory(settings.device):
        return _compress(source, output, settings)


def _compress(path: Path, output: Path, settings: Settings) -> CompressionResult:
    timer = StageTimer(settings.device, settings.stop)
    file = read_source(path, max_pixels=settings.max_pixels)
    suffix = ".png" if output == STDIO else output.suffix.lower()
    source = in_output_encoding(file, suffix, settings)
    timer.lap("read")
    with settings.gpu_lock or nullcontext():
        if settings.gpu_lock is not None:
            timer.lap("wait")
        frames, histogram = frames_and_histogram(source, settings, timer)

        @cache
        def fit(n_colors: int) -> Palette:
            return fit_colors(histogram, n_colors, settings, frames)

        @cache
        def quantize(n_colors: int, lossy: float | None) -> QuantizedImage:
            chosen = replace(settings, lossy=lossy)
            return quantize_source(source, frames, histogram, partial(fit, n_colors), suffix, chosen, timer)

        choice, tries = Choice(settings.n_colors, settings.lossy), []
        if settings.target is not None:
            choice, tries = _choice(settings.target, source, histogram, suffix, settings, quantize)
        picture = quantize(choice.n_colors, choice.lossy)
        picture.finish_on_device()
    kept, data = find_output(file, picture, output, settings)
    if data is not None and not settings.dry_run:
        _write(output, data, settings)
    timer.lap("write")
    report = CompressionReport(
        input=str(path),
        output=None if data is None else str(output),
        width=source.width,
        height=source.height,
        frames=source.n_frames,
        mode=source.mode,
        colors_in=len(histogram.colors),
        colors_out=len(histogram.colors) if kept else picture.n_colors,
        bytes_in=source.n_bytes,
        bytes_out=source.n_bytes if data is None else len(data),
        bytes_with_palette=picture.n_bytes,
        dither=picture.mapping["dither"],
        lossy=picture.mapping["lossy"],
        mse=0.0 if kept else picture.statistics.mse,
        psnr=None if kept else picture.psnr,
        iterations=picture.fit.n_iter if picture.fit else 0,
        converged=picture.fit.converged if picture.fit else True,
        kept=kept,
        written=data is not None and not settings.dry_run,
        device=str(histogram.colors.device),
        seconds=sum(timer.stages.values()),
    )
    engine = _describe_engine(picture.fit, histogram, settings)
    return CompressionResult(
        report,
        source.frames_in_file - source.n_frames,
        engine,
        timer.stages,
        broken_animation=source.broken_animation,
        lacks_kernels=picture.lacks_kernels,
        left_out=source.left_out,
        tries=tuple(tries),
    )


def _choice(
    target: Target,
    source: Source,
    histogram: ColorHistogram,
    suffix: str,
    settings: Settings,
    quantize: Callable[[int, float | None], QuantizedImage],
) -> tuple[Choice, list[str]]:
    """The number of colors and the price of bits that reach the target, and a text about each try.

    The price is searched only where indices are optimized.
    """
    max_colors = min(256, len(histogram.colors))
    mapping = mapping_options(settings, suffix, animated=source.animation is not None)
    searches_price = settings.lossy is None and mapping["lossy"] > 0
    tries: list[str] = []
    found = ""

    @cache
    def tried(n_colors: int, lossy: float | None) -> QuantizedImage:
        nonlocal found
        price = f", lossy {lossy:.3g}" if searches_price else ""
        name = f"try {len(tries) + 1}: {format_count(n_colors, 'color')}{price}"
        settings.on_try(f"{name} (last {found})" if found else name)
        picture = quantize(n_colors, lossy)
        found = target.measure(picture)
        tries.append(f"{name}: {found}")
        return picture

    if searches_price:
        return search(target, max_colors, tried), tries
    n_colors = search_colors(target, max_colors, lambda n: tried(n, settings.lossy))
    return Choice(n_colors, settings.lossy), tries


def _write(output: Path, data: bytes, settings: Settings) -> None:
    if settings.root is not None:
        check_inside(output, settings.root)
        make_folder(output.parent)
    write_atomically(output, data, overwrite=settings.force)


def in_output_encoding(source: Source, suffix: str, settings: Settings) -> Source:
    """The source as it is, or in sRGB where the output cannot have its color encoding.

    That is where the file cannot store it, where it meets colors that are sRGB, where the color space of the clustering
    is derived from sRGB, and where `strip` removes a profile, which may contain private data.
    """
    profile, chunks = source.metadata.icc_profile, source.metadata.color_chunks
    meets_srgb = settings.palette is not None or settings.fixed is not None or settings.space != "srgb"
    is_stored = suffix == ".png" or (suffix == ".webp" and not chunks)
    if profile is not None and profile[16:20] == b"GRAY":  # only for grey samples
        is_stored = suffix == ".png" and source.channels == 1
    removes_profile = settings.strip and profile is not None
    return source.in_srgb() if meets_srgb or removes_profile or not is_stored else source


def frames_and_histogram(
    source: Source, settings: Settings, timer: StageTimer
) -> tuple[Iterable[Tensor], ColorHistogram]:
    """The frames of a source (H, W, C), on the device that will process them, and the color histogram of all.

    Those of an animation are decoded again for each iteration. Fully transparent pixels become 0 in all channels; those
    of a still may change in `source.frames`, too.
    """
    is_small = source.n_frames * source.height * source.width < _MIN_GPU_PIXELS
    device = torch.device("cpu") if settings.any_device and is_small else settings.device

    def prepared(frame: np.ndarray) -> Tensor:
        timer.lap("read")
        image = _with_palette_channels(torch.from_numpy(frame).to(device), settings)
        if image.shape[2] in (2, 4):
            image.mul_(image[..., -1:] > 0)  # as `clear_transparent_pixels`, without a copy
        return image

    def counted(frame: Tensor) -> ColorHistogram:
        histogram = unique_colors(frame)
        timer.lap("count colors")
        return histogram

    # Unlike a loop, `map` holds no frame while the next is decoded.
    frames = Recomputed(lambda: map(prepared, source.frames))
    if source.animation is None:
        frames = list(frames)
    histogram = add_all(map(counted, frames))
    assert histogram is not None  # since there is a frame
    return frames, histogram


def quantize_source(
    source: Source,
    frames: Iterable[Tensor],
    histogram: ColorHistogram,
    fitted: Callable[[], Palette],
    suffix: str,
    settings: Settings,
    timer: StageTimer,
) -> QuantizedImage:
    """The frames of a source in the colors of a fitted palette, or in the given one.

    `suffix` is that of the file format to encode.
    """
    fit, statistics = None, None
    mapping = mapping_options(settings, suffix, animated=source.animation is not None)
    if settings.palette is None:
        fit = fitted()
        palette = fit.colors
        if fit.mse == 0:  # there is nothing to dither or to optimize
            mapping |= _NEAREST
        if mapping["dither"] == "none" and mapping["lossy"] == 0:
            counts = torch.zeros(len(palette), dtype=torch.int64, device=palette.device)
            counts.index_add_(0, fit.labels.int(), histogram.counts)
            statistics = Statistics(counts.cpu().numpy(), fit.mse)
    else:
        device, channels = histogram.colors.device, histogram.colors.shape[1]
        palette = with_channels(torch.from_numpy(settings.palette), channels).to(device)
        palette = with_transparent_color(palette, histogram, 256)
    timer.lap("cluster")
    return QuantizedImage(
        source=source,
        frames=frames,
        histogram=histogram,
        palette=palette,
        fit=fit,
        suffix=suffix,
        settings=settings,
        mapping=mapping,
        timer=timer,
        _statistics=statistics,
    )


def fit_colors(
    histogram: ColorHistogram, n_colors: int, settings: Settings, frames: Iterable[Tensor] | None = None
) -> Palette:
    """The palette of a histogram with at most `n_colors` colors, or the number of fixed colors if that is larger.

    With 8 to 32 colors, or as `keep_vivid` says, small vivid areas of the frames, if they are given, keep a color.
    """
    fixed = None
    if settings.fixed is not None:
        fixed = with_channels(torch.from_numpy(settings.fixed), histogram.colors.shape[1]).to(histogram.colors.device)
        n_colors = max(n_colors, len(fixed))
    options = dict(settings.clustering)
    if histogram.colors.device.type == "cpu":
        # On a GPU, whose iterations are short, a callback would wait for the end of each.
        options.setdefault("callback", lambda n_iter, inertia, shift: settings.stop.is_set())
    keeps_vivid = n_colors in _VIVID if settings.keep_vivid is None else settings.keep_vivid
    if frames is not None and keeps_vivid and len(histogram.colors) > n_colors:
        counts = map(partial(flat_counts, histogram=histogram), frames)
        options["flat"] = sum(counts, start=torch.zeros_like(histogram.counts))
    return fit_palette(
        histogram,
        n_colors,
        space=settings.space,
        fixed=fixed,
        generator=torch.Generator().manual_seed(settings.seed),
        **options,
    )


class Output(NamedTuple):
    """What a file becomes."""

    kept: bool
    """Whether the input is kept, perhaps without its metadata, since a palette would not make the file smaller."""
    data: bytes | None
    """The file to write; None for none, where the input is kept at its path."""


def keeps_input(source: Source, picture: QuantizedImage, settings: Settings) -> bool:
    """Whether the input is kept, since `picture` is no smaller.

    Not with a given palette or fixed colors, which it may lack, nor an animation of which only the default image can be
    decoded.
    """
    return not _needs_palette(source, settings) and source.n_bytes <= picture.n_bytes


def find_output(source: Source, picture: QuantizedImage, output: Path, settings: Settings) -> Output:
    """The encoded picture, if it is smaller than the input, else the input.

    With `strip`, a PNG without its metadata is taken if it is the smallest of the three. An input that is kept is
    copied if the path of the output is given or in another folder, and the format is equal. In another format the
    larger picture is written to a given path. Otherwise nothing is written.
    """
    if _needs_palette(source, settings):
        return Output(False, picture.data)
    has_same_format = source.format.lower() == picture.suffix[1:]
    stripped = source.original_without_metadata() if settings.strip and has_same_format else None
    if stripped is not None and len(stripped) < source.n_bytes and len(stripped) <= picture.n_bytes:
        return Output(True, stripped)
    if not keeps_input(source, picture, settings):
        return Output(False, picture.data)
    has_nothing_to_strip = not settings.strip or stripped is not None
    is_input = output != STDIO and os.path.realpath(output) == os.path.realpath(source.path)
    is_given = output == STDIO or not settings.optional_output
    if has_nothing_to_strip and is_input:
        return Output(True, None)
    if has_nothing_to_strip and has_same_format and (is_given or settings.root is not None):
        return Output(True, source.original() if stripped is None else stripped)
    return Output(False, picture.data) if is_given else Output(True, None)


def _needs_palette(source: Source, settings: Settings) -> bool:
    has_given_colors = settings.palette is not None or settings.fixed is not None
    return settings.allow_larger or has_given_colors or source.broken_animation


def _with_palette_channels(image: Tensor, settings: Settings) -> Tensor:
    """The image with the channels that it and the given colors need."""
    given = settings.palette if settings.palette is not None else settings.fixed
    return image if given is None else with_channels(image, common_channels(image.shape[-1], given.shape[1]))


def _describe_engine(fit: Palette | None, histogram: ColorHistogram, settings: Settings) -> str:
    """The name of the engine that was used, and the reasons against the others that this machine can run."""
    if fit is None:
        return "none, since the palette was given"
    if fit.engine is None:
        return "none, since there are no more colors than requested"
    points = COLOR_SPACES[settings.space].encode(histogram.colors)
    unsupported = [
        f"; {name} cannot: {reason}"
        for name, engine in ENGINES.items()
        if (torch.cuda.is_available() or getattr(engine, "device", None) != "cuda")
        and (reason := engine.unsupported_reason(points))
    ]
    return f"{fit.engine}, the fastest for these colors{''.join(unsupported)}"
