"""The marks of the native kernels: times of gpukmeans on the CPU relative to times of peers, each with its limit.

Calls in this process run alternately on one thread. The result is the minimum of their CPU seconds, which depend little
on other work on the machine. Whole processes run on all cores, and the result is the median of their wall-clock
seconds. For the start of a process it is the median of its CPU seconds.
"""

import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.cluster
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from benchmarks import folder as benchmark_folder
from benchmarks import peers, pngquant
from benchmarks.clustering import FEW, MANY, TOLERANCE, Case, inertia, sample, slope
from benchmarks.colors import COLORS_TOLERANCE, FAISS, SKLEARN
from benchmarks.marks import FailedError, Mark, NotMeasuredError, measure, need_pngquant, not_measured
from benchmarks.optima import windows
from benchmarks.pictures import write_pictures
from benchmarks.processes import IMPORT_TORCH, medians, run, seconds_of
from gpukmeans import DITHERINGS, KMeans, apply_palette, quantize, unique_colors
from gpukmeans.engines import choose
from gpukmeans.engines.native.engine import NativeEngine
from gpukmeans.points.tensor import tensor_points
from gpukmeans.seeding import kmeans_plus_plus

ROOT = Path(__file__).resolve().parents[2]
# The last commit without native kernels.
BEFORE = "38774b2"
RUNS = 3
# Upper limits of the time relative to pngquant at K colors.
PNGQUANT_LIMITS = {16: 0.25, 256: 0.5}
# Accepted relative excess of the inertia of our initial centers over the inertia of those of scikit-learn.
SEEDING_TOLERANCE = 0.1
_CHECKED_ROWS = 1 << 14


def marks(photos: Mapping[str, np.ndarray], before: str) -> Iterator[Mark]:
    """All marks, each as soon as it is measured. `photos` are uint8 (H, W, 3) by name, `before` is a commit."""
    images = [torch.from_numpy(pixels) for pixels in photos.values()]
    cases = {
        "iterations of 3 coordinates": _few_coordinates,
        "colors": _colors,
        "iterations of many coordinates": _many_coordinates,
        "whole fits": partial(_fits, images),
        "parts": _parts,
        "seeding": _seeding,
        "dithering": partial(_dithering, photos),
        "many files": partial(_folder, photos),
        "files in one process": partial(_files, photos),
        "busy cores": _busy,
        "start": partial(_start, before),
    }
    return measure(cases)


def _few_coordinates() -> Iterator[Mark]:
    x = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)).numpy()
    for k, limit in {16: 0.35, 64: 0.13, 256: 0.05, 1024: 0.02}.items():
        yield _iteration(f"200k x 3, K = {k}, an iteration", x, k, (3, 13), limit)
    yield _iteration("200k x 3, K = 256, an iteration", x, 256, (3, 13), 0.15, FAISS)


def _many_coordinates() -> Iterator[Mark]:
    for n, d, k, overlap, limit in ((100, 32, 256, 1.0, 0.8), (100, 128, 1000, 0.5, 0.9), (50, 768, 1000, 0.2, 1.1)):
        case, x = f"{n}k x {d}, K = {k}, an iteration", _mixture(n * 1000, d, k, overlap)
        yield _iteration(case, x, k, (FEW, MANY), limit)
        if d == 128:
            yield _iteration(case, x, k, (FEW, MANY), 1.0, FAISS)
    x = _mixture(100_000, 32, 256, 1.0)
    yield _fit("100k x 32, K = 16, 30 iterations", x, 16, 30, 1.2)


def _colors() -> Iterator[Mark]:
    x, counts = _china()
    for k, limit in {16: 0.45, 256: 0.06}.items():
        yield _fit(f"{len(x):,} colors, K = {k}, 100 iterations", x, k, 100, limit, counts)


