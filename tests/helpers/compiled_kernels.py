"""Machine code of the Triton kernels for NVIDIA GPUs, compiled on any machine.

    python -m helpers.compiled_kernels record [--thorough]     prints the variants of the kernels that are launched
    python -m helpers.compiled_kernels compile ARCH            compiles the variants on stdin, prints their resources

Both print a line of JSON for each variant, and `compile` its name, constants and `Resources`. `record` needs
TRITON_INTERPRET=1 and the pretended device, and `compile` needs a process without TRITON_INTERPRET.
"""

import functools
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gpukmeans.images.rate_distortion import RateName

# The names that Triton has for dtypes.
_TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64"}
_TYPES |= {torch.bool: "i1", torch.uint8: "u8", torch.int8: "i8", torch.int16: "i16"}
_TYPES |= {torch.int32: "i32", torch.int64: "i64"}


class Variant(NamedTuple):
    """A kernel that is compiled once: its name, and what its machine code depends on.

    `types` has the type of each parameter, "constexpr" for constants, and `constants` their values. Integers have the
    code of any value, although Triton compiles a 1 and multiples of 16 as such. Addresses are multiples of 16.
    """

    module: str
    name: str
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.name}, {self.constant_part}"

    @property
    def constant_part(self) -> str:
        """What differs between variants: the types of arrays of numbers, constants, and missing arguments."""
        arrays = {kind[1:] for kind in self.types.values() if kind[1:] in ("fp16", "bf16", "fp32", "fp64", "u8")}
        given = [f"{key}={value}" for key, value in self.constants.items() if value is not None]
        without = [f"no {key}" for key, value in self.constants.items() if value is None]
        return ", ".join(["/".join(sorted(arrays)) or "integers", *given, *without])


