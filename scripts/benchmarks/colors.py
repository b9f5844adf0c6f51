"""The engines on points of 3 coordinates: equal bits, time, and memory, beside the roofline of the device.

The roofline is the bandwidth of a copy and the rate of a float32 matrix product, measured on the same device.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import clustering, peers
from benchmarks.clustering import REPEATS, inertia, slope
from benchmarks.marks import FailedError
from benchmarks.photos import sample_photos
from benchmarks.processes import seconds_of
from gpukmeans import KMeansResult, kmeans, quantize, unique_colors
from gpukmeans.engines import choose
from gpukmeans.engines.fused.engine import TritonEngine
from gpukmeans_cli.formats.reading import read_image

K = 256
SKLEARN, FAISS = "scikit-learn", "faiss-cpu"
# Accepted relative difference of an inertia from that of scikit-learn in float64, after CHECKED iterations.
TOLERANCE, CHECKED = 1e-6, 3
# Relative difference of the inertia on colors from that of scikit-learn after all iterations: the target, and the limit
# above which the result counts as wrong. Over three iterations, a plain Lloyd loop in float64 agreed with the engines
# within 3e-8, and scikit-learn in float64 within 0.7 %.
COLORS_TARGET, COLORS_TOLERANCE = 1e-3, 1e-2
# Upper limits: time relative to flash-kmeans, bytes, milliseconds. Limits beside peers on the CPU are in native.py.
FLASH_RATIO = 0.2
BYTES, BYTES_PER_POINT, BYTES_PER_RESTART = 64 << 20, 40, 12
UNSORTED_MS, SORTED_MS, QUANTIZE_MS = 9.0, 4.0, 5.0
# Operations for one point and one center: 3 differences, 3 squares, 2 sums, a comparison and 2 selections.
OPERATIONS = 11
ON_CUDA = "points that fill the GPU, unsorted and sorted; quantize on the GPU; flash-kmeans:"
_UNSORTED, _SORTED = "triton, points unsorted", "triton, points sorted"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of the cases: numbers of points, numbers of iterations, and width and height of an image.

    `counts` are the iterations of the two runs whose times give the seconds per iteration on the CPU. `cuda_counts` are
    larger, since the time of one iteration on CUDA is below the noise. They are multiples of eight, since the loop
    checks for convergence after every eighth iteration.
    """

    n: int
    counts: tuple[int, int]
    cuda_counts: tuple[int, int]
    colors_n_iter: int
    memory_n: int
    large_n: int
    size: tuple[int, int]


