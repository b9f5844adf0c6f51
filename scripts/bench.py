"""What the project costs and what it gives, measured: python scripts/bench.py --help

Figures drift with the machine, so what is compared is measured in turn, in one run, and medians are printed.
"""

import dataclasses
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from PIL import Image, features

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import clustering as comparison
from benchmarks import colors as benchmark_colors
from benchmarks import folder as benchmark_folder
from benchmarks import optima as benchmark_optima
from benchmarks import peers
from benchmarks import pictures as benchmark_pictures
from benchmarks import pngquant as palettes
from benchmarks import scale as benchmark_scale
from benchmarks.pngquant import COMPRESS
from benchmarks.processes import medians, run
from benchmarks.table import table
from gpukmeans.images.dithering import DITHERINGS, dither
from gpukmeans.images.histogram import unique_colors
from gpukmeans.images.palette import BEST
from gpukmeans.images.quantization import quantize
from gpukmeans.seeding import SEEDINGS
from gpukmeans_cli.formats.reading import read_picture
from gpukmeans_cli.images.sample import draw_sample
from gpukmeans_cli.system.device import DeviceError, pick_device

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

# The most that each may be: mean squared error at K colors of these photos of the Kodak set, seconds beside
# `import torch`, bytes at 18 megapixels, and at K colors the time of a whole process by that of pngquant.
MSE_MARKS = {4: 966.0, 16: 208.0, 64: 56.2, 256: 18.5}
BEST_MARKS = {4: 962.5, 16: 206.4, 64: 55.7, 256: 18.2}
KODAK = {f"kodim{number:02}.png" for number in range(1, 9)}
SECONDS_MARK, MEMORY_MARK, HELP_MARK = 0.6, 1e9, 0.3
DITHERING_MARK = 1.5
PNGQUANT_MARKS = {16: 1.0, 256: 2.0}
# The least that each may be: photos a second by those of pngquant on all cores, and on a GPU by those that are only
# decoded and encoded. The most that a process may grow while it compresses many files, in MB.
THROUGHPUT_MARK, CODECS_MARK, GROWTH_MARK = 1.0, 0.85, 50
# The most that each may be: the time of a stream by that of the slower of reading and computing alone, and the memory
# of the whole command over 50 million rows, in MB.
STREAM_MARK, STREAM_MEMORY_MARK = 1.3, 1000


@app.command()
def process(runs: Annotated[int, typer.Option(min=1, help="Runs of each command.")] = 7) -> None:
    """Whole processes: photos of 640 x 427 beside `import torch`, memory at 18 megapixels, the time of --help."""
    import sklearn.datasets

    _print_machine()
    compress = [sys.executable, COMPRESS]
    with tempfile.TemporaryDirectory() as folder:
        photos = [Path(sklearn.datasets.__file__).parent / "images" / name for name in ("china.jpg", "flower.jpg")]
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            **{
                f"compress {p.name}": [*compress, str(p), "-k", "20", "-q", "-f", "-o", f"{folder}/o.png"]
                for p in photos
            },
            "compress --help": [*compress, "--help"],
        }
        seconds = {name: cost.seconds for name, cost in medians(commands, runs).items()}
        large = Path(folder) / "large.jpg"
        # In a process of its own: a child starts with the peak memory of its parent.
        subprocess.run([sys.executable, __file__, "draw", str(large), "5184", "3456"], check=True)
        of_large = run([*compress, str(large), "-k", "20", "-f", "-q"])
    for name, value in seconds.items():
        print(f"{name:30} {value:8.3f} s")
    print(f"{'compress 5184 x 3456':30} {of_large.seconds:8.3f} s")
    for photo in photos:
        beyond = seconds[f"compress {photo.name}"] - seconds["import torch"]
        _print_mark(f"{photo.name} beyond `import torch`", beyond, SECONDS_MARK, "s")
    _print_mark("peak memory at 18 megapixels", of_large.peak_bytes, MEMORY_MARK, "bytes")
    _print_mark("--help", seconds["compress --help"], HELP_MARK, "s")


