import pytest
import safetensors.torch
import torch
from helpers.problems import seeded
from helpers.rank_cases import points

from gpukmeans import Checkpoint, kmeans
from gpukmeans.checkpoints import of_the_same, packed, unpacked
from gpukmeans.lloyd import Fit
from gpukmeans.moments import Moments


def kept_of(x, n_clusters, every, **options):
    """The result of a run, and all states that it kept."""
    kept = []
    return kmeans(x, n_clusters, checkpoint=Checkpoint(kept.append, every), **options), kept


def resumed(x, n_clusters, state, **options):
    return kmeans(x, n_clusters, checkpoint=Checkpoint(lambda state: None, 3, state), **options)


def assert_same(found, expected):
    for name, value in vars(expected).items():
        assert torch.equal(getattr(found, name), value) if value is not None else getattr(found, name) is None, name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_init": 4},
        {"metric": "cosine"},
        {"fixed": torch.zeros(1, 3), "refine": 1},
        {"init": torch.arange(6.0)[:, None] * torch.full((6, 3), 1e3)},  # clusters begin empty
        {"tol": 0.0, "max_iter": 9},
    ],
    ids=str,
)
def test_a_run_goes_on_from_any_checkpoint_to_the_same_bits(options):
    x, weights = points(900, 3, "floats")
    every = 1 if "refine" in options else 2
    expected, kept = kept_of(x, 6, every, weights=weights, **options)
    assert_same(expected, kmeans(x, 6, weights=weights, **options))
    assert [int(state["loop.n_iter"]) for state in kept] == [every * number for number in range(len(kept))]
    assert kept
    for state in kept:
        assert_same(resumed(x, 6, state, weights=weights, **options), expected)


def test_a_batch_of_problems_goes_on_though_some_of_them_have_ended():
    x = torch.randn(4, 200, 2, generator=seeded())
    expected, kept = kept_of(x, 5, 1, n_init=2)
    assert 0 < len(kept[-1]["loop.ended"]) < 8
    for state in kept[::4]:
        assert_same(resumed(x, 5, state, n_init=2), expected)


def test_a_stream_goes_on_from_a_checkpoint_of_a_tensor():
    x, _ = points(400, 3, "none")
    expected, kept = kept_of(x, 6, 3)
    found = resumed(x.split(90), 6, kept[1])
    assert torch.equal(found.centers, expected.centers)
    assert torch.equal(found.n_iter, expected.n_iter)


def test_rounds_are_heard_from_where_a_run_goes_on():
    x, _ = points(400, 3, "none")
    heard = {name: [] for name in ("whole", "rest")}

    def hearing(name):
        return lambda n_iter, inertia, shift: heard[name].append((n_iter, float(inertia), float(shift)))

    _, kept = kept_of(x, 6, 3, callback=hearing("whole"))
    resumed(x, 6, kept[1], callback=hearing("rest"))
    assert heard["rest"] == heard["whole"][3:]


def test_more_rounds_may_be_asked_for_when_a_run_goes_on():
    x, _ = points(400, 3, "none")
    expected = kmeans(x, 6, tol=0.0)
    _, kept = kept_of(x, 6, 2, tol=0.0, max_iter=3)
    assert_same(resumed(x, 6, kept[-1], tol=0.0), expected)


