"""The sample photos of scikit-learn."""

from pathlib import Path


def sample_photos() -> Path:
    """The folder of china.jpg and flower.jpg."""
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images"
