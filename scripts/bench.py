"""Benchmarks: python scripts/bench.py --help

The speed of a machine drifts. Programs that are compared therefore run alternately, and medians are printed.
"""

import dataclasses
import functools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
import torch
import typer
from PIL import Image, features

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import clustering as benchmark_clustering
from benchmarks import colors as benchmark_colors
from benchmarks import folder as benchmark_folder
from benchmarks import gpu as benchmark_gpu
from benchmarks import kernels as benchmark_kernels
from benchmarks import marks, peers, picture_marks
from benchmarks import n_clusters as benchmark_n_clusters
from benchmarks import native as benchmark_native
from benchmarks import optima as benchmark_optima
from benchmarks import peaks as benchmark_peaks
from benchmarks import pictures as benchmark_pictures
from benchmarks import pngquant as benchmark_pngquant
from benchmarks import scale as benchmark_scale
from benchmarks import screen as benchmark_screen
from benchmarks import seedings as benchmark_seedings
from benchmarks.native import PNGQUANT_LIMITS
from benchmarks.photos import sample_photos
from benchmarks.picture_marks import MSE_TARGETS
from benchmarks.pngquant import COMPRESS, NEAREST
from benchmarks.processes import IMPORT_TORCH, medians, run
from benchmarks.table import table
from gpukmeans import BEST_QUALITY, SEEDINGS, mean_squared_error, quantize, unique_colors
from gpukmeans_cli.images.sample import draw_sample
from gpukmeans_cli.system.device import DeviceError, pick_device

PathOfJson = Annotated[Path | None, typer.Option("--json", help="Also write all figures to this file.")]
Quick = Annotated[bool, typer.Option("--quick", help="Only small cases.")]
Runs = Annotated[int, typer.Option(min=1, help="Runs of each command.")]
Seeds = Annotated[int, typer.Option(min=1, help="Seeds to average over.")]

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

# Upper limits: mean squared error at K colors with `--best` of the Kodak photos 1 to 8, seconds in addition to
# `import torch`, bytes at 18 megapixels, and seconds of --help.
BEST_TARGETS = {4: 962.5, 16: 206.4, 64: 55.7, 256: 18.2}
KODAK = {f"kodim{number:02}.png" for number in range(1, 9)}
SECONDS_TARGET, MEMORY_TARGET, HELP_TARGET = 0.6, 1e9, 0.3
# Lower limits of photos per second: relative to pngquant on all cores, and on a GPU relative to only decoding and
# encoding. Upper limit of the growth of the memory of a process over many files, in MB.
THROUGHPUT_TARGET, CODECS_TARGET, GROWTH_TARGET = 1.0, 0.85, 50
# Upper limits: the time of an iteration over a stream relative to the slower of only reading and only computing, and
# the peak memory of `gpukmeans cluster` over 50 million rows, in MB.
STREAM_TARGET, STREAM_MEMORY_TARGET = 1.3, 1000


@app.command()
def process(runs: Runs = 7) -> None:
    """Times of `compress` on small photos, of `import torch` and of --help, and memory at 18 megapixels."""
    _print_machine()
    compress = [sys.executable, COMPRESS, *NEAREST]
    with tempfile.TemporaryDirectory() as folder:
        photos = [sample_photos() / name for name in ("china.jpg", "flower.jpg")]
        commands = {
            "import torch": IMPORT_TORCH,
            **{
                f"compress {p.name}": [*compress, str(p), "-k", "20", "-q", "-f", "-o", f"{folder}/o.png"]
                for p in photos
            },
            "compress --help": [*compress, "--help"],
        }
        seconds = {name: cost.seconds for name, cost in medians(commands, runs).items()}
        large = Path(folder) / "large.jpg"
        Image.fromarray(draw_sample(5184, 3456)).save(large, quality=92)
        large_cost = run([*compress, str(large), "-k", "20", "-f", "-q"])
    for name, value in seconds.items():
        print(f"{name:30} {value:8.3f} s")
    print(f"{'compress 5184 x 3456':30} {large_cost.seconds:8.3f} s")
    for photo in photos:
        more = seconds[f"compress {photo.name}"] - seconds["import torch"]
        _print_target(f"{photo.name}, without `import torch`", more, SECONDS_TARGET, "s")
    _print_target("peak memory at 18 megapixels", large_cost.peak_bytes, MEMORY_TARGET, "bytes")
    _print_target("--help", seconds["compress --help"], HELP_TARGET, "s")


