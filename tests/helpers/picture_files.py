"""Small picture files for tests, and what is in them."""

import re
import struct

import numpy as np
from PIL import Image


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(pixels, path, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def files(folder):
    """What a folder and those in it hold, so that two states can be compared."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rgba(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"))


def chunks(path):
    data, at, found = path.read_bytes(), 8, {}
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found[kind.decode()] = data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def assert_one_line(err, *parts):
    assert re.fullmatch(r"gpukmeans: [^\n]+\n", err)
    for part in parts:
        assert part in err
