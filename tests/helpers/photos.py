"""Paths of the sample photos of scikit-learn."""

from pathlib import Path

import sklearn

CHINA, FLOWER = (Path(sklearn.__file__).parent / "datasets" / "images" / name for name in ("china.jpg", "flower.jpg"))
