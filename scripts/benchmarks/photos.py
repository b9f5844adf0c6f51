"""The sample photos of scikit-learn, and the error of photos."""

from pathlib import Path

import numpy as np


def sample_photos() -> Path:
    """The folder of china.jpg and flower.jpg."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images"


def mean_squared_error(before: np.ndarray, after: np.ndarray) -> float:
    """Mean over the pixels of dR² + dG² + dB², of pictures (..., H, W, 3)."""
    difference = before.astype(np.int64) - after
    return float((difference * difference).sum(axis=-1).mean())
