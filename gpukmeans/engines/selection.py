"""Engines by name, and the selection of an engine for given points."""

from typing import Literal

from torch import Tensor

from gpukmeans.engines.base import Engine
from gpukmeans.engines.fused.engine import TritonEngine
from gpukmeans.engines.matmul import MatmulEngine
from gpukmeans.engines.native.engine import NativeEngine
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.engines.screened.engine import ScreenedEngine

EngineName = Literal["auto", "triton", "screened", "native", "matmul", "plain"]
"""A name of `ENGINES`, or "auto"."""

# Fastest first. The plain engine is last: it supports the most points.
ENGINES: dict[str, Engine] = {
    "triton": TritonEngine(),
    "screened": ScreenedEngine(),
    "native": NativeEngine(),
    "matmul": MatmulEngine(),
    "plain": PlainEngine(),
}


def choose(engine: str | Engine, x: Tensor) -> Engine:
    """The engine for points (..., N, D).

    "auto" selects the first engine that supports the points, in this order: "triton" (up to 8 coordinates on CUDA),
    "screened" (from 9 to 2048 coordinates on CUDA), "native" (on the CPU, if there are native kernels), "matmul" and
    "plain".

    Args:
        engine: a name or "auto", or an engine, which is returned unchanged.
        x: the points.

    Raises:
        ValueError: if the name is unknown, if the engine does not support the points, or for "auto" if no engine
            supports them. The message has the reasons.
        TypeError: if `engine` is neither a name nor an engine.
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
    for candidate in ENGINES.values():
        reason = candidate.unsupported_reason(x)
        if reason is None:
            return candidate
        reasons[candidate.name] = reason
    listing = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    raise ValueError(f"no engine can take these points: {listing}")
