"""A process that runs cases of `python scripts/bench.py gpu`: python -m benchmarks.gpu_child [--small] CASE...

Each line of stdout is a JSON object: first the machine, then for each case its beginning, its rows and its end. After
an error of CUDA, which makes later calls fail, too, the process ends with code 1. Without a CUDA device `--small` runs
on the pretended one of the tests, with the environment variable TRITON_INTERPRET=1.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from gpukmeans import (
    COLOR_SPACES,
    DITHERINGS,
    SEEDINGS,
    DitheringName,
    InitName,
    KMeansResult,
    apply_palette,
    kmeans,
    quantize,
)

TESTS = Path(__file__).resolve().parents[2] / "tests"

# Numbers of iterations. An iteration is the difference between a run of more and one of fewer of them.
FEW, MANY = 2, 10
# Number of runs of which the median is taken, and the seconds after which no further run begins.
RUNS, SECONDS = 5, 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: a figure, or a comparison of bits."""

    case: str
    milliseconds: float | None = None
    mark: float | None = None
    """Upper limit of `milliseconds` on an H200, for the full sizes."""
    n_bytes: float | None = None
    """Bytes of the input and output, which each method reads and writes at least once."""
    n_operations: float | None = None
    """Multiplications and additions of products of matrices, for tensor cores in fp16."""
    peak_bytes: int | None = None
    """Peak of the memory on the device, in addition to the memory before the call."""
    note: str = ""
    """The result of a comparison, or the reason why there is no figure."""

    @property
    def fails(self) -> bool:
        """Whether bits differ or the case could not end."""
        return self.note.startswith(("DIFFERENT", "fails", "stopped"))