@app.command(hidden=True)
def draw(path: Path, width: int, height: int) -> None:
    """Write the sample picture as a JPEG of that size."""
    Image.fromarray(draw_sample(width, height)).save(path, quality=92)


@app.command()
def quality(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds to average over.")] = 5,
    marks: Annotated[
        bool | None,
        typer.Option(
            help="Print the marks, which are for the Kodak photos 1 to 8. Default: if these are the pictures.",
            show_default=False,
        ),
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="With the options of `compress --best`.")] = False,
) -> None:
    """Mean squared error (dR² + dG² + dB²) and seconds over the pictures of a folder, beside peers."""
    options = BEST if best else {}
    if marks is None:
        marks = {path.name for path in folder.iterdir()} == KODAK
    _print_machine()
    images = _rgb_pictures(folder)
    print(f"{len(images)} RGB pictures, {seeds} seeds\n")
    print(f"{'K':>4} {'gpukmeans':>22} {'scikit-learn, 1 start':>22} {'Pillow, kmeans=3':>22}{'   mark' * marks}")
    for n_colors, mark in (BEST_MARKS if best else MSE_MARKS).items():
        by_us = functools.partial(_by_us, options=options)
        ours = _mean([_timed(by_us, image, n_colors, seed) for image in images for seed in range(seeds)])
        peers = [_mean([_timed(by, image, n_colors, 0) for image in images]) for by in (_by_scikit_learn, _by_pillow)]
        cells = "".join(f"{mse:14.2f} {seconds:6.2f} s" for mse, seconds in (ours, *peers))
        verdict = f"   {mark} {'met' if ours[0] <= mark else 'MISSED'}"
        print(f"{n_colors:4} {cells}{verdict * marks}", flush=True)


@app.command()
def pngquant(
    folder: Annotated[Path, typer.Argument(help="A folder of photos as PNG.")],
    runs: Annotated[int, typer.Option(min=1, help="Runs of each command.")] = 7,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file too.")] = None,
) -> None:
    """A whole process of `compress` less `import torch` beside one of pngquant for each photo: time, error, size."""
    version = palettes.version()
    if version is None:
        print("pngquant is not installed; it is in the packages of most systems", file=sys.stderr)
        raise typer.Exit(2)
    photos = palettes.rgb_photos(folder)
    if not photos:
        print(f"{folder} holds no PNG of red, green and blue", file=sys.stderr)
        raise typer.Exit(2)
    load = os.getloadavg()[0]
    found = palettes.compare(photos, list(PNGQUANT_MARKS), runs)
    if json_path is not None:
        json_path.write_text(json.dumps([dataclasses.asdict(each) for each in found], indent=1), encoding="utf-8")
    _print_machine()
    print(f"pngquant {version} {palettes.OPTIONS}, {len(photos)} photos, load of {load:.1f} at the start")
    for each in found:
        _print_photos(each)
    for each in found:
        mark = PNGQUANT_MARKS[each.n_colors]
        _print_mark(f"time at K = {each.n_colors} by that of pngquant", each.ratio, mark, "")
        print(f"{'in seconds of all cores':36} {each.cpu_ratio:14,.3f}")
        _print_mark(f"photos worse at K = {each.n_colors}", len(each.worse), 0, "")


def _print_photos(found: palettes.Comparison) -> None:
    print(f"\nK = {found.n_colors:<10} {'MSE':>10} {'pngquant':>10} {'bytes':>12} {'pngquant':>12}")
    for photo in found.photos:
        errors = f"{photo.mse:10.2f} {photo.mse_of_pngquant:10.2f}"
        print(f"{photo.name:14.14} {errors} {photo.bytes:12,} {photo.bytes_of_pngquant:12,}")
    sizes = [sum(sizes) for sizes in zip(*((p.bytes, p.bytes_of_pngquant) for p in found.photos), strict=True)]
    print(f"{'all':36} {sizes[0]:12,} {sizes[1]:12,}")
    print(
        f"{found.seconds:.3f} s beyond {found.seconds_of_import_torch:.3f}, pngquant {found.seconds_of_pngquant:.3f} s"
    )


