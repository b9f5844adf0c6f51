"""Rate-distortion optimization of an indexed image by Triton kernels.

An image is uint8 (H, W, C) on CUDA, C from 1 to 4, its palette uint8 (K, C), K up to 256, and its indices are uint8
(H, W). `gpukmeans.images.rate_distortion` defines the results and these symbols: e, the errors of all pixels; R, a
mixture of the identity and a blur; and J, which is e·R·e plus the price of all bits. `share` is the weight of the blur
in R, from 0 to 256. All results stay on the device, and no function synchronizes with it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from gpukmeans.engines.fused import png
from gpukmeans.engines.fused.availability import has_kernels
from gpukmeans.engines.fused.png import launch, launch_over

# A program processes this many pixels of the normal equations, blocks of 8 x 8 pixels, or cells, or tries this many
# values in a sweep.
_PAIRS, _BLOCKS, _CELLS, _TRIED = 128, 2, 8, 512

MAX_PRICE = 1 << 39
"""The highest price of a bit at which J does not overflow, for images without alpha. With alpha, 256 times that."""


def supports(image: Tensor, price: int) -> bool:
    """Whether there are kernels for the device of the image and for a price of a bit."""
    return has_kernels(image) and price <= MAX_PRICE << (8 if image.shape[-1] % 2 == 0 else 0)


@dataclass(frozen=True, eq=False)
class ColorCells:
    """Cells of the colors of an image: see `gpukmeans.images.rate_distortion.ColorCells`.

    Args:
        numbers: twice the number of each cell in color space, plus 1 for opaque pixels, int32, for the M cells used.
        count: M, int32 () on the device.
        index: cell of each pixel, int32 (H, W).
    """

    numbers: Int[Tensor, " n"]
    count: Int[Tensor, ""]
    index: Int[Tensor, "h w"]

    def nearest(self, palette: UInt8[Tensor, "k c"], n: int) -> "Candidates":
        """The n palette colors nearest to the center of each cell, as by `ColorCells.nearest` of torch operations."""
        import gpukmeans.engines.fused.optimizing_kernels as kernels

        n_colors, channels = palette.shape
        n, n_cells = min(n, n_colors), len(self.numbers)
        lists = torch.empty(n_cells, n, dtype=torch.uint8, device=palette.device)
        arguments = lists, self.numbers, self.count, palette.contiguous(), n_colors, n
        launch(kernels.nearest_kernel, -(-n_cells // _CELLS), *arguments, channels=channels, block=_CELLS)
        return Candidates(self.index, lists)


class Candidates(NamedTuple):
    """Cell of each pixel, int32 (H, W), and the colors that are tried for the pixels of each cell, uint8 (M, n)."""

    cells: Int[Tensor, "h w"]
    lists: UInt8[Tensor, "m n"]


def color_cells(image: UInt8[Tensor, "h w c"]) -> ColorCells:
    """Cells of the colors of an image. The function needs 5 bytes for each of 2**19 cells, 2**21 with alpha."""
    import gpukmeans.engines.fused.optimizing_kernels as kernels

    height, width, channels = image.shape
    image, n_cells = image.contiguous(), 1 << (21 if channels % 2 == 0 else 19)
    used = torch.zeros(n_cells, dtype=torch.uint8, device=image.device)
    launch_over(kernels.mark_kernel, height * width, used, image, height * width, channels=channels)
    ends = used.cumsum(0, dtype=torch.int32)
    index = torch.empty(height, width, dtype=torch.int32, device=image.device)
    numbers = torch.empty(min(n_cells, height * width), dtype=torch.int32, device=image.device)
    arguments = index, numbers, ends, image, height * width
    launch_over(kernels.number_kernel, height * width, *arguments, channels=channels)
    return ColorCells(numbers, ends[-1], index)


def contrast_weights(image: UInt8[Tensor, "h w c"]) -> UInt8[Tensor, "p q"]:
    """Weight of the bits in each block of 8 x 8 pixels, as by `gpukmeans.images.contrast.contrast_weights`."""
    import gpukmeans.engines.fused.optimizing_kernels as kernels

    height, width, _ = image.shape
    total = torch.zeros((), dtype=torch.int64, device=image.device)
    sums = block_differences(image, total)
    weights = torch.empty(sums.shape, dtype=torch.uint8, device=image.device)
    launch_over(kernels.weights_kernel, sums.numel(), weights, sums, total, height, width)
    return weights


def block_differences(image: UInt8[Tensor, "h w c"], total: Int[Tensor, ""] | None = None) -> Int[Tensor, "p q"]:
    """For each block of 8 x 8 pixels the sum of absolute differences between pixels and left and upper neighbors.

    The sum over all blocks is added to `total`, if given.
    """
    import gpukmeans.engines.fused.optimizing_kernels as kernels

    height, width, channels = image.shape
    sums = _of_blocks(image)
    arguments = sums, total, image.contiguous(), height, width
    launch(kernels.differences_kernel, _n_programs(sums), *arguments, channels=channels, n_blocks=_BLOCKS)
    return sums


def block_energies(
    image: UInt8[Tensor, "h w c"], palette: UInt8[Tensor, "k c"], indices: UInt8[Tensor, "h w"], share: int
) -> Int[Tensor, "p q"]:
    """e·R·e of each block of 8 x 8 pixels, int64 (ceil(H / 8), ceil(W / 8))."""
    energies = _of_blocks(image)
    _add_energy(image, palette, indices, share, energies, None)
    return energies


def squared_error(
    image: UInt8[Tensor, "n c"], palette: UInt8[Tensor, "k c"], indices: UInt8[Tensor, " n"]
) -> Int[Tensor, "2"]:
    """Squared error of all pixels as two int64: the lower 32 bits, not yet carried, and the multiple of 2**32."""
    import gpukmeans.engines.fused.optimizing_kernels as kernels

    n, channels = image.shape
    total = torch.zeros(2, dtype=torch.int64, device=image.device)
    arguments = total, image.contiguous(), indices.contiguous(), palette.contiguous(), n
    launch_over(kernels.squared_error_kernel, n, *arguments, channels=channels)
    return total


def opaque_last(
    order: Int[Tensor, " k"], palette: UInt8[Tensor, "k c"]
) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"], UInt8[Tensor, "k c"]]:
    """The order with opaque colors last, the place of each color in it, and the ordered palette."""
    import gpukmeans.engines.fused.optimizing_kernels as kernels

    n_colors, channels = palette.shape
    new_order, places = torch.empty_like(order), torch.empty_like(order)
    ordered = torch.empty(n_colors, channels, dtype=torch.uint8, device=palette.device)
    tensors = new_order, places, ordered, order, palette.contiguous()
    launch(kernels.order_kernel, 1, *tensors, n_colors, channels=channels)
    return new_order, places, ordered


class Best:
    """The indexed image of the least cost of some rounds, the first on ties. Costs are compared on the device.

    Args:
        image: uint8 (H, W, C).
        palette: any palette uint8 (K, C).
        n_rounds: number of rounds.
        share: weight of the blur in the cost.
        price: price of a bit.
    """

    def __init__(self, image: Tensor, palette: Tensor, *, n_rounds: int, share: int, price: int) -> None:
        self.palette = torch.empty(palette.shape, dtype=torch.uint8, device=image.device)
        self.indices = torch.empty(image.shape[:2], dtype=torch.uint8, device=image.device)
        self._image, self._share, self._price, self._n_offered = image.contiguous(), share, price, 0
        self._costs = torch.zeros(n_rounds, 3, dtype=torch.int64, device=image.device)

    def offer(self, palette: Tensor, indices: Tensor, ordered: Tensor, rate: Any) -> None:
        """Keep this palette and these indices if their cost is less than all costs before.

        Args:
            palette: uint8 (K, C).
            indices: uint8 (H, W).
            ordered: the indices whose bits count, uint8 (H, W).
            rate: a `PngRate` or `GifRate`.
        """
        import gpukmeans.engines.fused.optimizing_kernels as kernels

        cost, palette, indices = self._costs[self._n_offered], palette.contiguous(), indices.contiguous()
        _add_energy(self._image, palette, indices, self._share, None, cost)
        if self._price:
            png.bits(png.packed(ordered, rate.per_byte), rate.filters, rate.lengths, rate.weights, cost[2])
        tensors = self.palette, self.indices, palette, indices, self._costs
        sizes = self._price, self._n_offered, indices.numel(), palette.numel()
        launch_over(kernels.keep_kernel, indices.numel(), *tensors, *sizes)
        self._n_offered += 1


def refitted(
    image: UInt8[Tensor, "h w c"],
    palette: UInt8[Tensor, "k c"],
    indices: UInt8[Tensor, "h w"],
    free: Bool[Tensor, " k"],
    *,
    share: int,
    n_rounds: int,
) -> UInt8[Tensor, "k c"]:
    """The palette after coordinate descent on e·R·e, as by `gpukmeans.images.rate_distortion.refitted`."""
    import gpukmeans.engines.fused.optimizing_kernels as kernels

    (height, width, channels), n_colors = image.shape, len(palette)
    sums = torch.zeros(n_colors, n_colors + 4, dtype=torch.int64, device=image.device).flatten()
    a, v = sums[: n_colors**2], sums[n_colors**2 :]
    tensors = a, v, image.contiguous(), indices.contiguous()
    options = {"blurred": share > 0, "channels": channels}
    n_programs = -(-indices.numel() // _PAIRS)
    sizes = share, n_colors, height, width
    launch(kernels.normal_equations_kernel, n_programs, *tensors, *sizes, block=_PAIRS, **options)
    new_palette = torch.empty(n_colors, channels, dtype=torch.uint8, device=image.device)
    tensors = new_palette, palette.contiguous(), free.contiguous(), a, v
    launch(kernels.descend_kernel, 1, *tensors, n_colors, n_rounds, channels=channels, num_warps=2)
    return new_palette


def sweep(
    image: UInt8[Tensor, "h w c"],
    palette: UInt8[Tensor, "k c"],
    indices: UInt8[Tensor, "h w"],
    candidates: Any,
    rate: Any,
    *,
    share: int,
    price: int,
) -> None:
    """Change the contiguous indices in place, as by `gpukmeans.images.rate_distortion.sweep`: one launch a phase.

    The function needs 8 bytes for each pixel, 16 with alpha.

    Args:
        image: uint8 (H, W, C).
        palette: uint8 (K, C).
        indices: uint8 (H, W).
        candidates: a `Candidates`.
        rate: a `PngRate` or `GifRate`.
        share: weight of the blur.
        price: squared error that a bit costs, with 16 fractional bits, at most `MAX_PRICE`, with alpha 256 times that.
    """
    import gpukmeans.engines.fused.optimizing_kernels as kernels

    (height, width, channels), n_colors = image.shape, len(palette)
    image, palette = image.contiguous(), palette.contiguous()
    dtype = torch.int32 if channels % 2 == 0 else torch.int16
    errors = torch.empty(height, width, 4, dtype=dtype, device=image.device)
    n = indices.numel()
    launch_over(kernels.errors_kernel, n, errors, image, indices, palette, n, channels=channels)
    rows, by_pixel = png.packed(indices, rate.per_byte), rate.per_byte == 1
    n_columns, n_listed, apart = rows.shape[1], candidates.lists.shape[1], 3 if by_pixel else 2
    lists = (candidates.cells, candidates.lists) if by_pixel else (None, None)
    bits = (rate.filters, rate.lengths, rate.weights) if price else (None, None, None)
    n_tried = 1 << (n_listed + 4).bit_length() if by_pixel else 256
    options = {"blurred": share > 0, "per_byte": rate.per_byte, "channels": channels, "n_tried": n_tried}
    block = _TRIED // n_tried
    for top in range(min(3, height)):
        for left in range(min(apart, n_columns)):
            n_bytes = -(-(height - top) // 3) * -(-(n_columns - left) // apart)
            tensors = rows, errors, image, palette, *lists, *bits
            sizes = price, share, top, left, height, width, n_columns, n_colors, n_listed
            launch(kernels.sweep_kernel, -(-n_bytes // block), *tensors, *sizes, block=block, num_warps=8, **options)
    if not by_pixel:
        png.unpack(rows, rate.per_byte, indices)


def _add_energy(
    image: Tensor, palette: Tensor, indices: Tensor, share: int, energies: Tensor | None, total: Tensor | None
) -> None:
    import gpukmeans.engines.fused.optimizing_kernels as kernels

    height, width, channels = image.shape
    tensors = energies, total, image.contiguous(), indices.contiguous(), palette.contiguous()
    n_programs = -(-height // 8) * -(-width // (8 * _BLOCKS))
    options = {"blurred": share > 0, "channels": channels, "n_blocks": _BLOCKS}
    launch(kernels.energy_kernel, n_programs, *tensors, share, height, width, **options)


def _of_blocks(image: Tensor) -> Tensor:
    """An uninitialized int64 for each block of 8 x 8 pixels."""
    height, width, _ = image.shape
    return torch.empty(-(-height // 8), -(-width // 8), dtype=torch.int64, device=image.device)


def _n_programs(of_blocks: Tensor) -> int:
    return of_blocks.shape[0] * -(-of_blocks.shape[1] // _BLOCKS)
