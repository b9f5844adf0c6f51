"""Small image files for tests, and their contents."""

import re

import numpy as np
from PIL import Image

from helpers.png_decoding import chunks_by_type


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(pixels, path, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def files(folder):
    """The contents of all files in a folder and its subfolders, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rgba(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


def chunks(path):
    """The data of the chunks of a PNG file, by type as text."""
    return {kind.decode(): data for kind, data in chunks_by_type(path.read_bytes()).items()}


def assert_one_line(err, *parts):
    assert re.fullmatch(r"gpukmeans: [^\n]+\n", err)
    for part in parts:
        assert part in err
