"""Engines by name; which of them can take these points, and why the others cannot."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from gpukmeans.engine_matmul import MatmulEngine
from gpukmeans.engine_torch import Assignment, TorchEngine
from gpukmeans.moments import Grid, Moments

__all__ = ["ENGINES", "Assignment", "BoundEngine", "Engine", "choose"]


@runtime_checkable
class BoundEngine(Protocol):
    """An engine at work on the points of P problems; it may keep state between calls.

    It serves B sets of centers (B, K, D) at a time; `problems`, B numbers below P, says whose points each is for.
    """

    def assign(self, centers: Tensor, problems: Sequence[int]) -> Assignment: ...

    def measure(self, centers: Tensor, grid: Grid, problems: Sequence[int]) -> Moments: ...


@runtime_checkable
class Engine(Protocol):
    """A way to find nearest centers. Its answers are those of the plain engine."""

    @property
    def name(self) -> str: ...

    def obstacle(self, x: Tensor) -> str | None: ...

    def bind(self, x: Tensor, weights: Tensor | None) -> BoundEngine: ...


# In the order in which "auto" tries them.
ENGINES: dict[str, Engine] = {"matmul": MatmulEngine(), "torch": TorchEngine()}


def choose(engine: str | Engine, x: Tensor) -> Engine:
    """The engine of that name, the engine itself, or for "auto" the first of `ENGINES` that has no obstacle.

    ValueError for an unknown name, and where the engine, or each of them, cannot take these points, with the reason;
    TypeError for what is no engine.
    """
    if isinstance(engine, str):
        if engine == "auto":
            obstacles = {name: candidate.obstacle(x) for name, candidate in ENGINES.items()}
            for name, obstacle in obstacles.items():
                if obstacle is None:
                    return ENGINES[name]
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
