"""`KMeans`: the clustering of `kmeans` with scikit-learn's names, as a module of torch."""

from typing import Any

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from gpukmeans.clustering import KMeansResult, assign, kmeans
from gpukmeans.engines import Engine
from gpukmeans.seeding import Seeding


class KMeans(nn.Module):
    """K-means that remembers its centers, a buffer: it moves with `.to()` and is saved by `state_dict()`.

    The options are those of `gpukmeans.kmeans`. After `fit` there are `cluster_centers_` (K, D), `labels_` (N,),
    `inertia_` and `n_iter_`, as in scikit-learn, and `result_` with all that `kmeans` returned.
    """

    centers: Tensor | None

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        init: str | Num[Tensor, "k d"] | Seeding = "k-means++",
        n_init: int = 1,
        max_iter: int = 100,
        tol: float = 1e-4,
        engine: str | Engine = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.engine = engine
        self.generator = generator
        self.result_: KMeansResult | None = None
        self.register_buffer("centers", None)

    def fit(self, x: Num[Tensor, "n d"], weights: Num[Tensor, " n"] | None = None) -> "KMeans":
        """Itself, with the centers of `kmeans(x, n_clusters, weights=weights, ...)`."""
        self.result_ = kmeans(
            x,
            self.n_clusters,
            weights=weights,
            init=self.init,
            n_init=self.n_init,
            max_iter=self.max_iter,
            tol=self.tol,
            engine=self.engine,
            generator=self.generator,
        )
        self.centers = self.result_.centers
        return self

    def predict(self, x: Num[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """For each point the index of its nearest center, the lowest of equally near ones."""
        return assign(x, self.cluster_centers_, engine=self.engine).labels

    def fit_predict(self, x: Num[Tensor, "n d"], weights: Num[Tensor, " n"] | None = None) -> Int[Tensor, " n"]:
        """The labels of `fit(x, weights)`."""
        return self.fit(x, weights).labels_

    def forward(self, x: Num[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The same as `predict`."""
        return self.predict(x)

    def transform(self, x: Num[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Distances, not squared, of each point to each center: N x K of them."""
        dtype = torch.promote_types(x.dtype, self.cluster_centers_.dtype)
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(x.to(dtype), self.cluster_centers_.to(dtype), compute_mode=mode)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # A module that has not been fitted has no buffer yet to copy the saved centers into.
        if isinstance(saved := state_dict.get(f"{prefix}centers"), Tensor):
            self.centers = torch.empty_like(saved)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def cluster_centers_(self) -> Float[Tensor, "k d"]:
        if self.centers is None:
            raise RuntimeError("this KMeans has no centers yet: call fit(x) first")
        return self.centers

    @property
    def labels_(self) -> Int[Tensor, " n"]:
        return self._fitted().labels

    @property
    def inertia_(self) -> float:
        return float(self._fitted().inertia)

    @property
    def n_iter_(self) -> int:
        return int(self._fitted().n_iter)

    def _fitted(self) -> KMeansResult:
        if self.result_ is None:
            raise RuntimeError("this KMeans has not been fitted yet: call fit(x) first")
        return self.result_
