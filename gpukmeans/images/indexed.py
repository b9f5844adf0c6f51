"""`IndexedImage`: a palette and the index of each pixel. `mean_squared_error`: the error between two images."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.compilation import eager
from gpukmeans.engines.fused import optimizing as cuda
from gpukmeans.engines.fused.availability import has_kernels
from gpukmeans.images.colorspace import SRGB
from gpukmeans.images.histogram import check_image
from gpukmeans.images.preview import html_preview
from gpukmeans.summaries import summary_of_fields
from gpukmeans.tiling import blocks_of

# Number of pixels compared at a time.
_BLOCK = 1 << 16


class IndexedImage(NamedTuple):
    """A palette of at most 256 colors and the index of each pixel, for one image or for a batch.

    A batch has one palette for all images, or one palette for each image.

    Args:
        palette: uint8 (K, C), or (B, K, C) with one palette per image.
        indices: uint8 (H, W) or (B, H, W), below K.

    Example:
        >>> palette = torch.tensor([[0, 0, 0], [255, 0, 0]], dtype=torch.uint8)
        >>> IndexedImage(palette, torch.tensor([[1, 0]], dtype=torch.uint8)).pixels().tolist()
        [[[255, 0, 0], [0, 0, 0]]]
    """

    palette: UInt8[Tensor, "*palettes k c"]
    indices: UInt8[Tensor, "*batch h w"]

    def pixels(self) -> UInt8[Tensor, "*batch h w c"]:
        """The colors of the pixels, uint8 (H, W, C) or (B, H, W, C)."""
        indices = self.indices.int()  # because torch treats uint8 indices as a mask
        if self.palette.ndim == 2:
            return self.palette[indices]
        images = torch.arange(len(indices), device=indices.device)
        return self.palette[images[:, None, None], indices]

    def _repr_html_(self) -> str:
        """HTML for notebooks: the size, the image, and a swatch of each color. Of a batch, the first 8 images."""
        return html_preview(self.palette, self.indices)

    def __repr__(self) -> str:
        return summary_of_fields("IndexedImage", self._asdict())


@eager
def mean_squared_error(
    image: UInt8[Tensor, "*batch h w c"], other: UInt8[Tensor, "*batch h w c"] | IndexedImage
) -> float:
    """Mean over the pixels of dR² + dG² + dB² (Celebi 2011), in squared 8-bit levels. Exact up to the final division.

    Grey counts as three equal channels. With alpha, colors are premultiplied and dA² is added.

    Args:
        image: uint8 (H, W, C) or (B, H, W, C).
        other: image of the same shape, or `IndexedImage` whose pixels have the same shape.

    Raises:
        TypeError: if the image is not a uint8 tensor.
        ValueError: if the image has another shape, or the shapes differ.

    Example:
        >>> black, white = torch.zeros(2, 2, 3, dtype=torch.uint8), torch.full((2, 2, 3), 255, dtype=torch.uint8)
        >>> mean_squared_error(black, white)
        195075.0
    """
    check_image(image, batch=True)
    return mean_error(squared_error(image, other), math.prod(image.shape[:-1]), image.shape[-1])


def mean_error(squared_error: int, n_pixels: int, channels: int) -> float:
    """`mean_squared_error` from the `squared_error` of images with this number of pixels and channels."""
    # The only rounding is this division, so an opaque alpha channel does not change the result.
    return squared_error / (n_pixels * SRGB.unit(channels) ** 2)


def squared_error(
    image: UInt8[Tensor, "*batch c"],
    other: UInt8[Tensor, "*batch c"] | IndexedImage,
) -> int:
    """Sum over the pixels of the squared error in `mean_squared_error`, an integer. With alpha, times 255 squared.

    Args:
        image: uint8 (..., C): an image or a batch.
        other: colors of the same shape, or `IndexedImage` whose indices have the shape (...).

    Raises:
        ValueError: if the shapes differ.
    """
    if isinstance(other, IndexedImage) and other.palette.ndim > 2:
        other = other.pixels()
    indexed = isinstance(other, IndexedImage)
    shape = (*other.indices.shape, other.palette.shape[-1]) if indexed else other.shape
    if shape != image.shape:
        raise ValueError(f"other must have shape {tuple(image.shape)}, like image, got {tuple(shape)}")
    pixels = image.flatten(0, -2)
    other_pixels = other.indices.flatten() if indexed else other.flatten(0, -2)
    if indexed and has_kernels(image):
        low, high = cuda.squared_error(pixels, other.palette, other_pixels).tolist()
        return low + (high << 32)
    palette = SRGB.encode(other.palette) if indexed else None
    total = 0
    for block in blocks_of(pixels, _BLOCK):
        part = other_pixels[block]
        points = SRGB.encode(part) if palette is None else palette.index_select(0, part.int())
        total += int((SRGB.encode(pixels[block]) - points).long().square_().sum())
    return total


def weighted_squared_error(
    colors: UInt8[Tensor, "m c"], counts: Int[Tensor, " m"], palette: UInt8[Tensor, "k c"], labels: Int[Tensor, " m"]
) -> Int[Tensor, " blocks"]:
    """`squared_error` between the pixels of a histogram and their palette colors, as int64 parts whose sum it is.

    Args:
        colors: distinct colors.
        counts: number of pixels of each color.
        palette: palette colors.
        labels: index of the palette color of each color, of any integer dtype but uint8.
    """
    centers, parts = SRGB.encode(palette), []
    for block in blocks_of(colors, _BLOCK):
        squares = (SRGB.encode(colors[block]) - centers.index_select(0, labels[block])).long().square_()
        parts.append(squares.mul_(counts[block, None]).sum())
    return torch.stack(parts)
