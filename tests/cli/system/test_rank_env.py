import pytest
import torch

from gpukmeans_cli.system.rank_env import RankEnv, RankError, device_name, process_group, rank_env


def test_without_rank_variables_a_process_is_the_only_and_main_rank():
    assert rank_env({}) == RankEnv(rank=0, size=1, local_rank=0)
    assert rank_env({}).is_main


def test_rank_variables_of_torchrun_are_read():
    found = rank_env({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    assert found == RankEnv(rank=5, size=8, local_rank=1)
    assert not found.is_main
    shared = rank_env({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    assert shared == RankEnv(rank=5, size=8, local_rank=1, local_size=4)


def test_the_prefix_names_one_of_several_ranks():
    assert RankEnv(rank=1, size=3, local_rank=1).prefix == "rank 1 of 3: "
    assert RankEnv().prefix == ""


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
def test_invalid_rank_variables_are_an_error_with_their_values(environment):
    with pytest.raises(RankError, match="as torchrun sets them, got RANK=") as raised:
        rank_env(environment)
    for name, value in environment.items():
        assert f"{name}={value}" in str(raised.value)


def test_each_rank_uses_the_gpu_of_its_local_rank_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    third = RankEnv(rank=2, size=4, local_rank=2)
    assert device_name("auto", third) == device_name("cuda", third) == "cuda:2"
    assert device_name("cpu", third) == "cpu"
    assert device_name("cuda:0", third) == "cuda:0"
    assert device_name("auto", RankEnv()) == "auto"


def test_without_a_gpu_device_names_are_unchanged(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_name("auto", RankEnv(rank=1, size=2, local_rank=1)) == "auto"


def test_a_single_process_has_a_process_group_of_one_until_the_end_of_the_block():
    with process_group(RankEnv(), torch.device("cpu")) as group:
        values = torch.tensor([3])
        torch.distributed.all_reduce(values, group=group)
        assert values.item() == 3
        assert group.size() == 1
    assert not torch.distributed.is_initialized()