FULL = Sizes(
    n=200_000,
    counts=(1, 11),
    cuda_counts=(8, 72),
    colors_n_iter=100,
    memory_n=4_000_000,
    large_n=100_000_000,
    size=(6000, 4000),
)
QUICK = Sizes(
    n=20_000, counts=(1, 5), cuda_counts=(8, 24), colors_n_iter=10, memory_n=400_000, large_n=1_000_000, size=(600, 400)
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One value and its upper limit, the `target`, or the `error` that prevented it."""

    case: str
    what: str
    value: float | None = None
    unit: str = ""
    target: float | None = None
    error: str | None = None

    @property
    def is_own_error(self) -> bool:
        """Whether gpukmeans failed, and not a peer."""
        return self.error is not None and self.what not in (SKLEARN, FAISS, peers.FLASH)


@dataclass(frozen=True)
class Roofline:
    """Maximum bytes and floating-point operations per second of a device."""

    bandwidth: float
    rate: float


def measure(device: str, sizes: Sizes) -> list[Figure]:
    """All figures of a device, "cpu" or "cuda", with additional cases on CUDA. Progress is printed on stderr.

    A case that fails or has a wrong result is a figure with an `error` and without a time.
    """
    roofline = _roofline(device)
    figures = [
        Figure(case="roofline", what="bytes, of a copy", value=roofline.bandwidth / 1e9, unit="GB/s"),
        Figure(case="roofline", what="operations, of a float32 matmul", value=roofline.rate / 1e9, unit="G/s"),
    ]
    cases: dict[str, Callable[[], list[Figure]]] = {
        "iteration at K = 16": lambda: _iteration(device, sizes, 16, roofline),
        f"iteration at K = {K}": lambda: _iteration(device, sizes, K, roofline),
        "colors": lambda: _colors(device, sizes),
        "memory": lambda: _memory(device, sizes),
    }
    if device == "cuda":
        cases |= {"large": lambda: _large(sizes), "quantize": lambda: _quantize(sizes)}
    for name, case in cases.items():
        try:
            figures += case()
        except Exception as error:  # so that the other cases are measured
            figures.append(Figure(case=name, what="all", error=_reason(error)))
        print(f"{name} done", file=sys.stderr, flush=True)
    return figures


def _roofline(device: str) -> Roofline:
    source = torch.rand(1 << (28 if device == "cuda" else 26), device=device)
    target = torch.empty_like(source)
    size = 8192 if device == "cuda" else 2048
    a = torch.rand(size, size, device=device)
    copying = _median(lambda: target.copy_(source), device)
    return Roofline(2 * source.nbytes / copying, 2 * size**3 / _median(lambda: a @ a, device))


def _iteration(device: str, sizes: Sizes, k: int, roofline: Roofline) -> list[Figure]:
    rng = np.random.default_rng(0)
    x = rng.random((sizes.n, 3), dtype=np.float32)
    first = x[rng.choice(len(x), k, replace=False)]
    few, many = sizes.cuda_counts if device == "cuda" else sizes.counts
    case = f"{sizes.n:,} x 3, K = {k}, an iteration, between runs of {few} and {many}"
    others = [peers.FLASH] if device == "cuda" else [SKLEARN, FAISS]
    comparison = _compare(device, others, x, first, CHECKED, (few, many), TOLERANCE)
    seconds = {peer: slope(each, (few, many)) for peer, each in comparison.seconds.items()}
    ours = f"{choose('auto', torch.from_numpy(x).to(device)).name} {device}"
    return [
        *_times(case, seconds, comparison.errors),
        Figure(
            case=case,
            what=f"inertia against float64 after {CHECKED}",
            value=abs(comparison.relative_error) * 1e6,
            unit="ppm",
            target=1e6 * TOLERANCE,
        ),
        *(_bounds(case, sizes.n, k, seconds[ours], roofline) if ours in seconds else []),
    ]


def _bounds(case: str, n: int, k: int, seconds: float, roofline: Roofline) -> list[Figure]:
    reading, computing = 12 * n / roofline.bandwidth, OPERATIONS * n * k / roofline.rate
    return [
        Figure(case=case, what="lower bound: 12 bytes a point", value=reading * 1e3, unit="ms"),
        Figure(case=case, what=f"lower bound: {OPERATIONS} operations a pair", value=computing * 1e3, unit="ms"),
        Figure(case=case, what="`auto` by the larger bound", value=seconds / max(reading, computing), unit="x"),
    ]


def _colors(device: str, sizes: Sizes) -> list[Figure]:
    histogram = unique_colors(torch.from_numpy(read_image(sample_photos() / "china.jpg").pixels))
    x, counts = histogram.colors.float().numpy(), histogram.counts.numpy()
    first = x[np.random.default_rng(0).choice(len(x), K, replace=False)]
    n_iter = sizes.colors_n_iter
    case = f"{len(x):,} colors with counts, K = {K}, {n_iter} iterations"
    comparison = _compare(device, [SKLEARN], x, first, n_iter, (n_iter,), COLORS_TOLERANCE, counts)
    seconds = {peer: each[0] for peer, each in comparison.seconds.items()}
    return [
        *_times(case, seconds, comparison.errors),
        Figure(
            case=case,
            what=f"inertia {'below' if comparison.relative_error < 0 else 'above'} {SKLEARN}'s",
            value=abs(comparison.relative_error) * 1e6,
            unit="ppm",
            target=1e6 * COLORS_TARGET,
        ),
    ]


class _Comparison(NamedTuple):
    """Seconds of each engine and peer for each number of iterations, or the error of the engine or peer."""

    seconds: dict[str, list[float]]
    errors: dict[str, str]
    relative_error: float
    """(a - b) / b, where a is the inertia of the plain engine and b that of scikit-learn in float64."""


def _compare(
    device: str,
    others: Sequence[str],
    x: np.ndarray,
    first: np.ndarray,
    checked: int,
    counts: Sequence[int],
    tolerance: float,
    weights: np.ndarray | None = None,
) -> _Comparison:
    """Compare all engines and the peers `others` from equal initial centers. The bits of all engines must be equal."""
    in_float64 = peers.scikit_learn(x.astype(np.float64), first.astype(np.float64), checked, weights)
    reference = inertia(x, in_float64, weights)
    engines = [f"{name} {device}" for name in ["plain", "matmul", "native"] + ["triton"] * (device == "cuda")]
    centers, relative_errors, children, errors = {}, {}, {}, {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        _save(folder, x, first, weights)
        for peer in [*engines, *others]:
            child = stack.enter_context(clustering.child_of(peer, folder))
            try:
                clustering.request(child, "check", checked)
                centers[peer] = np.load(f"{folder}/{peer}.npy")
                relative_errors[peer] = inertia(x, centers[peer], weights) / reference - 1
                accepted = tolerance if peer in engines else max(tolerance, clustering.TOLERANCE)
                if not abs(relative_errors[peer]) <= accepted:
                    raise FailedError(f"inertia {relative_errors[peer]:+.1e}")
                if peer in engines and centers[peer].tobytes() != centers[engines[0]].tobytes():
                    raise FailedError(f"bits differ from those of {engines[0]}")
                children[peer] = child
            except FailedError as error:
                errors[peer] = str(error)
        if engines[0] in errors:
            raise FailedError(f"{engines[0]}: {errors[engines[0]]}")
        return _Comparison(clustering.time_alternately(children, errors, counts), errors, relative_errors[engines[0]])


def _memory(device: str, sizes: Sizes) -> list[Figure]:
    n = sizes.memory_n
    x = np.random.default_rng(0).random((n, 3), dtype=np.float32)
    peak = _peak_on_cuda if device == "cuda" else _peak_on_cpu
    return [
        Figure(
            case=f"{n:,} x 3, K = {K}, {CHECKED} iterations, peak memory in addition to the points",
            what=f"n_init={n_init}",
            value=peak(x, n_init) / 1e6,
            unit="MB",
            target=round((BYTES + (BYTES_PER_POINT + BYTES_PER_RESTART * (n_init - 1)) * n) / 1e6, 1),
        )
        for n_init in (1, 3)
    ]


def _peak_on_cpu(x: np.ndarray, n_init: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        _save(folder, x, x[:K], None)
        with clustering.child_of(f"auto cpu {n_init}", folder) as child:
            return clustering.request(child, "check", CHECKED)["peak_bytes"]


def _peak_on_cuda(x: np.ndarray, n_init: int) -> float:
    points = torch.from_numpy(x).cuda()
    kmeans(points, K, init="random", n_init=n_init, max_iter=1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kmeans(points, K, init="random", n_init=n_init, max_iter=CHECKED, tol=0.0)
    return torch.cuda.max_memory_allocated() - before


def _large(sizes: Sizes) -> list[Figure]:
    """Seconds per iteration on points that fill the GPU, with and without one sorting before the first iteration."""
    n, counts = sizes.large_n, sizes.cuda_counts
    x = torch.rand(n, 3, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    first = x[:K].clone()
    case = f"{n:,} x 3, K = {K}, an iteration, between runs of {counts[0]} and {counts[1]}"

    def fit(n_iter: int, engine: TritonEngine) -> KMeansResult:
        return kmeans(x, K, init=first, max_iter=n_iter, tol=0.0, engine=engine)

    engines = {_UNSORTED: TritonEngine(sorts_from=K + 1), _SORTED: TritonEngine(sorts_from=K)}
    runs: dict[str, Callable[[int], object]] = {name: partial(fit, engine=engine) for name, engine in engines.items()}
    unsorted, sorted_once = (fit(CHECKED, engine) for engine in engines.values())
    if not torch.equal(unsorted.centers, sorted_once.centers):
        raise FailedError(f"{_UNSORTED} and {_SORTED} differ")
    reference, errors = _inertia(x, sorted_once.centers), {}
    if not abs(sorted_once.inertia.item() / reference - 1) <= TOLERANCE:
        raise FailedError(f"inertia {sorted_once.inertia.item()}, in float64 {reference}")
    try:
        relative_error = abs(_inertia(x, peers.flash_kmeans_of(x, first, CHECKED)) / reference - 1)
        if not relative_error <= clustering.TOLERANCE:
            raise FailedError(f"inertia differs by {relative_error:.1e}")
        runs[peers.FLASH] = lambda n_iter: peers.flash_kmeans_of(x, first, n_iter)
    except Exception as error:
        errors[peers.FLASH] = _reason(error)
    seconds = {
        name: slope([_median(partial(run, count), "cuda") for count in counts], counts) for name, run in runs.items()
    }
    return [
        *_times(case, seconds, errors, {_UNSORTED: UNSORTED_MS, _SORTED: SORTED_MS}),
        *(
            Figure(case=case, what=f"{_SORTED} by {p}", value=seconds[_SORTED] / s, unit="x", target=FLASH_RATIO)
            for p, s in seconds.items()
            if p == peers.FLASH
        ),
    ]


def _quantize(sizes: Sizes) -> list[Figure]:
    photo = torch.from_numpy(read_image(sample_photos() / "china.jpg").pixels).permute(2, 0, 1).float()[None]
    larger = torch.nn.functional.interpolate(photo, sizes.size[::-1], mode="bicubic")[0]
    image = larger.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().cuda()
    auto, plain = quantize(image, K), quantize(image, K, engine="plain")
    if not all(map(torch.equal, auto, plain)):
        raise FailedError("quantize differs between engines")
    seconds = _median(lambda: quantize(image, K), "cuda")
    case = f"{sizes.size[0]} x {sizes.size[1]} pixels on the GPU in {K} colors"
    return [Figure(case=case, what="quantize", value=seconds * 1e3, unit="ms", target=QUANTIZE_MS)]


def _inertia(x: Tensor, centers: Tensor) -> float:
    """Inertia in float64, from the differences of coordinates."""
    blocks = (block.double()[:, None] - centers.double() for block in x.split(1 << 18))
    return sum(block.square_().sum(dim=2).amin(dim=1).sum().item() for block in blocks)


def _median(call: Callable[[], object], device: str) -> float:
    """Median seconds of `REPEATS` calls, each until the device has finished. A first call is not counted."""

    def call_and_wait() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return statistics.median([seconds_of(call_and_wait) for _ in range(1 + REPEATS)][1:])


def _times(
    case: str, seconds: Mapping[str, float], errors: Mapping[str, str], targets: Mapping[str, float] | None = None
) -> list[Figure]:
    targets = targets or {}
    return [
        *(Figure(case=case, what=p, value=s * 1e3, unit="ms", target=targets.get(p)) for p, s in seconds.items()),
        *(Figure(case=case, what=peer, error=reason) for peer, reason in errors.items()),
    ]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _save(folder: str, x: np.ndarray, first: np.ndarray, weights: np.ndarray | None) -> None:
    for name, array in {"points": x, "first": first, "weights": weights}.items():
        if array is not None:
            np.save(f"{folder}/{name}.npy", array)
