"""Points, wherever they live: in a tensor, in a stream of batches, on the ranks of a process group."""

from gpukmeans.points.base import Points

__all__ = ["Points"]
