"""Previews of indexed images for notebooks: HTML with small PNG files and a swatch of each color."""

import base64
import math
import struct
import zlib

import torch
from jaxtyping import UInt8
from torch import Tensor

from gpukmeans.images.colorspace import has_alpha, split_alpha

# Number of images or palettes of a batch that are shown.
_MAX_SHOWN = 8

# Largest side of an image in pixels.
_MAX_SIDE = 256


def html_preview(palette: UInt8[Tensor, "*palettes k c"], indices: UInt8[Tensor, "*batch h w"]) -> str:
    """HTML of an indexed image: its size, the image, and a swatch of each color of its palette.

    Of a batch, the first 8 images are shown, each with its own palette, or all with one palette. An image with a side
    above 256 pixels is reduced to every s-th row and column, for the smallest s with sides of at most 256.
    """
    height, width = indices.shape[-2:]
    palettes, images = (part.reshape(-1, *part.shape[-2:]) for part in (palette, indices))
    size = f"{width} x {height}, {palettes.shape[1]} colors"
    if indices.ndim > 2:
        size = f"{len(images)} images of {size}" + (" each" if palette.ndim > 2 else "")
    shown = [_image(palettes[min(number, len(palettes) - 1)], one) for number, one in enumerate(images[:_MAX_SHOWN])]
    swatches = ["".join(map(_swatch, colors)) for colors in palettes[:_MAX_SHOWN].tolist()]
    if len(swatches) < len(shown):
        shown = ["".join(shown)]
    rows = map(_ROW.format, shown, swatches)
    more = f"<div>and {len(images) - _MAX_SHOWN} more</div>" if len(images) > _MAX_SHOWN else ""
    return f"<div><div>{size}</div>{''.join(rows)}{more}</div>"


_ROW = '<div style="display:flex;gap:8px;margin:4px 0;line-height:0"><div>{}</div><div>{}</div></div>'


def indexed_png(palette: UInt8[Tensor, "k c"], indices: UInt8[Tensor, "h w"]) -> bytes:
    """A PNG file with the colors (K, C), K at most 256, and the index of each pixel (H, W)."""
    color, alpha = split_alpha(palette)
    height, width = indices.shape
    rows = torch.nn.functional.pad(indices, (1, 0))  # each row begins with its filter, 0 for none
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),  # 8 bits, indexed
            _chunk(b"PLTE", _bytes(color.expand(-1, 3))),
            b"" if alpha is None else _chunk(b"tRNS", _bytes(alpha)),
            _chunk(b"IDAT", zlib.compress(_bytes(rows))),
            _chunk(b"IEND", b""),
        ]
    )


def _image(palette: Tensor, indices: Tensor) -> str:
    """HTML of an image that is reduced to at most 256 x 256 pixels."""
    step = math.ceil(max(*indices.shape, 1) / _MAX_SIDE)
    data = base64.b64encode(indexed_png(palette, indices[::step, ::step])).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" style="image-rendering:pixelated">'


def _swatch(color: list[int]) -> str:
    """HTML of a box of this color over a checkerboard, which is visible through a translucent color."""
    channels = [color[0]] * 3 if len(color) < 3 else color[:3]
    alpha = color[-1] if has_alpha(len(color)) else 255
    name = "#" + "".join(f"{value:02x}" for value in (channels if alpha == 255 else [*channels, alpha]))
    board = "repeating-conic-gradient(#ccc 0% 25%, #fff 0% 50%) 0 0/8px 8px"
    style = f"display:inline-block;width:16px;height:16px;background:linear-gradient({name},{name}),{board}"
    return f'<span title="{name}" style="{style}"></span>'


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _bytes(values: Tensor) -> bytes:
    return bytes(values.flatten().tolist())
