"""Color quantization: `quantize` an image to few colors, or map it to a given palette."""

from typing import Any, SupportsFloat, SupportsIndex

import torch
from jaxtyping import UInt8
from torch import Tensor

from gpukmeans.compilation import eager
from gpukmeans.engines import Engine, EngineName, choose
from gpukmeans.images.colorspace import ColorSpace, ColorSpaceName, check_space, clear_transparent_pixels
from gpukmeans.images.dithering import Dithering, DitheringName
from gpukmeans.images.histogram import ColorHistogram, check_colors, check_histogram, check_image, unique_colors
from gpukmeans.images.indexed import IndexedImage, squared_error
from gpukmeans.images.mapping import Mapping, check_mapping
from gpukmeans.images.nearest import nearest_indices
from gpukmeans.images.palette import Palette, check_n_colors, default_refine, fit_palette, fit_palettes
from gpukmeans.images.rate_distortion import RateName, none_free
from gpukmeans.images.vivid_areas import flat_counts
from gpukmeans.options import KMeansOptions
from gpukmeans.seeding import InitName, Seeding
from gpukmeans.validation import check_count


@eager
def quantize(
    image: UInt8[Tensor, "*batch h w c"],
    n_colors: SupportsIndex,
    *,
    space: ColorSpaceName | ColorSpace = "srgb",
    dither: DitheringName | Dithering = "none",
    strength: SupportsFloat = 1.0,
    lossy: SupportsFloat = 0.0,
    rounds: int = 4,
    rate: RateName = "png",
    fixed: UInt8[Tensor, "f c"] | None = None,
    keep_vivid: bool = False,
    init: InitName | Seeding = "random",
    n_init: int = 1,
    refine: int | None = None,
    polish: int = 0,
    max_iter: int = 100,
    tol: float = 1e-4,
    engine: EngineName | Engine = "auto",
    generator: torch.Generator | None = None,
) -> IndexedImage:
    """The image quantized to at most `n_colors` colors: a palette (K, C) and indices (H, W), both uint8.

    The colors are clustered by `kmeans`, with alpha premultiplied; see `fit_palette`. An image with no more than
    `n_colors` colors, counting the fixed colors too, is returned without loss, except that fully transparent pixels
    become 0 in all channels. For any other image K is `n_colors`.

    Each image of a batch is quantized on its own, from the same state of the generator. The palettes are (B, K, C),
    where K is `n_colors`. A palette of fewer colors is padded with its last color, and no index points to the padding.
    The indices are (B, H, W).

    Args:
        image: uint8 (H, W, C) or (B, H, W, C). C is 1 for grey, 3 for RGB, one more with alpha.
        n_colors: maximum number of colors, 1 to 256.
        space: color space in which colors are clustered: a name of `COLOR_SPACES` or a `ColorSpace`.
        dither: method that maps pixels to the palette: a name of `DITHERINGS` or a `Dithering` function.
        strength: strength of the dithering, 0 to 1.
        lossy: price of a bit of a file, in hundredths of the mean squared error of the K-means palette. 0 gives the
            least error, and about 15 suits photos. Only with dither "none" or "optimized".
        rounds: number of rounds of the optimizer, for "optimized" and `lossy`.
        rate: file format whose bits have the price: "png", or "gif", which also suits lossless WebP.
        fixed: first colors of the palette, uint8 (F, C). They are in the palette even if no pixel uses them.
        keep_vivid: whether small vivid areas, such as badges, keep a color of their own. This raises the squared error
            by up to 4 %. Useful for palettes of 8 to 32 colors.
        init: seeding method, see `kmeans`.
        n_init: number of runs; the best is kept.
        refine: refinement cycles before Lloyd's loop; by default 2 up to 64 colors, else 1.
        polish: refinement cycles over all colors, see `fit_palette`.
        max_iter: maximum number of iterations of Lloyd's loop.
        tol: relative decrease of the inertia at which the loop ends.
        engine: a name of `ENGINES`, "auto" or an `Engine`.
        generator: CPU generator; by default a new one of seed 0.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument has the wrong shape or range, or `lossy` is used with another dithering.

    Example:
        >>> image = torch.tensor([[[0, 0, 0], [0, 0, 2], [200, 0, 0]]], dtype=torch.uint8)
        >>> palette, indices = quantize(image, 2)
        >>> palette.tolist(), indices.tolist()
        ([[0, 0, 1], [200, 0, 0]], [[0, 0, 1]])
    """
    check_image(image, batch=True)
    n_colors = check_n_colors(n_colors)
    mapping = check_mapping(dither, strength, lossy, rounds, rate)
    check_space(space)
    refine = default_refine(refine, n_colors)
    if fixed is not None:
        check_colors(fixed, "fixed", image, n_colors)
    search: dict[str, Any] = {"init": init, "n_init": n_init, "refine": refine, "max_iter": max_iter, "tol": tol}
    KMeansOptions(n_clusters=n_colors, generator=generator, **search)
    check_count("polish", polish, least=0)
    choose(engine, image)  # checked even if no clustering is needed
    is_batch = image.ndim == 4 and len(image) > 1 and image.device.type == "cuda"
    if is_batch and isinstance(init, str) and generator is None and not keep_vivid:
        cleared = clear_transparent_pixels(image)
        histograms = [unique_colors(one) for one in cleared]
        options: dict[str, Any] = {"space": check_space(space), "fixed": fixed, "polish": polish, "engine": engine}
        palettes = fit_palettes(histograms, n_colors, **options, **search)
        mapped = [_mapped(*each, mapping) for each in zip(cleared, histograms, palettes, strict=True)]
        return _stacked(mapped, n_colors)
    state = None if generator is None else generator.get_state()
    results: list[IndexedImage] = []
    for one in image if image.ndim == 4 else [image]:
        if generator is not None and state is not None:
            generator.set_state(state)
        cleared = clear_transparent_pixels(one)
        histogram = unique_colors(cleared)
        flat = flat_counts(cleared, histogram) if keep_vivid else None
        palette = fit_palette(
            histogram,
            n_colors,
            space=space,
            fixed=fixed,
            flat=flat,
            polish=polish,
            engine=engine,
            generator=generator,
            **search,
        )
        results.append(_mapped(cleared, histogram, palette, mapping))
    return results[0] if image.ndim == 3 else _stacked(results, n_colors)