def _fits(images: Sequence[torch.Tensor]) -> Iterator[Mark]:
    gray = [image.float().mean(dim=2, keepdim=True) for image in images]
    sets = {
        "60k x 64 Gaussians, K = 500": (_mixture(60_000, 64, 500, 0.7), 500, 0.45),
        "60k x 64 photo patches, K = 256": (windows(gray, 60_000).numpy(), 256, 0.3),
        "60k x 64 uniform, K = 500": (np.random.default_rng(2).random((60_000, 64), dtype=np.float32), 500, 0.5),
    }
    for name, (x, k, limit) in sets.items():
        yield _fit(f"{name}, a whole fit", x, k, 300, limit, elkan=True)
        yield _iteration(f"{name}, a first iteration", x, k, (FEW, MANY), None)


def _seeding() -> Iterator[Mark]:
    for name, x, weights, k, limit in (
        ("100k x 32", _mixture(100_000, 32, 256, 1.0), None, 300, 0.4),
        ("colors", *_china(), 256, 0.08),
    ):
        ours = partial(_seed, x, weights, k)
        theirs = partial(sklearn.cluster.kmeans_plusplus, x, k, sample_weight=weights, random_state=0)
        (seconds, peer_seconds), (centers, (peer_centers, _)) = _least([ours, theirs])
        _check_inertia(x, centers, peer_centers, SEEDING_TOLERANCE, weights)
        yield _mark(f"{name}, K = {k}, greedy k-means++", SKLEARN, seconds, peer_seconds, limit)


def _parts() -> Iterator[Mark]:
    """An iteration on 1000 points, and iterations relative to two variants of gpukmeans.

    With 1000 points, most of the work is outside the kernels. One variant does not copy the points into spatial order
    (`sorts_from` of `NativeEngine`). The other is the engine "matmul", which has no native kernels.
    """
    x = torch.rand(200_000, 3, generator=torch.Generator().manual_seed(0)).numpy()
    small, counts = x[:1000], (2, 10)
    seconds, _ = _least([partial(peers.gpukmeans, small, _first(small, 16), n_iter) for n_iter in counts], 10 * RUNS)
    yield _mark("1k x 3, K = 16, an iteration", "100 µs", slope(seconds, counts), 1e-4, 1.0)
    case = "200k x 3, K = 256, an iteration"
    unsorted = partial(peers.gpukmeans, engine=NativeEngine(sorts_from=len(x) + 1))
    yield _iteration(case, x, 256, (3, 13), None, "unsorted", unsorted)
    yield _iteration(case, x, 256, (3, 13), None, "matmul", partial(peers.gpukmeans, engine="matmul"))
    x = _mixture(100_000, 32, 256, 1.0)
    case = "100k x 32, K = 256, an iteration"
    yield _iteration(case, x, 256, (FEW, MANY), None, "matmul", partial(peers.gpukmeans, engine="matmul"))


def _iteration(
    case: str,
    x: np.ndarray,
    k: int,
    counts: tuple[int, int],
    limit: float | None,
    peer: str = SKLEARN,
    fit: peers.Fit | None = None,
) -> Mark:
    """The time of one iteration of gpukmeans and of a peer.

    Two runs have `counts[0]` and `counts[1]` iterations. The difference of their times divided by the difference of the
    counts is the time of one iteration. `fit` runs the peer; by default it is found by the name `peer`.
    """
    if fit is None and peers.missing([peer]):
        return not_measured(case, peer)
    fits = peers.gpukmeans, fit or peers.find(peer)
    calls = [partial(each, x, _first(x, k), n_iter) for each in fits for n_iter in counts]
    seconds, centers = _least(calls)
    _check_inertia(x[:_CHECKED_ROWS], centers[1], centers[3], TOLERANCE)
    return _mark(case, peer, slope(seconds[:2], counts), slope(seconds[2:], counts), limit)


