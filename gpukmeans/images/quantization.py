"""`quantize`: an image of few colors, as a palette and an index for each pixel. `apply_palette`: in given colors."""

from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from gpukmeans.clustering import check_options
from gpukmeans.engines.base import Engine
from gpukmeans.engines.selection import choose
from gpukmeans.images.colorspace import ColorSpace, check_space, hide_invisible
from gpukmeans.images.dithering import DITHERINGS, check_strength
from gpukmeans.images.dithering import dither as dithered
from gpukmeans.images.histogram import ColorHistogram, check_image, unique_colors
from gpukmeans.images.palette import Palette, breaths, check_colors, check_n_colors, fit_palette
from gpukmeans.seeding import Seeding
from gpukmeans.validation import check_count

# How many palettes are shown of a batch that has one for each image.
_MOST_SHOWN = 8


class IndexedImage(NamedTuple):
    """An image of at most 256 colors, or a batch of them, of one palette (K, C) or with one for each (B, K, C)."""

    palette: UInt8[Tensor, "*palettes k c"]
    indices: UInt8[Tensor, "*batch h w"]

    def pixels(self) -> UInt8[Tensor, "*batch h w c"]:
        """The image itself, uint8 (H, W, C), or the images (B, H, W, C)."""
        indices = self.indices.int()  # uint8 would index as a mask
        if self.palette.ndim == 2:
            return self.palette[indices]
        which = torch.arange(len(indices), device=indices.device)
        return self.palette[which[:, None, None], indices]

    def _repr_html_(self) -> str:
        """The size and a swatch for each color, as a notebook shows it; of a batch the first palettes."""
        height, width = self.indices.shape[-2:]
        palettes = self.palette[None] if self.palette.ndim == 2 else self.palette
        size = f"{width} x {height}, {palettes.shape[1]} colors"
        if self.indices.ndim > 2:
            size = f"{len(self.indices)} images of {size}" + (" each" if self.palette.ndim > 2 else "")
        rows = [
            f'<div style="line-height:0">{"".join(map(_swatch, colors))}</div>'
            for colors in palettes[:_MOST_SHOWN].tolist()
        ]
        more = f"<div>and {len(palettes) - _MOST_SHOWN} more</div>" if len(palettes) > _MOST_SHOWN else ""
        return f"<div><div>{size}</div>{''.join(rows)}{more}</div>"


def quantize(
    image: UInt8[Tensor, "*batch h w c"],
    n_colors: int,
    *,
    space: str | ColorSpace = "srgb",
    dither: str = "none",
    strength: float = 1.0,
    fixed: UInt8[Tensor, "f c"] | None = None,
    init: str | Seeding = "random",
    n_init: int = 1,
    refine: int | None = None,
    polish: int = 0,
    max_iter: int = 100,
    tol: float = 1e-4,
    engine: str | Engine = "auto",
    generator: torch.Generator | None = None,
) -> IndexedImage:
    """A uint8 image (H, W, C) in at most `n_colors` colors, 1 to 256: a palette (K, C) and indices (H, W), both uint8.

    C is 1 for grey, 3 for RGB, one more with alpha. The colors are clustered by `kmeans` in a `space`, with alpha
    premultiplied; for the options see there and `fit_palette`. An image that has no more than `n_colors` colors comes
    back lossless, except that pixels of alpha 0 become 0 in all channels; of any other there are exactly `n_colors`.

    `fixed` colors (F, C), uint8, are the first of the palette, exactly and in their order, also where no pixel wears
    them; the others are clustered around them. `dither`, a name of `gpukmeans.images.dithering.DITHERINGS`, with its
    `strength` from 0 to 1, says how pixels find their colors once there is a palette.

    Of a batch (B, H, W, C) each image has the palette and the indices that it would have alone, given the same state of
    the generator: (B, K, C), K being `n_colors`, and (B, H, W). A palette of fewer colors is filled up with its last
    one, which the indices do not need.

    Raises TypeError or ValueError for input that is not as said here.
    """
    check_image(image, batch=True)
    check_n_colors(n_colors)
    _check_dither(dither, strength)
    check_space(space)
    refine = breaths(refine, n_colors)
    if fixed is not None:
        check_colors(fixed, "fixed", image, n_colors)
    check_options(init=init, n_init=n_init, refine=refine, max_iter=max_iter, tol=tol, generator=generator)
    check_count("polish", polish, least=0)
    choose(engine, image)  # an error here also where no clustering is needed
    state = None if generator is None else generator.get_state()
    found: list[IndexedImage] = []
    for one in image if image.ndim == 4 else [image]:
        if generator is not None and state is not None:
            generator.set_state(state)
        visible = hide_invisible(one)
        histogram = unique_colors(visible)
        palette = fit_palette(
            histogram,
            n_colors,
            space=space,
            fixed=fixed,
            init=init,
            n_init=n_init,
            refine=refine,
            polish=polish,
            max_iter=max_iter,
            tol=tol,
            engine=engine,
            generator=generator,
        )
        if dither == "none" or not strength:
            found.append(index_image(visible, histogram, palette))
        else:
            found.append(IndexedImage(palette.colors, dithered(visible, palette.colors, dither, strength=strength)))
    return found[0] if image.ndim == 3 else _batched(found, n_colors)


