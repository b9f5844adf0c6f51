"""The palette of a color histogram, and the engine that found it."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from gpukmeans import COLOR_SPACES, ENGINES, ColorHistogram, Palette, fit_palette, flat_counts
from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.images.channels import with_channels

# Numbers of colors with which small vivid areas keep a color by default. With fewer, photos lose quality; with more,
# few areas gain.
_VIVID = range(8, 33)


def fit_colors(
    histogram: ColorHistogram, n_colors: int, settings: Settings, frames: Iterable[Tensor] | None = None
) -> Palette:
    """The palette of a histogram: at most `n_colors` colors, but at least as many as there are fixed colors.

    Small vivid areas keep a color of their own if `settings.keep_vivid`, by default with 8 to 32 colors. The areas are
    found in `frames`. Without `frames`, no area keeps a color.
    """
    fixed = None
    if settings.fixed is not None:
        fixed = with_channels(torch.from_numpy(settings.fixed), histogram.colors.shape[1]).to(histogram.colors.device)
        n_colors = max(n_colors, len(fixed))
    options = dict(settings.clustering)
    if histogram.colors.device.type == "cpu":
        # On a GPU a callback would synchronize after each iteration, and iterations are short.
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


def describe_engine(fit: Palette | None, histogram: ColorHistogram, settings: Settings) -> str:
    """The engine that was used, and why other engines of this machine do not support these colors."""
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
