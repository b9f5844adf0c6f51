"""K-means on torch tensors, exact and repeatable to the bit, and images of few colors made by it."""

from gpukmeans.assignment import assign
from gpukmeans.checkpoints import Checkpoint
from gpukmeans.clustering import KMeansResult, kmeans
from gpukmeans.engines.selection import ENGINES
from gpukmeans.estimator import KMeans
from gpukmeans.images.colorspace import COLOR_SPACES
from gpukmeans.images.dithering import DITHERINGS
from gpukmeans.images.histogram import ColorHistogram, unique_colors
from gpukmeans.images.quantization import IndexedImage, apply_palette, quantize
from gpukmeans.images.transforms import QuantizeColors
from gpukmeans.metrics import METRICS
from gpukmeans.points.batches import Batches
from gpukmeans.seeding import SEEDINGS

__version__ = "0.1.0"
__all__ = [
    "COLOR_SPACES",
    "DITHERINGS",
    "ENGINES",
    "METRICS",
    "SEEDINGS",
    "Batches",
    "Checkpoint",
    "ColorHistogram",
    "IndexedImage",
    "KMeans",
    "KMeansResult",
    "QuantizeColors",
    "apply_palette",
    "assign",
    "kmeans",
    "quantize",
    "unique_colors",
]
