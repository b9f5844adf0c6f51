import pytest
import torch

from gpukmeans import METRICS, Batches
from gpukmeans.points.communicator import Alone
from gpukmeans.points.inputs import Request, agreed, points_of, source_of
from gpukmeans.points.streaming import Form, StreamPart
from gpukmeans.points.tensor import TensorPart

X = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
FORM = Form(2, torch.float32, torch.device("cpu"), None)


def opened_of(x, weights=None, **options):
    source = source_of(x, weights, "auto", **options)
    return points_of(source, Request.of(source, {}).form(source.form), METRICS["euclidean"], "auto", Alone())


def test_a_tensor_is_opened_as_one_and_batches_as_a_stream():
    assert isinstance(opened_of(X).part, TensorPart)
    for stream in ([X], Batches(X, 3), X.numpy()):
        points = opened_of(stream)
        assert isinstance(points.part, StreamPart)
        assert points.survey.n_present.tolist() == [6]
    assert not source_of(X, None, "auto").streams
    assert source_of([X], None, "auto").streams


def test_dimensions_before_n_and_d_are_problems():
    source = source_of(X.view(3, 1, 2, 2), None, "auto")
    assert source.batch == (3, 1)
    assert list(opened_of(X.view(3, 1, 2, 2)).problems) == [0, 1, 2]


def test_the_form_of_a_stream_is_that_of_its_first_batch_with_rows():
    source = source_of([X[:0], (X)], None, "auto")
    assert source.form == FORM
    assert source_of([(X, X[:, 0])], None, "auto").form == FORM._replace(weights=torch.float32)
    assert source_of([], None, "auto").form is None
    assert str(FORM) == "(N, 2) of float32 on cpu without weights"


def test_rows_may_be_missing_only_where_others_may_have_them():
    with pytest.raises(ValueError, match=r"x must have shape .* with all of them at least 1, got \(0, 2\)"):
        source_of(X[:0], None, "auto")
    assert source_of(X[:0], None, "auto", least=0).form == FORM
    with pytest.raises(ValueError, match=r"with all of them but N at least 1, got \(0, 0\)"):
        source_of(X[:0, :0], None, "auto", least=0)


def request(x=X, weights=None, listens=False, **options):
    return Request.of(source_of(x, weights, "auto", least=0), options, listens=listens)


def test_ranks_agree_on_what_those_know_that_have_batches():
    found = agreed([request([]), request([(X, X[:, 0])], listens=True), request([])])
    assert (found.width, found.dtype, found.weights) == (2, "float32", "float32")
    assert found.listens
    assert found.streams
    assert found.form(None) == FORM._replace(weights=torch.float32)


def test_where_nobody_knows_a_batch_there_are_no_points():
    with pytest.raises(ValueError, match="x must have at least one row, got none"):
        agreed([request([]), request([])]).form(None)


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            request(),
            request(X.double()),
            "the dtype of x must be .* got float32 on rank 1, float64 on rank 2",
        ),
        (request(), request(X[:, :1]), "the number of coordinates of x .* got 2 on rank 1, 1 on rank 2"),
        (request(k=2), request(k=3), "k must be the same on every rank, got 2 on rank 0, 3 on rank 2"),
        (request(k=1), request(k=True), "k must be the same on every rank, got 1 on rank 0, True on rank 2"),
        (
            request(init=X),
            request(init=X + 1),
            "init must be the same on every rank, got a tensor",
        ),
        (
            request(init=X),
            request(init=X.double()),
            "init must be the same on every rank, got a tensor",
        ),
        (request(init="auto"), request(init=X), "init must be the same on every rank, got auto on rank 0, a tensor"),
    ],
)
def test_what_ranks_do_not_agree_on_is_named_with_who_said_what(one, other, message):
    unknowing = Request.of(source_of([], None, "auto"), dict(one.options))
    with pytest.raises(ValueError, match=message):
        agreed([unknowing, one, other])
    assert agreed([unknowing, one, one]).options.keys() == one.options.keys()


def test_an_option_that_only_some_have_is_no_agreement():
    with pytest.raises(ValueError, match="fixed must be the same on every rank, got None on rank 0, a tensor"):
        agreed([request(fixed=None), request(fixed=X)])