@app.command()
def quality(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    seeds: Seeds = 5,
    targets: Annotated[
        bool | None,
        typer.Option(
            help="Print the targets, which hold for the Kodak photos 1 to 8. Default: if these are the pictures.",
            show_default=False,
        ),
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="With the options of `compress --best`.")] = False,
) -> None:
    """Mean squared error (dR² + dG² + dB²) and seconds over a folder of pictures, beside scikit-learn and Pillow."""
    options = BEST_QUALITY if best else {}
    if targets is None:
        targets = {path.name for path in folder.iterdir()} == KODAK
    _print_machine()
    images = _rgb_pictures(folder)
    print(f"{len(images)} RGB pictures, {seeds} seeds\n")
    print(f"{'K':>4} {'gpukmeans':>22} {'scikit-learn, 1 start':>22} {'Pillow, kmeans=3':>22}{'   target' * targets}")
    for n_colors, target in (BEST_TARGETS if best else MSE_TARGETS).items():
        gpukmeans = functools.partial(_quantize, options=options)
        ours = _mean([_timed(gpukmeans, image, n_colors, seed) for image in images for seed in range(seeds)])
        others = [
            _mean([_timed(peer, image, n_colors, 0) for image in images])
            for peer in (_quantize_by_scikit_learn, _quantize_by_pillow)
        ]
        cells = "".join(f"{mse:14.2f} {seconds:6.2f} s" for mse, seconds in (ours, *others))
        verdict = f"   {target} {'met' if ours[0] <= target else 'MISSED'}"
        print(f"{n_colors:4} {cells}{verdict * targets}", flush=True)


@app.command()
def pngquant(
    folder: Annotated[Path, typer.Argument(help="A folder of photos as PNG.")],
    runs: Runs = 7,
    json_path: PathOfJson = None,
) -> None:
    """`compress` less `import torch` beside pngquant with a process per photo: time, error and size."""
    version = _version_of_pngquant()
    photos = benchmark_pngquant.rgb_photos(folder)
    if not photos:
        _fail(f"{folder} holds no RGB PNG")
    load = os.getloadavg()[0]
    comparisons = benchmark_pngquant.compare(photos, list(PNGQUANT_LIMITS), runs)
    _write_json(json_path, comparisons)
    _print_machine()
    print(f"pngquant {version} {benchmark_pngquant.OPTIONS}, {len(photos)} photos, load of {load:.1f} at the start")
    for each in comparisons:
        _print_photos(each)
    for each in comparisons:
        target = PNGQUANT_LIMITS[each.n_colors]
        _print_target(f"time relative to pngquant, K = {each.n_colors}", each.ratio, target, "")
        print(f"{'in CPU seconds':36} {each.cpu_ratio:14,.3f}")
        _print_target(f"photos worse at K = {each.n_colors}", len(each.worse), 0, "")


def _print_photos(comparison: benchmark_pngquant.Comparison) -> None:
    print(f"\nK = {comparison.n_colors:<10} {'MSE':>10} {'pngquant':>10} {'bytes':>12} {'pngquant':>12}")
    for photo in comparison.photos:
        errors = f"{photo.mse:10.2f} {photo.mse_of_pngquant:10.2f}"
        print(f"{photo.name:14.14} {errors} {photo.bytes:12,} {photo.bytes_of_pngquant:12,}")
    ours, theirs = (sum(getattr(p, name) for p in comparison.photos) for name in ("bytes", "bytes_of_pngquant"))
    print(f"{'all':36} {ours:12,} {theirs:12,}")
    print(
        f"{comparison.seconds:.3f} s without {comparison.seconds_of_import_torch:.3f} s of `import torch`, "
        f"pngquant {comparison.seconds_of_pngquant:.3f} s"
    )


