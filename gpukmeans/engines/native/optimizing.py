"""Rate-distortion optimization of an indexed image by the kernels of optimizing.c.

Tensors are contiguous and on the CPU. An image is uint8 (H, W, C), C from 1 to 4, and its indices are uint8 (H, W).
Points are the colors of a palette, int32 (K, D), K up to 256. Without alpha, D is 3 and their unit is a level. With
alpha, D is 4, colors are multiplied by alpha, and their unit is 1/255 of a level. A cell is a cube of colors.

`gpukmeans.images.rate_distortion` defines the results and these symbols: e, the errors of all pixels; R, a mixture of
the identity and a blur; and J, which is e·R·e plus the price of all bits. `share` is the weight of the blur in R, from
0 to 256.
"""

from collections.abc import Callable
from ctypes import POINTER, Structure, c_int, c_int32, c_int64, c_void_p
from typing import Any

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from gpukmeans.engines.native.library import fields
from gpukmeans.engines.native.tensors import addresses, empty, kernel, padded, zeros
from gpukmeans.engines.native.threads import run_chunks
from gpukmeans.tiling import blocks

# The number of pixels, of pixels in a sweep, and of cells of one call of a kernel. A call takes at most 50 ms.
_BLOCK, _SWEEP_BLOCK, _CELLS = 1 << 20, 1 << 18, 1 << 13

MAX_TRIED = 8
"""The largest number of colors that are tried for a pixel of a cell."""

# Rows that are this far apart have no common term of J, so threads can change them at the same time.
_APART = 3


class _Nearest(Structure):
    """`struct nearest` of optimizing.c."""

    _fields_ = [
        ("n_colors", c_int64),
        *fields(c_int32, "n", "unit"),
        *fields(c_void_p, "centers", "opaque", "points", "excluded", "lists"),
    ]


class _Picture(Structure):
    """`struct picture` of optimizing.c."""

    _fields_ = [
        *fields(c_int64, "height", "width"),
        *fields(c_int32, "channels", "n_colors", "share", "unused"),
        *fields(c_void_p, "pixels", "indices", "points"),
    ]


class _NormalEquations(Structure):
    """`struct normal_equations` of optimizing.c."""

    _fields_ = fields(c_void_p, "half", "diagonal", "values")


class _Sweep(Structure):
    """`struct sweep` of optimizing.c."""

    _fields_ = [
        *fields(c_int64, "height", "width"),
        *fields(c_int32, "channels", "share"),
        ("price", c_int64),
        *fields(c_void_p, "pixels", "cells", "lists", "indices", "errors", "points", "translucent", "filters"),
        *fields(c_void_p, "lengths", "weights"),
        ("bit", c_int64),
        *fields(c_int32, "per_byte", "n_colors"),
    ]


def color_cells(image: UInt8[Tensor, "h w c"], n_cells: int) -> tuple[Int[Tensor, " m"], Int[Tensor, "h w"]]:
    """The M cells that contain colors of an image, and for each pixel the index into these cells.

    The cells are int64 (M,) in ascending order, the indices int32 (H, W). The function needs `5 * n_cells` bytes in
    addition to the results.

    Args:
        n_cells: the number of cells of all colors: 2**19, with alpha 2**21.
    """
    height, width, channels = image.shape
    arguments = c_int, c_void_p, c_int64, c_int64, c_void_p
    mark = kernel("optimizing_mark_cells", *arguments)
    look_up = kernel("optimizing_number_cells", *arguments, c_void_p)
    used = zeros(n_cells, dtype=torch.bool)
    for block in blocks(height * width, _BLOCK):
        mark(channels, image.data_ptr(), block.start, block.stop, used.data_ptr())
    numbers, index = used.cumsum(0, dtype=torch.int32) - 1, empty(height, width, dtype=torch.int32)

    def compute(start: int, stop: int) -> None:
        look_up(channels, image.data_ptr(), start, stop, *addresses(numbers, index))

    run_chunks(compute, height * width, _BLOCK)
    return used.nonzero().squeeze(1), index