@eager
def apply_palette(
    image: UInt8[Tensor, "*batch h w c"],
    palette: UInt8[Tensor, "k c"],
    *,
    dither: DitheringName | Dithering = "none",
    strength: SupportsFloat = 1.0,
    lossy: SupportsFloat = 0.0,
    rounds: int = 4,
    rate: RateName = "png",
) -> IndexedImage:
    """The image mapped to a palette: the same palette (K, C) and the indices (H, W) or (B, H, W), uint8.

    Without dithering each pixel takes the nearest color in premultiplied sRGB, the lowest index on ties. With every
    dithering, opaque pixels take opaque colors if the palette has any.

    Args:
        image: uint8 (H, W, C) or (B, H, W, C).
        palette: uint8 (K, C), K from 1 to 256.
        dither: a name of `DITHERINGS` or a `Dithering` function.
        strength: strength of the dithering, 0 to 1.
        lossy: price of a bit of a file, in hundredths of the mean squared error of a palette of K colors by
            `fit_palette`: 0 for the least error, about 15 for photos. Only with dither "none" or "optimized".
        rounds: number of rounds of the optimizer, for "optimized" and `lossy`.
        rate: file format whose bits have the price: "png", or "gif", which also suits lossless WebP.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument has the wrong shape or range, or `lossy` is used with another dithering.

    Example:
        >>> palette = torch.tensor([[0], [255]], dtype=torch.uint8)
        >>> apply_palette(torch.tensor([[[10], [200]]], dtype=torch.uint8), palette).indices.tolist()
        [[0, 1]]
    """
    check_image(image, batch=True)
    check_colors(palette, "palette", image, 256, min_colors=1)
    mapping = check_mapping(dither, strength, lossy, rounds, rate)
    cleared = clear_transparent_pixels(image)
    images = cleared[None] if image.ndim == 3 else cleared
    if mapping.optimizes:
        indices = torch.stack([_optimized_indices(one, palette, mapping) for one in images])
    else:
        indices = mapping.dithered(images, palette)
    return IndexedImage(palette, indices.view(image.shape[:-1]))


