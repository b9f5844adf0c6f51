import numpy as np
import pytest
import torch
from helpers.array_libraries import ArrayOnDisk, DLPackArray, Frame

from gpukmeans import METRICS, Batches
from gpukmeans.points.communicator import SingleProcess
from gpukmeans.points.inputs import CallOptions, check_equal_on_ranks, points_from_input, read_input
from gpukmeans.points.streaming import BatchSource, PointSpec
from gpukmeans.points.tensor import TensorSource

X = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
SPEC = PointSpec(2, torch.float32, torch.device("cpu"), None)
WEIGHTED = Batches([(X, X[:, 0])], weighted=True)


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def opened(x, weights=None, **options):
    given = read_input(x, weights, "auto", **options)
    return points_from_input(given, given.spec, METRICS["euclidean"], "auto", SingleProcess())


def test_arrays_in_memory_are_opened_as_one_tensor_and_batches_and_arrays_on_disk_as_a_stream(mapped):
    for tensor in (X, X.numpy(), DLPackArray(X), Frame(X.numpy())):
        assert isinstance(opened(tensor).source, TensorSource)
    for stream in ([X], Batches(X, 3), [X.numpy()], ArrayOnDisk(X.numpy()), mapped):
        points = opened(stream)
        assert isinstance(points.source, BatchSource)
        assert points.stats.n_present.tolist() == [6]
    assert not read_input(X, None, "auto").is_stream
    assert read_input([X], None, "auto").is_stream


@pytest.mark.parametrize("stream", [[X], Batches(X), ArrayOnDisk(X.numpy())], ids=lambda x: type(x).__name__)
def test_weights_of_a_stream_are_not_an_argument(stream):
    with pytest.raises(
        TypeError, match=r"use Batches\(source, weighted=True\) of pairs \(x, weights\), got the argument"
    ):
        read_input(stream, X[:, 0], "auto")


@pytest.mark.parametrize("x", [X.tolist(), [1.0, 2.0], ((1, 2), (3, 4)), [[[True]]], [[np.float32(1)]]], ids=str)
def test_lists_of_numbers_are_an_error(x):
    with pytest.raises(TypeError, match=f"x must be a tensor or an array, got {type(x).__name__}"):
        read_input(x, None, "auto")


def test_weights_are_tensors_or_arrays_and_masks_are_weights_of_0_and_1():
    mask = torch.tensor([True, False, True, True, False, True])
    for weights in (mask, mask.numpy(), DLPackArray(mask), Frame(mask.numpy()[:, None], ["bool"]).column(0)):
        points = opened(X, weights)
        assert points.stats.total_weight.tolist() == [4]
        assert points.stats.n_present.tolist() == [4]
    assert opened(X.numpy(), mask.float().numpy()).stats.total_weight.tolist() == [4]


def test_dimensions_before_n_and_d_are_problems():
    given = read_input(X.view(3, 1, 2, 2), None, "auto")
    assert given.batch == (3, 1)
    assert list(opened(X.view(3, 1, 2, 2)).problems) == [0, 1, 2]


def test_the_spec_of_a_stream_is_that_of_its_first_batch_with_rows():
    given = read_input([X[:0], (X)], None, "auto")
    assert given.spec == SPEC
    assert read_input(WEIGHTED, None, "auto").spec == SPEC._replace(weights_dtype=torch.float32)
    assert read_input([(X, X[:, 0])], None, "auto").spec == SPEC
    assert read_input([], None, "auto").spec is None
    assert str(SPEC) == "(N, 2) of float32 on cpu without weights"


def test_a_tensor_without_rows_is_valid_only_on_ranks():
    with pytest.raises(ValueError, match=r"x must have shape .* with all dimensions at least 1, got \(0, 2\)"):
        read_input(X[:0], None, "auto")
    assert read_input(X[:0], None, "auto", least=0).spec == SPEC
    with pytest.raises(ValueError, match=r"with all dimensions except N at least 1, got \(0, 0\)"):
        read_input(X[:0, :0], None, "auto", least=0)


def call(x=X, weights=None, has_callback=False, **options):
    given = read_input(x, weights, "auto", least=0)
    return CallOptions(
        spec=given.spec,
        batch=given.batch,
        is_stream=given.is_stream,
        has_callback=has_callback,
        resumes=False,
        options=options,
    )


def test_ranks_without_batches_have_the_spec_of_the_others():
    found = check_equal_on_ranks([call([]), call(WEIGHTED, has_callback=True), call([])])
    assert found.has_callback
    assert found.is_stream
    assert found.spec_on(None) == SPEC._replace(weights_dtype=torch.float32)


def test_without_batches_on_any_rank_there_are_no_points():
    with pytest.raises(ValueError, match="x must have at least one row, got none"):
        check_equal_on_ranks([call([]), call([])]).spec_on(None)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            call(),
            call(X.double()),
            "the dtype of x must be .* got float32 on rank 1, float64 on rank 2",
        ),
        (call(), call(X[:, :1]), "the number of coordinates of x .* got 2 on rank 1, 1 on rank 2"),
        (call(k=2), call(k=3), "k must be the same on every rank, got 2 on rank 0, 3 on rank 2"),
        (call(k=1), call(k=True), "k must be the same on every rank, got 1 on rank 0, True on rank 2"),
        (
            call(init=X),
            call(init=X + 1),
            "init must be the same on every rank, got a tensor",
        ),
        (
            call(init=X),
            call(init=X.double()),
            "init must be the same on every rank, got a tensor",
        ),
        (call(init="auto"), call(init=X), "init must be the same on every rank, got auto on rank 0, a tensor"),
    ],
)
def test_a_difference_between_ranks_is_an_error_with_the_values_and_ranks(one, other, message):
    without_rows = call([], **one.options)
    with pytest.raises(ValueError, match=message):
        check_equal_on_ranks([without_rows, one, other])
    assert check_equal_on_ranks([without_rows, one, one]).options.keys() == one.options.keys()


def test_an_option_that_only_some_ranks_have_is_an_error():
    with pytest.raises(ValueError, match="fixed must be the same on every rank, got None on rank 0, a tensor"):
        check_equal_on_ranks([call(fixed=None), call(fixed=X)])
