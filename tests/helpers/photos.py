"""Paths of the sample photos of scikit-learn."""

from pathlib import Path

import sklearn
from PIL import Image

CHINA, FLOWER = (Path(sklearn.__file__).parent / "datasets" / "images" / name for name in ("china.jpg", "flower.jpg"))


def save_crop(path: Path, box: tuple[int, int, int, int]) -> Path:
    """Save the pixels in the box (left, top, right, bottom) of `CHINA`. Returns the path."""
    with Image.open(CHINA) as image:
        image.crop(box).save(path)
    return path