def _fit(
    case: str,
    x: np.ndarray,
    k: int,
    n_iter: int,
    limit: float,
    weights: np.ndarray | None = None,
    *,
    elkan: bool = False,
) -> Mark:
    """The time of a whole fit of at most `n_iter` iterations, and the time of scikit-learn.

    With `elkan=True`, scikit-learn runs both Lloyd's and Elkan's algorithm, and the shorter time counts.
    """
    fits = [peers.gpukmeans, peers.scikit_learn] + [partial(peers.scikit_learn, algorithm="elkan")] * elkan
    calls = [partial(fit, x, _first(x, k), n_iter, weights, may_converge=True) for fit in fits]
    (ours, *theirs), (centers, peer_centers, *_) = _least(calls, RUNS - elkan)
    _check_inertia(x, centers, peer_centers, COLORS_TOLERANCE, weights)
    return _mark(case, SKLEARN, ours, min(theirs), limit)


def _dithering(photos: Mapping[str, np.ndarray]) -> Iterator[Mark]:
    """The CPU seconds of `apply_palette`, and of a process of pngquant, which also finds the palette."""
    case, limits = "4 megapixels, K = 256", {"floyd-steinberg": 0.12}
    need_pngquant(case)
    large = Image.fromarray(next(iter(photos.values()))).resize((2400, 1667), Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.array(large))
    palette = quantize(image, 256).palette
    with tempfile.TemporaryDirectory() as scratch:
        large.save(f"{scratch}/large.png")
        process = "OMP_NUM_THREADS=1 pngquant --speed 4 --force --output"
        command = ["sh", "-c", f'{process} "$0/small.png" 256 "$0/large.png"', scratch]
        theirs = min(run(command).cpu_seconds for _ in range(RUNS))
    for name, dithering in DITHERINGS.items():
        (seconds,), _ = _least([partial(apply_palette, image, palette, dither=dithering)])
        yield _mark(f"{case}, {name}", "pngquant", seconds, theirs, limits.get(name))


def _folder(photos: Mapping[str, np.ndarray]) -> Iterator[Mark]:
    case, n = "48 pictures, K = 64, a second", 48
    need_pngquant(case)
    with tempfile.TemporaryDirectory() as scratch:
        paths = benchmark_folder.write_photos(photos, n, Path(scratch, "photos"))
        start = statistics.median(run(IMPORT_TORCH).seconds for _ in range(RUNS))
        ours, theirs = benchmark_folder.throughputs(paths, RUNS - 1, Path(scratch), 64, all_ways=False)
    figures = {"less the import of torch": (start, 1.5), "with the import": (0.0, None)}
    for name, (less, limit) in figures.items():
        rates = {"ours": n / (ours.cost.seconds - less), "theirs": n / theirs.cost.seconds}
        yield Mark(case=f"{case}, {name}", peer="pngquant", **rates, unit="/s", limit=limit, at_least=True)


def _files(photos: Mapping[str, np.ndarray]) -> Iterator[Mark]:
    need_pngquant("files in one process")
    with tempfile.TemporaryDirectory() as scratch:
        paths = write_pictures(photos, Path(scratch, "photos"))
        for each in pngquant.compare(paths, list(PNGQUANT_LIMITS), RUNS - 1):
            case = f"{len(paths)} files, K = {each.n_colors}, less the import"
            seconds, cpu_seconds = each.seconds_of_pngquant, each.cpu_seconds_of_pngquant
            yield _mark(case, "pngquant", each.seconds, seconds, PNGQUANT_LIMITS[each.n_colors])
            yield _mark(f"{case}, CPU seconds", "pngquant", each.cpu_seconds, cpu_seconds, None)


def _busy() -> Iterator[Mark]:
    x, _ = sample(Case(20_000, 64, 64))
    fits = {
        "ours": lambda seed: KMeans(64, random_state=seed).fit(torch.from_numpy(x)),
        SKLEARN: lambda seed: sklearn.cluster.KMeans(64, max_iter=100, random_state=seed).fit(x),
    }
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    with _busy_cores():
        for seed in range(3 * RUNS):
            for name, fit in fits.items():
                seconds[name].append(seconds_of(partial(fit, seed)))
    ours, theirs = map(statistics.median, seconds.values())
    yield _mark("20k x 64, KMeans(64).fit, busy cores", SKLEARN, ours, theirs, 1.0)


