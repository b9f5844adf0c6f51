import pytest
import torch
import torch.distributed as dist
from helpers import rank_cases
from helpers.rank_processes import on_ranks

from gpukmeans.points.communicator import Communicator, SingleProcess, communicator_for, on_device, run_on_all_ranks


def test_without_a_group_a_process_communicates_with_itself():
    alone = communicator_for(None)
    assert isinstance(alone, SingleProcess)
    assert isinstance(alone, Communicator)
    assert alone.all_gather("a test", lambda: 3) == [3]
    assert run_on_all_ranks(alone, "a test", lambda: print) is print
    assert alone.all_reduce_sum("a test", torch.zeros(2), lambda: torch.ones(2)).tolist() == [1, 1]
    assert alone.all_reduce_max("a test", torch.ones(1)).tolist() == [1]


@pytest.mark.usefixtures("unchecked")
def test_anything_but_a_group_of_this_process_is_an_error():
    with pytest.raises(TypeError, match=r"group must be a process group of torch.distributed, got int"):
        communicator_for(3)
    with pytest.raises(ValueError, match="group must contain this process"):
        communicator_for(dist.GroupMember.NON_GROUP_MEMBER)


def test_all_ranks_get_the_values_the_sum_and_the_maximum():
    for rank, found in enumerate(on_ranks(3, rank_cases.communicate)):
        assert found == {
            "rank": rank,
            "communicator": True,
            "all_gather": [0, 1, 2],
            "all_reduce_sum": [3, 30],
            "all_reduce_max": [2.0, 0.0],
        }


@pytest.mark.parametrize("call", ["all_gather", "all_reduce_sum"])
def test_the_error_of_the_lowest_failing_rank_is_raised_on_all(call):
    found = on_ranks(3, rank_cases.fail, call)
    assert [(type(error), str(error)) for error in found] == [(ValueError, "rank 1: 1 is wrong")] * 3


def test_an_error_of_an_uncommon_type_is_raised_with_the_name_of_its_type():
    for error in on_ranks(2, rank_cases.fail_with_key_error):
        assert type(error) is RuntimeError
        assert str(error) == "rank 1: KeyError: 1"


def test_a_killed_rank_is_an_error_on_the_others_with_the_name_of_the_collective():
    found = on_ranks(3, rank_cases.die, killed=[1], timeout=20)
    assert found[1] is None
    for rank in (0, 2):
        assert type(found[rank]) is RuntimeError
        assert str(found[rank]).startswith(
            f"rank {rank} of 3 lost the other ranks at the sum of tests: a rank may have ended"
        )


def test_a_late_rank_is_an_error_on_the_others():
    found = on_ranks(2, rank_cases.arrive_late, timeout=1)
    assert type(found[0]) is RuntimeError
    message = "rank 0 of 2 lost the other ranks at a late test: a rank may have ended or not arrived in time"
    assert message in str(found[0])


def test_all_tensors_in_a_value_move_to_the_device():
    value = {"a": [torch.ones(1)], "b": (torch.ones(1), 3, None)}
    moved = on_device(value, torch.device("meta"))
    assert moved["a"][0].is_meta
    assert moved["b"][0].is_meta
    assert moved["b"][1:] == (3, None)
