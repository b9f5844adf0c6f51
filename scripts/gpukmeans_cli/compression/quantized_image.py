"""An image in the colors of a palette: its indices, error and encoded file, each computed when it is needed."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gpukmeans import (
    ENGINES,
    ColorHistogram,
    IndexedImage,
    Palette,
    apply_palette,
    map_to_palette,
    mean_squared_error,
    mean_visible_error,
    with_transparent_color,
)
from gpukmeans_cli.compression.drawings import DRAWING_QUALITY, drawing_weights, fewest_colors
from gpukmeans_cli.compression.mapping import NEAREST, mapping_options, takes_optimizer
from gpukmeans_cli.compression.palette_fit import fit_colors
from gpukmeans_cli.compression.quality_scale import error_of_quality
from gpukmeans_cli.compression.settings import Settings, StageTimer
from gpukmeans_cli.formats.animation import encode_animation
from gpukmeans_cli.formats.frames import Recomputed
from gpukmeans_cli.formats.indices import index_counts
from gpukmeans_cli.formats.metadata import Metadata
from gpukmeans_cli.formats.source import Source
from gpukmeans_cli.formats.still import encode_still, is_repetitive
from gpukmeans_cli.images.channels import common_channels, with_channels, without_opaque_alpha
from gpukmeans_cli.images.palette_usage import count_pixels
from gpukmeans_cli.images.quality import peak_signal_to_noise

# Without native kernels the optimizer takes about ten seconds for this many pixels.
MANY_PIXELS = 1_000_000


class Statistics(NamedTuple):
    """The number of pixels of each palette color, int64 (K,), and the mean squared error over all pixels."""

    counts: np.ndarray
    mse: float


class _StillAreas:
    """The last indices of an animation. Unchanged pixels keep them, since diffused errors would make them flicker."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor] | None = None

    def stabilized(self, frame: Tensor, indexed: IndexedImage) -> IndexedImage:
        """The indexed frame, with the last index of each pixel whose color has not changed. `frame` is (H, W, C)."""
        indices = indexed.indices
        if self._last is not None:
            last_frame, last_indices = self._last
            indices = torch.where((frame == last_frame).all(dim=2), last_indices, indices)
        self._last = frame.clone(), indices  # decoders may draw the next frame into the same memory
        return IndexedImage(indexed.palette, indices)


