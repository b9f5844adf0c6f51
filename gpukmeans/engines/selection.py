"""Engines by name, and the choice of one for given points."""

from typing import Literal

from torch import Tensor

from gpukmeans.engines.base import Engine
from gpukmeans.engines.cells.engine import CellsEngine
from gpukmeans.engines.fused.engine import TritonEngine
from gpukmeans.engines.matmul import MatmulEngine
from gpukmeans.engines.native.engine import NativeEngine
from gpukmeans.engines.plain import PlainEngine

EngineName = Literal["auto", "triton", "native", "cells", "matmul", "plain"]
"""A name of `ENGINES`, or "auto"."""

# Fastest first, where `_is_fast` holds. The plain engine is last: it supports the most points.
ENGINES: dict[str, Engine] = {
    "triton": TritonEngine(),
    "native": NativeEngine(),
    "cells": CellsEngine(),
    "matmul": MatmulEngine(),
    "plain": PlainEngine(),
}

# Measured on a CPU for K from 4 to 256: from about 20,000 points on the cells engine is faster, below that the matrix
# product, by up to a factor of two. From 5 coordinates on the result depends on the data: the number of centers near a
# cell grows.
_CELLS_MAX_WIDTH, _CELLS_MIN_POINTS = 4, 1 << 14


def choose(engine: str | Engine, x: Tensor) -> Engine:
    """The engine of that name, the engine itself, or for "auto" the fastest for points (..., N, D).

    "auto" is "triton" for up to 8 coordinates on CUDA and "native" on the CPU, else "cells" for up to 4
    coordinates of at least 16,384 points, else "matmul", else "plain". An engine with an `unsupported_reason` is
    skipped.

    ValueError for an unknown name, and with the reason if the engine, or for "auto" every engine, does not support
    these points. TypeError for an object that is not an engine.
    """
    if isinstance(engine, str):
        if engine == "auto":
            return _fastest(x)
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(['auto', *ENGINES])} or an engine, got {engine!r}")
        engine = ENGINES[engine]
    elif isinstance(engine, type) or not isinstance(engine, Engine):  # a class has the methods of its instances
        raise TypeError(f"engine must be a name or an engine, got {type(engine).__name__}")
    if reason := engine.unsupported_reason(x):
        raise ValueError(f"engine {engine.name!r} cannot take these points: {reason}")
    return engine


def _fastest(x: Tensor) -> Engine:
    reasons: dict[str, str] = {}
    # The reasons of slower engines are not computed.
    for candidate in sorted(ENGINES.values(), key=lambda candidate: not _is_fast(candidate, x)):
        reason = candidate.unsupported_reason(x)
        if reason is None:
            return candidate
        reasons[candidate.name] = reason
    listing = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise ValueError(f"no engine can take these points: {listing}")


def _is_fast(engine: Engine, x: Tensor) -> bool:
    return not isinstance(engine, CellsEngine) or (x.shape[-1] <= _CELLS_MAX_WIDTH and x.shape[-2] >= _CELLS_MIN_POINTS)
