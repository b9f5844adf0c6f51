import os
import subprocess
import sys

import pytest
import torch
from helpers.problems import seeded

from gpukmeans.engines.fused.storage import KernelInput, sorted_copy, unsorted
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.points.tensor import tensor_points

launch = pytest.importorskip("gpukmeans.engines.fused.launch")

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
interpreted = pytest.mark.skipif(CUDA, reason="kernels are compiled, not interpreted")


def on_device(*tensors):
    return [tensor.to(DEVICE) for tensor in tensors]


@pytest.mark.parametrize("store", [unsorted, sorted_copy])
@pytest.mark.parametrize("programs", [1, 2, 1000])
def test_no_bit_depends_on_the_number_of_programs(store, programs):
    generator = seeded()
    x, weights = torch.randn(2, 600, 3, generator=generator), torch.rand(2, 600, generator=generator)
    x, weights, centers = on_device(x, weights, torch.randn(2, 4, 3, generator=generator))
    fixed_point = tensor_points(x, weights, PlainEngine(), torch.float32).fixed_point
    problems = torch.arange(2, device=DEVICE)
    found = launch.measure(store(x, weights), problems, centers, fixed_point, programs)
    expected = PlainEngine().bind(x, weights).measure(centers, fixed_point, range(2))
    assert torch.equal(found.totals[..., :3], expected.sums)
    assert torch.equal(found.totals[..., 3], expected.totals)
    for name in ("inertia", "worst_sqdist"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("store", [unsorted, sorted_copy])
def test_the_pass_is_an_operation_of_torch_that_a_compiler_can_trace(store):
    generator = seeded()
    x, weights = torch.randn(2, 60, 3, generator=generator), torch.rand(2, 60, generator=generator)
    x, weights, centers = on_device(x, weights, torch.randn(2, 4, 3, generator=generator))
    fixed_point = tensor_points(x, weights, PlainEngine(), torch.float32).fixed_point
    kernel_input, problems = store(x, weights), torch.arange(2, device=DEVICE)
    scales = fixed_point.lowest, fixed_point.sum, fixed_point.weight, fixed_point.sqdist
    operations = torch.ops.gpukmeans
    x, _, rows, n = kernel_input
    torch.library.opcheck(operations.fused_assign.default, (x, rows, n, problems, centers, 3))
    torch.library.opcheck(operations.fused_measure.default, (*kernel_input, problems, centers, *scales, 3))


def test_the_first_pass_does_not_load_the_compiler_of_torch():
    code = """
import sys, torch
from gpukmeans.engines.fused.launch import assign
from gpukmeans.engines.fused.storage import unsorted
assign(unsorted(torch.rand(1, 9, 3), None), torch.zeros(1, dtype=torch.int64), torch.rand(1, 2, 3))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"TRITON_INTERPRET": "1"})


@interpreted
@pytest.mark.parametrize("axis", ["problems", "channels", "rows", "weights", "weights of problems"])
def test_offsets_are_of_64_bits(axis, monkeypatch):
    # Each stride fits 32 bits, and twice the stride does not: truncated to 32 bits it would be an address before the
    # first point, but still in this storage. The storage in between is never touched and so takes no memory. For the
    # same reason nothing is copied back.
    monkeypatch.setattr("triton.runtime.interpreter.GridExecutor._restore_args_dev", lambda *args: None)
    far, start = 3 << 29, 3 << 29
    storage = torch.empty(start + 2 * far + 64, dtype=torch.uint8)
    values = torch.randint(256, (3, 3, 3), generator=seeded(), dtype=torch.uint8)
    weight_values = torch.randint(1, 256, (3, 3), generator=seeded(1), dtype=torch.uint8)
    strides = {"problems": (far, 1, 3), "channels": (9, far, 3), "rows": (9, 3, far)}.get(axis)
    x = values if strides is None else storage.as_strided((3, 3, 3), strides, start).copy_(values)
    strides = {"weights": (1, far), "weights of problems": (far, 1)}.get(axis)
    weights = weight_values if strides is None else storage.as_strided((3, 3), strides, start).copy_(weight_values)
    centers, problems = torch.rand(3, 2, 3, generator=seeded(2)) * 255, torch.arange(3)
    fixed_point = tensor_points(values.mT, weight_values, PlainEngine(), torch.float32).fixed_point
    plain = PlainEngine().bind(values.mT, weight_values)
    kernel_input = KernelInput(x, weights, None, 3)
    _, sqdist = launch.assign(kernel_input, problems, centers, 4)
    assert torch.equal(sqdist, plain.assign(centers, range(3)).sqdist)
    found, expected = (
        launch.measure(kernel_input, problems, centers, fixed_point, 4),
        plain.measure(centers, fixed_point, range(3)),
    )
    assert torch.equal(found.totals[..., :3], expected.sums)
    assert torch.equal(found.totals[..., 3], expected.totals)