@app.command()
def folder(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A folder of photos; those of red, green and blue are taken.", exists=True, file_okay=False
        ),
    ],
    photos: Annotated[int, typer.Option(min=1, help="Photos to make of them, no two the same.")] = 200,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each command.")] = 3,
    soak: Annotated[int, typer.Option(min=benchmark_folder.EARLY + 1, help="Small files for one process.")] = 2000,
) -> None:
    """`compress` on a folder: photos a second beside pngquant on all cores, and how memory grows over many files.

    Whole processes, at K = 16. The photos are those of FOLDER, also flipped and with their channels exchanged; small
    files are cut from them. Linux only.
    """
    version = palettes.version()
    if version is None:
        print("pngquant is not installed; it is in the packages of most systems", file=sys.stderr)
        raise typer.Exit(2)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as made:
        try:
            paths = benchmark_folder.write_photos(benchmark_pictures.rgb_pictures(folder), photos, Path(made, "photos"))
        except benchmark_folder.PhotosError as error:
            print(f"{folder} {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        _print_machine()
        print(
            f"pngquant {version} {palettes.OPTIONS}, K = {benchmark_folder.N_COLORS}, load of {load:.1f} at the start"
        )
        _print_throughputs(paths, runs, Path(made))
        _print_soak(paths, soak, Path(made))


def _print_throughputs(photos: Sequence[Path], runs: int, folder: Path) -> None:
    megapixels, n_bytes = benchmark_folder.megapixels(photos), sum(photo.stat().st_size for photo in photos)
    print(f"{len(photos)} photos of {megapixels:.1f} megapixels in {n_bytes:,} bytes\n")
    found = benchmark_folder.throughputs(photos, runs, folder)
    print(f"{'':26} {'photos/s':>9} {'MP/s':>9} {'bytes':>13} {'seconds':>9} {'of all cores':>13}")
    for each in found:
        seconds, cpu_seconds, _ = each.cost
        rates = f"{len(photos) / seconds:9.2f} {megapixels / seconds:9.2f}"
        print(f"{each.name:26} {rates} {each.n_bytes:13,} {seconds:9.2f} {cpu_seconds:13.2f}")
    print()
    ours, _, theirs, theirs_at_best = found
    ratio = theirs.cost.seconds / ours.cost.seconds
    _print_mark("photos/s by those of pngquant", ratio, THROUGHPUT_MARK, "", at_least=True)
    print(f"{'... with a thread each':36} {theirs_at_best.cost.seconds / ours.cost.seconds:14,.3f}")
    if not torch.cuda.is_available():
        print("photos/s on a GPU by those only decoded and encoded: not measured: no CUDA device")
        return
    photos_in, ours_in, again = (folder / name for name in ("photos", "ours", "again"))
    all_of_it, codecs = benchmark_folder.seconds_beside_codecs(photos_in, ours_in, again, runs, "cuda")
    rates = f"{len(photos) / all_of_it:.2f} photos/s, only decoded and encoded {len(photos) / codecs:.2f}"
    print(f"{torch.cuda.get_device_name()}, in a warm process: {rates}")
    _print_mark("photos/s by those of the codecs", codecs / all_of_it, CODECS_MARK, "", at_least=True)


def _print_soak(photos: Sequence[Path], n: int, folder: Path) -> None:
    small = folder / "small"
    benchmark_folder.write_crops(photos, n, small)
    side, early = benchmark_folder.SMALL, benchmark_folder.EARLY
    print(f"\n{n:,} files of {side} x {side}, resident memory after {early} of them and after all")
    for what, n_workers in {"one worker": 1, "the parent of the default workers": None}.items():
        held = benchmark_folder.memory_held(small, folder / f"small {n_workers}", n_workers)
        print(f"{what:36} {held.early / 1e6:14,.1f} MB {held.late / 1e6:10,.1f} MB")
        _print_mark("growth", (held.late - held.early) / 1e6, GROWTH_MARK, "MB")


@app.command()
def pictures(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures; those of red, green and blue are taken.")],
    colors: Annotated[str, typer.Option("-k", "--colors", help="Numbers of colors, with commas.")] = "16,64,256",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file too.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two pictures at the first K, to try it out.")] = False,
) -> None:
    """What is made of pictures, beside pngquant, Pillow and ImageMagick: four measures of error, bytes and seconds.

    Bytes are those of all files, everything else is the mean of them; seconds are a whole process for each. Takes about
    twenty minutes for eight photos of the Kodak set on two cores. Not on Windows.
    """
    _need_peers(benchmark_pictures.REQUIRED)
    try:
        n_colors = list(dict.fromkeys(map(int, colors.split(","))))
    except ValueError:
        n_colors = []
    if not n_colors or not all(2 <= k <= 256 for k in n_colors):
        print(f"-k takes numbers from 2 to 256 with commas, got {colors!r}", file=sys.stderr)
        raise typer.Exit(2)
    found = benchmark_pictures.rgb_pictures(folder)
    if not found:
        print(f"{folder} holds no picture of red, green and blue", file=sys.stderr)
        raise typer.Exit(2)
    if quick:
        found, n_colors = dict(list(found.items())[:2]), n_colors[:1]
    load = os.getloadavg()[0]
    rows = benchmark_pictures.compare(found, n_colors)
    if json_path is not None:
        json_path.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1), encoding="utf-8")
    _print_machine()
    print(f"{_said(benchmark_pictures.versions())}; {len(found)} pictures, load of {load:.1f} at the start")
    for k in n_colors:
        print(f"\nK = {k}\n{benchmark_pictures.table([row for row in rows if row.n_colors == k])}")
    for k in n_colors:
        print(f"\nMarks at K = {k}")
        print(*benchmark_pictures.marks([row for row in rows if row.n_colors == k]), sep="\n")


