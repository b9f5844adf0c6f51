import json
import os
import subprocess
import sys

import pytest
import torch
from helpers.problems import seeded

from gpukmeans.engines.fused.storage import Stored, in_place, sorted_copy
from gpukmeans.engines.plain import TorchEngine
from gpukmeans.points.tensor import tensor_points

fused = pytest.importorskip("gpukmeans.engines.fused.launch")

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
interpreted = pytest.mark.skipif(CUDA, reason="kernels are compiled, not interpreted")


def on_device(*tensors):
    return [tensor.to(DEVICE) for tensor in tensors]


@pytest.mark.parametrize("stored", [in_place, sorted_copy])
@pytest.mark.parametrize("programs", [1, 2, 1000])
def test_no_bit_depends_on_the_number_of_programs(stored, programs):
    generator = seeded()
    x, weights = torch.randn(2, 600, 3, generator=generator), torch.rand(2, 600, generator=generator)
    x, weights, centers = on_device(x, weights, torch.randn(2, 4, 3, generator=generator))
    grid = tensor_points(x, weights, TorchEngine(), torch.float32).grid
    problems = torch.arange(2, device=DEVICE)
    found = fused.measure(stored(x, weights), problems, centers, grid, programs)
    expected = TorchEngine().bind(x, weights).measure(centers, grid, range(2))
    assert torch.equal(found.totals[..., :3], expected.sums)
    assert torch.equal(found.totals[..., 3], expected.totals)
    for name in ("inertia", "worst_sqdist", "worst_row"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("stored", [in_place, sorted_copy])
def test_the_pass_is_an_operation_of_torch_that_a_compiler_may_trace(stored):
    generator = seeded()
    x, weights = torch.randn(2, 60, 3, generator=generator), torch.rand(2, 60, generator=generator)
    x, weights, centers = on_device(x, weights, torch.randn(2, 4, 3, generator=generator))
    grid = tensor_points(x, weights, TorchEngine(), torch.float32).grid
    held, problems = stored(x, weights), torch.arange(2, device=DEVICE)
    steps = grid.lowest, grid.sum, grid.weight, grid.sqdist
    operations = torch.ops.gpukmeans
    torch.library.opcheck(operations.fused_assign.default, (held.x, held.rows, held.n, problems, centers, 3))
    torch.library.opcheck(operations.fused_measure.default, (*held, problems, centers, *steps, 3))


def test_the_first_pass_does_not_load_the_compiler_of_torch():
    code = """
import sys, torch
from gpukmeans.engines.fused.launch import assign
from gpukmeans.engines.fused.storage import in_place
assign(in_place(torch.rand(1, 9, 3), None), torch.zeros(1, dtype=torch.int64), torch.rand(1, 2, 3))
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"TRITON_INTERPRET": "1"})


@interpreted
@pytest.mark.parametrize("axis", ["problems", "channels", "rows", "weights", "weights of problems"])
def test_offsets_are_of_64_bits(axis, monkeypatch):
    # Each stride fits 32 bits, and twice the stride does not: cut to 32 bits it would end before the first point, but
    # still in this storage, which is never touched in between and so takes no memory. Nothing is copied back, for the
    # same reason.
    monkeypatch.setattr("triton.runtime.interpreter.GridExecutor._restore_args_dev", lambda *args: None)
    far, start = 3 << 29, 3 << 29
    storage = torch.empty(start + 2 * far + 64, dtype=torch.uint8)
    values = torch.randint(256, (3, 3, 3), generator=seeded(), dtype=torch.uint8)
    masses = torch.randint(1, 256, (3, 3), generator=seeded(1), dtype=torch.uint8)
    strides = {"problems": (far, 1, 3), "channels": (9, far, 3), "rows": (9, 3, far)}.get(axis)
    x = values if strides is None else storage.as_strided((3, 3, 3), strides, start).copy_(values)
    strides = {"weights": (1, far), "weights of problems": (far, 1)}.get(axis)
    weights = masses if strides is None else storage.as_strided((3, 3), strides, start).copy_(masses)
    centers, problems = torch.rand(3, 2, 3, generator=seeded(2)) * 255, torch.arange(3)
    grid = tensor_points(values.mT, masses, TorchEngine(), torch.float32).grid
    plain = TorchEngine().bind(values.mT, masses)
    stored = Stored(x, weights, None, 3)
    _, sqdist = fused.assign(stored, problems, centers, 4)
    assert torch.equal(sqdist, plain.assign(centers, range(3)).sqdist)
    found, expected = fused.measure(stored, problems, centers, grid, 4), plain.measure(centers, grid, range(3))
    assert torch.equal(found.totals[..., :3], expected.sums)
    assert torch.equal(found.totals[..., 3], expected.totals)


# Launches are recorded and not made; what they would compile is compiled for a GPU that need not be there.
COMPILE = r"""
import json, re, subprocess, sys, tempfile
from pathlib import Path
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import gpukmeans.engines.fused.launch as fused, kernels
from gpukmeans.engines.plain import TorchEngine
from gpukmeans.points.tensor import tensor_points
from gpukmeans.engines.fused.storage import in_place, sorted_copy

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

def report(width, k, dtype, weighted, sort, held=None):
    dtype, held = getattr(torch, dtype), getattr(torch, held or dtype)
    x, centers = torch.randint(99, (1, 999, width)).to(held), torch.rand(1, k, width, dtype=dtype)
    weights = torch.randint(9, (1, 999)).to(held if held in (torch.uint8, torch.bfloat16) else torch.float32)
    weights = weights if weighted else None
    stored, problems = (sorted_copy if sort else in_place)(x, weights), torch.zeros(1, dtype=torch.int64)
    fused.assign(stored, problems, centers, 100)
    fused.measure(stored, problems, centers, tensor_points(x, weights, TorchEngine(), dtype).grid, 100)
    for recorder in (kernels.assign_kernel, kernels.measure_kernel):
        args, options = recorder.launch
        if recorder is kernels.assign_kernel and weighted:
            continue  # the same as without
        flags = {n: v for n, v in options.items() if n not in recorder.kernel.arg_names}
        made = triton.compile(source(recorder.kernel, args, options), target=GPUTarget("cuda", 90, 32), options=flags)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(made.asm["cubin"])
            file.flush()
            usage = subprocess.check_output([TOOLS / "cuobjdump", "--dump-resource-usage", file.name], text=True)
        found = {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
        found["fused"] = len(re.findall(r"fma\.\w+\.f(?:32|64)|\.ftz", made.asm["ptx"]))
        found["products"] = len(re.findall(r"mul\.(?:rn\.)?f(?:32|64)", made.asm["ptx"]))
        before, after = made.asm["ttgir"].split("tt.store", 1)  # the first store is to the list
        found["ordered"] = "barrier" in before and "barrier" in after.split("tt.load", 1)[0]
        found["cached apart"] = "ld.global.nc" in made.asm["ptx"]
        print(json.dumps(found | {"kernel": recorder.kernel.__name__}), flush=True)

kernels.assign_kernel, kernels.measure_kernel = Recorder(kernels.assign_kernel), Recorder(kernels.measure_kernel)
for case in json.loads(sys.argv[1]):
    report(*case)
"""

# D, K, dtype, whether there are weights, whether the points are sorted, and where it differs the dtype of the points
# (and of weights). Half of them in each of two processes.
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
    """What was compiled for each kernel."""
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
    # But for the two or three with which ptxas makes room for one more warp.
    assert [report for report in reports if report["stack"] > 16 or report["local"] or not report["reg"]] == []


def test_no_variant_fuses_a_multiply_with_an_add_or_flushes_what_is_tiny(reports):
    assert all(report["products"] > 0 for report in reports)
    assert [report for report in reports if report["fused"]] == []


def test_a_list_is_written_and_read_on_either_side_of_a_barrier(reports):
    assert [report for report in reports if not report["ordered"] or report["cached apart"]] == []
