"""Floyd-Steinberg error diffusion by Triton kernels: range of colors, inverse palette, diffusion.

Images are uint8 (H, W, C) on CUDA, C from 1 to 4, and colors of a palette int32 (K, C) on the CPU, K up to 256,
premultiplied, in sixteenths of an 8-bit level. `gpukmeans.images.dithering` defines the results.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from gpukmeans.engines.fused.availability import unavailable_reason

# Pixels of a program of `range_kernel`, and cells of a program of `inverse_palette_kernel`.
_BLOCK = 512
# Rows of a strip, one per thread. With 1024 threads a program would have too few registers.
_MAX_ROWS = 512


def supports(image: Tensor) -> bool:
    """Whether there are kernels for the device of the image."""
    return image.device.type == "cuda" and unavailable_reason() is None


def color_range(image: UInt8[Tensor, "h w c"]) -> Int[Tensor, "2 c"]:
    """Lowest and highest value of each channel, premultiplied, in sixteenths of a level, int32 (2, C) on the CPU."""
    import gpukmeans.engines.fused.dithering_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    height, width, channels = image.shape
    extremes = torch.full((2, 4), 1 << 16, dtype=torch.int32, device=image.device)
    n = height * width
    grid = (-(-n // _BLOCK),)
    run_kernel(kernels.range_kernel, grid, extremes, image.contiguous(), n, channels=channels, block=_BLOCK)
    lowest, negative_highest = extremes.cpu()[:, :channels]
    return torch.stack([lowest, -negative_highest])


def inverse_palette(
    colors: Int[Tensor, "k c"],
    opaque: Bool[Tensor, " k"],
    *,
    lowest: Sequence[int],
    sizes: Sequence[int],
    shift: int,
    device: torch.device,
) -> UInt8[Tensor, " n"]:
    """Index of the color nearest to each cell of a box, the lowest on ties, on the device.

    With alpha, the last cell of each row is for opaque colors. It has the same center as the cell before it.

    Args:
        colors: int32 (K, C).
        opaque: mask (K,) of the colors that cells of opaque colors may have, at least one.
        lowest: (C,), the corner of the box.
        sizes: (C,), the number of cells along each channel.
        shift: binary logarithm of the side of a cell.
        device: device of the result.
    """
    import gpukmeans.engines.fused.dithering_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    n_colors, channels = colors.shape
    n_cells = math.prod(sizes)
    cells = torch.empty(n_cells, dtype=torch.uint8, device=device)
    # One tensor and one copy: the palette, the mask, the corner and the sizes.
    rows = torch.cat(
        [
            _padded(colors),
            _padded(opaque.int()[:, None]),
            _padded(torch.tensor([lowest, sizes], dtype=torch.int32, device="cpu")),
        ]
    )
    rows = rows.to(device)
    palette, mask, box = rows[:n_colors].float(), rows[n_colors : 2 * n_colors, 0].contiguous(), rows[2 * n_colors :]
    tensors, sizes = (cells, palette, mask, box), (shift, n_colors, n_cells, sizes[-1])
    grid = (-(-n_cells // _BLOCK),)
    run_kernel(kernels.inverse_palette_kernel, grid, *tensors, *sizes, channels=channels, block=_BLOCK)
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
    """Indices (H, W), uint8, of the pixels of an image by error diffusion, in one launch.

    In addition to the result this takes 16 bytes for each column.

    Args:
        image: uint8 (H, W, C).
        colors: int32 (K, C).
        nearest: uint8 (H, W), the indices of pixels that are not dithered.
        cells: the inverse palette, from `inverse_palette`.
        lowest: (C,), the corner of its box.
        span: (C,), the highest target color minus the lowest.
        sizes: (C,), the number of its cells along each channel.
        shift: binary logarithm of the side of a cell.
        limit: spacing of the palette.
        strength: strength in 256ths.
    """
    import gpukmeans.engines.fused.dithering_kernels as kernels
    from gpukmeans.engines.fused.launch import run_kernel

    height, width, channels = image.shape
    strides = [math.prod(sizes[channel + 1 :]) for channel in range(channels)]
    corner = torch.tensor(lowest, dtype=torch.int32, device="cpu")
    # Padded to 256 colors, so that every uint8 index is valid. One tensor and one copy.
    palette = torch.nn.functional.pad(_padded(colors - corner), (0, 0, 0, 256 - len(colors)))
    rows = torch.cat(
        [palette, _padded(torch.tensor([list(lowest), list(span), strides], dtype=torch.int32, device="cpu"))]
    ).to(image.device)
    indices = torch.empty(height, width, dtype=torch.uint8, device=image.device)
    edge = torch.empty(width, 4, dtype=torch.int32, device=image.device)
    lanes = min(_MAX_ROWS, max(32, 1 << (height - 1).bit_length()))
    tensors = indices, edge, image.contiguous(), nearest.contiguous(), cells, rows[:256], rows[256:]
    numbers = shift, limit, strength, sizes[-1] - 1, height, width
    run_kernel(kernels.diffuse_kernel, (1,), *tensors, *numbers, channels=channels, rows=lanes, num_warps=lanes // 32)
    return indices


def _padded(values: Tensor) -> Tensor:
    """Rows (N, C), padded by zeros to 4 channels."""
    return torch.nn.functional.pad(values, (0, 4 - values.shape[1]))
