"""`KMeans`: the clustering of `kmeans` with scikit-learn's names, as a module of torch."""

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from gpukmeans.assignment import assign
from gpukmeans.checkpoints import Checkpoint
from gpukmeans.clustering import Callback, KMeansResult, inertia_at, kmeans
from gpukmeans.engines.base import Engine
from gpukmeans.metrics import Metric, check_metric
from gpukmeans.seeding import Seeding
from gpukmeans.validation import check_centers, check_points, computed_in, short_name


class KMeans(nn.Module):
    """K-means that remembers its centers, a buffer: it moves with `.to()` and is saved by `state_dict()`.

    The options are those of `gpukmeans.kmeans`. After `fit` there are `cluster_centers_` (K, D), `labels_` (N,),
    `inertia_` and `n_iter_`, as in scikit-learn, and `result_` with all that `kmeans` returned; fitted to a batch, all
    of these have its dimensions in front; fitted to a stream, there are no labels. After `load_state_dict`, which needs
    no fit before, there are only centers.
    """

    centers: Tensor | None

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | Num[Tensor, "*centers k d"] | Seeding = "auto",
        fixed: Num[Tensor, "*fixed f d"] | None = None,
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
        metric: str | Metric = "euclidean",
        refine: int = 0,
        callback: Callback | None = None,
        engine: str | Engine = "auto",
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
        # An option that is a parameter or a module does not become part of this one.
        if name in _OPTIONS:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def fit(
        self, x: Num[Tensor, "*batch n d"] | Iterable[Any], weights: Num[Tensor, "*batch n"] | None = None
    ) -> "KMeans":
        """Itself, with the centers of `kmeans(x, n_clusters, weights=weights, ...)`."""
        self.result_ = kmeans(x, weights=weights, **self.get_params())
        self.centers = self.result_.centers.clone()  # which may be loaded over, moved or trained
        return self

    def predict(self, x: Num[Tensor, "*batch n d"]) -> Int[Tensor, "*batch n"]:
        """For each point the index of its nearest center, the lowest of equally near ones."""
        return assign(x, self.cluster_centers_, metric=self.metric, engine=self.engine).labels

    def fit_predict(
        self, x: Num[Tensor, "*batch n d"], weights: Num[Tensor, "*batch n"] | None = None
    ) -> Int[Tensor, "*batch n"]:
        """The labels of `fit(x, weights)`. TypeError for a stream, which has none."""
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a tensor, as a stream has no labels, got {type(x).__name__}")
        return self.fit(x, weights).labels_

    def forward(self, x: Num[Tensor, "*batch n d"]) -> Int[Tensor, "*batch n"]:
        """The same as `predict`."""
        return self.predict(x)

    def transform(self, x: Num[Tensor, "*batch n d"]) -> Float[Tensor, "*batch n k"]:
        """Distances, not squared, of each point to each center, N x K of them; 1 - cos for the cosine metric.

        They have gradients, to `x` and to the centers.
        """
        centers = self.cluster_centers_
        check_points(x)
        check_centers(x, centers)
        metric, dtype = check_metric(self.metric), computed_in(x, centers)
        x, centers = (metric.prepare(rows, dtype).to(dtype) for rows in (x, centers))
        distances = torch.cdist(x, centers, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.square() * metric.factor if metric.directions else distances

    def score(
        self, x: Num[Tensor, "*batch n d"] | Iterable[Any], weights: Num[Tensor, "*batch n"] | None = None
    ) -> float | Float[Tensor, "*batch"]:
        """Minus the inertia of these points: the sum of weight times squared distance, below 0 as more is better.

        On ranks it is that of the rank's own points.
        """
        return _number(-inertia_at(x, self.cluster_centers_, weights, self.metric, self.engine))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The options by name. `deep` is there for scikit-learn and changes nothing."""
        return {name: getattr(self, name) for name in _OPTIONS}

    def set_params(self, **params: Any) -> "KMeans":
        """Itself, with these options changed. ValueError for a name that is none of them."""
        if unknown := params.keys() - set(_OPTIONS):
            raise ValueError(f"options are {', '.join(_OPTIONS)}, got {', '.join(sorted(unknown))}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A group is of this process, and no copy can have it.
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
                came = f"{short_name(saved.dtype)} of shape {tuple(saved.shape)}"
                error_msgs.append(f"{prefix}centers must be floats of shape (..., {self.n_clusters}, D), got {came}")
                return
            # A module that has not been fitted has no buffer yet to copy the saved centers into; one that was fitted
            # to points of another width needs another.
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


_OPTIONS = [name for name in inspect.signature(KMeans.__init__).parameters if name != "self"]


def _number(value: Tensor) -> Any:
    """A number of Python where there is only one; of a batch the tensor."""
    return value.item() if value.ndim == 0 else value