def nearest_to_cells(
    centers: Int[Tensor, "m d"],
    opaque: Bool[Tensor, " m"],
    points: Int[Tensor, "k d"],
    excluded: Bool[Tensor, " k"],
    *,
    unit: int,
    n: int,
) -> UInt8[Tensor, "m n"]:
    """The n colors nearest to the center of each cell, nearest first, the lowest index on ties.

    If fewer than n colors are allowed in an opaque cell, its nearest color fills the remaining places.

    Args:
        centers: twice the centers of cells in levels, int32 (M, D).
        opaque: mask (M,) of the opaque cells.
        excluded: mask (K,) of the colors that are not allowed in opaque cells.
        unit: units of `points` in one level: 1, with alpha 255.
        n: at most K.
    """
    n_colors = len(points)
    _check(n_colors <= 256 and centers.shape[1] == points.shape[1] and n <= n_colors == len(excluded))
    lists = empty(len(centers), n, dtype=torch.uint8)
    planes = (2 * padded(points, 256, 4)).T.contiguous()
    inputs = padded(centers, len(centers), 4), opaque.contiguous(), planes, padded(excluded, 256)
    state = _Nearest(n_colors, n, unit, *addresses(*inputs, lists))
    run = kernel("optimizing_nearest", POINTER(_Nearest), c_int64, c_int64)
    run_chunks(lambda start, stop: run(state, start, stop), len(centers), _CELLS)
    return lists


