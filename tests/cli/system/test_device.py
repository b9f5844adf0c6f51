import pytest
import torch

from gpukmeans_cli.system.atomic_files import ImageError
from gpukmeans_cli.system.device import DeviceError, pick_device, within_memory


@pytest.fixture
def gpus(monkeypatch):
    """Makes torch report a number of GPUs."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(
    ("count", "name", "picked"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (1, "auto", "cuda"),
        (1, "cuda:0", "cuda:0"),
        (2, "auto", "cuda"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda"),
        (2, "cuda:0", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
        (11, "cuda:10", "cuda:10"),
    ],
)
def test_an_available_device_is_picked(gpus, count, name, picked):
    gpus(count)
    assert pick_device(name) == torch.device(picked)


@pytest.mark.parametrize(("count", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, "cuda:2"), (2, "cuda:99")])
def test_a_missing_device_is_an_error_in_one_line(gpus, count, name):
    gpus(count)
    with pytest.raises(DeviceError) as caught:
        pick_device(name)
    sentence = str(caught.value)
    assert f"--device {name}:" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("built", "reason"),
    [(True, "torch finds no GPU"), (False, "this torch is built without CUDA")],
    ids=["cuda", "cpu"],
)
def test_the_error_names_the_reason_for_a_missing_gpu(gpus, monkeypatch, built, reason):
    gpus(0)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: built)
    with pytest.raises(DeviceError, match=f"{reason}; use --device cpu or auto"):
        pick_device("cuda")


def test_the_error_lists_the_available_gpus(gpus):
    gpus(2)
    with pytest.raises(DeviceError, match="cuda:0 to cuda:1"):
        pick_device("cuda:2")


def test_a_gpu_without_a_working_driver_is_not_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("auto") == torch.device("cpu")
    with pytest.raises(DeviceError):
        pick_device("cuda:0")


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "cpu is out of memory; use --device cpu"),
        (MemoryError(), "out of memory; use a smaller image"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), "use a smaller image"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "use a smaller image"),
    ],
)
def test_exhausted_memory_is_an_image_error_with_advice(error, advice):
    with pytest.raises(ImageError, match=advice), within_memory(CPU):
        raise error


def test_the_caller_may_give_its_own_advice():
    with pytest.raises(ImageError, match=r"^out of memory; buy some$"), within_memory(CPU, "buy some"):
        raise MemoryError


def test_another_error_is_raised_unchanged():
    with pytest.raises(RuntimeError, match="shapes differ"), within_memory(CPU):
        raise RuntimeError("shapes differ")
