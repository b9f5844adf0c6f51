"""Engines assign points to centers and compute sums over the clusters. The plain engine defines the results."""

from gpukmeans.engines.base import Assignment, BoundEngine, Engine
from gpukmeans.engines.selection import ENGINES, EngineName, choose

__all__ = ["ENGINES", "Assignment", "BoundEngine", "Engine", "EngineName", "choose"]
