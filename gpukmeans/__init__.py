"""K-means on torch tensors, exact and repeatable to the bit, and images of few colors made by it."""

from gpukmeans.assignment import assign
from gpukmeans.batches import Batches
from gpukmeans.checkpoints import Checkpoint
from gpukmeans.clustering import KMeansResult, kmeans
from gpukmeans.colorspace import COLOR_SPACES
from gpukmeans.dithering import DITHERINGS
from gpukmeans.engines import ENGINES
from gpukmeans.estimator import KMeans
from gpukmeans.histogram import ColorHistogram, unique_colors
from gpukmeans.metrics import METRICS
from gpukmeans.quantization import IndexedImage, apply_palette, quantize
from gpukmeans.seeding import SEEDINGS
from gpukmeans.transforms import QuantizeColors

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