def _start(before: str) -> Iterator[Mark]:
    with tempfile.TemporaryDirectory() as scratch:
        archive, old = Path(scratch, "old.tar"), Path(scratch, "old")
        command = ["git", "-C", str(ROOT), "archive", "--output", str(archive), before, "gpukmeans", "scripts"]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0:
            error = "not measured: no such commit"
            raise NotMeasuredError(Mark(case="import gpukmeans, --help", peer=before, error=error))
        with tarfile.open(archive) as files:
            files.extractall(old, filter="data")
        for name, arguments in {
            "import gpukmeans": ["-c", "import gpukmeans"],
            "gpukmeans --help": ["-m", "gpukmeans_cli.main", "--help"],
        }.items():
            commands = {
                str(tree): ["env", "-C", scratch, f"PYTHONPATH={tree}:{tree}/scripts", sys.executable, *arguments]
                for tree in (ROOT, old)
            }
            costs = medians(commands, 3 * RUNS)
            yield _mark(name, before, *(cost.cpu_seconds for cost in costs.values()), limit=1.05)


def _least(calls: Sequence[Callable[[], object]], repeats: int = RUNS) -> tuple[list[float], list[Any]]:
    """The minimum CPU seconds of each call over alternate runs on one thread, and the last result of each call."""
    seconds = [math.inf] * len(calls)
    results: list[Any] = [None] * len(calls)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            for _ in range(repeats):
                for i, call in enumerate(calls):
                    start = time.process_time()
                    results[i] = call()
                    seconds[i] = min(seconds[i], time.process_time() - start)
    finally:
        torch.set_num_threads(n_threads)
    return seconds, results


@contextmanager
def _busy_cores() -> Iterator[None]:
    """Processes that keep all cores busy."""
    loads = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for load in loads:
            load.kill()
            load.wait()


def _check_inertia(
    x: np.ndarray, ours: np.ndarray, theirs: np.ndarray, tolerance: float, weights: np.ndarray | None = None
) -> None:
    """FailedError if the inertia at our centers is higher by more than the tolerance."""
    relative = inertia(x, ours, weights) / inertia(x, theirs, weights) - 1
    if not relative <= tolerance:  # also true of NaN
        raise FailedError(f"inertia {relative:+.1e}")


def _mark(case: str, peer: str, ours: float, theirs: float, limit: float | None) -> Mark:
    """A mark of two durations in seconds."""
    return Mark(case=case, peer=peer, ours=1e3 * ours, theirs=1e3 * theirs, limit=limit)


def _seed(x: np.ndarray, weights: np.ndarray | None, k: int) -> np.ndarray:
    points, weighted = torch.from_numpy(x)[None], None if weights is None else torch.from_numpy(weights)[None]
    source = tensor_points(points, weighted, choose("auto", points), torch.float32)
    return kmeans_plus_plus(source, k, torch.Generator().manual_seed(0))[0].numpy()


def _first(x: np.ndarray, k: int) -> np.ndarray:
    """Initial centers (K, D) among the points, the same in every run."""
    return x[np.random.default_rng(0).choice(len(x), k, replace=False)]


def _mixture(n: int, d: int, k: int, spread: float) -> np.ndarray:
    """Points (N, D) of K normal components, whose means have a standard deviation of `spread`."""
    random = np.random.default_rng(1)
    means = random.normal(size=(k, d)).astype(np.float32) * spread
    return (means[random.integers(k, size=n)] + random.normal(size=(n, d))).astype(np.float32)


def _china() -> tuple[np.ndarray, np.ndarray]:
    """The colors of scikit-learn's china.jpg and their counts."""
    histogram = unique_colors(torch.from_numpy(sklearn.datasets.load_sample_image("china.jpg")))
    return histogram.colors.float().numpy(), histogram.counts.numpy()