@app.command()
def folder(
    folder: Annotated[
        Path, typer.Argument(help="A folder of photos; RGB photos are used.", exists=True, file_okay=False)
    ],
    photos: Annotated[int, typer.Option(min=1, help="Number of different photos to derive from them.")] = 200,
    runs: Runs = 3,
    soak: Annotated[
        int, typer.Option(min=benchmark_folder.EARLY + 1, help="Number of small files for one process.")
    ] = 2000,
) -> None:
    """`compress` on a folder: photos per second beside pngquant on all cores, growth of memory, and peak memory.

    Whole processes at K = 16 are measured. The photos are those of FOLDER and their variants, which are flipped or have
    permuted channels. The small files are crops of them. Linux only.
    """
    version = _version_of_pngquant()
    load = os.getloadavg()[0]
    pictures = benchmark_pictures.rgb_pictures(folder)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            paths = benchmark_folder.write_photos(pictures, photos, Path(scratch, "photos"))
        except benchmark_folder.PhotosError as error:
            _fail(f"{folder} {error}")
        _print_machine()
        print(
            f"pngquant {version} {benchmark_pngquant.OPTIONS}, K = {benchmark_folder.N_COLORS}, "
            f"load of {load:.1f} at the start"
        )
        _print_throughputs(paths, runs, Path(scratch))
        _print_soak(paths, soak, Path(scratch))
    _print_peaks(pictures)


def _print_throughputs(photos: Sequence[Path], runs: int, folder: Path) -> None:
    megapixels, n_bytes = benchmark_folder.megapixels(photos), sum(photo.stat().st_size for photo in photos)
    print(f"{len(photos)} photos of {megapixels:.1f} megapixels in {n_bytes:,} bytes\n")
    throughputs = benchmark_folder.throughputs(photos, runs, folder)
    print(f"{'':36} {'photos/s':>9} {'MP/s':>9} {'bytes':>13} {'seconds':>9} {'CPU seconds':>13}")
    for each in throughputs:
        seconds, cpu_seconds, _ = each.cost
        rates = f"{len(photos) / seconds:9.2f} {megapixels / seconds:9.2f}"
        print(f"{each.name:36} {rates} {each.n_bytes:13,} {seconds:9.2f} {cpu_seconds:13.2f}")
    print()
    ours, theirs_at_best, _, theirs = throughputs
    ratio = theirs.cost.seconds / ours.cost.seconds
    _print_target("photos/s relative to pngquant", ratio, THROUGHPUT_TARGET, "", at_least=True)
    print(f"{'... with one thread each':36} {theirs_at_best.cost.seconds / ours.cost.seconds:14,.3f}")
    if not torch.cuda.is_available():
        print("photos/s on a GPU, relative to decoding and encoding only: not measured: no CUDA device")
        return
    photos_in, ours_in, again = (folder / name for name in ("photos", "ours", "again"))
    compress, codecs = benchmark_folder.seconds_beside_codecs(photos_in, ours_in, again, runs, "cuda")
    rates = f"{len(photos) / compress:.2f} photos/s, decoding and encoding only {len(photos) / codecs:.2f}"
    print(f"{torch.cuda.get_device_name()}, in a warm process: {rates}")
    _print_target("photos/s relative to the codecs", codecs / compress, CODECS_TARGET, "", at_least=True)


def _print_soak(photos: Sequence[Path], n: int, folder: Path) -> None:
    small = folder / "small"
    benchmark_folder.write_crops(photos, n, small)
    side, early = benchmark_folder.SMALL, benchmark_folder.EARLY
    print(f"\n{n:,} files of {side} x {side}, resident memory after {early} of them and after all")
    for what, n_workers in {"one worker": 1, "the parent of the default workers": None}.items():
        memory = benchmark_folder.resident_memory(small, folder / f"small {n_workers}", n_workers)
        print(f"{what:36} {memory.early / 1e6:14,.1f} MB {memory.late / 1e6:10,.1f} MB")
        _print_target("growth", (memory.late - memory.early) / 1e6, GROWTH_TARGET, "MB")