def apply_palette(
    image: UInt8[Tensor, "*batch h w c"],
    palette: UInt8[Tensor, "k c"],
    *,
    dither: str = "none",
    strength: float = 1.0,
) -> IndexedImage:
    """A uint8 image (H, W, C) or a batch (B, H, W, C) in the colors of a palette (K, C), K from 1 to 256.

    Each pixel has the index of the color nearest to its own, the lowest of equally near ones, by the distance of
    premultiplied colors in sRGB (see `images.colorspace`); or with `dither` and `strength` as in `quantize`. The
    palette is the one given, also of a batch, whose indices are (B, H, W).

    Raises TypeError or ValueError for input that is not as said here.
    """
    check_image(image, batch=True)
    check_colors(palette, "palette", image, 256)
    if len(palette) == 0:
        raise ValueError("palette must have at least 1 color, got 0")
    _check_dither(dither, strength)
    # Of all images side by side, where what is nearest is the same in each.
    rows = hide_invisible(image.reshape(-1, *image.shape[-2:]))
    images = [rows] if dither == "none" else rows.view(-1, *image.shape[-3:])
    indices = torch.cat([dithered(one, palette, dither, strength=strength) for one in images])
    return IndexedImage(palette, indices.view(image.shape[:-1]))


def index_image(image: UInt8[Tensor, "h w c"], histogram: ColorHistogram, palette: Palette) -> IndexedImage:
    """The image, whose colors are all in the histogram that the palette was fit to, in the colors of the palette."""
    return IndexedImage(palette.colors, histogram.spread(palette.labels, image))


def _batched(images: list[IndexedImage], n_colors: int) -> IndexedImage:
    """Images of one size side by side, each palette filled up to so many colors."""
    place = torch.arange(n_colors, device=images[0].palette.device)
    palettes = [one.palette[place.clamp(max=len(one.palette) - 1)] for one in images]
    return IndexedImage(torch.stack(palettes), torch.stack([one.indices for one in images]))


def _swatch(color: list[int]) -> str:
    """A box in HTML of this color, grey or RGB, behind it a checkerboard that alpha lets through."""
    channels = [color[0]] * 3 if len(color) < 3 else color[:3]
    alpha = color[-1] if len(color) in (2, 4) else 255
    name = "#" + "".join(f"{value:02x}" for value in (channels if alpha == 255 else [*channels, alpha]))
    board = "repeating-conic-gradient(#ccc 0% 25%, #fff 0% 50%) 0 0/8px 8px"
    style = f"display:inline-block;width:16px;height:16px;background:linear-gradient({name},{name}),{board}"
    return f'<span title="{name}" style="{style}"></span>'


def _check_dither(dither: str, strength: float) -> None:
    if not isinstance(dither, str):
        raise TypeError(f"dither must be a name, got {type(dither).__name__}")
    if dither not in DITHERINGS:
        raise ValueError(f"dither must be one of {', '.join(DITHERINGS)}, got {dither!r}")
    check_strength(strength)
