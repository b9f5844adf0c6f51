"""Rate-distortion optimization of an indexed image by the kernels of optimizing.c.

Tensors are contiguous and on the CPU: images uint8 (H, W, C), C from 1 to 4, indices uint8 (H, W), and points of a
palette int32 (K, D), premultiplied, K up to 256. `gpukmeans.images.rate_distortion` defines the results, and the
symbols J (e·R·e plus price times bits), e (the errors of all pixels) and R (a mixture of the identity and a blur).
"""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from gpukmeans.engines.native.library import load, pointers
from gpukmeans.engines.native.threads import run_chunks
from gpukmeans.tiling import blocks

# The number of pixels, or of cells, of one call, which takes at most 50 ms.
_BLOCK, _SWEEP_BLOCK, _CELLS = 1 << 20, 1 << 18, 1 << 13

MAX_TRIED = 8
"""The largest number of colors that are tried for a cell."""

# Pixels that are this many rows apart are independent.
_APART = 3


class _Nearest(ctypes.Structure):
    """`struct nearest` of optimizing.c."""

    _fields_ = [
        ("n_colors", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("n", "unit")),
        *pointers("centers", "opaque", "points", "excluded", "lists"),
    ]


class _Picture(ctypes.Structure):
    """`struct picture` of optimizing.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("height", "width")),
        *((name, ctypes.c_int32) for name in ("channels", "n_colors", "share", "unused")),
        *pointers("pixels", "indices", "points"),
    ]


class _NormalEquations(ctypes.Structure):
    """`struct normal_equations` of optimizing.c."""

    _fields_ = pointers("half", "diagonal", "values")


class _Sweep(ctypes.Structure):
    """`struct sweep` of optimizing.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("height", "width")),
        *((name, ctypes.c_int32) for name in ("channels", "share")),
        ("price", ctypes.c_int64),
        *pointers("pixels", "cells", "lists", "indices", "errors", "points", "translucent", "filters"),
        *pointers("lengths", "weights"),
        ("bit", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("per_byte", "n_colors")),
    ]


def color_cells(image: UInt8[Tensor, "h w c"], n_cells: int) -> tuple[Int[Tensor, " m"], Int[Tensor, "h w"]]:
    """The M cells that contain colors of an image, int64 (M,) ascending, and the cell of each pixel as an index, int32.

    In addition to the results this takes 5 bytes for each of all cells.

    Args:
        image: uint8 (H, W, C).
        n_cells: number of all cells: 2**19, with alpha 2**21.
    """
    height, width, channels = image.shape
    arguments = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    mark, look_up = _function("mark_cells", *arguments), _function("number_cells", *arguments, ctypes.c_void_p)
    used = _zeros(n_cells, dtype=torch.bool)
    for block in blocks(height * width, _BLOCK):
        mark(channels, image.data_ptr(), block.start, block.stop, used.data_ptr())
    numbers, index = used.cumsum(0, dtype=torch.int32) - 1, _empty(height, width, dtype=torch.int32)

    def kernel(start: int, stop: int) -> None:
        look_up(channels, image.data_ptr(), start, stop, numbers.data_ptr(), index.data_ptr())

    run_chunks(kernel, height * width, _BLOCK)
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
    """The n colors nearest to each cell, the lowest on ties. The nearest color replaces a color that is excluded.

    Args:
        centers: twice the centers of cells, int32 (M, D).
        opaque: mask (M,) of the cells with exclusions.
        points: points of the palette, int32 (K, D).
        excluded: mask (K,) of the colors that are excluded from opaque cells.
        unit: factor of the centers.
        n: at most K.
    """
    n_colors = len(points)
    _check(n_colors <= 256 and centers.shape[1] == points.shape[1] and n <= n_colors == len(excluded))
    lists = _empty(len(centers), n, dtype=torch.uint8)
    planes = (2 * _padded(points)).T.contiguous()
    inputs = _padded(centers, len(centers)), opaque, planes, torch.nn.functional.pad(excluded, (0, 256 - n_colors))
    inputs = [tensor.contiguous() for tensor in inputs]
    state = _Nearest(n_colors, n, unit, *(tensor.data_ptr() for tensor in (*inputs, lists)))
    run = _function("nearest", ctypes.POINTER(_Nearest), ctypes.c_int64, ctypes.c_int64)
    run_chunks(lambda start, stop: run(state, start, stop), len(centers), _CELLS)
    return lists


