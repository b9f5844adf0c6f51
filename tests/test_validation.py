import numpy as np
import pytest
import scipy.sparse
import torch

from gpukmeans import KMeans, assign, kmeans
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.validation import (
    Range,
    check_magnitude,
    check_nonzero_rows,
    check_range,
    finite_range,
    squared_diagonal,
    union_range,
)

X = torch.rand(6, 3)
NAN = torch.tensor([[0.0, float("nan")]])
B = torch.rand(2, 6, 3)
WRONG_CALLS = [
    ((X[0], 2), {}, ValueError, r"x must have shape \(N, D\) or .* got \(3,\)"),
    ((X[:0], 2), {}, ValueError, r"x must have shape .* got \(0, 3\)"),
    ((X.tolist(), 2), {}, TypeError, "x must be a tensor or an array, got list"),
    ((X.to_sparse(), 2), {}, TypeError, "x must be a dense tensor with values, got layout sparse_coo"),
    ((X.to("meta"), 2), {}, TypeError, "x must be a dense tensor with values, got a meta tensor"),
    ((X, 2), {"weights": torch.ones(6).to_sparse()}, TypeError, "weights must be a dense tensor"),
    ((X.double() * 1e-152, 2), {}, ValueError, "weights times squared distances must be from"),
    ((X, 2), {"weights": torch.full((6,), 1e-300, dtype=torch.float64)}, ValueError, "weights must not vanish below"),
    ((torch.stack([X, X * 1e-25]), 2), {}, ValueError, "no more than .*e-26: scale them up"),
    (
        (X.double() * 1e148, 2),
        {"init": X[:2].double() * 1e153},
        ValueError,
        "weights times squared distances must be from",
    ),
    ((X, 2), {"refine": -1}, ValueError, "refine must be at least 0, got -1"),
    ((X, 2), {"refine": True}, TypeError, "refine must be an int, got bool"),
    ((X > 0, 2), {}, TypeError, "x must be of dtype float16, .* got bool"),
    ((X + 1j, 2), {}, TypeError, "got complex64"),
    ((NAN, 1), {}, ValueError, "x must be finite"),
    ((-NAN.nan_to_num(1) / 0, 1), {}, ValueError, "x must be finite"),
    ((X, 0), {}, ValueError, "n_clusters must be at least 1, got 0"),
    ((X, 7), {}, ValueError, "n_clusters must be at most the number of points with weight, 6, got 7"),
    ((X, 2.0), {}, TypeError, "n_clusters must be an int, got float"),
    ((X, True), {}, TypeError, "n_clusters must be an int, got bool"),
    ((X, 2), {"n_init": 0}, ValueError, "n_init must be at least 1"),
    ((X, 2), {"max_iter": 0}, ValueError, "max_iter must be at least 1"),
    ((X, 2), {"tol": -1.0}, ValueError, "tol must be at least 0, got -1"),
    ((X, 2), {"tol": float("nan")}, ValueError, "tol must be at least 0, got nan"),
    ((X, 2), {"init": "kmeans"}, ValueError, "init must be one of auto, k-means.., k-means.., random, .* got 'kmeans'"),
    ((X, 2), {"init": 3}, TypeError, "init must be a name, a tensor of centers or a function, got int"),
    ((X, 2), {"init": X}, ValueError, r"init must have shape \(2, 3\) on cpu, got shape \(6, 3\)"),
    ((X, 2), {"init": X[:2], "n_init": 2}, ValueError, "n_init must be 1"),
    ((X, 2), {"init": X[:2] / 0}, ValueError, "init must be finite"),
    ((X, 2), {"init": lambda points, k, generator: X}, ValueError, r"init must return a tensor of shape \(2, 3\)"),
    ((X, 2), {"init": lambda points, k, generator: None}, ValueError, "init must return .* got NoneType"),
    (
        (X, 2),
        {"weights": torch.ones(5)},
        ValueError,
        r"weights must have shape \(6,\) on cpu, like x, got shape \(5,\)",
    ),
    ((X, 2), {"weights": [1.0] * 6}, TypeError, "weights must be a tensor or an array, got list"),
    ((X, 2), {"weights": X[:, 0] + 1j}, TypeError, "weights must be of dtype .* got complex64"),
    (((1, 2, 3), 2), {}, TypeError, "x must be a tensor or an array, got tuple"),
    ((X.numpy()[0], 2), {}, ValueError, r"x must have shape \(N, D\) or .* got \(3,\)"),
    ((X.numpy() > 0, 2), {}, TypeError, "x must be of dtype float16, .* got bool"),
    ((X.numpy().astype("U"), 2), {}, TypeError, "x must be of a dtype that torch has, got an array of <U"),
    ((scipy.sparse.csr_array(X.numpy()), 2), {}, TypeError, "x must be dense, got a sparse csr_array"),
    ((X, 2), {"weights": [True] * 6}, TypeError, "weights must be a tensor or an array, got list"),
    ((X, 2), {"weights": np.zeros(6, bool)}, ValueError, "weights must be finite, at least 0 and not all zero"),
    ((X, np.float64(2)), {}, TypeError, "n_clusters must be an int, got float64"),
    ((X, np.bool_(True)), {}, TypeError, "n_clusters must be an int, got bool"),
    ((X, np.array([2])), {}, TypeError, "n_clusters must be an int, got ndarray"),
    ((X, torch.tensor(2)), {}, TypeError, "n_clusters must be an int, got Tensor"),
    ((X, np.int64(0)), {}, ValueError, "n_clusters must be at least 1, got 0"),
    ((X, 2), {"tol": np.float32(-1)}, ValueError, "tol must be at least 0, got -1"),
    ((X, 2), {"tol": np.complex64(1)}, TypeError, "tol must be a number, got complex64"),
    ((X, 2), {"weights": torch.zeros(6)}, ValueError, "weights must be finite, at least 0 and not all zero"),
    ((X, 2), {"weights": -torch.ones(6)}, ValueError, "got values from -1.0 to -1.0"),
    ((X, 2), {"weights": torch.ones(6) / 0}, ValueError, "got values from inf to inf"),
    ((X, 2), {"weights": torch.eye(6)[0]}, ValueError, "at most the number of points with weight, 1, got 2"),
    ((X, 2), {"engine": "warp"}, ValueError, "engine must be one of auto, triton, screened, native, matmul, plain"),
    ((X * 1e30, 2), {}, ValueError, "scale them down"),
    ((X * 1e-30, 2), {}, ValueError, "scale them up"),
    ((X, 2), {"tol": "x"}, TypeError, "tol must be a number, got str"),
    ((X, 2), {"generator": 0}, TypeError, "generator must be a torch.Generator, got int"),
    ((X, 2), {"engine": PlainEngine}, TypeError, "a name or an engine, got type"),
    ((X, 2), {"init": X[:2] * 1e30}, ValueError, "of x and init span up to .* scale them down"),
    ((B[:, :0], 2), {}, ValueError, r"x must have shape .* got \(2, 0, 3\)"),
    ((B[:0], 2), {}, ValueError, r"x must have shape .* got \(0, 6, 3\)"),
    ((B, 2), {"weights": torch.ones(6)}, ValueError, r"weights must have shape \(2, 6\) on cpu, .* got shape \(6,\)"),
    (
        (B, 2),
        {"weights": torch.eye(2)[:, [0] * 6]},
        ValueError,
        "not all zero in any problem, got values from 0.0 to 1.0",
    ),
    ((B, 2), {"weights": torch.eye(6)[:2] + 1e-30}, ValueError, "points with weight, 1 of problem 0, got 2"),
    ((B, 2), {"init": B}, ValueError, r"init must have shape \(2, 3\) or \(2, 2, 3\) on cpu, got shape \(2, 6, 3\)"),
    (
        (B, 2),
        {"init": lambda points, k, generator: B},
        ValueError,
        r"init must return a tensor of shape \(2, 3\) or \(2, 2, 3\)",
    ),
    ((X, 2), {"init": X[:2] > 0}, TypeError, "init must be of dtype .* got bool"),
    (
        (X, 2),
        {"metric": "manhattan"},
        ValueError,
        "metric must be one of euclidean, cosine or a metric, got 'manhattan'",
    ),
    ((X, 2), {"fixed": [[0.0] * 3]}, TypeError, "fixed must be a tensor or an array, got list"),
    ((X, 2), {"fixed": X[:2] > 0}, TypeError, "fixed must be of dtype .* got bool"),
    ((X, 2), {"fixed": X[:2, :2]}, ValueError, r"fixed must have shape \(F, 3\) on cpu, like x, got shape \(2, 2\)"),
    ((X, 2), {"fixed": X[0]}, ValueError, r"fixed must have shape \(F, 3\) .* got shape \(3,\)"),
    ((B, 2), {"fixed": B[:1]}, ValueError, r"fixed must have shape \(F, 3\) or \(2, F, 3\) .* got shape \(1, 6, 3\)"),
    ((X, 2), {"fixed": X[:3]}, ValueError, "fixed must have at most n_clusters = 2 centers, got 3"),
    ((X, 2), {"fixed": X[:2] / 0}, ValueError, "fixed must be finite"),
    ((X, 2), {"fixed": X[:2] * 1e30}, ValueError, "of x and fixed span up to .* scale them down"),
    ((X, 2), {"fixed": X[:1] * 0, "metric": "cosine"}, ValueError, "fixed must have no zero row"),
    ((X, 3), {"fixed": X[:1], "init": X[:3]}, ValueError, r"init must have shape \(2, 3\) on cpu, got shape \(3, 3\)"),
    ((X, 9), {"fixed": X[:2]}, ValueError, "points with weight, 6, plus the number of fixed centers, 2, got 9"),
    ((X, 2), {"metric": 2}, TypeError, "metric must be a name or a metric, got int"),
    ((X * 0, 2), {"metric": "cosine"}, ValueError, "x must have no zero row for the cosine metric.* got row 0"),
    ((B * torch.tensor([1, 0])[:, None, None], 2), {"metric": "cosine"}, ValueError, "got row 0 of problem 1"),
    ((X, 2), {"metric": "cosine", "init": X[:2] * 0}, ValueError, "init must have no zero row"),
    ((X / 0, 2), {"metric": "cosine"}, ValueError, "x must be finite"),
    ((X, 2), {"callback": 3}, TypeError, "callback must be a function, got int"),
    (
        (X, 2),
        {"weights": torch.full((6,), 1e308, dtype=torch.float64)},
        ValueError,
        "weights must add up to a finite float64",
    ),
    (
        (X * 1e9, 2),
        {"weights": torch.full((6,), 1e300, dtype=torch.float64)},
        ValueError,
        "weights times squared distances",
    ),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG_CALLS)