@dataclass(kw_only=True)
class QuantizedImage:
    """An image in the colors of a palette.

    The frames of an animation are mapped again whenever their indices or their error are needed.
    """

    source: Source
    frames: Iterable[Tensor]
    """uint8 (H, W, C) each, on the device."""
    histogram: ColorHistogram
    """The color histogram of all frames."""
    palette: Tensor
    """uint8 (K, C). Optimized dithering changes it when the still is mapped."""
    fit: Palette | None
    """The fitted palette; None for a given palette."""
    suffix: str
    """Suffix of the file format to encode."""
    settings: Settings
    mapping: dict[str, Any]
    """Options of `map_to_palette`. `_map` replaces them if the still is a drawing."""
    timer: StageTimer
    _statistics: Statistics | None = None

    def indices(self) -> Iterator[np.ndarray]:
        """The palette indices of each frame, uint8 (H, W)."""
        counts, errors = np.zeros((), dtype=np.int64), []
        # With the other ditherings of animations, the index of a pixel depends on its color and position alone.
        is_diffused = self.source.animation is not None and self.mapping["dither"] == "floyd-steinberg"
        still_areas = _StillAreas() if is_diffused else None

        def mapped(frame: Tensor) -> np.ndarray:
            nonlocal counts
            indexed = self._map(frame)
            if still_areas is not None:
                indexed = still_areas.stabilized(frame, indexed)
            self.palette = indexed.palette
            indices = indexed.indices.cpu().numpy()
            if self._statistics is None:
                counts = counts + index_counts(indices, len(self.palette))
                errors.append(mean_squared_error(frame, indexed))
            self.timer.lap("map pixels")
            return indices

        # A loop variable would keep a frame in memory while the next is decoded.
        for indices in map(mapped, self.frames):
            yield indices
            self.timer.lap("encode")
        self._statistics = self._statistics or Statistics(counts, math.fsum(errors) / len(errors))

    def _map(self, frame: Tensor) -> IndexedImage:
        """The indices of a frame.

        With default options, a still counts as a drawing if its nearest colors are repetitive, have at least
        `DRAWING_QUALITY`, and make no larger file than optimized dithering. A drawing is mapped to its nearest colors,
        of the smallest palette whose error hardly shows.
        """
        indexed = self._mapped(frame, self.mapping)
        if self._has_default_mapping and takes_optimizer(self.mapping):
            nearest = self._mapped(frame, NEAREST)
            # The quality excludes gradients: they repeat like drawings, but their nearest colors make visible bands.
            if (
                is_repetitive(nearest.indices.cpu().numpy())
                and mean_visible_error(frame, nearest) <= error_of_quality(DRAWING_QUALITY)
                and (n_bytes := self._n_bytes(nearest)) <= self._n_bytes(indexed)
            ):
                self.mapping = self.mapping | NEAREST
                return self._with_fewer_colors(frame, nearest, n_bytes)
        return indexed

    def _with_fewer_colors(self, frame: Tensor, nearest: IndexedImage, n_bytes: int) -> IndexedImage:
        """The drawing in fewer colors, if its error hardly shows and its file is below `n_bytes`, else `nearest`."""
        if self.fit is None:
            return nearest
        weighted = replace(self.histogram, counts=drawing_weights(frame, self.histogram))
        space = "oklab" if self.settings.space == "srgb" else self.settings.space
        settings = replace(self.settings, space=space)
        fit = fewest_colors(lambda n: fit_colors(weighted, n, settings, [frame]), len(self.fit.colors))
        fewer = None if fit is None else map_to_palette(frame, self.histogram, fit, **NEAREST)
        if fewer is None or self._n_bytes(fewer) >= n_bytes:
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
        optimizes_many = takes_optimizer(self.mapping) and self.source.height * self.source.width > MANY_PIXELS
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
        """PSNR in dB; None if the error is 0."""
        counts, mse = self.statistics
        # As in `compare_pixels`, alpha does not count if it is opaque in the input and in all used colors.
        used = self.palette[torch.from_numpy(counts > 0).to(self.palette.device)]
        shown = (without_opaque_alpha(colors).shape[1] for colors in (self.histogram.colors, used))
        return peak_signal_to_noise(mse, common_channels(*shown))

    @cached_property
    def _still(self) -> list[np.ndarray]:
        """The indices of a still, as a list of one. A still is mapped only once."""
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
        """The mean of `mean_visible_error` over all frames, in squared 8-bit levels."""
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
        """Do the work that uses the device. An animation is encoded, too, since encoding maps its frames one by one."""
        _ = self._still if self.source.animation is None else self.data


def quantize_source(
    source: Source,
    frames: Iterable[Tensor],
    histogram: ColorHistogram,
    fitted: Callable[[], Palette],
    suffix: str,
    settings: Settings,
    timer: StageTimer,
) -> QuantizedImage:
    """The frames of a source in the colors of `settings.palette` or, if that is None, of the palette from `fitted`.

    `suffix` is the suffix of the file format to encode.
    """
    fit, statistics = None, None
    mapping = mapping_options(settings, suffix, animated=source.animation is not None)
    if settings.palette is None:
        fit = fitted()
        palette = fit.colors
        if fit.mse == 0:  # without error nothing can be dithered or optimized
            mapping |= NEAREST
        if mapping["dither"] == "none" and mapping["lossy"] == 0:
            statistics = Statistics(count_pixels(fit, histogram), fit.mse)
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
