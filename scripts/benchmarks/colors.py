"""The engines on points of few coordinates, as colors are: beside peers, and beside what the device can do at best."""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import clustering, peers
from benchmarks.clustering import ROUNDS, FailedError, inertia, slope
from gpukmeans import KMeansResult, kmeans, quantize, unique_colors
from gpukmeans.engines.fused.engine import TritonEngine
from gpukmeans.engines.selection import choose
from gpukmeans_cli.formats.reading import read_picture

K = 256
SKLEARN, FAISS = "scikit-learn", "faiss-cpu"
# By how much of itself the inertia may differ from that of float64 after so many iterations.
TOLERANCE, CHECKED = 1e-6, 3
# The same on colors, from scikit-learn's after all iterations: the mark, and what is taken as wrong. One plain Lloyd in
# float64 agreed with the engines within 3e-8 over three iterations where scikit-learn in float64 was up to 0.7 % off.
OFF_SKLEARN, WRONG_ON_COLORS = 1e-3, 1e-2
# The most that each may be: our time by that of a peer, bytes, milliseconds.
BY_SKLEARN, BY_FAISS, COLORS_BY_SKLEARN, BY_FLASH = 0.5, 1.0, 0.35, 0.2
BYTES, BYTES_A_POINT, BYTES_A_RESTART = 64 << 20, 40, 12
UNSORTED_MS, SORTED_MS, QUANTIZE_MS = 9.0, 4.0, 5.0
# Of a pair of point and center in 3 coordinates: 3 differences, 3 squares, 2 sums, a comparison and 2 selections.
OPERATIONS = 11
ON_CUDA = "points that fill the GPU, unsorted and sorted; quantize on the GPU; flash-kmeans:"
_UNSORTED, _SORTED = "triton, points as they are", "triton, points sorted"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the cases are. Seconds per iteration are the difference between runs of few and of many iterations.

    These are `counts` on the CPU, and `counts_of_cuda` where a single one is lost in noise, and where the loop looks
    every eighth round only at what has ended.
    """

    n: int
    counts: tuple[int, int]
    counts_of_cuda: tuple[int, int]
    n_iter_of_colors: int
    n_of_memory: int
    n_of_large: int
    size: tuple[int, int]


FULL = Scale(
    n=200_000,
    counts=(1, 11),
    counts_of_cuda=(8, 72),
    n_iter_of_colors=100,
    n_of_memory=4_000_000,
    n_of_large=100_000_000,
    size=(6000, 4000),
)
QUICK = Scale(
    n=20_000,
    counts=(1, 5),
    counts_of_cuda=(8, 24),
    n_iter_of_colors=10,
    n_of_memory=400_000,
    n_of_large=1_000_000,
    size=(600, 400),
)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One value; `mark` is the most that it may be. `fails` says why there is none."""

    case: str
    what: str
    value: float | None = None
    unit: str = ""
    mark: float | None = None
    fails: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether it is this package that fails."""
        return self.fails is not None and self.what not in (SKLEARN, FAISS, peers.FLASH)


@dataclass(frozen=True)
class Roof:
    """What a device does at best: bytes and operations a second."""

    bandwidth: float
    rate: float


def measure(device: str, scale: Scale) -> list[Figure]:
    """All figures of a device, "cpu" or "cuda"; on CUDA some more. Progress goes to standard error.

    What fails or is wrong says so in its figure, and has no time.
    """
    roof = _roof(device)
    figures = [
        Figure(case="roof", what="bytes, of a copy", value=roof.bandwidth / 1e9, unit="GB/s"),
        Figure(case="roof", what="operations, of a float32 matmul", value=roof.rate / 1e9, unit="G/s"),
    ]
    cases: dict[str, Callable[[], list[Figure]]] = {
        "iteration at K = 16": lambda: _iteration(device, scale, 16, roof),
        f"iteration at K = {K}": lambda: _iteration(device, scale, K, roof),
        "colors": lambda: _colors(device, scale),
        "memory": lambda: _memory(device, scale),
    }
    if device == "cuda":
        cases |= {"large": lambda: _large(scale), "quantize": lambda: _quantize(scale)}
    for name, case in cases.items():
        try:
            figures += case()
        except Exception as error:  # what was measured until then is not lost
            figures.append(Figure(case=name, what="all", fails=_reason(error)))
        print(f"{name} done", file=sys.stderr, flush=True)
    return figures


def _roof(device: str) -> Roof:
    source = torch.rand(1 << (28 if device == "cuda" else 26), device=device)
    target = torch.empty_like(source)
    size = 8192 if device == "cuda" else 2048
    a = torch.rand(size, size, device=device)
    copying = _median(lambda: target.copy_(source), device)
    return Roof(2 * source.nbytes / copying, 2 * size**3 / _median(lambda: a @ a, device))


def _iteration(device: str, scale: Scale, k: int, roof: Roof) -> list[Figure]:
    rng = np.random.default_rng(0)
    x = rng.random((scale.n, 3), dtype=np.float32)
    first = x[rng.choice(len(x), k, replace=False)]
    few, many = scale.counts_of_cuda if device == "cuda" else scale.counts
    case = f"{scale.n:,} x 3, K = {k}, an iteration, between runs of {few} and {many}"
    others = [peers.FLASH] if device == "cuda" else [SKLEARN, FAISS]
    race = _race(device, others, x, first, CHECKED, (few, many), TOLERANCE)
    taken = {peer: slope(each, (few, many)) for peer, each in race.seconds.items()}
    ours = _ours(device, x)
    return [
        *_times(case, taken, race.fails),
        Figure(
            case=case,
            what=f"inertia off float64 after {CHECKED}",
            value=abs(race.off) * 1e6,
            unit="ppm",
            mark=1e6 * TOLERANCE,
        ),
        *(_ratios(case, ours, taken, {SKLEARN: BY_SKLEARN, FAISS: BY_FAISS}) if k == K else []),
        *(_floors(case, scale.n, k, taken[ours], roof) if ours in taken else []),
    ]


def _floors(case: str, n: int, k: int, seconds: float, roof: Roof) -> list[Figure]:
    reading, computing = 12 * n / roof.bandwidth, OPERATIONS * n * k / roof.rate
    return [
        Figure(case=case, what="floor: 12 bytes a point once", value=reading * 1e3, unit="ms"),
        Figure(case=case, what=f"floor: {OPERATIONS} operations a pair", value=computing * 1e3, unit="ms"),
        Figure(case=case, what="`auto` by the larger floor", value=seconds / max(reading, computing), unit="x"),
    ]


def _colors(device: str, scale: Scale) -> list[Figure]:
    histogram = unique_colors(torch.from_numpy(read_picture(_china()).pixels))
    x, counts = histogram.colors.float().numpy(), histogram.counts.numpy()
    first = x[np.random.default_rng(0).choice(len(x), K, replace=False)]
    n_iter = scale.n_iter_of_colors
    case = f"{len(x):,} colors with counts, K = {K}, {n_iter} iterations"
    race = _race(device, [SKLEARN], x, first, n_iter, (n_iter,), WRONG_ON_COLORS, counts)
    taken = {peer: each[0] for peer, each in race.seconds.items()}
    return [
        *_times(case, taken, race.fails),
        Figure(
            case=case,
            what=f"inertia {'below' if race.off < 0 else 'above'} {SKLEARN}'s",
            value=abs(race.off) * 1e6,
            unit="ppm",
            mark=1e6 * OFF_SKLEARN,
        ),
        *_ratios(case, _ours(device, x), taken, {SKLEARN: COLORS_BY_SKLEARN}),
    ]


class _Race(NamedTuple):
    """Of each engine, and of each peer that is right, the seconds of each count of iterations; why others have none."""

    seconds: dict[str, list[float]]
    fails: dict[str, str]
    off: float
    """The inertia of the plain engine by that of scikit-learn in float64, less 1."""


def _race(
    device: str,
    others: Sequence[str],
    x: np.ndarray,
    first: np.ndarray,
    checked: int,
    counts: Sequence[int],
    tolerance: float,
    weights: np.ndarray | None = None,
) -> _Race:
    """All engines and the others from the same first centers. An engine with other bits than the plain one fails."""
    in_float64 = peers.scikit_learn(x.astype(np.float64), first.astype(np.float64), checked, weights)
    right = inertia(x, in_float64, weights)
    engines = [f"{name} {device}" for name in ["torch", "cells", "matmul"] + ["triton"] * (device == "cuda")]
    found, offs, children, fails = {}, {}, {}, {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        _save(folder, x, first, weights)
        for peer in [*engines, *others]:
            child = stack.enter_context(clustering.child_of(peer, folder))
            try:
                clustering.ask(child, "check", checked)
                found[peer] = np.load(f"{folder}/{peer}.npy")
                offs[peer] = inertia(x, found[peer], weights) / right - 1
                if not abs(offs[peer]) <= (tolerance if peer in engines else max(tolerance, clustering.TOLERANCE)):
                    raise FailedError(f"inertia {offs[peer]:+.1e}")
                if peer in engines and found[peer].tobytes() != found[engines[0]].tobytes():
                    raise FailedError(f"bits are not those of {engines[0]}")
                children[peer] = child
            except FailedError as error:
                fails[peer] = str(error)
        if engines[0] in fails:
            raise FailedError(f"{engines[0]}: {fails[engines[0]]}")
        return _Race(clustering.time_in_turn(children, fails, counts), fails, offs[engines[0]])


def _memory(device: str, scale: Scale) -> list[Figure]:
    n = scale.n_of_memory
    x = np.random.default_rng(0).random((n, 3), dtype=np.float32)
    peak = _peak_on_cuda if device == "cuda" else _peak_on_cpu
    return [
        Figure(
            case=f"{n:,} x 3, K = {K}, {CHECKED} iterations, peak memory beyond the points",
            what=f"n_init={n_init}",
            value=peak(x, n_init) / 1e6,
            unit="MB",
            mark=round((BYTES + (BYTES_A_POINT + BYTES_A_RESTART * (n_init - 1)) * n) / 1e6, 1),
        )
        for n_init in (1, 3)
    ]


def _peak_on_cpu(x: np.ndarray, n_init: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        _save(folder, x, x[:K], None)
        with clustering.child_of(f"auto cpu {n_init}", folder) as child:
            return clustering.ask(child, "check", CHECKED)["peak_bytes"]


def _peak_on_cuda(x: np.ndarray, n_init: int) -> float:
    points = torch.from_numpy(x).cuda()
    kmeans(points, K, init="random", n_init=n_init, max_iter=1)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kmeans(points, K, init="random", n_init=n_init, max_iter=CHECKED, tol=0.0)
    return torch.cuda.max_memory_allocated() - before


def _large(scale: Scale) -> list[Figure]:
    """Points that fill the GPU, where they are and sorted once; what a run does once does not count."""
    n, counts = scale.n_of_large, scale.counts_of_cuda
    x = torch.rand(n, 3, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    first = x[:K].clone()
    case = f"{n:,} x 3, K = {K}, an iteration, between runs of {counts[0]} and {counts[1]}"

    def fit(n_iter: int, engine: TritonEngine) -> KMeansResult:
        return kmeans(x, K, init=first, max_iter=n_iter, tol=0.0, engine=engine)

    engines = {_UNSORTED: TritonEngine(sorts_from=K + 1), _SORTED: TritonEngine(sorts_from=K)}
    runs: dict[str, Callable[[int], object]] = {name: partial(fit, engine=engine) for name, engine in engines.items()}
    unsorted, found = (fit(CHECKED, engine) for engine in engines.values())
    if not torch.equal(unsorted.centers, found.centers):
        raise FailedError(f"{_UNSORTED} and {_SORTED} differ")
    right, fails = _inertia(x, found.centers), {}
    if not abs(found.inertia.item() / right - 1) <= TOLERANCE:
        raise FailedError(f"inertia {found.inertia.item()}, in float64 {right}")
    try:
        off = abs(_inertia(x, peers.flash_kmeans_of(x, first, CHECKED)) / right - 1)
        if not off <= clustering.TOLERANCE:
            raise FailedError(f"inertia off by {off:.1e}")
        runs[peers.FLASH] = lambda n_iter: peers.flash_kmeans_of(x, first, n_iter)
    except Exception as error:  # whatever keeps a peer from it
        fails[peers.FLASH] = _reason(error)
    taken = {
        name: slope([_median(partial(run, count), "cuda") for count in counts], counts) for name, run in runs.items()
    }
    return [
        *_times(case, taken, fails, {_UNSORTED: UNSORTED_MS, _SORTED: SORTED_MS}),
        *_ratios(case, _SORTED, taken, {peers.FLASH: BY_FLASH}),
    ]


def _quantize(scale: Scale) -> list[Figure]:
    photo = torch.from_numpy(read_picture(_china()).pixels).permute(2, 0, 1).float()[None]
    larger = torch.nn.functional.interpolate(photo, scale.size[::-1], mode="bicubic")[0]
    image = larger.round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().cuda()
    found, plain = quantize(image, K), quantize(image, K, engine="torch")
    if not all(map(torch.equal, found, plain)):
        raise FailedError("quantize differs between engines")
    seconds = _median(lambda: quantize(image, K), "cuda")
    case = f"{scale.size[0]} x {scale.size[1]} pixels on the GPU in {K} colors"
    return [Figure(case=case, what="quantize", value=seconds * 1e3, unit="ms", mark=QUANTIZE_MS)]


def _inertia(x: Tensor, centers: Tensor) -> float:
    """That of all points, in float64, by differences."""
    blocks = (block.double()[:, None] - centers.double() for block in x.split(1 << 18))
    return sum(block.square_().sum(dim=2).amin(dim=1).sum().item() for block in blocks)


def _median(call: Callable[[], object], device: str) -> float:
    """Median seconds of calls after one that warms up, each until the device is done."""
    taken = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def _times(
    case: str, seconds: Mapping[str, float], fails: Mapping[str, str], marks: Mapping[str, float] | None = None
) -> list[Figure]:
    marks = marks or {}
    return [
        *(Figure(case=case, what=p, value=s * 1e3, unit="ms", mark=marks.get(p)) for p, s in seconds.items()),
        *(Figure(case=case, what=peer, fails=reason) for peer, reason in fails.items()),
    ]


def _ratios(case: str, ours: str, seconds: Mapping[str, float], marks: Mapping[str, float]) -> list[Figure]:
    """Our time by that of each peer that has a mark and was measured."""
    return [
        Figure(case=case, what=f"{ours} by {peer}", value=seconds[ours] / seconds[peer], unit="x", mark=mark)
        for peer, mark in marks.items()
        if peer in seconds and ours in seconds
    ]


def _ours(device: str, x: np.ndarray) -> str:
    """The engine that `auto` takes."""
    return f"{choose('auto', torch.from_numpy(x).to(device)).name} {device}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _save(folder: str, x: np.ndarray, first: np.ndarray, weights: np.ndarray | None) -> None:
    for name, array in {"points": x, "first": first, "weights": weights}.items():
        if array is not None:
            np.save(f"{folder}/{name}.npy", array)


def _china() -> Path:
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
