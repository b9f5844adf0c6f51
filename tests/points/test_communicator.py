import pytest
import torch
import torch.distributed as dist
from helpers import rank_cases
from helpers.rank_processes import on_ranks

from gpukmeans.points.communicator import Alone, Company, company_of, on_device


def test_without_a_group_a_rank_is_alone_and_hears_itself():
    alone = company_of(None)
    assert isinstance(alone, Alone)
    assert isinstance(alone, Company)
    assert alone.gather("a test", lambda: 3) == [3]
    assert alone.total("a test", torch.zeros(2), lambda: torch.ones(2)).tolist() == [1, 1]
    assert alone.largest("a test", torch.ones(1)).tolist() == [1]


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_group_of_this_process_is_refused():
    with pytest.raises(TypeError, match=r"group must be a process group of torch.distributed, got int"):
        company_of(3)
    with pytest.raises(ValueError, match="group must be one that this process is in"):
        company_of(dist.GroupMember.NON_GROUP_MEMBER)


def test_ranks_hear_what_each_gave_its_sum_and_its_largest():
    for rank, found in enumerate(on_ranks(3, rank_cases.meet)):
        assert found == {"rank": rank, "company": True, "gathered": [0, 1, 2], "total": [3, 30], "largest": [2.0, 0.0]}


@pytest.mark.parametrize("call", ["gather", "total"])
def test_work_that_fails_on_ranks_is_the_error_of_the_lowest_on_all(call):
    found = on_ranks(3, rank_cases.fail, call)
    assert [(type(error), str(error)) for error in found] == [(ValueError, "rank 1: 1 is wrong")] * 3


def test_an_error_that_others_may_not_know_arrives_by_its_name():
    for error in on_ranks(2, rank_cases.fail_oddly):
        assert type(error) is RuntimeError
        assert str(error) == "rank 1: KeyError: 1"


def test_a_rank_that_dies_is_an_error_of_the_others_that_says_where_they_were():
    found = on_ranks(3, rank_cases.die, killed=[1], timeout=20)
    assert found[1] is None
    for rank in (0, 2):
        assert type(found[rank]) is RuntimeError
        assert str(found[rank]).startswith(f"rank {rank} of 3 lost the others at the sum of tests: one may have ended")


def test_a_rank_that_does_not_come_in_time_is_an_error_of_the_others():
    found = on_ranks(2, rank_cases.dawdle, timeout=1)
    assert type(found[0]) is RuntimeError
    assert "rank 0 of 2 lost the others at a late test: one may have ended or not have come in time" in str(found[0])


def test_everything_in_a_value_goes_to_the_device():
    value = {"a": [torch.ones(1)], "b": (torch.ones(1), 3, None)}
    moved = on_device(value, torch.device("meta"))
    assert moved["a"][0].is_meta
    assert moved["b"][0].is_meta
    assert moved["b"][1:] == (3, None)