class Machine:
    """The device, and whether sizes are small."""

    def __init__(self, *, small: bool, is_pretended: bool) -> None:
        self.small, self.is_pretended = small, is_pretended

    def pick(self, full: int, small: int) -> int:
        """One of two sizes."""
        return small if self.small else full

    def described(self) -> dict[str, Any]:
        """The device and versions, for the header."""
        device = {"device": "pretended", "driver": "none", "memory": None}
        if not self.is_pretended:
            memory = torch.cuda.get_device_properties(0).total_memory
            device = {"device": torch.cuda.get_device_name(), "driver": _driver(), "memory": memory}
        versions = {name: _version(name) for name in ("torch", "triton", *PEERS)}
        return {**device, "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), **versions}

    def milliseconds(self, call: Callable[[], object]) -> float:
        """The median time of a call, after a first call that is not counted; if `small` the time of one call."""
        if self.small:
            return self._milliseconds_of_one(call)
        call()
        times, end = [], time.perf_counter() + SECONDS
        while not times or (len(times) < RUNS and time.perf_counter() < end):
            times.append(self._milliseconds_of_one(call))
        return statistics.median(times)

    def _milliseconds_of_one(self, call: Callable[[], object]) -> float:
        if self.is_pretended:
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * 1e3
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        before.record()
        call()
        after.record()
        torch.cuda.synchronize()
        return before.elapsed_time(after)

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """Peak memory of a call, in addition to the memory before it."""
        if self.is_pretended:
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def measured(self, case: str, call: Callable[[], object], **row: Any) -> Row:
        """The row of a call."""
        milliseconds = self.milliseconds(call)
        return Row(case=case, milliseconds=milliseconds, peak_bytes=self.peak_bytes(call), **row)

    def iteration(self, case: str, run: Callable[[int], object], **row: Any) -> Row:
        """The row of an iteration. `run` runs a number of them."""
        few, many = (1, 2) if self.small else (FEW, MANY)
        if not self.small:
            start = time.perf_counter()
            run(1)
            torch.cuda.synchronize()
            if time.perf_counter() - start > SECONDS / 5:
                many = FEW + 1
        milliseconds = (self.milliseconds(lambda: run(many)) - self.milliseconds(lambda: run(few))) / (many - few)
        if milliseconds <= 0:
            return Row(case=case, note="not measured: below noise")
        return Row(case=case, milliseconds=milliseconds, peak_bytes=self.peak_bytes(lambda: run(few)), **row)


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return (subprocess.run(command, capture_output=True, text=True).stdout.splitlines() or ["unknown"])[0]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# Bits


def _compared(case: str, function: Callable[..., Any], *args: Any, **options: Any) -> Row:
    """Whether a function returns equal bits on the CPU and on the device."""
    expected = _tensors(function(*args, **options))
    found = _tensors(function(*map(_moved, args), **{name: _moved(value) for name, value in options.items()}))
    different = [name for name, tensor in expected.items() if not torch.equal(found[name].cpu(), tensor)]
    return Row(case=f"bits: {case}", note=f"DIFFERENT {', '.join(different)}" if different else "equal")


def _moved(value: Any) -> Any:
    return value.to("cuda") if isinstance(value, Tensor) else value


def _tensors(result: Any) -> dict[str, Tensor]:
    if isinstance(result, KMeansResult):
        fields = {name: getattr(result, name) for name in ("centers", "labels", "inertia", "n_iter")}
    else:
        fields = result._asdict()
    return {name: torch.as_tensor(value) for name, value in fields.items()}


def _points(n: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random points on the CPU, of values below 100."""
    return (torch.rand(n, width, generator=torch.Generator().manual_seed(width)) * 100).to(dtype)


def _picture(height: int, width: int, channels: int = 3) -> Tensor:
    """A picture (H, W, C), uint8, with smooth areas, edges and a little noise, on the CPU."""
    generator = torch.Generator().manual_seed(channels)
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = torch.rand(channels, 4, generator=generator).tolist()
    layers = [
        128 + 60 * torch.sin(9 * a * x + 7 * b * y) + 50 * torch.cos(5 * c * x - 11 * d * y) for a, b, c, d in waves
    ]
    picture = torch.stack(layers, dim=2)
    picture[height // 3 : height // 2, width // 4 : width // 2] *= 0.5
    noise = torch.randn(height, width, channels, generator=generator) * 3
    return (picture + noise).clamp(0, 255).to(torch.uint8)


def bits_of_dtypes(machine: Machine) -> Iterator[Row]:
    """`kmeans` on points of each dtype."""
    n, k, n_iter = machine.pick(20_000, 40), machine.pick(64, 3), machine.pick(10, 1)
    dtypes = torch.float32, torch.uint8, torch.float64, torch.float16, torch.bfloat16, torch.int64
    for dtype in dtypes[: machine.pick(6, 2)]:
        yield _compared(f"kmeans, {str(dtype)[6:]}", kmeans, _points(n, 3, dtype), k, max_iter=n_iter)


def bits_of_few_coordinates(machine: Machine) -> Iterator[Row]:
    """`kmeans` on points of up to 8 coordinates."""
    yield from _bits_of_widths(machine, [8, 1, 2, 4])


def bits_of_many_coordinates(machine: Machine) -> Iterator[Row]:
    """`kmeans` on points of more than 8 coordinates."""
    yield from _bits_of_widths(machine, [9, 32, 128, 768])


def _bits_of_widths(machine: Machine, widths: Sequence[int]) -> Iterator[Row]:
    n, k, n_iter = machine.pick(20_000, 40), machine.pick(64, 3), machine.pick(10, 1)
    for width in widths[: machine.pick(len(widths), 1)]:
        yield _compared(f"kmeans, D = {width}", kmeans, _points(n, width), k, max_iter=n_iter)


def bits_of_options(machine: Machine) -> Iterator[Row]:
    """`kmeans` with options, and on a batch of problems."""
    n, n_iter = machine.pick(20_000, 40), machine.pick(10, 1)
    x, k = _points(n, 3), machine.pick(64, 3)
    options: dict[str, dict[str, Any]] = {
        "weights": {"weights": _points(n, 1)[:, 0]},
        "n_init=2": {"n_init": 2},
        "refine=2": {"refine": 2},
        "cosine": {"metric": "cosine"},
        "fixed": {"fixed": x[:2] + 1},
    }
    for name, given in list(options.items())[: machine.pick(5, 1)]:
        yield _compared(f"kmeans, {name}", kmeans, x, k, max_iter=n_iter, **given)
    yield _compared("kmeans, a batch of 2", kmeans, x.view(2, -1, 3), k, init="random", max_iter=n_iter)


def bits_of_seeding(machine: Machine) -> Iterator[Row]:
    """Each seeding, and one iteration."""
    x, k = _points(machine.pick(20_000, 40), 3), machine.pick(256, 4)
    for init in SEEDINGS if not machine.small else ("k-means||",):
        yield _compared(f"seeding by {init}", kmeans, x, k, init=init, max_iter=1)
    if not machine.small:
        for init in SEEDINGS:
            yield _compared(f"seeding by {init}, D = 64", kmeans, _points(20_000, 64), 64, init=init, max_iter=1)


def bits_of_quantize(machine: Machine) -> Iterator[Row]:
    """`quantize` in each color space and by each dithering, and each number of channels."""
    pairs = list(itertools.product(COLOR_SPACES, DITHERINGS))
    if machine.small:
        pairs = [("srgb", "none"), ("oklab", "bayer")]
    for space, dither in pairs:
        yield _quantized(machine, f"{space}, {dither}", space=space, dither=dither)
    for channels in (4, 1, 2)[: machine.pick(3, 1)]:
        yield _quantized(machine, f"{channels} channels", channels, dither="floyd-steinberg")


def bits_of_lossy(machine: Machine) -> Iterator[Row]:
    """Indices by rate-distortion optimization."""
    for rate in ("png", "gif")[: machine.pick(2, 1)]:
        yield _quantized(machine, f"lossy, {rate}", lossy=15, rate=rate, rounds=machine.pick(4, 1))


def _quantized(machine: Machine, name: str, channels: int = 3, **options: Any) -> Row:
    picture, k = _picture(machine.pick(400, 5), machine.pick(600, 6), channels), machine.pick(32, 3)
    return _compared(f"quantize, {name}", quantize, picture, k, **_palette_options(machine), **options)


def _palette_options(machine: Machine) -> dict[str, Any]:
    """Options of `quantize`: the defaults, or less work."""
    return {"init": "random", "refine": 0, "max_iter": 1} if machine.small else {}


# Times


def attained_peaks(machine: Machine) -> Iterator[Row]:
    """A copy and a product of matrices by torch: what the device attains of its peaks."""
    source = torch.empty(machine.pick(4 << 30, 1 << 10), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    yield machine.measured(
        f"a copy of {_short(len(source))} bytes", lambda: target.copy_(source), n_bytes=2 * len(source)
    )
    del source, target
    side = machine.pick(8192, 16)
    a = torch.ones(side, side, dtype=torch.float16, device="cuda")
    yield machine.measured(f"a product of {side} x {side}, fp16", lambda: a @ a, n_operations=2 * side**3)


def few_coordinates(machine: Machine) -> Iterator[Row]:
    """Iterations over points of 3 coordinates in spatial order."""
    for n, mark in ((100_000_000, 3.0), (100_000, None)) if not machine.small else ((40, 3.0),):
        x = torch.rand(n, 3, device="cuda")
        yield _iteration(machine, "sorted", x, machine.pick(256, 33), mark)


def few_coordinates_unsorted(machine: Machine) -> Iterator[Row]:
    """Iterations over points of 3 coordinates in random order."""
    from gpukmeans.engines.fused.engine import TritonEngine

    x = torch.rand(machine.pick(100_000_000, 20), 3, device="cuda")
    yield _iteration(machine, "unsorted", x, machine.pick(256, 4), 15.0, engine=TritonEngine(sorts_from=1 << 31))


def many_coordinates(machine: Machine) -> Iterator[Row]:
    """Iterations over points of 128 coordinates."""
    x = torch.randn(machine.pick(1_000_000, 20), 128, device="cuda")
    yield _iteration(machine, "", x, machine.pick(4096, 4), 3.3)
    if not machine.small:
        yield _iteration(machine, "", x.half(), 4096, None)


def many_clusters(machine: Machine) -> Iterator[Row]:
    """Iterations over points of 256 coordinates, of more clusters."""
    x = torch.randn(machine.pick(512 * 1024, 20), 256, device="cuda")
    yield _iteration(machine, "", x, machine.pick(16384, 4), 9.7)


def _iteration(machine: Machine, order: str, x: Tensor, k: int, mark: float | None, **options: Any) -> Row:
    """An iteration of `kmeans`. For many coordinates it has at least the work of the products of points and centers."""
    n, width = x.shape
    first = x[:k].to(torch.promote_types(x.dtype, torch.float32))
    name = f"{_described(x, k)}{f', {order}' if order else ''}"
    work = {"n_operations": 2 * n * k * width} if width > 8 else {}

    def run(n_iter: int) -> None:
        kmeans(x, k, init=first, tol=0, max_iter=n_iter, **options)

    return machine.iteration(f"iteration, {name}", run, mark=mark, n_bytes=x.numel() * x.element_size(), **work)


def _described(x: Tensor, k: int) -> str:
    return f"{_short(len(x))} x {x.shape[1]} {str(x.dtype)[6:]}, K = {k}"


def _short(n: int) -> str:
    """A number without the thousands or millions of a round number."""
    for factor, unit in ((10**6, "M"), (1 << 20, "Mi"), (10**3, "k"), (1 << 10, "Ki")):
        if n % factor == 0:
            return f"{n // factor:,}{unit}"
    return f"{n:,}"


def palette_of_a_photo(machine: Machine) -> Iterator[Row]:
    """From a picture on the device to its palette and indices."""
    height, width, k = machine.pick(4000, 5), machine.pick(6000, 6), machine.pick(256, 3)
    picture = _picture(height, width).to("cuda")
    n_bytes = 2 * picture.numel() + height * width
    case = f"quantize, {width} x {height}, K = {k}"
    options = _palette_options(machine)
    yield machine.measured(case, lambda: quantize(picture, k, **options), mark=10.0, n_bytes=n_bytes)


def dithering(machine: Machine) -> Iterator[Row]:
    """Floyd-Steinberg dithering of a megapixel to a given palette, alone and with the nearest colors."""
    height, width, k = machine.pick(800, 5), machine.pick(1250, 6), machine.pick(256, 4)
    picture = _picture(height, width).to("cuda")
    palette, nearest = quantize(picture, k, **_palette_options(machine))
    name, n_bytes = f"{width} x {height}, K = {k}", picture.numel() + 2 * height * width
    method = DITHERINGS["floyd-steinberg"]
    alone = f"Floyd-Steinberg, {name}"
    yield machine.measured(alone, lambda: method(picture, palette, nearest, 256), mark=3.0, n_bytes=n_bytes)
    names: Sequence[DitheringName] = get_args(DitheringName) if not machine.small else ("none",)
    for dither in names:
        case = f"apply_palette, {dither}, {name}"
        yield machine.measured(case, lambda dither=dither: apply_palette(picture, palette, dither=dither))


def dithering_of_a_batch(machine: Machine) -> Iterator[Row]:
    """Floyd-Steinberg dithering of a batch of pictures of a megapixel, with the nearest colors."""
    height, width, n = machine.pick(800, 5), machine.pick(1250, 6), machine.pick(132, 2)
    picture = _picture(height, width)
    palette = quantize(picture, machine.pick(256, 3), **_palette_options(machine)).palette.to("cuda")
    batch = torch.stack([picture.roll(3 * i, dims=1) for i in range(n)]).to("cuda")
    case = f"apply_palette, floyd-steinberg, {n} of {width} x {height}"
    n_bytes = batch.numel() + n * height * width
    yield machine.measured(
        case, lambda: apply_palette(batch, palette, dither="floyd-steinberg"), mark=6.0, n_bytes=n_bytes
    )


def seeding(machine: Machine) -> Iterator[Row]:
    """Seeding, and one iteration."""
    cases: list[tuple[InitName, int, int, int]] = [("k-means++", 20, 3, 2)]
    if not machine.small:
        cases = [("k-means++", 10**6, 3, 256), ("k-means||", 10**6, 3, 256), ("k-means||", 10**6, 128, 1024)]
    for init, n, width, k in cases:
        x = torch.rand(n, width, device="cuda")
        case = f"{init} and an iteration, {_described(x, k)}"
        yield machine.measured(case, lambda x=x, k=k, init=init: kmeans(x, k, init=init, max_iter=1))


def _flash_kmeans(x: Tensor, first: Tensor, n_iter: int) -> object:
    from flash_kmeans import batch_kmeans_Euclid  # pyright: ignore[reportMissingImports]

    return batch_kmeans_Euclid(x[None], len(first), max_iters=n_iter, tol=-1.0, init_centroids=first[None])


def _flashlib(x: Tensor, first: Tensor, n_iter: int) -> object:
    from flashlib import flash_kmeans  # pyright: ignore[reportMissingImports]

    return flash_kmeans(x[None], len(first), max_iters=n_iter, tol=-1.0, init_centroids=first[None])


PEERS: Mapping[str, Callable[[Tensor, Tensor, int], object]] = {"flash-kmeans": _flash_kmeans, "flashlib": _flashlib}
"""Functions that run a number of iterations from given centers, by the name of their package."""


def beside_peers_few(machine: Machine) -> Iterator[Row]:
    """Iterations over points of 3 coordinates, beside the peers."""
    yield from _beside_peers(machine, torch.rand(machine.pick(10_000_000, 20), 3, device="cuda"), machine.pick(256, 4))


def beside_peers_many(machine: Machine) -> Iterator[Row]:
    """Iterations over points of 128 coordinates, beside the peers."""
    x = torch.randn(machine.pick(1_000_000, 20), 128, device="cuda")
    for dtype in (torch.float32, torch.float16):
        yield from _beside_peers(machine, x.to(dtype), machine.pick(4096, 4), ours=False)


def _beside_peers(machine: Machine, x: Tensor, k: int, *, ours: bool = True) -> Iterator[Row]:
    if ours:
        yield _iteration(machine, "", x, k, None)
    for name, run in PEERS.items():
        case = f"iteration, {_described(x, k)}, {name}"
        if importlib.util.find_spec(name.replace("-", "_")) is None:
            yield Row(case=case, note="not installed")
            continue
        try:
            yield machine.iteration(case, lambda n_iter, run=run: run(x, x[:k].clone(), n_iter))
        except Exception as error:  # of another package
            yield Row(case=case, note=f"not measured: {_reason(error)}")


def first_result(machine: Machine) -> Iterator[Row]:
    """The time of a new process from its start to the first result, without and with compiled kernels."""
    flags = ["--small"] if machine.small else []
    command = [sys.executable, "-m", "benchmarks.gpu_child", *flags, "first"]
    with tempfile.TemporaryDirectory() as folder:
        for state in ("no kernel compiled", "kernels compiled")[: machine.pick(2, 1)]:
            start = time.perf_counter()
            subprocess.run(command, check=True, env=os.environ | {"TRITON_CACHE_DIR": folder})
            milliseconds = (time.perf_counter() - start) * 1e3
            yield Row(case=f"first result of a new process, {state}", milliseconds=milliseconds)


def _first(machine: Machine) -> None:
    x = torch.rand(machine.pick(100_000, 9), 3, device="cuda")
    kmeans(x, machine.pick(16, 2), init="random").inertia.item()


def kernels_of_iterations(machine: Machine) -> Iterator[Row]:
    """Launches of an iteration, and the time of each kernel, by the profiler of torch."""
    for n, width, k in ((100_000, 3, 256), (100_000_000, 3, 256), (1_000_000, 128, 4096)):
        case = f"launches of an iteration, {_short(n)} x {width}, K = {k}"
        if machine.small:
            yield Row(case=case, note="not measured: sizes are small")
            continue
        x = torch.rand(n, width, device="cuda")
        few, many = (_profile(x, k, n_iter) for n_iter in (FEW, MANY))
        n_iter = MANY - FEW
        launches = sum(many[name][0] - few.get(name, (0, 0))[0] for name in many) / n_iter
        times = {name: (many[name][1] - few.get(name, (0, 0))[1]) / n_iter for name in many}
        longest = sorted(times, key=lambda name: -times[name])[:6]
        yield Row(
            case=case, note=f"{launches:.1f}; µs: " + ", ".join(f"{name[:40]} {times[name]:.1f}" for name in longest)
        )


def _profile(x: Tensor, k: int, n_iter: int) -> dict[str, tuple[int, float]]:
    """Number of launches and microseconds of each kernel in a number of iterations."""
    from torch.profiler import ProfilerActivity, profile

    kmeans(x, k, init=x[:k], tol=0, max_iter=n_iter)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        kmeans(x, k, init=x[:k], tol=0, max_iter=n_iter)
        torch.cuda.synchronize()
    return {event.key: (event.count, event.self_device_time_total) for event in found.key_averages()}


BITS: Sequence[Callable[[Machine], Iterator[Row]]] = (
    bits_of_dtypes,
    bits_of_few_coordinates,
    bits_of_many_coordinates,
    bits_of_options,
    bits_of_seeding,
    bits_of_quantize,
    bits_of_lossy,
)
"""Cases that compare bits. They may run at the same time."""

TIMES: Sequence[Callable[[Machine], Iterator[Row]]] = (
    attained_peaks,
    few_coordinates,
    few_coordinates_unsorted,
    many_coordinates,
    palette_of_a_photo,
    dithering,
    dithering_of_a_batch,
    many_clusters,
    beside_peers_few,
    beside_peers_many,
    first_result,
    kernels_of_iterations,
    seeding,
)
"""Cases that measure, the most important first."""

CASES = {case.__name__: case for case in (*BITS, *TIMES)}


def main(*arguments: str) -> int:
    """Run the cases. The result is the exit code."""
    small, is_pretended = "--small" in arguments, not torch.cuda.is_available()
    names = [name for name in arguments if name != "--small"]
    machine = Machine(small=small, is_pretended=is_pretended)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with contextlib.ExitStack() as stack:
        if is_pretended:
            sys.path.append(str(TESTS))
            from helpers.pretended_cuda import pretended_cuda  # pyright: ignore[reportMissingImports]

            stack.enter_context(pretended_cuda())
        if names == ["first"]:
            _first(machine)
            return 0
        _print(machine=machine.described())
        for name in names:
            _print(begin=name)
            is_broken = _run(machine, name)
            _print(end=name)
            if is_broken:
                return 1
    return 0


def _run(machine: Machine, name: str) -> bool:
    """Run a case. The result is whether later cases would fail, too."""
    try:
        for row in CASES[name](machine):
            _print(row=dataclasses.asdict(dataclasses.replace(row, mark=None) if machine.small else row))
    except Exception as error:
        traceback.print_exc()
        _print(row=dataclasses.asdict(Row(case=name, note=f"fails: {_reason(error)}")))
        return "CUDA" in str(error) and not isinstance(error, torch.OutOfMemoryError)
    finally:
        if not machine.is_pretended:
            with contextlib.suppress(RuntimeError):
                torch.cuda.empty_cache()
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"


def _print(**message: Any) -> None:
    print(json.dumps(message), file=_messages, flush=True)


_messages = sys.stdout

if __name__ == "__main__":
    # What other packages print goes to stderr.
    _messages = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.exit(main(*sys.argv[1:]))
