"""Native kernels take plain tensors on the CPU; everything else takes the way of tensor operations."""

import functools

import pytest
import torch
from helpers import native
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from gpukmeans.engines.native import tensors
from gpukmeans.images.histogram import unique_colors

takes = functools.partial(tensors.takes, dtype=torch.float32)


class Subclass(torch.Tensor):
    pass


def test_plain_tensors_of_any_strides_are_taken():
    x = torch.zeros(4, 6)
    assert takes(x, x.T, x[:, ::2], torch.nn.Parameter(x))
    with torch.inference_mode():
        assert takes(torch.zeros(2))


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(2, device="meta"),
        torch.zeros(2).to_sparse(),
        torch.zeros(2).as_subclass(Subclass),
        torch.zeros(2).double(),
    ],
    ids=["meta", "sparse", "subclass", "dtype"],
)
def test_other_tensors_are_not_taken(other):
    assert not takes(other)
    assert not takes(torch.zeros(2), other)


def test_tensors_of_a_transformation_are_not_taken():
    taken = []
    torch.vmap(lambda x: taken.append(takes(x)) or x)(torch.zeros(2, 3))
    assert taken == [False]


@pytest.mark.parametrize("mode", [FakeTensorMode, lambda: FlopCounterMode(display=False)])
def test_no_tensor_is_taken_under_a_mode_that_replaces_operations(mode):
    x = torch.zeros(2)
    with mode():
        assert not takes(x)
    assert takes(x)


def test_nothing_is_taken_without_native_kernels():
    with native.without_native():
        assert not takes(torch.zeros(2))


def test_a_subclass_is_counted_by_tensor_operations():
    image = torch.tensor([[[3, 1], [3, 0]]], dtype=torch.uint8)
    assert torch.equal(unique_colors(image.as_subclass(Subclass)).colors, unique_colors(image).colors)
