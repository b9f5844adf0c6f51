"""`KMeans`: `kmeans` as a torch module with the interface of scikit-learn."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from gpukmeans.assignment import assign
from gpukmeans.checkpoints import Checkpoint
from gpukmeans.clustering import KMeansResult, inertia_at, kmeans
from gpukmeans.engines import Engine, EngineName
from gpukmeans.metrics import Metric, MetricName, check_metric
from gpukmeans.options import OPTION_NAMES, Callback
from gpukmeans.seeding import InitName, Seeding
from gpukmeans.validation import check_centers, check_points, compute_dtype, short_name


class KMeans(nn.Module):
    """K-means estimator: `fit` finds centers, and `forward` returns the index of the nearest center of each point.

    The centers are a buffer: `.to()` moves them and `state_dict()` saves them. After `fit` there are `cluster_centers_`
    (K, D), `labels_` (N,), `inertia_` and `n_iter_`, as in scikit-learn, and `result_`, the `KMeansResult`. Fitted to a
    batch, all of these have the batch dimensions in front; fitted to a stream, there are no labels. `load_state_dict`
    needs no `fit` before, and sets only the centers.

    Args:
        n_clusters: number of clusters, K.
        init: see `gpukmeans.kmeans`, as for all options.
        fixed: centers that do not move, (F, D) or (..., F, D).
        n_init: number of runs; the best is kept.
        max_iter: maximum number of iterations of Lloyd's loop.
        tol: relative decrease of the inertia at which the loop ends.
        metric: a name of `METRICS` or a `Metric`.
        refine: refinement cycles before the loop.
        callback: called after each iteration.
        engine: a name of `ENGINES`, "auto" or an `Engine`.
        generator: CPU generator; by default a new one of seed 0.
        group: process group whose ranks fit their own rows together.
        checkpoint: saves the state of the run.

    Example:
        >>> model = KMeans(2).fit(torch.tensor([[0.0], [1.0], [8.0], [9.0]]))
        >>> model.cluster_centers_.sort(dim=0).values.tolist(), model.inertia_
        ([[0.5], [8.5]], 1.0)
        >>> labels = model(torch.tensor([[1.0], [2.0], [7.0]]))
        >>> bool(labels[0] == labels[1]), bool(labels[0] == labels[2])
        (True, False)
    """

    metric: MetricName | Metric
    engine: EngineName | Engine
    centers: Tensor | None

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: InitName | Num[Tensor, "*centers k d"] | Seeding = "auto",
        fixed: Num[Tensor, "*fixed f d"] | None = None,
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
        metric: MetricName | Metric = "euclidean",
        refine: int = 0,
        callback: Callback | None = None,
        engine: EngineName | Engine = "auto",
        generator: torch.Generator | None = None,
        group: ProcessGroup | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        super().__init__()
        self.n_clusters = n_clusters
        self.init = init
        self.fixed = fixed
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.metric = metric
        self.refine = refine
        self.callback = callback
        self.engine = engine
        self.generator = generator
        self.group = group
        self.checkpoint = checkpoint
        self.result_: KMeansResult | None = None
        self.register_buffer("centers", None)

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module would register an option that is a parameter or a module.
        if name in OPTION_NAMES:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def fit(
        self, x: Num[Tensor, "*batch n d"] | Iterable[Any], weights: Num[Tensor, "*batch n"] | None = None
    ) -> "KMeans":
        """The module itself, fitted by `kmeans(x, n_clusters, weights=weights, ...)`."""
        self.result_ = kmeans(x, weights=weights, **self.get_params())
        self.centers = self.result_.centers.clone()  # separate from the result, as it may be changed in place
        return self

    def predict(self, x: Num[Tensor, "*batch n d"]) -> Int[Tensor, "*batch n"]:
        """Index of the nearest center of each point (..., N), the lowest on ties."""
        return assign(x, self.cluster_centers_, metric=self.metric, engine=self.engine).labels

    def fit_predict(
        self, x: Num[Tensor, "*batch n d"], weights: Num[Tensor, "*batch n"] | None = None
    ) -> Int[Tensor, "*batch n"]:
        """Labels (..., N) of `fit(x, weights)`. TypeError for a stream, which has no labels."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor, as a stream has no labels, got {type(x).__name__}")
        return self.fit(x, weights).labels_

    def forward(self, x: Num[Tensor, "*batch n d"]) -> Int[Tensor, "*batch n"]:
        """Same as `predict`."""
        return self.predict(x)

    def transform(self, x: Num[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n k"]:
        """Distances (..., N, K) of each point to each center, not squared; 1 - cos for the cosine metric.

        They have gradients with respect to `x` and the centers.
        """
        centers = self.cluster_centers_
        check_points(x)
        check_centers(x, centers)
        metric, dtype = check_metric(self.metric), compute_dtype(x, centers)
        x, centers = (metric.prepare(rows, dtype).to(dtype) for rows in (x, centers))
        distances = torch.cdist(x, centers, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.square() * metric.factor if metric.normalizes else distances

    def score(
        self, x: Num[Tensor, "*batch n d"] | Iterable[Any], weights: Num[Tensor, "*batch n"] | None = None
    ) -> float | Float[Tensor, "*batch"]:
        """Negative inertia of the points: minus the sum of weight times squared distance. Higher is better.

        In a process group it is that of the rank's own points.
        """
        return _number(-inertia_at(x, self.cluster_centers_, weights, self.metric, self.engine))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Options by name. `deep` is accepted for scikit-learn and has no effect."""
        return {name: getattr(self, name) for name in OPTION_NAMES}

    def set_params(self, **params: Any) -> "KMeans":
        """The module itself, with these options changed. ValueError for an unknown name."""
        if unknown := params.keys() - set(OPTION_NAMES):
            raise ValueError(f"options are {', '.join(OPTION_NAMES)}, got {', '.join(sorted(unknown))}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A process group cannot be copied or pickled.
        return {**self.__dict__, "group": None}

    def __sklearn_clone__(self) -> "KMeans":
        return type(self)(**self.get_params())

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        saved = state_dict.get(f"{prefix}centers")
        if isinstance(saved, Tensor):
            if saved.ndim < 2 or saved.shape[-2] != self.n_clusters or not saved.is_floating_point():
                got = f"{short_name(saved.dtype)} of shape {tuple(saved.shape)}"
                error_msgs.append(f"{prefix}centers must be floats of shape (..., {self.n_clusters}, D), got {got}")
                return
            # A new buffer to load into, because a module not yet fitted has none, and a fitted one may differ in shape.
            self.centers = torch.empty_like(saved, device=None if self.centers is None else self.centers.device)
            self.result_ = None  # it belongs to other centers
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    @property
    def cluster_centers_(self) -> Float[Tensor, "*batch k d"]:
        if self.centers is None:
            raise RuntimeError("this KMeans has no centers yet: call fit(x) first")
        return self.centers

    @property
    def labels_(self) -> Int[Tensor, "*batch n"]:
        labels = self._fitted().labels
        if labels is None:
            raise RuntimeError("a stream has no labels_: call predict(batch) for each of its batches")
        return labels

    @property
    def inertia_(self) -> float | Float[Tensor, "*batch"]:
        return _number(self._fitted().inertia)

    @property
    def n_iter_(self) -> int | Int[Tensor, "*batch"]:
        return _number(self._fitted().n_iter)

    def _fitted(self) -> KMeansResult:
        if self.result_ is None:
            raise RuntimeError("this KMeans has not been fitted yet: call fit(x) first")
        return self.result_


def _number(value: Tensor) -> Any:
    """A Python number for a single problem, the tensor for a batch."""
    return value.item() if value.ndim == 0 else value
