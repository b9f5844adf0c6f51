"""Engines assign points to centers and measure moments. The plain engine defines the result."""

from gpukmeans.engines.base import Assignment, BoundEngine, Engine
from gpukmeans.engines.selection import ENGINES, EngineName, choose

__all__ = ["ENGINES", "Assignment", "BoundEngine", "Engine", "EngineName", "choose"]
