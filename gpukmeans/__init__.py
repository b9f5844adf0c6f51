"""K-means on torch tensors, exact and repeatable to the bit, and color quantization of images."""

from gpukmeans.assignment import assign
from gpukmeans.checkpoints import Checkpoint, CheckpointState
from gpukmeans.clustering import KMeansResult, kmeans
from gpukmeans.engines import ENGINES, Assignment, Engine, EngineName
from gpukmeans.estimator import KMeans
from gpukmeans.images.colorspace import COLOR_SPACES, ColorSpace, ColorSpaceName, clear_transparent_pixels, has_alpha
from gpukmeans.images.dithering import DITHERINGS, Dithering, DitheringName
from gpukmeans.images.histogram import ColorHistogram, unique_colors
from gpukmeans.images.indexed import IndexedImage, mean_squared_error
from gpukmeans.images.palette import BEST_QUALITY, Palette, fit_palette, with_transparent_color
from gpukmeans.images.palette_order import palette_orders
from gpukmeans.images.png_rate import png_scanlines
from gpukmeans.images.quantization import apply_palette, map_to_palette, quantize
from gpukmeans.images.rate_distortion import RateName
from gpukmeans.images.transforms import QuantizeColors
from gpukmeans.images.visible_error import mean_visible_error
from gpukmeans.images.vivid_areas import flat_counts
from gpukmeans.metrics import METRICS, Metric, MetricName
from gpukmeans.model_selection import NClustersComparison, compare_n_clusters
from gpukmeans.options import Callback, KMeansOptions
from gpukmeans.points import Batches, Points
from gpukmeans.seeding import SEEDINGS, InitName, Seeding

__version__ = "0.2.0"
__all__ = [
    "BEST_QUALITY",
    "COLOR_SPACES",
    "DITHERINGS",
    "ENGINES",
    "METRICS",
    "SEEDINGS",
    "Assignment",
    "Batches",
    "Callback",
    "Checkpoint",
    "CheckpointState",
    "ColorHistogram",
    "ColorSpace",
    "ColorSpaceName",
    "Dithering",
    "DitheringName",
    "Engine",
    "EngineName",
    "IndexedImage",
    "InitName",
    "KMeans",
    "KMeansOptions",
    "KMeansResult",
    "Metric",
    "MetricName",
    "NClustersComparison",
    "Palette",
    "Points",
    "QuantizeColors",
    "RateName",
    "Seeding",
    "apply_palette",
    "assign",
    "clear_transparent_pixels",
    "compare_n_clusters",
    "fit_palette",
    "flat_counts",
    "has_alpha",
    "kmeans",
    "map_to_palette",
    "mean_squared_error",
    "mean_visible_error",
    "palette_orders",
    "png_scanlines",
    "quantize",
    "unique_colors",
    "with_transparent_color",
]
