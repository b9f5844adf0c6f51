import pytest
import torch

from gpukmeans_cli.system.rank_env import Place, RankError, device_name, place, process_group


def test_a_process_that_nobody_started_among_others_is_alone_and_leads():
    assert place({}) == Place(rank=0, size=1, local_rank=0)
    assert place({}).leads


def test_torchrun_says_which_rank_a_process_is():
    found = place({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    assert found == Place(rank=5, size=8, local_rank=1)
    assert not found.leads
    shared = place({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    assert shared == Place(rank=5, size=8, local_rank=1, local_size=4)


def test_a_line_of_one_rank_says_whose_it_is_where_there_are_others():
    assert Place(rank=1, size=3, local_rank=1).prefix == "rank 1 of 3: "
    assert Place().prefix == ""


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "0"},
        {"WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "x"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "0"},
    ],
)
def test_an_environment_that_names_no_rank_is_an_error_with_what_came(environment):
    with pytest.raises(RankError, match="as torchrun sets them, got RANK=") as raised:
        place(environment)
    for name, value in environment.items():
        assert f"{name}={value}" in str(raised.value)


def test_each_rank_has_a_gpu_of_its_own_unless_one_was_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    third = Place(rank=2, size=4, local_rank=2)
    assert device_name("auto", third) == device_name("cuda", third) == "cuda:2"
    assert device_name("cpu", third) == "cpu"
    assert device_name("cuda:0", third) == "cuda:0"
    assert device_name("auto", Place()) == "auto"


def test_without_a_gpu_names_of_devices_stay(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_name("auto", Place(rank=1, size=2, local_rank=1)) == "auto"


def test_a_process_alone_is_a_group_of_one_while_it_lasts():
    with process_group(Place(), torch.device("cpu")) as group:
        values = torch.tensor([3])
        torch.distributed.all_reduce(values, group=group)
        assert values.item() == 3
        assert group.size() == 1
    assert not torch.distributed.is_initialized()