@app.command()
def dithering(runs: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 5) -> None:
    """Seconds of each dithering on a picture of 4 megapixels in 256 colors, in one process."""
    _print_machine()
    image = torch.from_numpy(draw_sample(2400, 1667))
    palette = quantize(image, 256).palette
    seconds: dict[str, list[float]] = {name: [] for name in DITHERINGS}
    for _ in range(runs + 1):
        for name, times in seconds.items():
            start = time.perf_counter()
            dither(image, palette, name)
            times.append(time.perf_counter() - start)
    for name, times in seconds.items():
        _print_mark(name, statistics.median(times[1:]), DITHERING_MARK, "s")  # the first is to warm up


@app.command()
def optima(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds to average over.")] = 1,
    breaths: Annotated[int, typer.Option(min=1, help="The value of refine=.")] = 8,
) -> None:
    """One run and a refined one beside the best of ten: inertia and cost, on colors and on patches of pictures."""
    _print_machine()
    images = _rgb_pictures(folder)
    print(f"{len(images)} RGB pictures, {seeds} seeds, refine={breaths}\n")
    print(f"{'':>14} {'one run':>10} {'refined':>10} {'at worst':>10}   of the best of ten   {'cost':>6}   mark")
    sets = {"colors": benchmark_optima.colors(images), "patches": benchmark_optima.patches(images)}
    for name, k in [(name, k) for name in sets for k in MSE_MARKS]:
        found = benchmark_optima.optima(sets[name], k, breaths, seeds)
        mark, costly = (1.0, found.cost >= 4) if k >= 64 else (1.003, False)
        met = found.refined < mark and not costly
        cells = f"{found.one:10.4f} {found.refined:10.4f} {found.worst_refined:10.4f}{'':22}{found.cost:6.2f}x"
        print(f"{name:>7} K={k:4} {cells}   < {mark} {'met' if met else 'MISSED'}", flush=True)


