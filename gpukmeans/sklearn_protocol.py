"""Interface of a scikit-learn estimator, independent of K-means: parameters, tags, names of features, containers.

scikit-learn is imported only where a method needs it.
"""

import functools
import inspect
import warnings
from collections.abc import Mapping
from numbers import Integral, Number, Real
from sys import modules
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound="SklearnEstimator")

# The path of each memory map that joblib makes of an argument contains this folder name.
_JOBLIB_FOLDER = "joblib_memmapping_folder"


class SklearnEstimator:
    """Base class of a clusterer and transformer. Its parameters are the arguments of the constructor, as attributes."""

    _sklearn_auto_wrap_output_keys = frozenset({"transform"})
    _sklearn_output_config: Mapping[str, str]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name. scikit-learn requires the argument `deep`, which has no effect."""
        return {name: getattr(self, name) for name in parameters_of(type(self))}

    def set_params(self: T, **params: Any) -> T:
        """The estimator itself, with these parameters changed. ValueError for an unknown name."""
        names = parameters_of(type(self))
        if unknown := params.keys() - names.keys():
            raise ValueError(f"parameters are {', '.join(names)}, got {', '.join(sorted(unknown))}")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __sklearn_clone__(self: T) -> T:
        # A shared generator would advance in one clone and change the fit of the other.
        params = {
            name: value.clone_state() if isinstance(value, torch.Generator) else value
            for name, value in self.get_params().items()
        }
        clone = type(self)(**params)
        if hasattr(self, "_sklearn_output_config"):
            clone._sklearn_output_config = dict(self._sklearn_output_config)
        return clone

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="clusterer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(three_d_array=True),
        )

    def set_output(self: T, *, transform: str | None = None) -> T:
        """The estimator itself, with a new container for the result of `transform`. Needs scikit-learn.

        The container is "default", "pandas" or "polars"; None changes nothing. The columns have the names of
        `get_feature_names_out`.
        """
        from sklearn.utils._set_output import _SetOutputMixin

        return _SetOutputMixin.set_output(self, transform=transform)  # pyright: ignore[reportArgumentType]

    def get_feature_names_out(self, input_features: Any = None) -> Any:
        """Names of the columns of `transform`, "kmeans0", "kmeans1", ..., as an array of objects. Needs scikit-learn.

        ValueError if `input_features` differ from the names of the fitted features.
        """
        from sklearn.base import ClassNamePrefixFeaturesOutMixin

        return ClassNamePrefixFeaturesOutMixin.get_feature_names_out(self, input_features)  # pyright: ignore

    def extra_repr(self) -> str:
        """The parameters that differ from their defaults."""
        defaults = parameters_of(type(self))
        return ", ".join(
            f"{name}={_short(value)}"
            for name, value in self.get_params().items()
            if type(value) is not type(defaults[name]) or value != defaults[name]
        )


@functools.cache
def parameters_of(estimator: type) -> dict[str, Any]:
    """Defaults of the constructor's parameters, by name. With `**` the parameters of the base class are included."""
    parameters = inspect.signature(estimator).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    inherited = parameters_of(estimator.__mro__[1]) if inspect.Parameter.VAR_KEYWORD in kinds else {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {**inherited, **{each.name: each.default for each in parameters if each.kind not in variadic}}


def not_fitted_error(message: str) -> AttributeError:
    """An AttributeError, which is scikit-learn's NotFittedError if scikit-learn is loaded."""
    exceptions = modules.get("sklearn.exceptions")
    return AttributeError(message) if exceptions is None else exceptions.NotFittedError(message)


def warn_of_float_y(y: Any) -> None:
    """UserWarning that `y` is ignored, if it has floats, because they may be meant as weights."""
    if isinstance(y, Tensor):
        has_floats = y.is_floating_point()
    else:
        array = y.to_numpy() if hasattr(y, "to_numpy") else y
        kind = getattr(getattr(array, "dtype", None), "kind", None)
        values = array.ravel().tolist() if kind == "O" else array
        has_floats = kind == "f" or (isinstance(values, (list, tuple)) and any(map(_has_float, values)))
    if has_floats:
        warnings.warn("y has floats and is ignored: pass weights of points as sample_weight", stacklevel=4)


def lists_to_arrays(values: Any) -> Any:
    """A NumPy array for nested lists of numbers, an array of objects, or an object with `__array__` but no `shape`.

    Any other object is unchanged, such as a tensor, a data frame or a stream. A memory map that joblib made of a large
    array becomes an array. ValueError or TypeError for entries that are not numbers.
    """
    if isinstance(values, (list, tuple)):
        return _array_of_numbers(values) if _is_nested_numbers(values) else values
    if _JOBLIB_FOLDER in str(getattr(values, "filename", "")):
        values = values.view(next(base for base in type(values).__mro__ if base.__name__ == "ndarray"))
    if hasattr(values, "__array__") and not hasattr(values, "shape"):
        values = values.__array__()
    if getattr(getattr(values, "dtype", None), "kind", None) == "O":
        values = values.astype("float64")
    return values


def _array_of_numbers(values: Any) -> Any:
    try:
        return torch.tensor(values, dtype=torch.float64, device="cpu").numpy()
    except (TypeError, ValueError, OverflowError) as error:
        raise type(error)(f"nested lists must contain numbers and have equal lengths, got others ({error})") from None


def feature_names(x: Any) -> Any:
    """The names of the columns of a data frame if all are strings, else None. TypeError if only some are strings.

    Without scikit-learn the result is None.
    """
    if isinstance(x, (Tensor, list, tuple)) or not hasattr(x, "columns"):
        return None
    try:
        from sklearn.utils.validation import _get_feature_names
    except ImportError:
        return None
    return _get_feature_names(x)


def check_feature_names(estimator: Any, x: Any) -> None:
    """ValueError if the names of the columns differ from the fitted names. A warning if only one has names."""
    if hasattr(estimator, "feature_names_in_") or feature_names(x) is not None:
        from sklearn.utils.validation import _check_feature_names

        _check_feature_names(estimator, x, reset=False)


def check_features(x: Tensor, fitted: Any = None) -> None:
    """ValueError, worded as in scikit-learn, unless coordinates are real, at least one, and as many as were fitted."""
    if x.is_complex():
        raise ValueError(f"Complex data not supported: X must be real, got {x.dtype}")
    if x.ndim < 2:
        hint = "Reshape your data: X[None] is one point, X[:, None] are points of one coordinate"
        raise ValueError(f"X must have shape (N, D) or (..., N, D), got {tuple(x.shape)}. {hint}")
    if x.shape[-1] == 0:
        raise ValueError(f"Found array with 0 feature(s) (shape={tuple(x.shape)}) while a minimum of 1 is required.")
    if fitted is not None and x.shape[-1] != fitted.n_features_in_:
        expected = f"{type(fitted).__name__} is expecting {fitted.n_features_in_} features as input"
        raise ValueError(f"X has {x.shape[-1]} features, but {expected}.")


def check_n_samples(x: Tensor, n_clusters: object) -> None:
    """ValueError, worded as in scikit-learn, for fewer points than clusters."""
    if isinstance(n_clusters, int) and 0 < x.shape[-2] < n_clusters:
        raise ValueError(f"n_samples={x.shape[-2]} should be >= n_clusters={n_clusters}.")


def in_container(estimator: SklearnEstimator, x: Any, columns: Tensor) -> Any:
    """The columns (N, K) of `transform(x)` in the container that `set_output` or scikit-learn's configuration selects.

    None for the default container.
    """
    set_output = modules.get("sklearn.utils._set_output")
    if set_output is None or set_output._get_output_config("transform", estimator)["dense"] == "default":
        return None
    if columns.ndim != 2:
        raise ValueError(f"X must be (N, D) for the output that set_output selects, got {tuple(x.shape)}")
    return set_output._wrap_data_with_container("transform", columns.detach().cpu().numpy(), x, estimator)


def _is_nested_numbers(values: Any) -> bool:
    while isinstance(values, (list, tuple)) and len(values):
        values = values[0]
    return isinstance(values, Number)


def _has_float(value: Any) -> bool:
    """Whether this is a real number that is not an integer, or a list that contains one."""
    if isinstance(value, (list, tuple)):
        return any(map(_has_float, value))
    return isinstance(value, Real) and not isinstance(value, Integral)


def _short(value: Any) -> str:
    """A value in one line: the shape of a tensor or an array, the name of a function."""
    if isinstance(value, Number):
        return str(value)
    if hasattr(value, "shape"):
        return f"{type(value).__name__}{tuple(value.shape)}"
    return getattr(value, "__name__", None) or repr(value)