def block_differences(image: UInt8[Tensor, "h w c"]) -> Int[Tensor, "p q"]:
    """Sums, int64, of absolute differences of the pixels of each 8 x 8 block from their left and upper neighbors.

    Args:
        image: uint8 (H, W, C).
    """
    height, width, channels = image.shape
    sums = _zeros(-(-height // 8), -(-width // 8), dtype=torch.int64)
    run = _function("differences", ctypes.c_int, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p)

    def kernel(start: int, stop: int) -> None:
        run(channels, image.data_ptr(), height, width, start, stop, sums.data_ptr())

    run_chunks(kernel, len(sums), max(1, _BLOCK // (8 * width)))
    return sums


def energy(
    image: UInt8[Tensor, "h w c"], points: Int[Tensor, "k d"], indices: UInt8[Tensor, "h w"], share: int
) -> Int[Tensor, "p q"]:
    """e·R·e of each block of 8 x 8 pixels, int64 (ceil(H / 8), ceil(W / 8)).

    In addition to the result this takes 96 bytes for each column and thread.

    Args:
        image: uint8 (H, W, C).
        points: int32 (K, D).
        indices: uint8 (H, W).
        share: weight of the blurred error, 0 to 256.
    """
    picture = _Rows(image, points, indices, share)
    energies = _zeros(*(-(-length // 8) for length in indices.shape), dtype=torch.int64)
    run = _function("energy", *_ROWS, ctypes.c_void_p)
    picture.run(lambda *rows: run(*rows, energies.data_ptr()), step=8)
    return energies


def normal_equations(
    image: UInt8[Tensor, "h w c"], indices: UInt8[Tensor, "h w"], n_colors: int, n_dims: int, share: int
) -> tuple[Int[Tensor, "k k"], Int[Tensor, "k d"]]:
    """A (K, K) and V (K, D), int64, of the normal equations A·P = V of e·R·e.

    In addition to the results this takes 8 K² bytes for each million pixels, and 96 bytes for each column and thread.

    Args:
        image: uint8 (H, W, C).
        indices: uint8 (H, W), below K.
        n_colors: K, up to 256.
        n_dims: D.
        share: weight of the blurred error, 0 to 256.
    """
    _check(int(indices.max()) < n_colors)
    picture = _Rows(image, torch.zeros(n_colors, 4, dtype=torch.int32, device="cpu"), indices, share)
    run, parts = _function("normal_equations", *_ROWS, ctypes.POINTER(_NormalEquations)), []

    def kernel(*rows: Any) -> None:
        part = [_zeros(*shape, dtype=torch.int64) for shape in ((n_colors, n_colors), (n_colors,), (256, 4))]
        run(*rows, _NormalEquations(*(tensor.data_ptr() for tensor in part)))
        parts.append(part)

    picture.run(kernel)
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
    """The levels (K, C), int64, after rounds of coordinate descent, or when nothing changes.

    Args:
        a: A of the normal equations, int64 (K, K).
        residuals: V - A·P, int64 (K, D).
        levels: colors, 1 or 3 levels without alpha, int64 (K, C).
        changing: the colors that may change, int64 (N,), of a positive diagonal.
        unit: coordinate of a level.
        n_rounds: number of rounds.
    """
    levels, residuals, changing, a = levels.clone(), residuals[:, :3].clone(), changing.contiguous(), a.contiguous()
    _check(len(a) == len(residuals) == len(levels) and levels.shape[1] in (1, 3) and a.shape[0] == a.shape[1])
    run = _function(
        "descend", ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_int] * 3,
        *[ctypes.c_void_p] * 2,
    )  # fmt: skip
    numbers = levels.shape[1], unit, n_rounds
    run(a.data_ptr(), len(a), changing.data_ptr(), len(changing), *numbers, residuals.data_ptr(), levels.data_ptr())
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
    """The rows (H, B) after each byte has been changed to the byte of the least J.

    In addition to the result this takes 9 bytes for each pixel, 17 with alpha, and 32 for each column and thread.

    Args:
        image: uint8 (H, W, C).
        points: int32 (K, D).
        indices: uint8 (H, W).
        rows: the indices packed to bytes, uint8 (H, B).
        cells: row of `lists` of each pixel, int32 (H, W).
        lists: colors tried, uint8 (M, n), n from 1 to `MAX_TRIED`.
        filters: filter types of the rows, int32 (H,). With None the bits are code lengths of pairs of neighbors, which
            are whole bytes.
        lengths: code lengths of residuals, int32 (256,), or of an index after its left neighbor, int32 (256, 256).
        weights: weights of the lengths in 8 x 8 blocks, in sixteenths, uint8 (ceil(H / 8), ceil(W / 8)), up to 32.
        per_byte: number of pixels in a byte. With 2, 4 or 8 all values of a byte are tried.
        translucent: mask (K,) of the colors that are excluded from opaque pixels.
        share: weight of the blurred error, 0 to 256.
        price: squared error that a bit costs, with 16 fractional bits, at most `max_price`.
        bit: units of a code length.
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
    padded = torch.nn.functional.pad(rows, (1, 1, 1, 1))
    lists = torch.cat([lists[:, :n_tried], lists[:, :1].expand(-1, MAX_TRIED - n_tried)], dim=1).contiguous()
    if translucent is not None:
        translucent = torch.nn.functional.pad(translucent, (0, 256 - len(translucent)))
    state = _Sweep(
        *(height, width, image.shape[2], share, price),
        *(_address(tensor) for tensor in (image, cells, lists, padded, errors, picture.points, translucent)),
        *(_address(tensor) for tensor in (filters, lengths, weights)),
        *(bit, per_byte, len(points)),
    )
    run = _function("sweep", ctypes.POINTER(_Sweep), *[ctypes.c_int64] * 3, ctypes.c_void_p)
    for top in range(min(_APART, height)):

        def kernel(start: int, stop: int, top: int = top) -> None:
            scratch = _empty(2, width + 4, 4, dtype=torch.int32)
            run(state, top, start, stop, scratch.data_ptr())

        run_chunks(kernel, -(-(height - top) // _APART), max(1, _SWEEP_BLOCK // width))
    return padded[1:-1, 1:-1]


def max_price(channels: int) -> int:
    """The highest price of a bit at which J does not overflow, for images of this number of channels."""
    return 1 << (47 if channels % 2 == 0 else 39)


_ROWS = ctypes.POINTER(_Picture), ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p


class _Rows:
    """An indexed image whose rows are computed in chunks, with scratch memory of 6 rows of points."""

    def __init__(self, image: Tensor, points: Tensor, indices: Tensor, share: int) -> None:
        height, width, channels = image.shape
        _check(indices.shape == (height, width) and len(points) <= 256 and points.shape[1] <= 4)
        self.points = _padded(points)
        self._tensors = image, indices
        addresses = image.data_ptr(), indices.data_ptr(), self.points.data_ptr()
        self._state = _Picture(height, width, channels, len(points), share, 0, *addresses)

    def run(self, function: Callable[..., Any], step: int = 1) -> None:
        """Call a kernel for all rows, a multiple of `step` rows at a time."""
        height, width = self._state.height, self._state.width

        def kernel(start: int, stop: int) -> None:
            scratch = _empty(6, width + 4, 4, dtype=torch.int32)
            function(self._state, start * step, min(stop * step, height), scratch.data_ptr())

        run_chunks(kernel, -(-height // step), max(1, _BLOCK // (step * width)))

    def errors(self) -> Tensor:
        """Errors (H + 4, W + 4, 4) with a margin of zeros: int32 with alpha, else int16."""
        dtype = torch.int32 if self._state.channels % 2 == 0 else torch.int16
        errors = _zeros(self._state.height + 4, self._state.width + 4, 4, dtype=dtype)
        run = _function("errors", *_ROWS, ctypes.c_void_p)
        self.run(lambda *rows: run(*rows, errors.data_ptr()))
        return errors


def _padded(points: Tensor, length: int = 256) -> Tensor:
    """Points (M, D), padded by zeros to (`length`, 4)."""
    return torch.nn.functional.pad(points, (0, 4 - points.shape[1], 0, length - len(points))).contiguous()


def _check(fits: bool) -> None:
    """ValueError unless the shapes fit. The kernels do not check them."""
    if not fits:
        raise ValueError("image, palette, indices, candidates and rate must fit each other, with up to 256 colors")


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _zeros(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device="cpu")


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="cpu")


def _function(name: str, *argtypes: Any, restype: Any = None) -> Any:
    return load().function(f"gpukmeans_optimizing_{name}", *argtypes, restype=restype)