def _print_peaks(photos: Mapping[str, np.ndarray]) -> None:
    print("\nPeak memory of one process, K = 20, less that of a picture of 1 x 1")
    print(f"{'':28} {'megapixels':>10} {'MB':>9} {'bytes/pixel':>12} {'target, MB':>10} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for peak in benchmark_peaks.peaks(list(photos.values()), Path(scratch)):
            met = "met" if peak.n_bytes <= peak.target else "MISSED"
            sizes = f"{peak.n_pixels / 1e6:10.1f} {peak.n_bytes / 1e6:9.0f} {peak.n_bytes / peak.n_pixels:12.1f}"
            print(f"{peak.name:28} {sizes} {peak.target / 1e6:10.0f} {peak.seconds:8.1f}  {met}", flush=True)


@app.command()
def pictures(
    folder: Annotated[
        Path, typer.Argument(help="A folder of pictures; RGB pictures are used.", exists=True, file_okay=False)
    ],
    json_path: PathOfJson = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only small crops of two pictures.")] = False,
) -> None:
    """Each mark of indexed images, met or not, and tables of the figures beside pngquant, Pillow and ImageMagick.

    Bytes and seconds are totals over all files, other figures are means. Seconds of gpukmeans are less the import of
    torch. Takes at most ten minutes for eight photos of the Kodak set on two cores. The exit code is 1 if a case fails.
    Linux only.
    """
    _need_peers(benchmark_pictures.REQUIRED)
    images = _rgb_pictures_of(folder)
    if quick:
        images = {name: np.ascontiguousarray(images[name][:256, :256]) for name in list(images)[:2]}
    load, start = os.getloadavg()[0], time.perf_counter()
    _print_machine()
    print(f"{_joined(benchmark_pictures.versions())}; {len(images)} pictures, load of {load:.1f} at the start")
    rows = []
    for of_k in benchmark_pictures.compare(images, picture_marks.seconds_of_import()):
        rows += of_k
        print(f"\nK = {of_k[0].n_colors}\n{benchmark_pictures.table(of_k)}", flush=True)
    print()
    results = _print_marks(picture_marks.marks(rows, images, quick=quick), start)
    _write_json(json_path, [*rows, *results])
    _exit_if_any_fails(results)


@app.command()
def optima(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    seeds: Seeds = 1,
    refine: Annotated[int, typer.Option(min=1, help="Refinement cycles.")] = 8,
) -> None:
    """Inertia and time of one run, of a run with refinement and of the best of ten, on colors and on image patches."""
    _print_machine()
    images = _rgb_pictures(folder)
    print(f"{len(images)} RGB pictures, {seeds} seeds, refine={refine}\n")
    print(f"{'':>14} {'one run':>10} {'refined':>10} {'at worst':>10}   of the best of ten   {'cost':>6}   target")
    sets = {"colors": benchmark_optima.colors(images), "patches": benchmark_optima.patches(images)}
    for name, k in [(name, k) for name in sets for k in MSE_TARGETS]:
        optimum = benchmark_optima.optima(sets[name], k, refine, seeds)
        target, costly = (1.0, optimum.cost >= 4) if k >= 64 else (1.003, False)
        met = optimum.refined < target and not costly
        cells = f"{optimum.one:10.4f} {optimum.refined:10.4f} {optimum.worst_refined:10.4f}{'':22}{optimum.cost:6.2f}x"
        print(f"{name:>7} K={k:4} {cells}   < {target} {'met' if met else 'MISSED'}", flush=True)


@app.command()
def choosing(
    n_init: Annotated[int, typer.Option(min=1, help="Runs for each number of clusters.")] = 5,
) -> None:
    """How often each criterion finds the true number of clusters. Takes one to two minutes."""
    _print_machine()
    kinds = list(benchmark_n_clusters.rates(n_init))
    print(f"{'':>30}" + "".join(f"{f'{kind} ({n})':>24}" for kind, n, _ in kinds))
    for name in benchmark_n_clusters.CRITERIA:
        print(f"{name:>30}" + "".join(f"{found[name]:24}" for _, _, found in kinds))


@app.command()
def seeding(
    n: Annotated[int, typer.Option(min=1, help="Points.")] = 1_000_000,
    d: Annotated[int, typer.Option(min=1, help="Coordinates.")] = 32,
    k: Annotated[int, typer.Option(min=1, help="Clusters.")] = 1000,
    max_iter: Annotated[int, typer.Option(min=1, help="Iterations of Lloyd's loop after the seeding.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="Only this seeding; may be repeated.")] = None,
) -> None:
    """Seconds of each seeding, and the inertia after a few iterations. Takes many minutes."""
    _print_machine()
    print(f"{n:,} x {d}, K = {k}, {max_iter} iterations\n")
    for name, seconds, inertia in benchmark_optima.seedings(only or list(SEEDINGS), n, d, k, max_iter):
        print(f"{name:>10} {seconds:8.1f} s   inertia {inertia:16.1f}", flush=True)


@app.command()
def scale(
    folder: Annotated[
        Path | None, typer.Option(help="Folder for the file of rows. Default: the folder for temporary files.")
    ] = None,
    n: Annotated[int, typer.Option(min=100_000, help="Rows of 16 float32 in the file, 64 bytes each.")] = 50_000_000,
    n_rates: Annotated[int, typer.Option(min=100_000, help="Rows of the file for the rates.")] = 4_000_000,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 5,
) -> None:
    """Rows per second of a stream, a tensor and ranks, and peak memory of `gpukmeans cluster`. Not on Windows."""
    _print_machine()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "rows.npy"
        benchmark_scale.write_rows(path, n_rates, 16)
        print(f"\n{n_rates:,} x 16, millions of rows per second, medians of {runs}")
        print(f"{'K':>6} {'reading':>9} {'tensor':>9} {'stream':>9}")
        all_rates = list(benchmark_scale.rates(path, [16, 64, 256], runs))
        for rates in all_rates:
            millions = (rate / 1e6 for rate in (rates.reading, rates.tensor, rates.stream))
            print(f"{rates.n_clusters:6} " + " ".join(f"{rate:9.2f}" for rate in millions))
        for rates in all_rates:
            _print_target(f"stream by the slower, K = {rates.n_clusters}", rates.ratio, STREAM_TARGET, "times")
        for ranks, rate in benchmark_scale.rates_of_ranks(path, 64, runs).items():
            print(f"{ranks:36} {rate / 1e6:14,.3f} million rows per second, K = 64")
        for init, seconds in benchmark_scale.seconds_of_seeding(path, 64, runs).items():
            print(f"{f'seeding by {init}, and an iteration':36} {seconds:14,.1f} s, K = 64")
        benchmark_scale.write_rows(path, n, 16)
        peak, seconds = benchmark_scale.peak_of_cluster(path, 64, 2)
        _print_target(f"memory over {n:,} rows", peak / 1e6, STREAM_MEMORY_TARGET, "MB")
        print(f"{'the whole command, 2 iterations':36} {seconds:14,.1f} s")


@app.command()
def native(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of photos. Default: the two of scikit-learn.",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ] = None,
    before: Annotated[
        str, typer.Option(help="A commit. The start of its command is compared.")
    ] = benchmark_native.BEFORE,
) -> None:
    """Each mark of the native kernels, met or not: times on the CPU beside scikit-learn, faiss-cpu and pngquant.

    Takes about seven minutes on two cores. Missing packages are named. The exit code is 1 if a case fails.
    Not on Windows.
    """
    photos = _rgb_pictures_of(folder or sample_photos())
    load, start = os.getloadavg()[0], time.perf_counter()
    _print_machine()
    versions = peers.versions() | {"pngquant": benchmark_pngquant.version() or "not installed"}
    print(f"{_joined(versions)}; {len(photos)} photos, load of {load:.1f} at the start")
    _exit_if_any_fails(_print_marks(benchmark_native.marks(photos, before), start))


@app.command()
def clustering(
    quick: Quick = False,
    json_path: PathOfJson = None,
) -> None:
    """Seconds per iteration, peak memory and inertia on points of 3 to 128 coordinates, beside packages for the CPU.

    Seconds per iteration are the difference between runs of more and of fewer iterations. Linux only.
    """
    _need_peers()
    load = os.getloadavg()[0]
    results = benchmark_clustering.compare(benchmark_clustering.QUICK if quick else benchmark_clustering.FULL)
    _write_json(json_path, results)
    _print_machine()
    print(f"cpu, {os.cpu_count()} threads each, load of {load:.1f} at the start, {_joined(peers.versions())}")
    print(f"\n{table(results)}")


@app.command()
def colors(
    json_path: PathOfJson = None,
    quick: Quick = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device of the engines.")] = "auto",
) -> None:
    """The engines on points of 3 coordinates: equal bits, time and memory, beside the roofline of the device.

    Seconds per iteration are the difference between runs of more and of fewer iterations. The exit code is 1 if an
    engine fails or is wrong. Linux only.
    """
    _need_peers()
    try:
        selected = pick_device(device).type
    except DeviceError as error:
        _fail(error)
    load = os.getloadavg()[0]
    figures = benchmark_colors.measure(selected, benchmark_colors.QUICK if quick else benchmark_colors.FULL)
    _write_json(json_path, figures)
    _print_machine()
    name = torch.cuda.get_device_name() if selected == "cuda" else "cpu"
    print(f"{name}, {os.cpu_count()} threads each, load of {load:.1f} at the start, {_joined(peers.versions())}")
    for case in dict.fromkeys(each.case for each in figures):
        print(f"\n{case}")
        for each in figures:
            if each.case == case:
                _print_figure(each)
    if selected == "cpu":
        reason = "--device cpu" if torch.cuda.is_available() else "no CUDA device"
        print(f"\n{benchmark_colors.ON_CUDA} not measured: {reason}")
    if any(each.is_own_error for each in figures):
        raise typer.Exit(1)


@app.command()
def gpu(
    json_path: PathOfJson = None,
    small: Annotated[
        bool, typer.Option("--small", help="Small sizes. Without a GPU, on the pretended device of the tests.")
    ] = False,
    limit: Annotated[float, typer.Option(min=1, help="Seconds for all cases.")] = benchmark_gpu.LIMIT,
    case_limit: Annotated[float, typer.Option(min=1, help="Seconds for each case.")] = benchmark_gpu.CASE_LIMIT,
) -> None:
    """Bits on a CUDA device beside the CPU, then each mark for an H200, with peaks of the device and peak memory.

    Rows are printed as they are measured, and again as a table. flash-kmeans and FlashLib are measured if they are
    installed. The exit code is 1 if bits differ or a case fails. Not on Windows.
    """
    if not (small or torch.cuda.is_available()):
        _fail("there is no CUDA device; --small runs on a pretended one")
    if not benchmark_gpu.report(small=small, case_limit=case_limit, limit=limit, json_path=json_path):
        raise typer.Exit(1)


@app.command()
def kernels(
    arch: Annotated[
        list[int] | None, typer.Option(help="Architecture: 80, 89, 90 or 100. May be repeated. Default: 90.")
    ] = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="More variants of each kernel. Takes minutes.")] = False,
) -> None:
    """Registers and shared memory of each Triton kernel, compiled for GPUs, as a table in Markdown. Needs no GPU.

    The variants are those that the small launches of the tests use. The exit code is 1 if a kernel spills registers or
    rounds other than the CPU. Linux only.
    """
    _print_machine()
    archs = arch or [90]
    rows = benchmark_kernels.measure(archs, thorough=thorough)
    print(f"triton {benchmark_kernels.version()}\n\n{benchmark_kernels.as_markdown(rows, archs)}")
    for row in rows:
        if row.fault is not None:
            print(f"{row.name}, {row.constants}: {row.fault}")
    if any(row.fault is not None for row in rows):
        raise typer.Exit(1)


@app.command()
def seedings(seeds: Seeds = 3) -> None:
    """k-means|| relative to k-means++ at several sizes: time, and inertia after 20 iterations. Takes two minutes."""
    _print_machine()
    print(f"{'points':>15} {'K':>5}  {'seeding':>8} {'20 iterations':>14} {'inertia':>8}")
    for found in benchmark_seedings.compare(seeds):
        times = f"{found.seeding:8.2f} {found.clustering:14.2f}"
        print(f"{found.n:9} x {found.width:3} {found.k:5}  {times} {found.inertia:8.4f}", flush=True)


@app.command()
def screen(
    folder: Annotated[
        Path | None, typer.Argument(help="A folder of PNG photos. Default: the two photos of scikit-learn.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1024, help="Rows of each kind of points.")] = 20_000,
) -> None:
    """The share of rows that the screen of the engine `screened` leaves open, of five kinds of points, at K = 1024.

    Without a GPU, Triton interprets the kernels, which takes about 20 seconds for each kind. Linux only.
    """
    _print_machine()
    files = sorted(sample_photos().glob("*.jpg") if folder is None else folder.glob("*.png"))

    def print_share(found: benchmark_screen.Share) -> None:
        print(f"{found.kind:28} {found.n_rows:6} x {found.width}  {100 * found.share:7.3f} %", flush=True)

    benchmark_screen.measure(files, rows, print_share)


def _print_marks(results: Iterable[marks.Mark], start: float) -> list[marks.Mark]:
    """Print each mark as soon as it is measured, then the seconds since `start`."""
    print(marks.HEAD)
    printed = []
    for mark in results:
        print(mark, flush=True)
        printed.append(mark)
    print(f"{time.perf_counter() - start:.0f} s")
    return printed


def _exit_if_any_fails(results: Iterable[marks.Mark]) -> None:
    if any(mark.error is not None and mark.error.startswith("fails") for mark in results):
        raise typer.Exit(1)


def _fail(message: object) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(2)


def _write_json(path: Path | None, rows: Sequence[Any]) -> None:
    if path is not None:
        path.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1), encoding="utf-8")


def _need_peers(required: Sequence[str] = peers.REQUIRED) -> None:
    if missing := peers.missing(required):
        _fail(f"{', '.join(missing)} not installed: pip install -c constraints.txt '.[bench]'")


def _version_of_pngquant() -> str:
    return benchmark_pngquant.version() or _fail("pngquant is not installed; it is in the packages of most systems")


def _rgb_pictures_of(folder: Path) -> dict[str, np.ndarray]:
    """The RGB pictures of a folder by name. The command ends if there are none."""
    return benchmark_pictures.rgb_pictures(folder) or _fail(f"{folder} holds no RGB picture")


def _joined(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _rgb_pictures(folder: Path) -> list[torch.Tensor]:
    return [torch.from_numpy(pixels) for pixels in benchmark_pictures.rgb_pictures(folder).values()]


def _quantize(image: torch.Tensor, n_colors: int, seed: int, options: Mapping[str, Any]) -> torch.Tensor:
    return quantize(image, n_colors, generator=torch.Generator().manual_seed(seed), **options).pixels()


def _quantize_by_scikit_learn(image: torch.Tensor, n_colors: int, seed: int) -> torch.Tensor:
    from sklearn.cluster import KMeans

    histogram = unique_colors(image)
    peer = KMeans(n_colors, n_init=1, max_iter=100, random_state=seed)  # pyright: ignore[reportArgumentType]
    peer.fit(histogram.colors.float().numpy(), sample_weight=histogram.counts.numpy())
    palette = torch.from_numpy(peer.cluster_centers_).round().to(torch.uint8)
    return palette[torch.from_numpy(peer.labels_)[histogram.lookup(image)].long()]


def _quantize_by_pillow(image: torch.Tensor, n_colors: int, seed: int) -> torch.Tensor:
    indexed = Image.fromarray(image.numpy()).quantize(n_colors, kmeans=3, dither=Image.Dither.NONE)
    return torch.from_numpy(np.array(indexed.convert("RGB")))


def _timed(
    quantizer: Callable[[torch.Tensor, int, int], torch.Tensor], image: torch.Tensor, n_colors: int, seed: int
) -> tuple[float, float]:
    """Mean squared error and seconds."""
    start = time.perf_counter()
    result = quantizer(image, n_colors, seed)
    seconds = time.perf_counter() - start
    assert len(unique_colors(result).colors) <= n_colors
    return mean_squared_error(image, result), seconds


def _mean(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return statistics.mean(mse for mse, _ in rows), statistics.mean(seconds for _, seconds in rows)


def _print_machine() -> None:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, Pillow {features.version('pil')}"
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, {versions}")


def _print_target(what: str, value: float, target: float, unit: str, *, at_least: bool = False) -> None:
    """Print the value and whether it is at most the target, or with `at_least` at least the target."""
    bound, met = ("at least", value >= target) if at_least else ("at most", value <= target)
    print(f"{what:36} {value:14,.3f} {unit:5} {bound} {target:,}: {'met' if met else 'MISSED'}")


def _print_figure(figure: benchmark_colors.Figure) -> None:
    if figure.value is None:
        print(f"{figure.what:36} fails: {figure.error}")
    elif figure.target is None:
        print(f"{figure.what:36} {figure.value:14,.3f} {figure.unit}")
    else:
        _print_target(figure.what, figure.value, figure.target, figure.unit)


if __name__ == "__main__":
    app()