def _optimized_indices(image: Tensor, palette: Tensor, mapping: Mapping) -> Tensor:
    """Indices (H, W) of an image (H, W, C), optimized for a palette that does not change."""
    histogram = unique_colors(image)
    nearest = IndexedImage(palette, nearest_indices(image, histogram, palette))

    def squared_error_of_kmeans() -> int:
        fit = fit_palette(histogram, len(palette))
        return squared_error(image, IndexedImage(fit.colors, histogram.map_values(fit.labels, image)))

    return mapping.optimized(image, nearest, none_free(palette), squared_error_of_kmeans).indices


@eager
def map_to_palette(
    image: UInt8[Tensor, "*batch h w c"],
    histogram: ColorHistogram,
    palette: Palette,
    *,
    dither: DitheringName | Dithering = "none",
    strength: SupportsFloat = 1.0,
    lossy: SupportsFloat = 0.0,
    rounds: int = 4,
    rate: RateName = "png",
) -> IndexedImage:
    """The image mapped to a palette that `fit_palette` found for its histogram.

    `quantize` does the work of `unique_colors`, `fit_palette` and this function. Without dithering each pixel takes the
    palette color that is nearest to its color in the color space of `fit_palette`. With `lossy` or dither "optimized",
    the colors in the mask `palette.free` may change. With other ditherings `apply_palette` gives the same result.

    Args:
        image: uint8 (H, W, C) or (B, H, W, C), all of whose colors are in the histogram. Fully transparent pixels are
            0 in all channels (`clear_transparent_pixels`).
        histogram: the histogram to which the palette was fitted.
        palette: the result of `fit_palette`.
        dither: a name of `DITHERINGS` or a `Dithering` function.
        strength: strength of the dithering, 0 to 1.
        lossy: price of a bit of a file, in hundredths of the mean squared error of a palette of K colors by
            `fit_palette`: 0 for the least error, about 15 for photos. Only with dither "none" or "optimized".
        rounds: number of rounds of the optimizer, for "optimized" and `lossy`.
        rate: file format whose bits have the price: "png", or "gif", which also suits lossless WebP.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument has the wrong shape or range, or the palette was fitted to another histogram.

    Example:
        >>> image = torch.tensor([[[0, 0, 0], [0, 0, 2], [200, 0, 0]]], dtype=torch.uint8)
        >>> histogram = unique_colors(image)
        >>> map_to_palette(image, histogram, fit_palette(histogram, 2)).indices.tolist()
        [[0, 0, 1]]
    """
    check_image(image, batch=True)
    mapping = check_mapping(dither, strength, lossy, rounds, rate)
    check_histogram(histogram)
    if not isinstance(palette, Palette):
        raise TypeError(f"palette must be a Palette, from fit_palette, got {type(palette).__name__}")
    if len(palette.labels) != len(histogram.colors):
        numbers = f"{len(palette.labels)} labels for {len(histogram.colors)} colors"
        raise ValueError(f"palette must be fitted to the histogram, with a label for each color, got {numbers}")
    images = image if image.ndim == 4 else image[None]
    results = [_mapped(one, histogram, palette, mapping) for one in images]
    if image.ndim == 3:
        return results[0]
    if mapping.optimizes and palette.free.any():
        return _stacked(results, len(palette.colors))
    return IndexedImage(palette.colors, torch.stack([one.indices for one in results]))


def _mapped(image: Tensor, histogram: ColorHistogram, palette: Palette, mapping: Mapping) -> IndexedImage:
    """`map_to_palette` of one image (H, W, C)."""
    if not (mapping.takes_nearest or mapping.optimizes):
        return IndexedImage(palette.colors, mapping.dithered(image[None], palette.colors, histogram)[0])
    labeled = IndexedImage(palette.colors, histogram.map_values(palette.labels, image))
    if mapping.takes_nearest:
        return labeled
    # The optimizer begins with the nearest colors in sRGB. If any color is free, the space was sRGB, so the labels are
    # the indices of these colors.
    nearest = labeled
    if not palette.free.any():
        nearest = IndexedImage(palette.colors, nearest_indices(image, histogram, palette.colors))
    return mapping.optimized(image, nearest, palette.free, lambda: squared_error(image, nearest))


def _stacked(images: list[IndexedImage], n_colors: int) -> IndexedImage:
    """A batch of images of one size. Each palette is padded to `n_colors` with its last color."""
    entries = torch.arange(n_colors, device=images[0].palette.device)
    palettes = [one.palette[entries.clamp(max=len(one.palette) - 1)] for one in images]
    return IndexedImage(torch.stack(palettes), torch.stack([one.indices for one in images]))
