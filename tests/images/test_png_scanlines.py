import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from gpukmeans import png_scanlines
from gpukmeans.images.png_rate import fitted_rate


def waves(height, width):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    noise = torch.randint(0, 4, (height, width), generator=torch.Generator().manual_seed(width))
    return (100 + 40 * (y / 7).sin() + 50 * (x / 9 + y / 30).cos() + noise).to(torch.uint8)


def decoded(lines):
    """The bytes that Pillow decodes from scanlines, as those of a grey image."""
    height, width = lines.shape[0], lines.shape[1] - 1
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.numpy().tobytes())),
        (b"IEND", b""),
    ]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 50), (700, 800), (2, 300_000)])
def test_a_decoder_gets_the_bytes_back(shape):
    rows = waves(*shape)
    np.testing.assert_array_equal(decoded(png_scanlines(rows)), rows.numpy())


def test_all_filters_are_used_and_are_those_of_the_rate():
    generator = torch.Generator().manual_seed(0)
    sections = [
        torch.randint(0, 9, (20, 300), generator=generator) * 28,  # none
        torch.arange(300).expand(20, 300) * 3 + torch.arange(20)[:, None] * 91,  # sub
        torch.randint(0, 256, (300,), generator=generator).expand(20, 300),  # up
        waves(60, 300),
    ]
    rows = torch.cat([section.to(torch.uint8) for section in sections])
    lines = png_scanlines(rows)
    assert torch.equal(lines[:, 0], fitted_rate(rows).filters.to(torch.uint8))
    assert len(lines[:, 0].unique()) >= 4
    np.testing.assert_array_equal(decoded(lines), rows.numpy())


def test_entropy_of_a_smooth_image_is_lower_after_filters():
    rows = waves(200, 300)

    def entropy(values):
        fractions = torch.bincount(values.flatten().int(), minlength=256) / values.numel()
        return -(fractions * fractions.clamp(min=1e-9).log2()).sum().item()

    assert entropy(png_scanlines(rows)[:, 1:]) < 0.7 * entropy(rows)
