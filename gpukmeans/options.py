"""`KMeansOptions`: the options of `kmeans` as one value."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, SupportsFloat, SupportsIndex, TypedDict

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from gpukmeans.arrays import Array, as_tensor, to_tensor
from gpukmeans.checkpoints import Checkpoint, CheckpointState
from gpukmeans.engines import Engine, EngineName
from gpukmeans.metrics import METRICS, Metric, MetricName, check_metric
from gpukmeans.points import Points
from gpukmeans.seeding import SEEDINGS, InitName, Seeding
from gpukmeans.validation import check_count, check_fixed, check_init

Callback = Callable[[int, Tensor, Tensor], object]
"""A function of the number of iterations, the inertia and the largest distance that a center moved.

Inertia and distance are of the best run so far of each problem, in the batch dimensions of the input. A return value of
True ends the clustering."""


class KMeansKeywords(TypedDict, total=False):
    """The keyword arguments of `kmeans`, for type checkers."""

    weights: Tensor | Array | None
    init: InitName | Tensor | Array | Seeding
    fixed: Tensor | Array | None
    n_init: SupportsIndex
    max_iter: SupportsIndex
    tol: SupportsFloat
    metric: MetricName | Metric
    refine: SupportsIndex
    callback: Callback | None
    engine: EngineName | Engine
    generator: torch.Generator | None
    group: ProcessGroup | None
    checkpoint: Checkpoint | None


@dataclass(frozen=True, kw_only=True, eq=False)
class KMeansOptions:
    """The options of `kmeans` as one value, checked when it is created. `kmeans` describes them in full.

    Args:
        n_clusters: the number of clusters K.
        init: the initial centers, or a seeding: a name or a function.
        fixed: centers that do not move.
        n_init: the number of runs.
        max_iter: the maximum number of iterations of a run.
        tol: the relative decrease of the inertia at which a run ends.
        metric: the name of a metric, or a metric.
        refine: the number of cycles of refinement.
        callback: a function that is called after each iteration.
        engine: the name of an engine, or an engine.
        generator: the generator of all random numbers.
        group: the `torch.distributed` group.
        checkpoint: how to save the state, and the state to resume from.

    Raises:
        TypeError, ValueError: for values that are wrong for any points. `kmeans` checks the rest.

    Example:
        >>> options = KMeansOptions(n_clusters=2, n_init=3)
        >>> kmeans(torch.tensor([[0.0], [1.0], [8.0], [9.0]]), **vars(options)).inertia.item()
        1.0
    """

    n_clusters: int
    init: InitName | Tensor | Seeding = "auto"
    fixed: Tensor | None = None
    n_init: int = 1
    max_iter: int = 100
    tol: float = 1e-4
    metric: MetricName | Metric = "euclidean"
    refine: int = 0
    callback: Callback | None = None
    engine: EngineName | Engine = "auto"
    generator: torch.Generator | None = None
    group: ProcessGroup | None = None
    checkpoint: Checkpoint | None = None

    def __post_init__(self) -> None:
        for name in ("n_clusters", "n_init", "max_iter"):
            check_count(name, getattr(self, name))
        check_count("refine", self.refine, least=0)
        check_tolerance(self.tol)
        self._check_init()
        check_metric(self.metric)
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback must be a function, got {type(self.callback).__name__}")
        if self.generator is not None:
            _check_generator(self.generator)
        if self.checkpoint is not None:
            _check_checkpoint(self.checkpoint)

    @property
    def n_fixed(self) -> int:
        """The number of fixed centers."""
        return 0 if self.fixed is None else self.fixed.shape[-2]

    @property
    def n_free(self) -> int:
        """The number of centers that are not fixed."""
        return self.n_clusters - self.n_fixed

    def check_shapes(self, x: Tensor) -> None:
        """TypeError or ValueError unless fixed and initial centers fit points like `x` in shape and device."""
        if self.fixed is not None:
            check_fixed(self.fixed, x, self.n_clusters)
        if isinstance(self.init, Tensor):
            check_init(self.init, x, self.n_free)

    def comparable(self) -> dict[str, Any]:
        """The options that must be equal on all ranks, by name. A string replaces a value that cannot be compared."""
        return {
            "n_clusters": self.n_clusters,
            "init": self.init if isinstance(self.init, (str, Tensor)) else "a function",
            "fixed": self.fixed,
            "n_init": self.n_init,
            "max_iter": self.max_iter,
            "tol": float(self.tol),
            "metric": self.metric if isinstance(self.metric, str) else "a metric",
            "refine": self.refine,
            "checkpoint": None if self.checkpoint is None else self.checkpoint.every,
        }

    def identity(self, points: Points, fixed: Tensor | None) -> CheckpointState:
        """Tensors, by name, that must be equal in the run that saved a checkpoint and the run that resumes from it.

        `fixed` (P, F, D) are the fixed centers after `Metric.prepare`.
        """
        metric = check_metric(self.metric)
        name = next((name for name, other in METRICS.items() if other is metric), "a metric")
        empty = torch.zeros(0, dtype=points.dtype, device="cpu")  # only its dtype is compared
        return {
            "the range of x": torch.stack([points.stats.lowest, points.stats.highest]),
            "the number of points": points.stats.n_present,
            "the total weight": points.stats.total_weight,
            "the dtype computed in": empty,
            "fixed": empty if fixed is None else fixed,
            "metric": torch.tensor([*name.encode()], device="cpu"),
            **{
                key: torch.tensor(getattr(self, key), dtype=torch.float64, device="cpu")
                for key in ("n_clusters", "n_init", "tol")
            },
        }

    def _check_init(self) -> None:
        if isinstance(self.init, str):
            names = ["auto", *SEEDINGS]
            if self.init not in names:
                expected = f"one of {', '.join(names)}, a tensor of centers or a function"
                raise ValueError(f"init must be {expected}, got {self.init!r}")
        elif isinstance(self.init, Tensor):
            if self.n_init != 1 and not self.refine:
                why = "when init gives the initial centers, as all runs would be equal"
                raise ValueError(f"n_init must be 1 {why}, got {self.n_init}")
        elif not callable(self.init):
            raise TypeError(f"init must be a name, a tensor of centers or a function, got {type(self.init).__name__}")


def read_options(
    *, n_clusters: Any, init: Any, fixed: Any, n_init: Any, max_iter: Any, tol: Any, refine: Any, **others: Any
) -> KMeansOptions:
    """The options of `kmeans` from its arguments, which may be arrays and numbers of any type."""
    return KMeansOptions(
        n_clusters=check_count("n_clusters", n_clusters),
        init=as_tensor(init, "init", mapped=True),
        fixed=None if fixed is None else to_tensor(fixed, "fixed"),
        n_init=check_count("n_init", n_init),
        max_iter=check_count("max_iter", max_iter),
        tol=check_tolerance(tol),
        refine=check_count("refine", refine, least=0),
        **others,
    )


def check_tolerance(tol: Any) -> float:
    """The tolerance as a float. TypeError unless it is a real number, ValueError unless it is at least 0."""
    if not isinstance(tol, numbers.Real):
        raise TypeError(f"tol must be a number, got {type(tol).__name__}")
    tolerance = float(tol)
    if not tolerance >= 0:
        raise ValueError(f"tol must be at least 0, got {tolerance}")
    return tolerance


OPTION_NAMES = [field.name for field in fields(KMeansOptions)]


def _check_generator(generator: object) -> None:
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator must be on the CPU, so that samples are equal on all devices, got {generator.device}"
        )


def _check_checkpoint(checkpoint: object) -> None:
    if not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"checkpoint must be a Checkpoint, got {type(checkpoint).__name__}")
    if not callable(checkpoint.save):
        raise TypeError(f"checkpoint.save must be a function, got {type(checkpoint.save).__name__}")
    check_count("checkpoint.every", checkpoint.every)
