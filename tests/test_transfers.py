import pytest
import torch
from helpers import pretended_cuda
from helpers.cuda_devices import CUDA_DEVICES, cuda_device

from gpukmeans.transfers import from_host, on_host

TENSORS = [
    torch.tensor([[1.5, -2.5]], dtype=torch.float64),
    torch.tensor([[7, 8], [9, 1 << 60]]).T,  # not contiguous
    torch.tensor(3),
    torch.arange(6, dtype=torch.int32),
    torch.empty(0, 4, dtype=torch.float64),
]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one.cpu(), other)


def test_on_a_cpu_the_tensors_are_not_copied():
    for found in (on_host(*TENSORS), from_host(torch.device("cpu"), *TENSORS)):
        assert all(one is other for one, other in zip(found, TENSORS, strict=True))


@pytest.mark.parametrize("name", CUDA_DEVICES)
def test_tensors_of_any_shapes_have_equal_values_on_the_other_side(name):
    with cuda_device(name):
        on_device = from_host(torch.device("cuda", 0), *TENSORS)
        assert {tensor.device.type for tensor in on_device} == {"cuda"}
        assert all(tensor.is_contiguous() for tensor in on_device)
        assert_same(on_device, TENSORS)
        found = on_host(*on_device)
        assert {tensor.device.type for tensor in found} == {"cpu"}
        assert_same(found, TENSORS)


@pytest.mark.skipif(pretended_cuda.unsupported_reason() is not None, reason="there is no pretended CUDA device")
def test_only_the_way_to_the_host_waits_for_the_device_and_only_once():
    with pretended_cuda.pretended_cuda() as log:
        on_device = from_host(torch.device("cuda", 0), *TENSORS)
        assert log.syncs == 0
        on_host(*on_device)
        assert log.syncs == 1
