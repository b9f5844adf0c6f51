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


def alone(form, **options):
    x, weights = rank_cases.points(*form)
    return rank_cases.told(kmeans(x, weights=weights, **options))


def assert_same(found, expected):
    """The same bits on every rank, and their labels, if they have some, side by side."""
    for answer in found:
        if isinstance(answer, Exception):
            raise answer
        for name in ("centers", "totals", "inertia", "n_iter", "converged"):
            assert np.array_equal(answer[name], expected[name]), name
    if all(answer["labels"] is not None for answer in found):
        assert np.array_equal(np.concatenate([answer["labels"] for answer in found]), expected["labels"])


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ((301, 3, "none"), {"n_clusters": 7}),
        ((301, 2, "floats"), {"n_clusters": 7, "init": "k-means||", "refine": 1}),
        ((301, 4, "integers"), {"n_clusters": 5, "init": "random", "n_init": 3}),
        ((301, 20, "floats"), {"n_clusters": 6, "metric": "cosine", "max_iter": 5}),
        ((301, 3, "none"), {"n_clusters": 4, "init": FAR_OFF}),  # all but one of the clusters begin empty
        ((301, 1, "none"), {"n_clusters": 5, "fixed": torch.zeros(2, 1)}),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_one_rank_and_several_have_the_same_bits(form, options, bounds):
    found = on_ranks(len(bounds) - 1, rank_cases.fit, bounds, form, options)
    assert_same(found, alone(form, **options))