def block_differences(image: UInt8[Tensor, "h w c"]) -> Int[Tensor, "p q"]:
    """For each block of 8 x 8 pixels the sum of absolute differences between pixels and left and upper neighbors."""
    height, width, channels = image.shape
    sums = zeros(-(-height // 8), -(-width // 8), dtype=torch.int64)
    run = kernel("optimizing_differences", c_int, c_void_p, *[c_int64] * 4, c_void_p)

    def compute(start: int, stop: int) -> None:
        run(channels, image.data_ptr(), height, width, start, stop, sums.data_ptr())

    run_chunks(compute, len(sums), max(1, _BLOCK // (8 * width)))
    return sums


def energy(
    image: UInt8[Tensor, "h w c"], points: Int[Tensor, "k d"], indices: UInt8[Tensor, "h w"], share: int
) -> Int[Tensor, "p q"]:
    """e·R·e of each block of 8 x 8 pixels, int64 (ceil(H / 8), ceil(W / 8)).

    The function needs 96 bytes for each column and thread besides the result.

    Args:
        share: weight of the blur, 0 to 256.
    """
    picture = _Rows(image, points, indices, share)
    energies = zeros(*(-(-length // 8) for length in indices.shape), dtype=torch.int64)
    run = kernel("optimizing_energy", *_ROWS, c_void_p)
    picture.run(lambda *rows: run(*rows, energies.data_ptr()), step=8)
    return energies


def normal_equations(
    image: UInt8[Tensor, "h w c"], indices: UInt8[Tensor, "h w"], n_colors: int, n_dims: int, share: int
) -> tuple[Int[Tensor, "k k"], Int[Tensor, "k d"]]:
    """A (K, K) and V (K, D), int64, of the normal equations A·P = V. Their solution P are the points of least e·R·e.

    The function needs 8 K² bytes for each million pixels, and 96 bytes for each column and thread, in addition to the
    results.

    Args:
        indices: uint8 (H, W), below K.
        n_colors: K, up to 256.
        n_dims: D.
        share: weight of the blur, 0 to 256.
    """
    _check(int(indices.max()) < n_colors)
    picture = _Rows(image, zeros(n_colors, 4, dtype=torch.int32), indices, share)
    run, parts = kernel("optimizing_normal_equations", *_ROWS, POINTER(_NormalEquations)), []

    def compute(*rows: Any) -> None:
        part = [zeros(*shape, dtype=torch.int64) for shape in ((n_colors, n_colors), (n_colors,), (256, 4))]
        run(*rows, _NormalEquations(*addresses(*part)))
        parts.append(part)

    picture.run(compute)
    half, diagonal, values = (torch.stack(tensors).sum(dim=0) for tensors in zip(*parts, strict=True))
    return half + half.T + diagonal.diag(), values[:n_colors, :n_dims].contiguous()


def descend(
    a: Int[Tensor, "k k"],
    residuals: Int[Tensor, "k d"],
    levels: Int[Tensor, "k c"],
    changing: Int[Tensor, " n"],
    *,
    unit: int,
    n_rounds: int,
) -> Int[Tensor, "k c"]:
    """The levels (K, C), int64, after rounds of coordinate descent. The rounds end early if a round changes nothing.

    Args:
        a: A of the normal equations, int64 (K, K).
        residuals: V - A·P, int64 (K, D).
        levels: palette colors without alpha, int64 (K, C), C 1 (gray) or 3.
        changing: indices of the colors that may change, int64 (N,). Their diagonal entries of A must be positive.
        unit: units of a coordinate of P in one level: 1, with alpha 255.
        n_rounds: the largest number of rounds.
    """
    levels, residuals, changing, a = levels.clone(), residuals[:, :3].clone(), changing.contiguous(), a.contiguous()
    _check(len(a) == len(residuals) == len(levels) and levels.shape[1] in (1, 3) and a.shape[0] == a.shape[1])
    arguments = c_void_p, c_int64, c_void_p, c_int64, *[c_int] * 3, c_void_p, c_void_p
    numbers = levels.shape[1], unit, n_rounds
    kernel("optimizing_descend", *arguments)(
        a.data_ptr(), len(a), changing.data_ptr(), len(changing), *numbers, *addresses(residuals, levels)
    )
    return levels


def sweep(
    image: UInt8[Tensor, "h w c"],
    points: Int[Tensor, "k d"],
    indices: UInt8[Tensor, "h w"],
    rows: UInt8[Tensor, "h b"],
    cells: Int[Tensor, "h w"],
    lists: UInt8[Tensor, "m n"],
    *,
    filters: Int[Tensor, " h"] | None,
    lengths: Int[Tensor, "..."],
    weights: UInt8[Tensor, "p q"] | None,
    per_byte: int,
    translucent: Bool[Tensor, " k"] | None,
    share: int,
    price: int,
    bit: int,
) -> UInt8[Tensor, "h b"]:
    """The rows (H, B) after one pass over all bytes, each of which is changed to the byte of the least J.

    The function needs 9 bytes for each pixel, 17 with alpha, and 32 for each column and thread besides the result.

    Args:
        rows: the indices packed to bytes, uint8 (H, B).
        cells: index into `lists` for each pixel, int32 (H, W).
        lists: the colors that are tried for the pixels of each cell, uint8 (M, n), n from 1 to `MAX_TRIED`. The colors
            of the four neighbors of a pixel are tried too.
        filters: PNG filter types of the rows, int32 (H,). None for bits that depend on a pixel and its left neighbor;
            `per_byte` is then 1.
        lengths: code lengths of filtered bytes, int32 (256,). Without `filters`, code lengths of each pair of the index
            of the left neighbor and of the pixel, int32 (256, 256).
        weights: factors of the code lengths in each block of 8 x 8 pixels, in 1/16, uint8 (ceil(H / 8), ceil(W / 8)),
            up to 32. None for factors of 1.
        per_byte: number of pixels in a byte. If it is 2, 4 or 8, all values of a byte are tried instead of `lists`.
        translucent: mask (K,) of the colors that are not allowed for opaque pixels. None if all are allowed.
        share: weight of the blur, 0 to 256.
        price: squared error that a bit costs, with 16 fractional bits, at most `max_price`.
        bit: units of `lengths` in one bit.
    """
    (height, width), n_tried = indices.shape, min(lists.shape[1], MAX_TRIED)
    _check(
        cells.shape == indices.shape
        and rows.shape == (height, -(-width // per_byte))
        and (filters is None or filters.shape == (height,))
        and lengths.shape == ((256, 256) if filters is None else (256,))
        and (filters is not None or per_byte == 1)
        and (weights is None or (weights.shape == (-(-height // 8), -(-width // 8)) and int(weights.max()) <= 32))
        and price <= max_price(image.shape[2])
    )
    _check(1 <= n_tried <= MAX_TRIED and int(cells.max()) < len(lists))
    picture = _Rows(image, points, indices, share)
    errors = picture.errors()
    bordered = torch.nn.functional.pad(rows, (1, 1, 1, 1))
    lists = torch.cat([lists[:, :n_tried], lists[:, :1].expand(-1, MAX_TRIED - n_tried)], dim=1).contiguous()
    translucent = None if translucent is None else padded(translucent, 256)
    state = _Sweep(
        *(height, width, image.shape[2], share, price),
        *addresses(image, cells, lists, bordered, errors, picture.points, translucent, filters, lengths, weights),
        *(bit, per_byte, len(points)),
    )
    run = kernel("optimizing_sweep", POINTER(_Sweep), *[c_int64] * 3, c_void_p)
    for top in range(min(_APART, height)):

        def compute(start: int, stop: int, top: int = top) -> None:
            scratch = empty(2, width + 4, 4, dtype=torch.int32)
            run(state, top, start, stop, scratch.data_ptr())

        run_chunks(compute, -(-(height - top) // _APART), max(1, _SWEEP_BLOCK // width))
    return bordered[1:-1, 1:-1]


def max_price(channels: int) -> int:
    """The highest price of a bit at which J does not overflow, for images with this number of channels."""
    return 1 << (47 if channels % 2 == 0 else 39)


_ROWS = POINTER(_Picture), c_int64, c_int64, c_void_p


class _Rows:
    """An indexed image and its palette as an argument of kernels that compute chunks of rows."""

    def __init__(self, image: Tensor, points: Tensor, indices: Tensor, share: int) -> None:
        height, width, channels = image.shape
        _check(indices.shape == (height, width) and len(points) <= 256 and points.shape[1] <= 4)
        self.points = padded(points, 256, 4)
        self._tensors = image, indices
        tensors = addresses(image, indices, self.points)
        self._state = _Picture(height, width, channels, len(points), share, 0, *tensors)

    def run(self, function: Callable[..., Any], step: int = 1) -> None:
        """Call a kernel for all rows, in chunks of a multiple of `step` rows. A call gets scratch memory of 6 rows."""
        height, width = self._state.height, self._state.width

        def compute(start: int, stop: int) -> None:
            scratch = empty(6, width + 4, 4, dtype=torch.int32)
            function(self._state, start * step, min(stop * step, height), scratch.data_ptr())

        run_chunks(compute, -(-height // step), max(1, _BLOCK // (step * width)))

    def errors(self) -> Tensor:
        """Pixels minus their points, with a margin of zeros: (H + 4, W + 4, 4), int32 with alpha, else int16."""
        dtype = torch.int32 if self._state.channels % 2 == 0 else torch.int16
        errors = zeros(self._state.height + 4, self._state.width + 4, 4, dtype=dtype)
        run = kernel("optimizing_errors", *_ROWS, c_void_p)
        self.run(lambda *rows: run(*rows, errors.data_ptr()))
        return errors


def _check(fits: bool) -> None:
    """ValueError unless shapes and ranges fit each other. Kernels do not check them."""
    if not fits:
        raise ValueError("image, palette, indices, candidates and rate must fit each other, with up to 256 colors")
