"""Floyd-Steinberg error diffusion of a batch of images by Triton kernels: color ranges, inverse palettes, diffusion.

Images are uint8 (B, H, W, C) on CUDA, C from 1 to 4, and colors of a palette int32 (K, C) on the CPU, K up to 256,
premultiplied, in sixteenths of an 8-bit level. `gpukmeans.images.dithering` defines the results.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.transfers import from_host

# Pixels of a program of `range_kernel`, and cells of a program of `inverse_palette_kernel`.
_BLOCK = 512
# Rows of a strip, one per thread. With 1024 threads a program would have too few registers.
_MAX_ROWS = 512


class Target(NamedTuple):
    """The palette of one image, and the box of its inverse palette.

    `colors` int32 (K, C) are the colors, and `opaque` (K,) is the mask of the colors that opaque pixels may take, at
    least one. `lowest` (C,) is the corner of the box, `span` (C,) the highest target color minus the lowest, and
    `sizes` (C,) the number of cells along each channel. With alpha, the last cell of each row is for opaque colors; it
    has the same center as the cell before it. `shift` is the binary logarithm of the side of a cell, and `limit` the
    spacing of the palette.
    """

    colors: Tensor
    opaque: Tensor
    lowest: Sequence[int]
    span: Sequence[int]
    sizes: Sequence[int]
    shift: int
    limit: int


def color_ranges(images: UInt8[Tensor, "b h w c"]) -> Int[Tensor, "b 2 c"]:
    """Lowest and highest premultiplied value of each channel, in sixteenths of a level, int32 (B, 2, C) on the CPU."""
    import gpukmeans.engines.fused.dithering_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    n_images, height, width, channels = images.shape
    extremes = torch.full((n_images, 2, 4), 1 << 16, dtype=torch.int32, device=images.device)
    n = height * width
    grid = (-(-n // _BLOCK), n_images)
    run_kernel(kernels.range_kernel, grid, extremes, images.contiguous(), n, channels=channels, block=_BLOCK)
    lowest, negative_highest = extremes.cpu()[:, :, :channels].unbind(1)
    return torch.stack([lowest, -negative_highest], dim=1)


def diffuse(
    images: UInt8[Tensor, "b h w c"], targets: Sequence[Target], nearest: UInt8[Tensor, "b h w"], strength: int
) -> UInt8[Tensor, "b h w"]:
    """Indices (B, H, W), uint8, of the pixels by error diffusion, in two launches for all images.

    In addition to the result and the inverse palettes this takes 16 bytes for each column of each image.

    Args:
        images: uint8 (B, H, W, C).
        targets: the palette and the box of each image.
        nearest: uint8 (B, H, W), the indices of pixels that are not dithered.
        strength: strength in 256ths.
    """
    import gpukmeans.engines.fused.dithering_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    (n_images, height, width, channels), device = images.shape, images.device
    n_cells = [math.prod(target.sizes) for target in targets]
    offsets = torch.tensor([0, *itertools.accumulate(n_cells)], device="cpu")
    palettes, masks, boxes = (torch.stack(rows) for rows in zip(*map(_arrays, targets), strict=True))
    offsets, palettes, masks, boxes = from_host(device, offsets, palettes, masks, boxes)
    cells = torch.empty(sum(n_cells), dtype=torch.uint8, device=device)
    of_targets = cells, palettes, boxes, offsets
    grid = (-(-max(n_cells) // _BLOCK), n_images)
    run_kernel(kernels.inverse_palette_kernel, grid, *of_targets, masks, channels=channels, block=_BLOCK)
    indices = torch.empty(n_images, height, width, dtype=torch.uint8, device=device)
    edges = torch.empty(n_images, width, 4, dtype=torch.int32, device=device)
    lanes = min(_MAX_ROWS, max(32, 1 << (height - 1).bit_length()))
    tensors = indices, edges, images.contiguous(), nearest.contiguous(), *of_targets
    constants = {"channels": channels, "rows": lanes, "num_warps": lanes // 32}
    run_kernel(kernels.diffuse_kernel, (n_images,), *tensors, strength, height, width, **constants)
    return indices


def _arrays(target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """`palettes`, `masks` and `boxes` of the kernels for one image, int32."""
    # Padded to 256 colors, so that every uint8 index is valid.
    n_more, corner = 256 - len(target.colors), torch.tensor(target.lowest, dtype=torch.int32, device="cpu")
    palette = torch.nn.functional.pad(_padded(target.colors - corner), (0, 0, 0, n_more))
    mask = torch.nn.functional.pad(target.opaque.int(), (0, n_more))
    strides = [math.prod(target.sizes[channel + 1 :]) for channel in range(len(target.sizes))]
    channels = [[*target.lowest], [*target.span], [*target.sizes], strides]
    numbers = [target.shift, target.limit, len(target.colors), 0]
    box = _padded(torch.tensor(channels, dtype=torch.int32, device="cpu"))
    return palette, mask, torch.cat([box, torch.tensor([numbers], dtype=torch.int32, device="cpu")])


def _padded(values: Tensor) -> Tensor:
    """Rows (N, C), padded by zeros to 4 channels."""
    return torch.nn.functional.pad(values, (0, 4 - values.shape[1]))
