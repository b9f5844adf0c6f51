"""Engines by name; which of them can take these points, and why the others cannot."""

from torch import Tensor

from gpukmeans.engines.base import Engine
from gpukmeans.engines.cells.engine import CellsEngine
from gpukmeans.engines.fused.engine import TritonEngine
from gpukmeans.engines.matmul import MatmulEngine
from gpukmeans.engines.plain import TorchEngine

ENGINES: dict[str, Engine] = {
    "triton": TritonEngine(),
    "cells": CellsEngine(),
    "matmul": MatmulEngine(),
    "torch": TorchEngine(),
}

# Where cells pay: measured on a CPU for K from 4 to 256, they are faster from about 20,000 points on, and the matrix
# product for fewer, up to twice. From 5 coordinates on it depends on the points: cells are near to ever more centers.
_CELLS_UP_TO, _CELLS_FROM = 4, 1 << 14


def choose(engine: str | Engine, x: Tensor) -> Engine:
    """The engine of that name, the engine itself, or for "auto" the fastest for points (..., N, D).

    That is "triton" for up to 8 coordinates on CUDA, else "cells" for up to 4 coordinates of at least 16,384 points,
    else "matmul", else "torch", as far as they have no obstacle.

    ValueError for an unknown name, and where the engine, or each of them, cannot take these points, with the reason;
    TypeError for what is no engine.
    """
    if isinstance(engine, str):
        if engine == "auto":
            obstacles = {name: candidate.obstacle(x) for name, candidate in ENGINES.items()}
            able = [ENGINES[name] for name, obstacle in obstacles.items() if obstacle is None]
            if able:
                return next((candidate for candidate in able if _pays(candidate, x)), able[-1])
            reasons = "; ".join(f"{name}: {obstacle}" for name, obstacle in obstacles.items())
            raise ValueError(f"no engine can take these points: {reasons}")
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(['auto', *ENGINES])} or an engine, got {engine!r}")
        engine = ENGINES[engine]
    elif isinstance(engine, type) or not isinstance(engine, Engine):  # a class has the methods of its engines
        raise TypeError(f"engine must be a name or an engine, got {type(engine).__name__}")
    if obstacle := engine.obstacle(x):
        raise ValueError(f"engine {engine.name!r} cannot take these points: {obstacle}")
    return engine


def _pays(engine: Engine, x: Tensor) -> bool:
    return not isinstance(engine, CellsEngine) or (x.shape[-1] <= _CELLS_UP_TO and x.shape[-2] >= _CELLS_FROM)