@pytest.mark.parametrize("bounds", [[0, 150, 301], [0, 0, 100, 301], [0, 301, 301]], ids=str)
@pytest.mark.parametrize("kind", ["none", "floats"])
def test_a_rank_may_hold_a_stream_and_another_a_tensor(kind, bounds):
    form = (301, 3, kind)
    found = on_ranks(len(bounds) - 1, rank_cases.stream, bounds, form, 40, {"n_clusters": 5})
    assert_same(found, alone(form, n_clusters=5, init="k-means||"))
    assert found[-1]["labels"].shape == (bounds[-1] - bounds[-2],)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("nan", ValueError, r"rank 1: x must be finite, got NaN or infinity among its \(40, 3\) values"),
        ("type", TypeError, "rank 1: n_clusters must be an int, got float"),
        ("iterator", TypeError, "rank 1: x must be batches that can be read again and again"),
        ("n_clusters", ValueError, "n_clusters must be the same on every rank, got 3 on rank 0, 4 on rank 1"),
        ("init", ValueError, "init must be the same on every rank, got auto on rank 0, random on rank 1"),
        ("width", ValueError, "the number of coordinates of x must be the same on every rank, got 3 on rank 0, 2"),
        ("dtype", ValueError, "the dtype of x must be the same on every rank, got float32 on rank 0, float64"),
        ("weights", ValueError, "the dtype of weights must be the same on every rank, got none on rank 0, float32"),
        ("batch", ValueError, r"the shape of x before \(N, D\) must be the same on every rank"),
        ("later", OSError, "rank 1: the disk is gone"),
        ("fixed", TypeError, "rank 1: fixed must be a tensor, got ndarray"),
        ("init shape", ValueError, r"rank 1: init must have shape \(3, 3\) on cpu, got shape \(2, 3\)"),
        ("init raises", RuntimeError, "rank 1: KeyError: 'mine'"),
        ("engine", ValueError, "rank 1: engine must be one of auto, .* got 'fast'"),
        ("engine of none", ValueError, "rank 1: engine must be one of auto, .* got 'fast'"),
        ("assign", MemoryError, "rank 1: no room for labels"),
    ],
)
def test_what_is_wrong_on_one_rank_is_the_same_error_on_each(what, error, message):
    found = on_ranks(3, rank_cases.fit_wrongly, what)
    assert {(type(raised), str(raised)) for raised in found} == {(error, str(found[0]))}
    with pytest.raises(error, match=message):
        raise found[0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_rank_that_is_killed_or_interrupted_ends_the_others_at_a_collective_that_they_name(number):
    found = on_ranks(3, rank_cases.end_in_a_round, number, killed=[1], timeout=20)
    for rank in (0, 2):
        assert type(found[rank]) is RuntimeError
        assert re.match(
            rf"rank {rank} of 3 lost the others at the (callback|sum of moments): one may have ended", str(found[rank])
        )


def test_ranks_that_have_no_rows_at_all_say_so():
    for raised in on_ranks(2, rank_cases.stream, [0, 0, 0], (5, 3, "none"), 2, {"n_clusters": 1}):
        assert str(raised) == "x must have at least one row, got none"


@pytest.mark.parametrize(("listening", "stops"), [([0], []), ([1], [1]), ([0, 1], [0])], ids=str)
def test_a_callback_of_any_rank_hears_all_rounds_and_may_end_them_for_all(listening, stops):
    expected = alone((300, 3, "none"), n_clusters=5, **({"max_iter": 2} if stops else {}))
    found = on_ranks(2, rank_cases.listen, listening, stops)
    for rank, (result, heard) in enumerate(found):
        assert np.array_equal(result["centers"], expected["centers"])
        assert [n_iter for n_iter, _, _ in heard] == list(range(1, expected["n_iter"] + 1)) * (rank in listening)
    if listening == [0, 1]:
        assert found[0][1] == found[1][1]


def test_first_centers_by_a_function_are_those_of_the_first_rank():
    x, _ = rank_cases.points(300, 3, "none")
    assert_same(on_ranks(2, rank_cases.start_apart), rank_cases.told(kmeans(x, 4, init=x[:4])))


def test_a_function_is_asked_before_its_centers_are_refined():
    x, _ = rank_cases.points(300, 3, "none")
    expected = rank_cases.told(kmeans(x, 9, init=x[:9], refine=2))
    assert_same(on_ranks(2, rank_cases.start_apart, 9, 2), expected)


def test_nan_in_an_option_is_the_error_that_it_is():
    for raised in on_ranks(2, rank_cases.fit, [0, 9, 18], (18, 3, "none"), {"n_clusters": 2, "init": NAN}):
        assert str(raised) == "init must be finite, got NaN or infinity among its (1, 2, 3) values"


def test_what_is_sent_of_a_part_of_a_tensor_is_that_part():
    for sent in on_ranks(2, rank_cases.send_a_part):
        assert sent < 2000


def test_a_draw_sends_totals_and_points_however_many_rows_there_are():
    few, many = (max(on_ranks(2, rank_cases.bytes_of_a_draw, n)) for n in (1000, 20_000))
    assert many < few + 500


def test_a_module_of_one_group_is_copied_without_it():
    assert on_ranks(1, rank_cases.copy_a_module) == [(True, True)]


def test_draws_are_those_of_the_generator_of_the_first_rank():
    expected = alone((300, 3, "none"), n_clusters=4, generator=torch.Generator().manual_seed(5))
    assert_same(on_ranks(2, rank_cases.draw_apart), expected)


def test_a_round_costs_one_sum_of_sums_totals_and_inertia_and_one_maximum():
    for rounds in on_ranks(2, rank_cases.count_collectives, {"init": "k-means++"}):
        saved = ("all_gather_object", "None", None)
        flag = 1  # says whether all went well
        summed = ("all_reduce", "RedOpType.SUM", 5 * 3 + 5 + 1 + flag)
        assert len(rounds) > 3
        assert all(calls == [saved, summed, ("all_reduce", "RedOpType.MAX", 1)] for calls in rounds)


def test_ranks_go_on_from_a_checkpoint_that_one_process_kept(tmp_path):
    x, _ = rank_cases.points(300, 3, "none")
    kept = []
    expected = kmeans(x, 5, checkpoint=Checkpoint(kept.append, 2))
    torch.save(kept[2], tmp_path / "state.pt")
    assert_same(on_ranks(3, rank_cases.save_and_resume, str(tmp_path)), rank_cases.told(expected))