@app.command()
def seeding(
    n: Annotated[int, typer.Option(min=1, help="Points.")] = 1_000_000,
    d: Annotated[int, typer.Option(min=1, help="Coordinates.")] = 32,
    k: Annotated[int, typer.Option(min=1, help="Clusters.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of Lloyd's loop after it.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="These alone; may be given again.")] = None,
) -> None:
    """Seconds of each seeding, and the inertia a few rounds later. Takes many minutes."""
    _print_machine()
    print(f"{n:,} x {d}, K = {k}, {rounds} rounds\n")
    for name, seconds, inertia in benchmark_optima.seedings(only or list(SEEDINGS), n, d, k, rounds):
        print(f"{name:>10} {seconds:8.1f} s   inertia {inertia:16.1f}", flush=True)


@app.command()
def scale(
    folder: Annotated[
        Path | None, typer.Option(help="Where the file of rows is written. Default: as for others.")
    ] = None,
    n: Annotated[int, typer.Option(min=100_000, help="Rows of 16 float32 in the file, 64 bytes each.")] = 50_000_000,
    n_rates: Annotated[int, typer.Option(min=100_000, help="Rows of the file that rates are measured on.")] = 4_000_000,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each.")] = 5,
) -> None:
    """Rows a second of a stream, a tensor and ranks, and the memory of the command over a file. Not on Windows."""
    _print_machine()
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "rows.npy"
        benchmark_scale.write_rows(path, n_rates, 16)
        print(f"\n{n_rates:,} x 16, millions of rows a second, medians of {runs}")
        print(f"{'K':>6} {'reading':>9} {'tensor':>9} {'stream':>9}")
        found = list(benchmark_scale.rates(path, [16, 64, 256], runs))
        for rates in found:
            millions = (rate / 1e6 for rate in (rates.reading, rates.tensor, rates.stream))
            print(f"{rates.n_clusters:6} " + " ".join(f"{rate:9.2f}" for rate in millions))
        for rates in found:
            _print_mark(f"stream by the slower, K = {rates.n_clusters}", rates.ratio, STREAM_MARK, "times")
        for ranks, rate in benchmark_scale.rates_of_ranks(path, 64, runs).items():
            print(f"{ranks:36} {rate / 1e6:14,.3f} million rows a second, K = 64")
        for init, seconds in benchmark_scale.seconds_of_seeding(path, 64, runs).items():
            print(f"{f'first centers by {init}, and a round':36} {seconds:14,.1f} s, K = 64")
        benchmark_scale.write_rows(path, n, 16)
        peak, seconds = benchmark_scale.peak_of_cluster(path, 64, 2)
        _print_mark(f"memory over {n:,} rows", peak / 1e6, STREAM_MEMORY_MARK, "MB")
        print(f"{'the whole command, 2 rounds, K = 64':36} {seconds:14,.1f} s")


@app.command()
def clustering(
    quick: Annotated[bool, typer.Option("--quick", help="Three small cases, to try it out.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file too.")] = None,
) -> None:
    """Seconds per iteration, peak memory and inertia on points of 3 to 128 coordinates, beside peers, on the CPU.

    Seconds per iteration are the difference between runs of more and of fewer iterations. Linux only.
    """
    _need_peers()
    load = os.getloadavg()[0]
    cells = comparison.compare(comparison.QUICK if quick else comparison.FULL)
    if json_path is not None:
        json_path.write_text(json.dumps([dataclasses.asdict(cell) for cell in cells], indent=1), encoding="utf-8")
    _print_machine()
    print(f"cpu, {os.cpu_count()} threads each, load of {load:.1f} at the start, {_said(peers.versions())}")
    print(f"\n{table(cells)}")


@app.command()
def colors(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file too.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small cases, to try it out.")] = False,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the engines run.")] = "auto",
) -> None:
    """The engines on points of 3 coordinates: time and memory beside peers, and beside what the device can do.

    Seconds per iteration are the difference between runs of more and of fewer iterations. The exit code is 1 if an
    engine fails or is wrong. Linux only.
    """
    _need_peers()
    try:
        picked = pick_device(device).type
    except DeviceError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    load = os.getloadavg()[0]
    figures = benchmark_colors.measure(picked, benchmark_colors.QUICK if quick else benchmark_colors.FULL)
    if json_path is not None:
        json_path.write_text(json.dumps([dataclasses.asdict(each) for each in figures], indent=1), encoding="utf-8")
    _print_machine()
    name = torch.cuda.get_device_name() if picked == "cuda" else "cpu"
    print(f"{name}, {os.cpu_count()} threads each, load of {load:.1f} at the start, {_said(peers.versions())}")
    for case in dict.fromkeys(each.case for each in figures):
        print(f"\n{case}")
        for each in figures:
            if each.case == case:
                _print_figure(each)
    if picked == "cpu":
        why = "--device cpu" if torch.cuda.is_available() else "no CUDA device"
        print(f"\n{benchmark_colors.ON_CUDA} not measured: {why}")
    if any(each.wrong for each in figures):
        raise typer.Exit(1)


