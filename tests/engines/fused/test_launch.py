import json
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


# Launches are recorded instead of run. Their kernels are compiled for a GPU, which need not be present.
COMPILE = r"""
import json, re, subprocess, sys, tempfile
from pathlib import Path
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import gpukmeans.engines.fused.iteration_kernels as iteration_kernels
import gpukmeans.engines.fused.kernels as kernels, gpukmeans.engines.fused.launch as launch
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.points.tensor import tensor_points
from gpukmeans.engines.fused.storage import unsorted, sorted_copy

HOPPER = GPUTarget("cuda", 90, 32)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}
TYPES |= {torch.uint8: "u8", torch.int8: "i8", torch.int16: "i16", torch.int32: "i32", torch.int64: "i64"}

class Recorder:
    def __init__(self, kernel):
        self.kernel, self.launch = kernel, None
    def __getitem__(self, grid):
        return lambda *args, **options: setattr(self, "launch", (args, options))

def source(kernel, args, options):
    values = dict(zip(kernel.arg_names, args)) | {n: v for n, v in options.items() if n in kernel.arg_names}
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        value = values[name]
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + TYPES[value.dtype]
            aligned = value.data_ptr() % 16 == 0
        elif name in options or value is None or (value == 1 and not kernel.params[i].do_not_specialize):
            signature[name], constants[name], aligned = "constexpr", value, False
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
            aligned = value % 16 == 0 and not kernel.params[i].do_not_specialize
        if aligned:
            attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)

def report(width, k, dtype, weighted, sort, x_dtype=None):
    dtype, x_dtype = getattr(torch, dtype), getattr(torch, x_dtype or dtype)
    x, centers = torch.randint(99, (1, 999, width)).to(x_dtype), torch.rand(1, k, width, dtype=dtype)
    weights = torch.randint(9, (1, 999)).to(x_dtype if x_dtype in (torch.uint8, torch.bfloat16) else torch.float32)
    weights = weights if weighted else None
    kernel_input, problems = (sorted_copy if sort else unsorted)(x, weights), torch.zeros(1, dtype=torch.int64)
    fixed_point = tensor_points(x, weights, PlainEngine(), dtype).fixed_point
    launch.assign(kernel_input, problems, centers, 100)
    launch.measure(kernel_input, problems, centers, fixed_point, 100)
    for recorder in (kernels.assign_kernel, kernels.measure_kernel):
        args, options = recorder.launch
        if recorder is kernels.assign_kernel and weighted:
            continue  # the same as without
        flags = {n: v for n, v in options.items() if n not in recorder.kernel.arg_names}
        compiled = triton.compile(source(recorder.kernel, args, options), target=HOPPER, options=flags)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            usage = subprocess.check_output([TOOLS / "cuobjdump", "--dump-resource-usage", file.name], text=True)
        found = {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
        found["fused"] = len(re.findall(r"fma\.\w+\.f(?:32|64)|\.ftz", compiled.asm["ptx"]))
        found["products"] = len(re.findall(r"mul\.(?:rn\.)?f(?:32|64)", compiled.asm["ptx"]))
        before, after = compiled.asm["ttgir"].split("tt.store", 1)  # the first store is to the list
        found["ordered"] = "barrier" in before and "barrier" in after.split("tt.load", 1)[0]
        found["cached apart"] = "ld.global.nc" in compiled.asm["ptx"]
        print(json.dumps(found | {"kernel": recorder.kernel.__name__}), flush=True)

kernels.assign_kernel, kernels.measure_kernel = Recorder(kernels.assign_kernel), Recorder(kernels.measure_kernel)

class NotLaunched:
    def __getitem__(self, grid):
        return lambda *args, **options: None

iteration_kernels.reduce_kernel = NotLaunched()
for case in json.loads(sys.argv[1]):
    report(*case)
"""

# D, K, dtype, whether there are weights, whether the points are sorted, and the dtype of the points (and weights) if it
# differs. Each of two processes compiles half of them.
VARIANTS = [
    (width, 256, dtype, weighted, weighted)
    for width in (1, 3, 8)
    for dtype in ("float32", "float64")
    for weighted in (False, True)
]
VARIANTS += [
    (3, 256, "float32", False, True),
    (3, 5000, "float32", True, False),
    (8, 5000, "float64", False, True),
    (3, 256, "float32", True, True, "uint8"),
    (3, 256, "float64", True, False, "bfloat16"),
    (2, 256, "float64", False, True, "int64"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Properties of each compiled kernel."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-c", COMPILE]
    runs = [
        subprocess.Popen([*command, json.dumps(VARIANTS[i::2])], stdout=subprocess.PIPE, text=True, env=environment)
        for i in range(2)
    ]
    lines = [line for run in runs for line in run.communicate()[0].splitlines()]
    assert all(run.returncode == 0 for run in runs)
    return [json.loads(line) for line in lines]


def test_every_variant_compiles_for_hopper(reports):
    n_unweighted = sum(not weighted for _, _, _, weighted, *_ in VARIANTS)
    kinds = [report["kernel"] for report in reports]
    assert (kinds.count("measure_kernel"), kinds.count("assign_kernel")) == (len(VARIANTS), n_unweighted)


def test_no_variant_spills_registers(reports):
    # Except the two or three that ptxas spills to fit one more warp.
    assert [report for report in reports if report["stack"] > 16 or report["local"] or not report["reg"]] == []


def test_no_variant_fuses_a_multiply_with_an_add_or_flushes_denormals(reports):
    assert all(report["products"] > 0 for report in reports)
    assert [report for report in reports if report["fused"]] == []


def test_a_list_is_written_and_read_on_either_side_of_a_barrier(reports):
    assert [report for report in reports if not report["ordered"] or report["cached apart"]] == []