def test_a_state_is_not_changed_by_who_goes_on_from_it():
    x, _ = points(400, 3, "none")
    _, kept = kept_of(x, 6, 2)
    before = {name: tensor.clone() for name, tensor in kept[1].items()}
    resumed(x, 6, kept[1])
    assert all(torch.equal(kept[1][name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, options: (x[:-1], 6, options), "in the number of points"),
        (lambda x, options: (x * 1.5, 6, options), "in the range of x"),
        (lambda x, options: (x.double(), 6, options), "in the dtype computed in"),
        (lambda x, options: (x, 5, options), "in n_clusters"),
        (lambda x, options: (x, 6, {"n_init": 2}), "in n_init"),
        (lambda x, options: (x, 6, {"tol": 0.5}), "in tol"),
        (lambda x, options: (x, 6, {"metric": "cosine"}), "in the range of x"),
        (lambda x, options: (x, 6, {"fixed": x[:1]}), "in fixed"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(change, message):
    x, _ = points(400, 3, "none")
    _, kept = kept_of(x, 6, 2)
    x, n_clusters, options = change(x, {})
    with pytest.raises(ValueError, match=f"of the same points and options, got one that differs {message}"):
        resumed(x, n_clusters, kept[1], **options)


def test_a_checkpoint_of_other_points_of_the_same_range_is_refused():
    x, _ = points(400, 3, "none")
    _, kept = kept_of(x, 6, 2)
    middle = x.sum(dim=1).argsort()[200]
    x[middle] += 1e-3
    with pytest.raises(ValueError, match="of the same points and options, got one of other points"):
        resumed(x, 6, kept[1])


def test_a_checkpoint_of_other_fixed_centers_is_refused():
    x, _ = points(400, 3, "none")
    _, kept = kept_of(x, 6, 2, fixed=x[:2])
    with pytest.raises(ValueError, match="got one that differs in fixed"):
        resumed(x, 6, kept[1], fixed=x[2:4])


@pytest.mark.parametrize("engine", ["torch", "matmul", "cells"])
def test_states_are_what_safetensors_takes(engine):
    x, _ = points(400, 3, "none")
    for source in (x, x.split(90)):
        _, kept = kept_of(source, 6, 1, engine=engine)
        for state in kept[:3]:
            again = safetensors.torch.load(safetensors.torch.save(state))
            assert again.keys() == state.keys()
            assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_a_state_that_lacks_a_tensor_is_refused():
    x, _ = points(400, 3, "none")
    _, kept = kept_of(x, 6, 2)
    state = {name: tensor for name, tensor in kept[1].items() if name != "loop.running.moments.sums"}
    with pytest.raises(ValueError, match=r"a checkpoint must hold the tensor 'loop.running.moments.sums'"):
        resumed(x, 6, state)


@pytest.mark.parametrize(
    ("checkpoint", "error", "message"),
    [
        (lambda: print, TypeError, "checkpoint must be a Checkpoint, got builtin_function_or_method"),
        (lambda: Checkpoint("file"), TypeError, "checkpoint.save must be a function, got str"),
        (lambda: Checkpoint(print, 0), ValueError, "checkpoint.every must be at least 1, got 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_checkpoint_says_what_was_wanted(checkpoint, error, message):
    with pytest.raises(error, match=message):
        kmeans(torch.rand(4, 2), 2, checkpoint=checkpoint())


def test_an_error_while_saving_ends_the_run():
    def save(state):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        kmeans(torch.rand(4, 2), 2, checkpoint=Checkpoint(save))


def test_what_is_packed_is_unpacked_the_same():
    x = torch.rand(1, 5, 2)
    moments = Moments.nothing(x[:, :2], points_grid())
    fit = Fit(centers=x, moments=moments, n_iter=torch.tensor([1]), converged=torch.tensor([True]))
    state = packed(fit, "fit")
    assert "fit.moments.grid.weight" in state
    again = unpacked(Fit, state, "fit")
    assert torch.equal(again.centers, fit.centers)
    assert again.moments.grid.equals(fit.moments.grid)


def points_grid():
    from helpers.problems import points_of

    return points_of(torch.rand(3, 2)).grid


def test_what_is_known_must_be_the_same_to_the_dtype():
    known = {"a": torch.tensor([1.0])}
    assert of_the_same({"a": torch.tensor([1.0]), "b": torch.tensor(2)}, known)["b"] == 2
    for state in ({}, {"a": torch.tensor([2.0])}, {"a": torch.tensor([1.0]).double()}):
        with pytest.raises(ValueError, match="differs in a"):
            of_the_same(state, known)
