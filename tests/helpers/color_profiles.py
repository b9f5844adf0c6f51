"""Color profiles and encodings for tests."""

import struct

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

# A profile by which red is shown as green, and green as red.
SWAPPED = SRGB.replace(b"rXYZ", b"tmp ").replace(b"gXYZ", b"rXYZ").replace(b"tmp ", b"gXYZ")


def cmyk_profile():
    """A CMYK profile: a table of 16 Lab colors of real inks, which differ from Pillow's formula for ideal inks."""
    inks = np.stack(np.meshgrid(*[[0, 1]] * 4, indexing="ij"), axis=-1).reshape(16, 4)
    cyan, magenta, yellow, black = inks.T
    lightness = 100 * (1 - 0.45 * cyan) * (1 - 0.5 * magenta) * (1 - 0.1 * yellow) * (1 - 0.9 * black)
    a = (1 - black) * (-35 * cyan + 70 * magenta - 5 * yellow)
    b = (1 - black) * (-45 * cyan - 5 * magenta + 85 * yellow)
    table = np.stack([lightness * 255 / 100, a + 128, b + 128], axis=-1).round().clip(0, 255).astype(np.uint8)
    identity = struct.pack(">9i", *(65536 * np.eye(3, dtype=int)).ravel())
    curve = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * curve + table.tobytes() + 3 * curve
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut})


def linear_grey_profile():
    """A profile of grey levels in linear light."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": b"curv" + bytes(8)})


def _profile(kind, space, connection_space, tags):
    white = struct.pack(">3i", 63190, 65536, 54061)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"Test\0" + bytes(79),
        b"wtpt": b"XYZ " + bytes(4) + white,
        **tags,
    }
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = b"none" + bytes([2, 64, 0, 0]) + kind + space + connection_space + bytes(12) + b"acsp"
    header = (header.ljust(64, b"\0") + white).ljust(124, b"\0")
    return struct.pack(">I", offset + len(body)) + header + struct.pack(">I", len(tags)) + table + body


LINEAR = (b"gAMA", struct.pack(">I", 100_000))
"""Type and data of the PNG chunk for values in linear light: 128 is shown as 188 in sRGB."""


def save_linear(pixels, path):
    """Save pixels in linear light as a PNG. Returns the path."""
    info = PngImagePlugin.PngInfo()
    info.add(*LINEAR)
    Image.fromarray(pixels).save(path, pnginfo=info)
    return path
