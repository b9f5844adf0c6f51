"""Floyd-Steinberg error diffusion by the kernels of dithering.c. `gpukmeans.images.dithering` defines the results.

Tensors are contiguous and on the CPU. An image is uint8 (H, W, C), C from 1 to 4. The colors of a palette are int32
(K, C), K up to 256, premultiplied by alpha, in units of 1/16 of an 8-bit level.

The inverse palette has the palette color nearest to each cell of a grid. The grid divides a box of colors into cubes.
"""

import math
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_int, c_int32, c_int64, c_void_p

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from gpukmeans.engines.native.library import fields
from gpukmeans.engines.native.tensors import addresses, empty, kernel, padded, zeros
from gpukmeans.engines.native.threads import run_chunks
from gpukmeans.tiling import blocks

# The number of pixels, and of cells, of one call of a kernel. A call takes at most 50 ms.
_BLOCK = 1 << 20
_CELLS = 1 << 16

_PerChannel = c_int32 * 4


class _InversePalette(Structure):
    """`struct inverse_palette` of dithering.c."""

    _fields_ = [
        *fields(_PerChannel, "lowest", "sizes"),
        *fields(c_int32, "shift", "channels", "n_colors"),
        ("palette", c_void_p * 4),
        *fields(c_void_p, "opaque", "cells"),
    ]


class _Diffusion(Structure):
    """`struct diffusion` of dithering.c."""

    _fields_ = [
        *fields(_PerChannel, "lowest", "span", "sizes"),
        *fields(c_int32, "shift", "limit", "strength", "channels"),
        ("width", c_int64),
        *fields(c_void_p, "palette", "cells", "pixels", "nearest", "indices", "errors"),
    ]


def color_range(image: UInt8[Tensor, "h w c"]) -> Int[Tensor, "2 c"]:
    """Lowest and highest value of each channel of an image, int32 (2, C), in the units of a palette."""
    pixels, channels = image.flatten(0, 1), image.shape[2]
    extremes = torch.tensor([1 << 16, 0], dtype=torch.int32, device="cpu").repeat_interleave(channels).view(2, channels)
    extend = kernel("dithering_range", c_int, c_void_p, c_int64, c_int64, c_void_p, c_void_p)
    for block in blocks(len(pixels), _BLOCK):
        extend(channels, pixels.data_ptr(), block.start, block.stop, *addresses(*extremes))
    return extremes


def inverse_palette(
    colors: Int[Tensor, "k c"],
    opaque: Bool[Tensor, " k"],
    *,
    lowest: Sequence[int],
    sizes: Sequence[int],
    shift: int,
) -> UInt8[Tensor, " n"]:
    """Index of the color nearest to the center of each cell of a box, the lowest on ties.

    Cells that differ only in the last channel are contiguous; they are a row. With alpha, each row ends with an extra
    cell for opaque pixels. Its center is the center of the cell before it, which has the highest alpha. Its color is
    the nearest of the colors in the mask `opaque`; other cells may have any color.

    Args:
        opaque: mask (K,) of the colors for opaque pixels, at least one.
        lowest: the lowest value of each channel in the box.
        sizes: the number of cells along each channel.
        shift: binary logarithm of the side of a cell.
    """
    n_colors, channels = colors.shape
    _check(n_colors <= 256 and opaque.shape == (n_colors,) and len(lowest) == len(sizes) == channels)
    cells = empty(math.prod(sizes), dtype=torch.uint8)
    palette = colors.T.float().contiguous()
    box = _PerChannel(*lowest), _PerChannel(*sizes), shift
    colors_of_channels = (c_void_p * 4)(*addresses(*palette))
    state = _InversePalette(*box, channels, n_colors, colors_of_channels, *addresses(opaque, cells))
    fill = kernel("dithering_inverse_palette", POINTER(_InversePalette), c_int64, c_int64)
    run_chunks(lambda start, stop: fill(state, start, stop), math.prod(sizes[:-1]), -(-_CELLS // sizes[-1]))
    return cells


def diffuse(
    image: UInt8[Tensor, "h w c"],
    colors: Int[Tensor, "k c"],
    nearest: UInt8[Tensor, "h w"],
    cells: UInt8[Tensor, " n"],
    *,
    lowest: Sequence[int],
    span: Sequence[int],
    sizes: Sequence[int],
    shift: int,
    limit: int,
    strength: int,
) -> UInt8[Tensor, "h w"]:
    """Palette indices (H, W), uint8, of the pixels of an image by error diffusion, on one thread.

    The function needs 16 bytes for each column besides the result.

    Args:
        nearest: uint8 (H, W), the index of the nearest color of each pixel. A pixel is not dithered if it is fully
            transparent, or within one 8-bit level of this color in each channel. Its result is then this index.
        cells: the inverse palette, from `inverse_palette`.
        lowest: the lowest value of each channel in the box of the inverse palette.
        span: the side of this box in each channel. A pixel plus the errors it receives is clamped to the box.
        sizes: the number of cells of the inverse palette along each channel.
        shift: binary logarithm of the side of a cell.
        limit: in the units of `colors`. If an error exceeds the limit in a channel, half of the excess is dropped.
            `gpukmeans.images.dithering` passes the spacing of the palette.
        strength: the part of the remaining error that is diffused, in 1/256.
    """
    height, width, channels = image.shape
    _check(nearest.shape == (height, width) and len(colors) <= 256 and len(cells) == math.prod(sizes))
    _check(colors.shape[1] == len(lowest) == len(span) == len(sizes) == channels)
    # 256 colors, so that every uint8 index is valid in the kernel.
    palette = padded(colors - torch.tensor(lowest, dtype=torch.int32, device="cpu"), 256, 4)
    errors = zeros(width + 1, 4, dtype=torch.int32)
    indices = empty(height, width, dtype=torch.uint8)
    state = _Diffusion(
        *(_PerChannel(*values) for values in (lowest, span, sizes)),
        *(shift, limit, strength, channels, width),
        *addresses(palette, cells, image, nearest, indices, errors),
    )
    run = kernel("dithering_diffuse", POINTER(_Diffusion), c_int64, c_int64)
    for rows in blocks(height, _BLOCK // width):
        run(state, rows.start, rows.stop)
    return indices


def _check(fits: bool) -> None:
    """ValueError unless the shapes fit each other. Kernels do not check shapes."""
    if not fits:
        raise ValueError(
            "image, palette and nearest colors must have shapes (H, W, C), (K, C), K up to 256, and (H, W)"
        )