def variant_of(kernel: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> Variant:
    """The variant of a launch of a kernel."""
    parameters = _parameters(kernel.fn)
    values = dict(zip(parameters, args, strict=False))
    values |= {name: value for name, value in keywords.items() if name in parameters}
    options = {name: value for name, value in keywords.items() if name not in (*parameters, "grid", "warmup")}
    types = {
        name: "constexpr" if is_constant or values[name] is None else _type_of(values[name])
        for name, is_constant in parameters.items()
    }
    constants = {name: values[name] for name, kind in types.items() if kind == "constexpr"}
    return Variant(kernel.fn.__module__, kernel.fn.__name__, types, constants, options)


@functools.cache
def _parameters(function: Any) -> dict[str, bool]:
    """The names of the parameters, and whether each is a constant."""
    parameters = inspect.signature(function).parameters
    return {name: "constexpr" in str(parameter.annotation) for name, parameter in parameters.items()}


def _type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def kernel_names() -> set[str]:
    """The names of all kernels of the package: functions of Triton whose names end with `_kernel`."""
    import gpukmeans

    names = set()
    for module in pkgutil.walk_packages(gpukmeans.__path__, "gpukmeans."):
        if module.name.endswith("kernels"):
            found = vars(importlib.import_module(module.name))
            names |= {name for name, value in found.items() if name.endswith("_kernel") and hasattr(value, "fn")}
    return names


# Kernels that `launch_kernels` does not need to run, because no later launch depends on their results.
NOT_RUN = frozenset({"diffuse_kernel", "inverse_palette_kernel"})
# With these, no kernel of the rate optimizer is run.
NOT_RUN |= {"filter_kernel", "bits_kernel", "adjacency_kernel", "map_kernel", "pack_kernel", "unpack_kernel"}
NOT_RUN |= {"pairs_kernel", "pair_lengths_kernel", "mark_kernel", "number_kernel", "nearest_kernel", "keep_kernel"}
NOT_RUN |= {"differences_kernel", "weights_kernel", "energy_kernel", "squared_error_kernel", "errors_kernel"}
NOT_RUN |= {"normal_equations_kernel", "descend_kernel", "order_kernel", "sweep_kernel"}


def recorded(*, thorough: bool = False) -> list[Variant]:
    """The variants of all kernels, as they are launched on the pretended device; if `thorough`, more variants."""
    from helpers.pretended_cuda import pretended_cuda

    with pretended_cuda(not_run=NOT_RUN) as log:
        launch_kernels(thorough=thorough)
    variants = [*log.variants]
    # Addresses depend on the results of these kernels, so all of them are run.
    with pretended_cuda() as log:
        for width in (12, 128) if thorough else (12,):
            _screen(width)
    variants += log.variants
    return [*{str(variant): variant for variant in variants}.values()]


def launch_kernels(*, thorough: bool = False) -> None:
    """Launch every kernel for up to 8 coordinates and for images on the CUDA device; if `thorough`, more variants.

    Sizes are the smallest of each variant, because kernels are interpreted.
    """
    _cluster(3, torch.float32)
    _cluster(8, torch.float64, with_weights=True)
    for width in (1, 3, 4, 8) if thorough else (3,):
        _merge(width)
    for channels in (1, 2, 3, 4) if thorough else (3, 4):
        _diffuse(channels)
        _optimize(channels, "png", share=208)
    _optimize(3, "gif", share=0)
    if thorough:
        _optimize(4, "gif", share=208)
        for width, dtype in ((1, torch.float32), (3, torch.uint8), (3, torch.float64), (4, torch.float32)):
            _cluster(width, dtype)
        for width in (3, 4, 8):
            _cluster(width, torch.float32, with_weights=True)
        for width, dtype in ((3, torch.float32), (8, torch.float64)):
            _cluster_to_many(width, dtype)


def _cluster(width: int, dtype: torch.dtype, *, with_weights: bool = False) -> None:
    from gpukmeans import Batches, assign, kmeans

    x = _points(131, width, dtype)
    weights = _points(131, 1, torch.float64)[:, 0] if with_weights else None
    kmeans(x, 5, weights=weights, n_init=2, max_iter=2)
    kmeans(Batches([x[:9], x[9:20]]), 5, init=_centers(x[:5]), max_iter=1)
    # 129 clusters are more than half of the largest block of clusters. Points are sorted from 32 clusters on.
    kmeans(x, 129, init=_centers(x[:129]), weights=weights, max_iter=1)
    assign(x, _centers(x[:1]))


def _merge(width: int) -> None:
    """Merge one pair of clusters."""
    from gpukmeans.engines.fused.merging import merged
    from gpukmeans.engines.plain import PlainEngine
    from gpukmeans.lloyd import measure_at
    from gpukmeans.points.tensor import tensor_points

    x = _points(3, width, torch.float32)[None]
    merged(x, measure_at(tensor_points(x, None, PlainEngine(), torch.float32), x), 2, 0)


def _screen(width: int) -> None:
    """Many coordinates."""
    from gpukmeans import assign, kmeans

    x = _points(40, width, torch.float32)
    kmeans(x, 3, init=_centers(x[:3]), max_iter=2)
    assign(x[:5], _centers(x[:3]))


def _cluster_to_many(width: int, dtype: torch.dtype) -> None:
    """As many clusters as programs of four warps are for."""
    from gpukmeans import assign, kmeans

    x = _points(1025, width, dtype)
    kmeans(x, 1024, init=_centers(x[:1024]), max_iter=1)
    assign(x[:1], _centers(x[:1024]))


def _points(n: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.rand(n, width, generator=torch.Generator().manual_seed(0)) * 256).to(dtype).cuda()


def _centers(x: torch.Tensor) -> torch.Tensor:
    return x.to(x.dtype if x.is_floating_point() else torch.float32)


def _diffuse(channels: int) -> None:
    """A strip of as many rows as a program can have."""
    from gpukmeans import DITHERINGS

    image = _points(512, channels, torch.uint8)[:, None]
    nearest = torch.zeros(512, 1, dtype=torch.uint8).cuda()
    DITHERINGS["floyd-steinberg"](image, image[:2, 0], nearest, 256)


def _optimize(channels: int, rate: RateName, *, share: int) -> None:
    """Optimize an image with one pixel and with several pixels per byte, and with and without a price of bits."""
    from gpukmeans import IndexedImage, mean_squared_error
    from gpukmeans.images.contrast import contrast_weights
    from gpukmeans.images.png_rate import fitted_rate
    from gpukmeans.images.rate_distortion import Objective, block_energies, color_cells, optimized, sweep

    image = _points(16, channels, torch.uint8).view(4, 4, channels)
    for n_colors, price in ((17, 0), (17, 1)):
        palette, indices = _points(n_colors, channels, torch.uint8), torch.zeros(4, 4, dtype=torch.uint8).cuda()
        weights, objective = contrast_weights(image) if share else None, Objective(share=share, price=price)
        optimized(image, palette, indices, objective, n_rounds=2, rate_name=rate, bit_weights=weights)
    mean_squared_error(image, IndexedImage(palette, indices))
    block_energies(image, IndexedImage(palette, indices), objective)
    for per_byte in (2, 4, 8):
        indexed = IndexedImage(palette[: 1 << 8 // per_byte], indices)
        sweep(image, indexed, color_cells(image).nearest(*indexed[:1], 4), fitted_rate(indices, per_byte), objective)


class Resources(NamedTuple):
    """What a program of a compiled kernel needs: registers of a thread, and bytes. `stack` is not 0 if values spill."""

    registers: int
    stack: int
    shared: int
    n_inexact: int
    """Number of instructions that fuse a multiplication and an addition, or that replace denormal numbers by 0."""
    orders_list: bool
    """Whether there is a barrier before the first store, and one between it and the next load, which is not cached.

    The first store of the passes over the points is to the candidate list, which other threads read.
    """


def resources_of(variant: Variant, arch: int) -> Resources:
    """Compile a variant for a GPU, such as 90 for sm_90, and read its resources from the machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(variant.module), variant.name)
    places = {name: (place,) for place, name in enumerate(variant.types)}
    source = ASTSource(
        fn=kernel,
        signature=variant.types,
        constexprs={places[name]: value for name, value in variant.constants.items()},
        attrs={places[name]: [["tt.divisibility", 16]] for name, kind in variant.types.items() if kind[0] == "*"},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=variant.options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(compiled.asm["cubin"])
        cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        command = [str(cuobjdump), "--dump-resource-usage", str(path)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, local = map(int, found.groups())
    n_inexact = len(re.findall(r"\bfma\.|\.ftz", compiled.asm["ptx"]))
    before, _, after = compiled.asm["ttgir"].partition("tt.store")
    has_barriers = "barrier" in before and "barrier" in after.partition("tt.load")[0]
    orders_list = has_barriers and "ld.global.nc" not in compiled.asm["ptx"]
    return Resources(registers, stack + local, compiled.metadata.shared, n_inexact, orders_list)


def compiled(variants: Sequence[Variant], arch: int, cache: Path) -> list[Resources]:
    """The resources of the variants, compiled in one process without TRITON_INTERPRET, into a folder for the cache."""
    environment = {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {name: value for name, value in os.environ.items() if name not in (*environment, "TRITON_INTERPRET")}
    lines = "".join(json.dumps(variant) + "\n" for variant in variants)
    command = [sys.executable, "-W", "ignore", "-m", __name__, "compile", str(arch)]
    run = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return [Resources(*json.loads(line)[2:]) for line in run.stdout.splitlines()]


def main(command: str, argument: str | None = None) -> None:
    """Run a command of this file."""
    if command == "record":
        for variant in recorded(thorough=argument == "--thorough"):
            print(json.dumps(variant))
    else:
        arch = int(argument or 90)
        for line in sys.stdin:
            variant = Variant(*json.loads(line))
            print(json.dumps([variant.name, variant.constant_part, *resources_of(variant, arch)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