def test_a_wrong_call_is_an_error_with_the_expected_and_the_received_value(args, options, error, message, unchecked):
    with pytest.raises(error, match=message):
        kmeans(*args, **options)


@pytest.mark.parametrize(
    ("x", "centers", "message"),
    [
        (X, X[:, :2], r"centers must have shape \(K, 3\) on cpu, like x, got shape \(6, 2\)"),
        (X, X[:0], r"centers must have shape"),
        (X, X / 0, "centers must be finite"),
        (X, X * 1e30, "of x and centers span up to .* scale them down"),
        (B, B[:1], r"centers must have shape \(K, 3\) or \(2, K, 3\) on cpu, like x, got shape \(1, 6, 3\)"),
    ],
)
def test_centers_that_do_not_match_the_points_are_an_error(x, centers, message, unchecked):
    with pytest.raises(ValueError, match=message):
        assign(x, centers)


@pytest.mark.parametrize(("x", "centers"), [(X * 0, X), (X, X * 0)])
def test_a_zero_row_is_an_error_for_the_cosine_metric(x, centers, unchecked):
    with pytest.raises(ValueError, match="must have no zero row for the cosine metric"):
        assign(x, centers, metric="cosine")


@pytest.mark.parametrize("method", ["predict", "transform", "score"])
def test_points_of_another_width_are_an_error_of_the_estimator(method, unchecked):
    with pytest.raises(ValueError, match="X has 2 features, but KMeans is expecting 3 features as input"):
        getattr(KMeans(2).fit(X), method)(X[:, :2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_generator_on_another_device_is_an_error():
    with pytest.raises(ValueError, match="generator must be on the CPU"):
        kmeans(X, 2, generator=torch.Generator(device="cuda"))


def test_ranges_are_of_each_coordinate_of_each_problem_and_have_a_union():
    x = torch.tensor([[[1, 5], [3, 2]], [[0, 0], [7, -7]]])
    found = finite_range(x, "x")
    assert found.lowest.tolist() == [[1, 2], [0, -7]]
    assert found.highest.tolist() == [[3, 5], [7, 0]]
    both = union_range(Range(*(bound[0] for bound in found)), Range(*(bound[1] for bound in found)))
    assert (both.lowest.tolist(), both.highest.tolist()) == ([0, -7], [7, 5])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_value_that_is_not_finite_is_an_error_with_name_and_shape(bad):
    x = torch.zeros(3, 2)
    x[1, 1] = bad
    with pytest.raises(ValueError, match=r"batch 4 of x must be finite, .* among its \(3, 2\) values"):
        finite_range(x, "batch 4 of x")


def test_the_squared_diagonal_of_a_box():
    assert squared_diagonal(torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 5.0]])).tolist() == [25]


