"""K-means on torch tensors, exact and repeatable to the bit, and images of few colors made by it."""

from gpukmeans.assignment import assign
from gpukmeans.clustering import KMeansResult, kmeans
from gpukmeans.engines import ENGINES
from gpukmeans.estimator import KMeans
from gpukmeans.histogram import ColorHistogram, unique_colors
from gpukmeans.metrics import METRICS
from gpukmeans.quantization import IndexedImage, quantize
from gpukmeans.seeding import SEEDINGS

__version__ = "0.1.0"
__all__ = [
    "ENGINES",
    "METRICS",
    "SEEDINGS",
    "ColorHistogram",
    "IndexedImage",
    "KMeans",
    "KMeansResult",
    "assign",
    "kmeans",
    "quantize",
    "unique_colors",
]
