import pytest
import safetensors.torch
import torch
from helpers.problems import points_of, seeded
from helpers.rank_cases import points

from gpukmeans import Checkpoint, kmeans
from gpukmeans.checkpoints import check_same_problem, from_tensors, to_tensors
from gpukmeans.lloyd import Fit
from gpukmeans.moments import Moments


def run_and_save(x, n_clusters, every, **options):
    """The result of a run, and all states that it saved."""
    saved = []
    return kmeans(x, n_clusters, checkpoint=Checkpoint(saved.append, every), **options), saved


def resume(x, n_clusters, state, **options):
    """The result of a run from a saved state."""
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
def test_a_run_resumed_from_any_checkpoint_has_the_same_bits(options):
    x, weights = points(900, 3, "floats")
    every = 1 if "refine" in options else 2
    expected, saved = run_and_save(x, 6, every, weights=weights, **options)
    assert_same(expected, kmeans(x, 6, weights=weights, **options))
    assert [int(state["loop.n_iter"]) for state in saved] == [every * number for number in range(len(saved))]
    assert saved
    for state in saved:
        assert_same(resume(x, 6, state, weights=weights, **options), expected)


def test_a_batch_is_resumed_after_some_problems_have_ended():
    x = torch.randn(4, 200, 2, generator=seeded())
    expected, saved = run_and_save(x, 5, 1, n_init=2)
    assert 0 < len(saved[-1]["loop.ended"]) < 8
    for state in saved[::4]:
        assert_same(resume(x, 5, state, n_init=2), expected)


def test_a_stream_is_resumed_from_a_checkpoint_of_a_tensor():
    x, _ = points(400, 3, "none")
    expected, saved = run_and_save(x, 6, 3)
    found = resume(x.split(90), 6, saved[1])
    assert torch.equal(found.centers, expected.centers)
    assert torch.equal(found.n_iter, expected.n_iter)


def test_the_callback_of_a_resumed_run_receives_the_remaining_rounds():
    x, _ = points(400, 3, "none")
    whole, rest = [], []

    def recorder(calls):
        return lambda n_iter, inertia, shift: calls.append((n_iter, float(inertia), float(shift)))

    _, saved = run_and_save(x, 6, 3, callback=recorder(whole))
    resume(x, 6, saved[1], callback=recorder(rest))
    assert rest == whole[3:]


def test_a_resumed_run_can_have_a_larger_max_iter():
    x, _ = points(400, 3, "none")
    expected = kmeans(x, 6, tol=0.0)
    _, saved = run_and_save(x, 6, 2, tol=0.0, max_iter=3)
    assert_same(resume(x, 6, saved[-1], tol=0.0), expected)


def test_a_resumed_run_does_not_modify_the_state():
    x, _ = points(400, 3, "none")
    _, saved = run_and_save(x, 6, 2)
    before = {name: tensor.clone() for name, tensor in saved[1].items()}
    resume(x, 6, saved[1])
    assert all(torch.equal(saved[1][name], tensor) for name, tensor in before.items())


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
def test_a_checkpoint_of_other_points_or_options_is_an_error(change, message):
    x, _ = points(400, 3, "none")
    _, saved = run_and_save(x, 6, 2)
    x, n_clusters, options = change(x, {})
    with pytest.raises(ValueError, match=f"of the same points and options, got one that differs {message}"):
        resume(x, n_clusters, saved[1], **options)


def test_a_checkpoint_of_other_points_with_the_same_range_is_an_error():
    x, _ = points(400, 3, "none")
    _, saved = run_and_save(x, 6, 2)
    middle = x.sum(dim=1).argsort()[200]
    x[middle] += 1e-3
    with pytest.raises(ValueError, match="of the same points and options, got one of other points"):
        resume(x, 6, saved[1])


def test_a_checkpoint_of_other_fixed_centers_is_an_error():
    x, _ = points(400, 3, "none")
    _, saved = run_and_save(x, 6, 2, fixed=x[:2])
    with pytest.raises(ValueError, match="got one that differs in fixed"):
        resume(x, 6, saved[1], fixed=x[2:4])


@pytest.mark.parametrize("engine", ["plain", "matmul"])
def test_safetensors_can_save_a_state(engine):
    x, _ = points(400, 3, "none")
    for source in (x, x.split(90)):
        _, saved = run_and_save(source, 6, 1, engine=engine)
        for state in saved[:3]:
            loaded = safetensors.torch.load(safetensors.torch.save(state))
            assert loaded.keys() == state.keys()
            assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_a_state_without_one_of_its_tensors_is_an_error():
    x, _ = points(400, 3, "none")
    _, saved = run_and_save(x, 6, 2)
    state = {name: tensor for name, tensor in saved[1].items() if name != "loop.active.moments.sums"}
    with pytest.raises(ValueError, match=r"a checkpoint must contain the tensor 'loop.active.moments.sums'"):
        resume(x, 6, state)


@pytest.mark.parametrize(
    ("checkpoint", "error", "message"),
    [
        (lambda: print, TypeError, "checkpoint must be a Checkpoint, got builtin_function_or_method"),
        (lambda: Checkpoint("file"), TypeError, "checkpoint.save must be a function, got str"),
        (lambda: Checkpoint(print, 0), ValueError, "checkpoint.every must be at least 1, got 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_checkpoint_is_an_error_with_the_expected_value(checkpoint, error, message):
    with pytest.raises(error, match=message):
        kmeans(torch.rand(4, 2), 2, checkpoint=checkpoint())


def test_an_error_while_saving_ends_the_run():
    def save(state):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        kmeans(torch.rand(4, 2), 2, checkpoint=Checkpoint(save))


def test_a_dataclass_survives_conversion_to_tensors_and_back():
    x = torch.rand(1, 5, 2)
    moments = Moments.zeros(x[:, :2], points_of(torch.rand(3, 2)).fixed_point)
    fit = Fit(
        centers=x,
        moments=moments,
        inertia=moments.weighted_sqdist(),
        n_iter=torch.tensor([1]),
        converged=torch.tensor([True]),
    )
    state = to_tensors(fit, "fit")
    assert "fit.moments.fixed_point.weight" in state
    found = from_tensors(Fit, state, "fit")
    assert torch.equal(found.centers, fit.centers)
    assert found.moments.fixed_point.equals(fit.moments.fixed_point)


def test_the_identity_in_a_state_must_have_equal_values_and_dtypes():
    identity = {"a": torch.tensor([1.0])}
    assert check_same_problem({"a": torch.tensor([1.0]), "b": torch.tensor(2)}, identity)["b"] == 2
    for state in ({}, {"a": torch.tensor([2.0])}, {"a": torch.tensor([1.0]).double()}):
        with pytest.raises(ValueError, match="differs in a"):
            check_same_problem(state, identity)