def test_a_range_whose_squares_overflow_or_underflow_is_an_error():
    def range_of(width):
        return Range(torch.zeros(1, 2).double(), torch.full((1, 2), width).double())

    check_range(range_of(1e18), torch.float32, "x")
    with pytest.raises(ValueError, match=r"must stay below 3.4e.38, .* of x span up to 1e.20: scale them down"):
        check_range(range_of(1e20), torch.float32, "x")
    check_range(range_of(1e20), torch.float64, "x")
    with pytest.raises(ValueError, match=r"must not underflow below .* span no more than 1e-20: scale them up"):
        check_range(range_of(1e-20), torch.float32, "x")
    check_range(range_of(0.0), torch.float32, "x")


def test_weights_times_squared_distances_must_be_representable_in_fixed_point():
    one = torch.ones(1).double()
    check_magnitude(one, one * 2.0**899)
    check_magnitude(one, one * 0)
    for sqdist in (2.0**901, 2.0**-901):
        with pytest.raises(ValueError, match=r"weights times squared distances must be from .* scale them"):
            check_magnitude(one, one * sqdist)


def test_a_zero_row_is_an_error_unless_the_mask_excludes_it():
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"x must have no zero row .* got row 1$"):
        check_nonzero_rows(x, "x")
    check_nonzero_rows(x, "x", torch.tensor([True, False]))