def _need_peers(required: Sequence[str] = peers.REQUIRED) -> None:
    if missing := peers.missing(required):
        print(f"{', '.join(missing)} not installed: pip install -c constraints.txt '.[bench]'", file=sys.stderr)
        raise typer.Exit(2)


def _said(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _rgb_pictures(folder: Path) -> list[torch.Tensor]:
    images = [torch.from_numpy(read_picture(path).pixels) for path in sorted(folder.iterdir())]
    return [image for image in images if image.shape[2] == 3]


def _by_us(image: torch.Tensor, n_colors: int, seed: int, options: Mapping[str, Any]) -> torch.Tensor:
    return quantize(image, n_colors, generator=torch.Generator().manual_seed(seed), **options).pixels()


def _by_scikit_learn(image: torch.Tensor, n_colors: int, seed: int) -> torch.Tensor:
    from sklearn.cluster import KMeans

    histogram = unique_colors(image)
    peer = KMeans(
        n_colors,
        n_init=1,  # pyright: ignore[reportArgumentType]
        max_iter=100,
        random_state=seed,
    )
    peer.fit(histogram.colors.float().numpy(), sample_weight=histogram.counts.numpy())
    palette = torch.from_numpy(peer.cluster_centers_).round().to(torch.uint8)
    return palette[torch.from_numpy(peer.labels_)[histogram.lookup(image)].long()]


def _by_pillow(image: torch.Tensor, n_colors: int, seed: int) -> torch.Tensor:
    indexed = Image.fromarray(image.numpy()).quantize(n_colors, kmeans=3, dither=Image.Dither.NONE)
    return torch.from_numpy(np.array(indexed.convert("RGB")))


def _timed(by: Callable[[torch.Tensor, int, int], torch.Tensor], image: torch.Tensor, n_colors: int, seed: int):
    """Mean squared error and seconds."""
    start = time.perf_counter()
    result = by(image, n_colors, seed)
    seconds = time.perf_counter() - start
    assert len(unique_colors(result).colors) <= n_colors
    return ((result.double() - image.double()) ** 2).sum(dim=2).mean().item(), seconds


def _mean(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return statistics.mean(mse for mse, _ in rows), statistics.mean(seconds for _, seconds in rows)


def _print_machine() -> None:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, Pillow {features.version('pil')}"
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, {versions}")


def _print_mark(what: str, value: float, mark: float, unit: str, *, at_least: bool = False) -> None:
    """The value and whether it is at most the mark, or with `at_least` no less than it."""
    bound, met = ("at least", value >= mark) if at_least else ("at most", value <= mark)
    print(f"{what:36} {value:14,.3f} {unit:5} {bound} {mark:,}: {'met' if met else 'MISSED'}")


def _print_figure(figure: benchmark_colors.Figure) -> None:
    if figure.value is None:
        print(f"{figure.what:36} fails: {figure.fails}")
    elif figure.mark is None:
        print(f"{figure.what:36} {figure.value:14,.3f} {figure.unit}")
    else:
        _print_mark(figure.what, figure.value, figure.mark, figure.unit)


if __name__ == "__main__":
    app()
