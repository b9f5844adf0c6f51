"""Weights of bits by local contrast: errors are visible in smooth areas and hidden in areas of high contrast.

A strong pattern hides a weak pattern in the same place (contrast masking, Legge & Foley 1980). So saving a bit may cost
a larger error where neighboring pixels differ much. It may cost only a small error in a smooth sky, where runs of one
color look like streaks.
"""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from gpukmeans.engines.fused import optimizing as cuda
from gpukmeans.engines.fused.availability import has_kernels
from gpukmeans.engines.native import optimizing
from gpukmeans.engines.native.tensors import takes

WEIGHT, LEAST_WEIGHT, MOST_WEIGHT = 16, 4, 32
"""The neutral weight, and the lowest and highest weights, all in sixteenths."""

# Side of the square blocks of pixels. All pixels of a block have the same weight.
_SIDE = 8


def contrast_weights(image: UInt8[Tensor, "h w c"]) -> UInt8[Tensor, "p q"]:
    """Weight of the bits in each block of 8 x 8 pixels, uint8 (ceil(H / 8), ceil(W / 8)), from 4 to 32.

    The contrast of a block is its sum in `block_differences`, divided by its number of pixels. The contrast of the
    image is the sum over all blocks, divided by the number of all pixels. The weight of a block is 16 times the square
    root of contrast of the block / contrast of the image, rounded down and limited to 4 to 32. In an image without
    contrast all weights are 16.

    Args:
        image: uint8 (H, W, C), whose fully transparent pixels are 0 in all channels.

    Example:
        >>> row = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 3]], dtype=torch.uint8)
        >>> contrast_weights(row[..., None]).tolist()
        [[4, 27]]
    """
    if has_kernels(image):
        return cuda.contrast_weights(image)
    differences = block_differences(image)
    total = int(differences.sum())
    if total == 0:
        return torch.full_like(differences, WEIGHT, dtype=torch.uint8)
    n_pixels = block_sizes(image.shape[0], image.shape[1], image.device)
    # The weight w is the highest with (w / 16)² <= (differences / n_pixels) / (total / all pixels).
    relative = WEIGHT**2 * image.shape[0] * image.shape[1] * differences // (total * n_pixels)
    squares = torch.arange(LEAST_WEIGHT + 1, MOST_WEIGHT + 1, device=image.device).square()
    return (LEAST_WEIGHT + torch.bucketize(relative, squares, right=True)).to(torch.uint8)


def pixel_weights(weights: UInt8[Tensor, "p q"], height: int, width: int) -> Int[Tensor, "h w"]:
    """Weight of each pixel, int32 (H, W), from the weights of blocks, uint8 (ceil(H / 8), ceil(W / 8))."""
    return weights.int().repeat_interleave(_SIDE, dim=0)[:height].repeat_interleave(_SIDE, dim=1)[:, :width]


def weighted(lengths: Tensor, weights: Tensor | None) -> Tensor:
    """Code lengths times weights in sixteenths, rounded down. Without weights, the lengths themselves."""
    return lengths if weights is None else lengths * weights // WEIGHT


def block_differences(image: UInt8[Tensor, "h w c"]) -> Int[Tensor, "p q"]:
    """Sum of absolute differences between neighboring pixels in each block of 8 x 8 pixels.

    Each pixel is compared with the pixel to its left and with the pixel above it, which may be in another block.

    Args:
        image: uint8 (H, W, C).

    Returns:
        Sums over pixels and channels, int64 (ceil(H / 8), ceil(W / 8)).

    Example:
        >>> block_differences(torch.tensor([[5], [7], [4]], dtype=torch.uint8)[..., None]).tolist()
        [[5]]
    """
    if takes(image, dtype=torch.uint8):
        return optimizing.block_differences(image.contiguous())
    if has_kernels(image):
        return cuda.block_differences(image)
    height, width, _ = image.shape
    levels = image.short()
    differences = torch.zeros(height, width, dtype=torch.int32, device=image.device)
    differences[:, 1:] += levels.diff(dim=1).abs().sum(dim=2, dtype=torch.int32)
    differences[1:] += levels.diff(dim=0).abs().sum(dim=2, dtype=torch.int32)
    return block_sums(differences)


def block_sums(values: Int[Tensor, "h w"]) -> Int[Tensor, "p q"]:
    """Sums, int64, of the values of each block of 8 x 8 pixels."""
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % _SIDE, 0, -values.shape[0] % _SIDE))
    return padded.unflatten(1, (-1, _SIDE)).unflatten(0, (-1, _SIDE)).sum(dim=(1, 3))


def block_sizes(height: int, width: int, device: torch.device) -> Int[Tensor, "p q"]:
    """Number of pixels of each block, int64 (ceil(H / 8), ceil(W / 8)): 64, or fewer at the lower and right border."""
    rows, columns = (
        (length - _SIDE * torch.arange(-(-length // _SIDE), device=device)).clamp(max=_SIDE)
        for length in (height, width)
    )
    return rows[:, None] * columns
