import re
import signal

import numpy as np
import pytest
import torch
from helpers import rank_cases
from helpers.rank_processes import on_ranks

from gpukmeans import Checkpoint, kmeans

# Even, uneven, some without rows, all rows on one.
BOUNDS = [[0, 301], [0, 150, 301], [0, 0, 301], [0, 10, 290, 301], [0, 75, 150, 225, 301], [0, 0, 301, 301, 301]]
NAN = torch.full((2, 3), torch.nan)
FAR_OFF = torch.full((4, 3), 1e3) * torch.arange(4)[:, None]


def on_one_process(points_args, **options):
    x, weights = rank_cases.points(*points_args)
    return rank_cases.as_arrays(kmeans(x, weights=weights, **options))


def assert_same(found, expected):
    """Equal bits on every rank, and the labels of the ranks in rank order."""
    for result in found:
        if isinstance(result, Exception):
            raise result
        for name in ("centers", "cluster_weights", "inertia", "n_iter", "converged"):
            assert np.array_equal(result[name], expected[name]), name
    if all(result["labels"] is not None for result in found):
        assert np.array_equal(np.concatenate([result["labels"] for result in found]), expected["labels"])


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize(
    ("points_args", "options"),
    [
        ((301, 3, "none"), {"n_clusters": 7}),
        ((301, 2, "floats"), {"n_clusters": 7, "init": "k-means||", "refine": 1}),
        ((301, 4, "integers"), {"n_clusters": 5, "init": "random", "n_init": 3}),
        ((301, 20, "floats"), {"n_clusters": 6, "metric": "cosine", "max_iter": 5}),
        ((301, 3, "none"), {"n_clusters": 4, "init": FAR_OFF}),  # all clusters but one are empty at first
        ((301, 1, "none"), {"n_clusters": 5, "fixed": torch.zeros(2, 1)}),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_one_rank_and_several_have_the_same_bits(points_args, options, bounds):
    found = on_ranks(len(bounds) - 1, rank_cases.fit, bounds, points_args, options)
    assert_same(found, on_one_process(points_args, **options))


@pytest.mark.parametrize("bounds", [[0, 150, 301], [0, 0, 100, 301], [0, 301, 301]], ids=str)
@pytest.mark.parametrize("kind", ["none", "floats"])
def test_some_ranks_can_have_streams_and_others_tensors(kind, bounds):
    points_args = (301, 3, kind)
    found = on_ranks(len(bounds) - 1, rank_cases.stream, bounds, points_args, 40, {"n_clusters": 5})
    assert_same(found, on_one_process(points_args, n_clusters=5, init="k-means||"))
    assert found[-1]["labels"].shape == (bounds[-1] - bounds[-2],)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("nan", ValueError, r"rank 1: x must be finite, got NaN or infinity among its \(40, 3\) values"),
        ("type", TypeError, "rank 1: n_clusters must be an int, got float"),
        ("iterator", TypeError, "rank 1: x must be batches that can be read again"),
        ("n_clusters", ValueError, "n_clusters must be the same on every rank, got 3 on rank 0, 4 on rank 1"),
        ("init", ValueError, "init must be the same on every rank, got auto on rank 0, random on rank 1"),
        ("width", ValueError, "the number of coordinates of x must be the same on every rank, got 3 on rank 0, 2"),
        ("dtype", ValueError, "the dtype of x must be the same on every rank, got float32 on rank 0, float64"),
        ("weights", ValueError, "the dtype of weights must be the same on every rank, got none on rank 0, float32"),
        ("batch", ValueError, r"the shape of x before \(N, D\) must be the same on every rank"),
        ("later pass", OSError, "rank 1: the disk is gone"),
        ("fixed", TypeError, "rank 1: fixed must be a tensor or an array, got list"),
        ("init shape", ValueError, r"rank 1: init must have shape \(3, 3\) on cpu, got shape \(2, 3\)"),
        ("init raises", RuntimeError, "rank 1: KeyError: 'mine'"),
        ("engine", ValueError, "rank 1: engine must be one of auto, .* got 'fast'"),
        ("engine without rows", ValueError, "rank 1: engine must be one of auto, .* got 'fast'"),
        ("assign", MemoryError, "rank 1: no memory for labels"),
    ],
)
def test_an_error_on_one_rank_is_raised_on_all(what, error, message):
    found = on_ranks(3, rank_cases.fit_wrongly, what)
    assert {(type(raised), str(raised)) for raised in found} == {(error, str(found[0]))}
    with pytest.raises(error, match=message):
        raise found[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_or_interrupted_rank_is_an_error_on_the_others_with_the_name_of_the_collective(number):
    found = on_ranks(3, rank_cases.signal_in_a_round, number, killed=[1], timeout=20)
    for rank in (0, 2):
        assert type(found[rank]) is RuntimeError
        assert re.match(
            rf"rank {rank} of 3 lost the other ranks at the (callback|sum of moments): a rank may have ended",
            str(found[rank]),
        )


def test_ranks_without_any_rows_are_an_error():
    for raised in on_ranks(2, rank_cases.stream, [0, 0, 0], (5, 3, "none"), 2, {"n_clusters": 1}):
        assert str(raised) == "x must have at least one row, got none"


@pytest.mark.parametrize(("with_callback", "stops"), [([0], []), ([1], [1]), ([0, 1], [0])], ids=str)
def test_a_callback_on_any_rank_is_called_each_round_and_can_end_the_loop_on_all(with_callback, stops):
    expected = on_one_process((300, 3, "none"), n_clusters=5, **({"max_iter": 2} if stops else {}))
    found = on_ranks(2, rank_cases.fit_with_callback, with_callback, stops)
    for rank, (result, calls) in enumerate(found):
        assert np.array_equal(result["centers"], expected["centers"])
        assert [n_iter for n_iter, _, _ in calls] == list(range(1, expected["n_iter"] + 1)) * (rank in with_callback)
    if with_callback == [0, 1]:
        assert found[0][1] == found[1][1]


def test_first_centers_of_a_function_are_those_of_the_first_rank():
    x, _ = rank_cases.points(300, 3, "none")
    assert_same(on_ranks(2, rank_cases.start_by_function), rank_cases.as_arrays(kmeans(x, 4, init=x[:4])))


def test_centers_of_a_function_are_refined():
    x, _ = rank_cases.points(300, 3, "none")
    expected = rank_cases.as_arrays(kmeans(x, 9, init=x[:9], refine=2))
    assert_same(on_ranks(2, rank_cases.start_by_function, 9, 2), expected)


def test_nan_in_an_option_is_its_own_error():
    for raised in on_ranks(2, rank_cases.fit, [0, 9, 18], (18, 3, "none"), {"n_clusters": 2, "init": NAN}):
        assert str(raised) == "init must be finite, got NaN or infinity among its (1, 2, 3) values"


def test_a_view_is_sent_without_the_rest_of_its_storage():
    for sent in on_ranks(2, rank_cases.bytes_of_a_view):
        assert sent < 2000


def test_a_sample_sends_equally_many_bytes_for_any_number_of_rows():
    few, many = (max(on_ranks(2, rank_cases.bytes_of_a_sample, n)) for n in (1000, 20_000))
    assert many < few + 500


def test_a_module_with_a_group_is_copied_without_it():
    assert on_ranks(1, rank_cases.copy_a_module) == [(True, True)]


def test_samples_are_those_of_the_generator_of_the_first_rank():
    expected = on_one_process((300, 3, "none"), n_clusters=4, generator=torch.Generator().manual_seed(5))
    assert_same(on_ranks(2, rank_cases.sample_with_own_seed), expected)


def test_a_round_costs_one_sum_of_sums_totals_and_inertia_and_one_maximum():
    for rounds in on_ranks(2, rank_cases.count_collectives, {"init": "k-means++"}):
        saved = ("all_gather_object", "None", None)
        n_failures = 1
        summed = ("all_reduce", "RedOpType.SUM", 5 * 3 + 5 + 1 + n_failures)
        assert len(rounds) > 3
        assert all(calls == [saved, summed, ("all_reduce", "RedOpType.MAX", 1)] for calls in rounds)


def test_ranks_resume_from_a_checkpoint_of_a_single_process(tmp_path):
    x, _ = rank_cases.points(300, 3, "none")
    states = []
    expected = kmeans(x, 5, checkpoint=Checkpoint(states.append, 2))
    torch.save(states[2], tmp_path / "state.pt")
    assert_same(on_ranks(3, rank_cases.save_and_resume, str(tmp_path)), rank_cases.as_arrays(expected))
