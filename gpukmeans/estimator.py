"""`KMeans`: K-means as a torch module with the interface of a scikit-learn estimator."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, SupportsFloat, SupportsIndex

import torch
from jaxtyping import Int, Num
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from gpukmeans.arrays import Array, as_tensor, converter_for
from gpukmeans.assignment import assign
from gpukmeans.checkpoints import Checkpoint
from gpukmeans.clustering import KMeansResult, inertia_at, kmeans
from gpukmeans.compilation import eager
from gpukmeans.engines import Engine, EngineName
from gpukmeans.metrics import Metric, MetricName, check_metric
from gpukmeans.minibatch import RUNNING_FIELDS, MiniBatchState, errors_of_running_state, partial_fit
from gpukmeans.options import OPTION_NAMES, Callback
from gpukmeans.seeding import InitName, Seeding, seeded
from gpukmeans.sklearn_protocol import (
    SklearnEstimator,
    check_feature_names,
    check_features,
    check_n_samples,
    feature_names,
    in_container,
    lists_to_arrays,
    not_fitted_error,
    parameters_of,
    warn_of_float_y,
)
from gpukmeans.validation import (
    check_centers,
    check_count,
    check_points,
    check_values,
    check_width,
    compute_dtype,
    dtype_and_shape,
)

_RESULTS = {
    *("result_", "cluster_centers_", "labels_", "inertia_", "n_iter_", "n_steps_"),
    *("n_features_in_", "_n_features_out", "feature_names_in_"),
}


class KMeans(SklearnEstimator, nn.Module):
    """K-means estimator and torch module: `fit` finds centers, and `predict` finds the nearest center of each point.

    Points are tensors, arrays, data frames or nested lists of numbers. A method returns arrays of the library of its
    points. Attributes are arrays of the library of the points given to the last `fit`. For data frames and lists, both
    are arrays of NumPy. The centers are a buffer of the module: `.to()` moves them and `state_dict()` saves them.

    After `fit` the estimator has the attributes of scikit-learn: `cluster_centers_` (K, D), `labels_` (N,), `inertia_`,
    `n_iter_`, `n_features_in_` and, for a data frame, `feature_names_in_`. `result_` is the `KMeansResult`. After a fit
    of a batch of problems the attributes have the batch dimensions in front. After a fit of a stream there is no
    `labels_`. A change of the centers, by `load_state_dict` or in place, removes `labels_`, `inertia_`, `n_iter_` and
    `result_`.

    Args:
        n_clusters: the number of clusters K.
        init: the initial centers or a seeding, as in `kmeans`, which describes all options. With
            `init=other.cluster_centers_` the fit starts from the centers of another estimator.
        fixed: centers that do not move, (F, D) or (..., F, D).
        n_init: the number of runs; the result is the best of them.
        max_iter: the maximum number of iterations of Lloyd's loop.
        tol: the relative decrease of the inertia at which the loop ends.
        metric: a name of `METRICS` or a `Metric`.
        refine: the number of cycles of refinement before the loop.
        callback: a function that is called after each iteration.
        engine: a name of `ENGINES`, "auto" or an `Engine`.
        random_state: a seed, or a CPU generator, which each fit advances and a clone copies. None is seed 0.
        group: a process group. Each rank passes its own rows; all ranks get the same centers.
        checkpoint: how to save the state of the run, and the state to resume from.

    Raises:
        TypeError, ValueError: from `fit`, for other values of the arguments.
        AttributeError: for an attribute of a fit before `fit`; scikit-learn's NotFittedError if scikit-learn is loaded.

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
    n_steps: Tensor | None

    @eager
    def __init__(
        self,
        n_clusters: SupportsIndex = 8,
        *,
        init: InitName | Num[Tensor, "*centers k d"] | Array | Seeding = "auto",
        fixed: Num[Tensor, "*fixed f d"] | Array | None = None,
        n_init: SupportsIndex = 1,
        max_iter: SupportsIndex = 100,
        tol: SupportsFloat = 1e-4,
        metric: MetricName | Metric = "euclidean",
        refine: SupportsIndex = 0,
        callback: Callback | None = None,
        engine: EngineName | Engine = "auto",
        random_state: SupportsIndex | torch.Generator | None = None,
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
        self.random_state = random_state
        self.group = group
        self.checkpoint = checkpoint
        for name in ("centers", *RUNNING_FIELDS):
            self.register_buffer(name, None)
        self._result: KMeansResult | None = None
        self._as_given: Callable[[Tensor], Any] = converter_for(torch.empty(0, device="cpu"))

    @eager
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "KMeans":
        """The estimator itself, fitted by `kmeans(X, n_clusters, weights=sample_weight, ...)`.

        Args:
            X: points (N, D) or (..., N, D), or a stream.
            y: ignored, with a warning if it has floats, which may be meant as weights.
            sample_weight: weights (..., N) of the points, finite and at least 0.

        Raises:
            TypeError, ValueError: for points, weights or options that `kmeans` does not accept.

        Example:
            >>> KMeans(2).fit([[0.0], [1.0], [8.0], [9.0]]).inertia_
            1.0
        """
        warn_of_float_y(y)
        array = lists_to_arrays(X)
        result = kmeans(self._unfitted_points(array), weights=lists_to_arrays(sample_weight), **self._options())
        self._set_result(result, converter_for(array), feature_names(X), {})
        return self

    @eager
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "KMeans":
        """The estimator itself, after one more batch of mini-batch K-means (Sculley 2010).

        Each center is the weighted mean of all points that were nearest to it in their batch, as in the
        `MiniBatchKMeans` of scikit-learn. `labels_` and `inertia_` describe the batch at the new centers; `n_steps_`
        and `n_iter_` are the number of batches. docs/guarantees.md has the rules for initial centers, reassignment,
        saved states and ranks. `max_iter`, `tol`, `callback` and `checkpoint` have no effect.

        Args:
            X: points (N, D) or (..., N, D). The first batch needs a point of weight above 0 for each center that is not
                fixed.
            y: ignored, as in `fit`.
            sample_weight: weights (..., N) of the points, finite and at least 0.

        Raises:
            TypeError, ValueError: for input that `kmeans` does not accept, for a stream, and for points whose shape or
                device differs from that of the centers.

        Example:
            >>> model = KMeans(2).partial_fit(torch.tensor([[0.0], [1.0], [8.0], [9.0]]))
            >>> model.partial_fit(torch.tensor([[3.5]])).cluster_centers_.sort(dim=0).values.tolist()
            [[1.5], [8.5]]
        """
        warn_of_float_y(y)
        array, before = lists_to_arrays(X), self._running_state()
        weights = lists_to_arrays(sample_weight)
        if before is None:
            x, names = self._unfitted_points(array, mapped=True), feature_names(X)
        else:
            x, names = array if self.group is not None else self._read(X)[0], self.__dict__.get("feature_names_in_")
            weights = _moved_to(before.centers.device, weights, "sample_weight")
        state, result = partial_fit(before, x, weights, **self._options())
        self._set_result(result, converter_for(array), names, vars(state))
        return self

    def predict(self, X: Any) -> Any:
        """Index of the nearest center of each point (..., N), the lowest on ties.

        Args:
            X: points (..., N, D).

        Raises:
            AttributeError: before `fit`.
            TypeError, ValueError: for points that do not fit the centers.

        Example:
            >>> KMeans(2).fit([[0.0], [1.0], [8.0], [9.0]]).predict([[8.2], [9.9]]).tolist()
            [1, 1]
        """
        x, as_given = self._read(X)
        return as_given(self.forward(x))

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Labels (..., N) of the points, after `fit(X, y, sample_weight)`. TypeError for a stream: it has no labels."""
        if not isinstance(as_tensor(lists_to_arrays(X), "X"), Tensor):
            raise TypeError(f"X must be a tensor or an array, because a stream has no labels, got {type(X).__name__}")
        return self.fit(X, y, sample_weight).labels_

    def forward(self, x: Num[Tensor, "*batch n d"]) -> Int[Tensor, "*batch n"]:
        """`predict` for a tensor, which makes the estimator a layer of a torch model."""
        check_width(x, self._fitted_centers())
        return assign(x, self._fitted_centers(), metric=self.metric, engine=self.engine).labels

    def transform(self, X: Any) -> Any:
        """Distances (..., N, K) of each point to each center, not squared; 1 - cos for the cosine metric.

        The distances of a tensor have gradients with respect to the points and the centers. `set_output` selects a
        data frame as the result.

        Args:
            X: points (..., N, D).

        Raises:
            AttributeError: before `fit`.
            TypeError, ValueError: for points that do not fit the centers.

        Example:
            >>> KMeans(1).fit(torch.tensor([[0.0], [2.0]])).transform(torch.tensor([[4.0]]))
            tensor([[3.]])
        """
        x, as_given = self._read(X)
        distances = self._distances(x)
        container = in_container(self, X, distances)
        return as_given(distances) if container is None else container

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Distances (..., N, K) of each point to each center, after `fit(X, None, sample_weight)`.

        `y` is ignored without a warning, because in a pipeline it is the target of a later step.
        """
        return self.fit(X, None, sample_weight).transform(X)

    @eager
    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Negative inertia: minus the sum over the points of weight times squared distance. Higher is better.

        The result is a float, or (...) for a batch. On ranks the result is for the rank's own points.

        Args:
            X: points (..., N, D), or a stream.
            y: ignored, as in `fit`.
            sample_weight: weights (..., N) of the points, finite and at least 0.

        Raises:
            AttributeError: before `fit`.
            TypeError, ValueError: for points that do not fit the centers, and for wrong weights.

        Example:
            >>> KMeans(1).fit([[0.0], [2.0]]).score([[4.0]])
            -9.0
        """
        warn_of_float_y(y)
        x, as_given = self._read(X, mapped=False)
        weights = _moved_to(self._fitted_centers().device, lists_to_arrays(sample_weight), "sample_weight")
        inertia = inertia_at(x, self._fitted_centers(), weights, self.metric, self.engine)
        return _number(-inertia, as_given)

    @property
    def result_(self) -> KMeansResult:
        """The `KMeansResult` of the last `fit`, with tensors."""
        result = self._result
        if result is None or not _equal(self.centers, result.centers):
            self._result = None
            raise self._missing("result_")
        return result

    @property
    def cluster_centers_(self) -> Any:
        """Centers (..., K, D)."""
        return self._as_given(self._fitted_centers())

    @property
    def labels_(self) -> Any:
        """Index of the nearest center of each fitted point (..., N), the lowest on ties."""
        labels = self.result_.labels
        if labels is None:
            raise self._missing("labels_")
        return self._as_given(labels)

    @property
    def inertia_(self) -> Any:
        """Sum over the fitted points of weight times squared distance: a float, or (...) for a batch."""
        return _number(self.result_.inertia, self._as_given)

    @property
    def n_iter_(self) -> Any:
        """Number of iterations: an int, or (...) for a batch."""
        return _number(self.result_.n_iter, self._as_given)

    @property
    def n_features_in_(self) -> int:
        """Number of coordinates, D."""
        return self._fitted_centers().shape[-1]

    @property
    def _n_features_out(self) -> int:
        return self._fitted_centers().shape[-2]

    @property
    def n_steps_(self) -> int:
        """Number of batches given to `partial_fit`."""
        if self.n_steps is None:
            raise self._missing("n_steps_")
        return int(self.n_steps)

    def __sklearn_is_fitted__(self) -> bool:
        return self.centers is not None

    def __getattr__(self, name: str) -> Any:
        # Python also calls this after a property raised an AttributeError. nn.Module would replace its message.
        if name in _RESULTS:
            raise self._missing(name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        # Options are set without nn.Module, which would register an option that is an `nn.Parameter` or a module.
        # nn.Module sets all other attributes, also attributes of a subclass.
        if name in parameters_of(KMeans):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        # A process group cannot be copied or pickled. The dict of buffers is copied, because a fit of the copied
        # estimator replaces the entries.
        return {**self.__dict__, "group": None, "_buffers": self._buffers.copy()}

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
                wanted = f"floats of shape (..., {self.n_clusters}, D)"
                error_msgs.append(f"{prefix}centers must be {wanted}, got {dtype_and_shape(saved)}")
                return
            keys = {name: f"{prefix}{name}" for name in RUNNING_FIELDS}
            running = {name: state_dict[key] for name, key in keys.items() if key in state_dict}
            if errors := errors_of_running_state(saved, running):
                error_msgs += [f"{prefix}{error}" for error in errors]
                return
            if self.centers is None or self.centers.shape != saved.shape:
                self.__dict__.pop("feature_names_in_", None)
            self._make_buffers({"centers": saved, **running})
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _options(self) -> dict[str, Any]:
        """The options of `kmeans`."""
        options = {name: getattr(self, name) for name in OPTION_NAMES if name != "generator"}
        return {**options, "generator": _generator(self.random_state)}

    def _unfitted_points(self, array: Any, *, mapped: bool = False) -> Any:
        """Points for a new fit, as a tensor unless they are a stream. A memory map is a stream unless `mapped`."""
        if self.group is not None:  # checked later, in a collective that raises an error on all ranks
            return array
        x = as_tensor(array, "X", mapped=mapped)
        if isinstance(x, Tensor):
            check_features(x)
            if self.fixed is None:
                check_n_samples(x, self.n_clusters)
        return x

    def _running_state(self) -> MiniBatchState | None:
        """The state that `partial_fit` continues from; None before the first batch."""
        if self.centers is None:
            return None
        if self.n_steps is not None:
            return MiniBatchState(centers=self.centers, **{name: getattr(self, name) for name in RUNNING_FIELDS})
        result = getattr(self, "result_", None)
        return MiniBatchState.of_centers(self.centers, None if result is None else result.cluster_weights)

    def _make_buffers(self, saved: Mapping[str, Tensor]) -> None:
        """Give the buffers the shapes of the saved tensors. A buffer without a saved tensor becomes None."""
        device = None if self.centers is None else self.centers.device
        with torch.inference_mode(False):
            for name in ("centers", *RUNNING_FIELDS):
                own, other = getattr(self, name), saved.get(name)
                if other is None or own is None or own.shape != other.shape:
                    setattr(self, name, None if other is None else torch.empty_like(other, device=device))

    def _apply(self, fn: Any, recurse: bool = True) -> "KMeans":
        # `.to()` and `.half()` move the running state and keep its dtype, because float16 has no count above 65504.
        before = {name: getattr(self, name) for name in RUNNING_FIELDS}
        super()._apply(fn, recurse)
        for name, value in before.items():
            if value is not None and value.dtype != getattr(self, name).dtype:
                setattr(self, name, value.to(getattr(self, name).device))
        return self

    def _set_result(
        self, result: KMeansResult, as_given: Callable[[Tensor], Any], names: Any, running: Mapping[str, Tensor]
    ) -> None:
        """Store the result of a fit, and copies of its centers and running state as buffers."""
        with torch.inference_mode(False):  # autograd rejects tensors made in inference mode
            tensors = {field.name: getattr(result, field.name) for field in fields(result)}
            inferred = {name: t.clone() for name, t in tensors.items() if t is not None and t.is_inference()}
            self._result = replace(result, **inferred)
            self.centers = self._result.centers.clone()
            for name in RUNNING_FIELDS:
                setattr(self, name, running[name].clone() if running else None)
        self._as_given = as_given
        self.__dict__.pop("feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = names

    def _read(self, X: Any, *, mapped: bool = True) -> tuple[Any, Callable[[Tensor], Any]]:
        """Points for a fitted estimator as a tensor, and the converter of results to the library of the points.

        Streams are unchanged. A memory map is a stream unless `mapped` is true.
        """
        centers = self._fitted_centers()
        check_feature_names(self, X)
        array = lists_to_arrays(X)
        x = _moved_to(centers.device, array, "X", mapped=mapped)
        if isinstance(x, Tensor):
            check_features(x, self)
        return x, converter_for(array)

    def _distances(self, x: Tensor) -> Tensor:
        """Distances (..., N, K), not squared; 1 - cos for the cosine metric."""
        centers = self._fitted_centers()
        check_points(x, least=0)
        check_centers(x, centers)
        if x.shape[-2] and not torch.compiler.is_compiling():
            check_values(x.detach(), centers.detach())
        metric, dtype = check_metric(self.metric), compute_dtype(x, centers)
        x, centers = (metric.prepare(rows, dtype).to(dtype) for rows in (x, centers))
        distances = torch.cdist(x, centers, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.square() * metric.factor if metric.normalizes else distances

    def _fitted_centers(self) -> Tensor:
        if self.centers is None:
            raise self._missing("centers")
        return self.centers

    def _missing(self, name: str) -> AttributeError:
        """The error for an attribute that this estimator does not have."""
        instance = f"This {type(self).__name__} instance"
        if self.centers is None:
            fitting = "Call 'fit' with appropriate arguments before using this estimator."
            return not_fitted_error(f"{instance} is not fitted yet. {fitting}")
        if name == "n_steps_":
            return AttributeError(f"{instance} has no {name}: 'partial_fit' was not called after 'fit'")
        if name == "feature_names_in_":
            return AttributeError(f"{instance} has no {name}: it was fitted without names of features")
        if name == "labels_" and self._result is not None:
            return AttributeError(
                f"{instance} has no {name}, because it was fitted to a stream: call predict(batch) for each batch"
            )
        return not_fitted_error(f"{instance} has no {name}: its centers were loaded or changed after 'fit'")


def _moved_to(device: torch.device, values: Any, name: str, *, mapped: bool = True) -> Any:
    """The tensor of an array, moved to the device. A tensor or any other object is returned unchanged."""
    tensor = as_tensor(values, name, mapped=mapped)
    return tensor.to(device) if isinstance(tensor, Tensor) and not isinstance(values, Tensor) else tensor


def _generator(random_state: Any) -> torch.Generator:
    """The given generator, or a new generator with this seed, 0 for None."""
    if isinstance(random_state, torch.Generator):
        return random_state
    try:
        seed = 0 if random_state is None else check_count("random_state", random_state, least=0)
    except TypeError:
        expected = "an int, a torch.Generator or None"
        raise TypeError(f"random_state must be {expected}, got {type(random_state).__name__}") from None
    return seeded(seed)


def _equal(centers: Tensor | None, fitted: Tensor) -> bool:
    """Whether the centers equal the fitted centers in values and dtype, on any device."""
    if centers is None or centers.is_meta or centers.dtype != fitted.dtype:
        return False
    return torch.equal(centers.detach().to(fitted.device), fitted)


def _number(value: Tensor, as_given: Callable[[Tensor], Any]) -> Any:
    """A Python number for a single problem; for a batch, a result in the library of the points."""
    return value.item() if value.ndim == 0 else as_given(value)
