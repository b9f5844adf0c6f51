"""Indexed images of this project beside those of pngquant, Pillow and ImageMagick: error, size and time of each.

Errors are the mean of dR² + dG² + dB² (Celebi), the mean color difference CIEDE2000, and two perceptual measures:
SSIMULACRA2 (100 for equal images, higher is better) and FLIP (0 for equal images, lower is better).
"""

import functools
import hashlib
import importlib.metadata
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from benchmarks import pngquant
from benchmarks.pngquant import COMPRESS
from benchmarks.processes import ProcessError, run
from benchmarks.table import aligned
from gpukmeans_cli.formats.reading import read_image
from gpukmeans_cli.system.atomic_files import ImageError

REQUIRED = ["scikit-image", "ssimulacra2", "flip-evaluator", "pyoxipng"]
OURS, BEST, OPTIMIZED = "gpukmeans", "gpukmeans --best", "gpukmeans --effort 3"
DITHERED = ["gpukmeans --dither floyd-steinberg", "gpukmeans --dither blue-noise"]
SLOW, FAST = "pngquant --speed 1 --nofs", "pngquant --speed 4 --nofs"
DITHERED_PNGQUANT = ["pngquant --speed 1", "pngquant --speed 4"]
OXIPNG = f"{FAST}, oxipng 4"
IMAGEQUANT = "Pillow LIBIMAGEQUANT"
# Upper limits of the bytes of gpukmeans relative to pngquant, and of `--effort 3` relative to pngquant and oxipng.
# Lower limit of the fraction of files on which the dithered output of gpukmeans is better.
BYTES_TARGET, OPTIMIZED_TARGET, DITHERED_TARGET = 1.0, 0.97, 0.75
_MOST_PROCESSES = 4
_NONE = ("", "")

_PILLOW = """
import sys
from PIL import Image
source, k, target, method, kmeans = sys.argv[1:]
Image.open(source).quantize(int(k), method=Image.Quantize[method], kmeans=int(kmeans)).save(target)
"""
_OXIPNG = """
import sys
import oxipng
oxipng.optimize(sys.argv[1], sys.argv[2], level=4)
"""

# Writes an image of K colors: (source, K, target).
Candidate = Callable[[Path, int, Path], object]


def _by_gpukmeans(*options: str) -> Candidate:
    def make(source: Path, k: int, target: Path) -> None:
        run([sys.executable, COMPRESS, str(source), "-k", str(k), "-o", str(target), "-f", "-q", *options])

    return make


def _by_pngquant(*options: str) -> Candidate:
    def make(source: Path, k: int, target: Path) -> None:
        run(["pngquant", "--force", *options, "--output", str(target), str(k), str(source)])

    return make


def _by_pngquant_and_oxipng(source: Path, k: int, target: Path) -> None:
    larger = target.with_suffix(".pngquant.png")
    CANDIDATES[FAST](source, k, larger)
    run([sys.executable, "-c", _OXIPNG, str(larger), str(target)])


def _by_pillow(method: str, kmeans: int) -> Candidate:
    def make(source: Path, k: int, target: Path) -> None:
        run([sys.executable, "-c", _PILLOW, str(source), str(k), str(target), method, str(kmeans)])

    return make


def _by_imagemagick(*options: str) -> Candidate:
    def make(source: Path, k: int, target: Path) -> None:
        run([_imagemagick()[0], str(source), "-strip", *options, "-colors", str(k), str(target)])

    return make


CANDIDATES: Mapping[str, Candidate] = {
    OURS: _by_gpukmeans(),
    BEST: _by_gpukmeans("--best"),
    DITHERED[0]: _by_gpukmeans("--dither", "floyd-steinberg"),
    DITHERED[1]: _by_gpukmeans("--dither", "blue-noise"),
    "gpukmeans --space linear": _by_gpukmeans("--space", "linear"),
    "gpukmeans --space oklab": _by_gpukmeans("--space", "oklab"),
    OPTIMIZED: _by_gpukmeans("--effort", "3"),
    SLOW: _by_pngquant("--speed", "1", "--nofs"),
    FAST: _by_pngquant("--speed", "4", "--nofs"),
    OXIPNG: _by_pngquant_and_oxipng,
    DITHERED_PNGQUANT[0]: _by_pngquant("--speed", "1"),
    DITHERED_PNGQUANT[1]: _by_pngquant("--speed", "4"),
    "Pillow MEDIANCUT, kmeans=3": _by_pillow("MEDIANCUT", 3),
    "Pillow FASTOCTREE": _by_pillow("FASTOCTREE", 0),
    "Pillow MAXCOVERAGE": _by_pillow("MAXCOVERAGE", 0),
    IMAGEQUANT: _by_pillow("LIBIMAGEQUANT", 0),
    "ImageMagick": _by_imagemagick("-dither", "None"),
    "ImageMagick, dithered": _by_imagemagick("-dither", "FloydSteinberg"),
}


class Errors(NamedTuple):
    """The errors of an image against its source, by four measures."""

    mse: float
    ciede2000: float
    ssimulacra2: float
    flip: float


@dataclass(frozen=True, kw_only=True)
class Photo:
    """Errors and size of the output of a candidate for one photo, and the seconds of the whole process."""

    name: str
    mse: float
    ciede2000: float
    ssimulacra2: float
    flip: float
    bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of a candidate for all photos at K colors, or the `error` that prevented them."""

    candidate: str
    n_colors: int
    photos: list[Photo]
    error: str | None = None

    @property
    def bytes(self) -> int:
        """Total size of all files."""
        return sum(photo.bytes for photo in self.photos)

    def mean(self, figure: str) -> float:
        """Mean over the photos of a field of `Photo`."""
        return statistics.mean(getattr(photo, figure) for photo in self.photos)


@dataclass(frozen=True, kw_only=True)
class _Output:
    """A file written by a candidate, before its errors are measured."""

    photo: str
    source: Path
    target: Path
    bytes: int
    seconds: float


class _FailedError(Exception):
    """A candidate wrote no image, or one of too many colors; the message is the reason."""


def unavailable() -> dict[str, str]:
    """For each candidate that cannot run here, the reason."""
    reasons = {
        "pngquant": None if pngquant.version() else "pngquant is not installed",
        IMAGEQUANT: None if features.check("libimagequant") else "this Pillow is built without libimagequant",
        "ImageMagick": None if _imagemagick() != _NONE else "neither `magick` nor `convert` is ImageMagick",
    }
    return {name: why for name in CANDIDATES for tool, why in reasons.items() if why and name.startswith(tool)}


def versions() -> dict[str, str]:
    """The versions of the installed peers and of the packages that measure."""
    peers = {"pngquant": pngquant.version(), "ImageMagick": _imagemagick()[1]}
    packages = {name: importlib.metadata.version(name) for name in REQUIRED}
    return {name: version for name, version in (peers | packages).items() if version}


def rgb_pictures(folder: Path) -> dict[str, np.ndarray]:
    """The RGB pictures of a folder, uint8 (H, W, 3), by name; other files are skipped."""
    pictures = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        try:
            pixels = read_image(path).pixels
        except ImageError:
            continue
        if pixels.shape[2] == 3:
            pictures[path.name] = pixels
    return pictures


def compare(pictures: Mapping[str, np.ndarray], n_colors: Sequence[int]) -> list[Row]:
    """A row for each K of `n_colors` and each candidate, all measured alternately on the same PNGs.

    One process runs at a time; errors are measured after all processes have ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources = {name: Path(folder) / f"{index}.png" for index, name in enumerate(pictures)}
        for name, source in sources.items():
            Image.fromarray(pictures[name]).save(source)
        missing, errors, outputs = unavailable(), {}, {}
        _run_all(dict(list(sources.items())[:1]), n_colors[0], missing)  # not counted
        for k in n_colors:
            errors[k], outputs[k] = _run_all(sources, k, missing)
        measured = _errors([each for of_k in outputs.values() for of_name in of_k.values() for each in of_name])
    return [
        Row(candidate=name, n_colors=k, photos=[], error=errors[k][name])
        if name in errors[k]
        else Row(candidate=name, n_colors=k, photos=[_photo(each, measured[each.target]) for each in outputs[k][name]])
        for k in n_colors
        for name in CANDIDATES
    ]


def table(rows: Sequence[Row]) -> str:
    """The rows of one K as text: a line for each candidate, and below a line for each error."""
    heads = ["", "MSE", "CIEDE2000", "SSIMULACRA2", "FLIP", "bytes", "seconds"]
    lines = aligned([heads, *(_cells(row) for row in rows if not row.error)])
    return "\n".join([lines, *(f"{row.candidate}: not measured, {row.error}" for row in rows if row.error)])


def targets(rows: Sequence[Row]) -> list[str]:
    """Lines for the rows of one K: the comparison, the figure, the target, and whether it is met."""
    by = {row.candidate: row for row in rows}
    return [
        *(_verdict(by, ours, SLOW, _mse_verdict) for ours in (OURS, BEST)),
        _verdict(by, OURS, FAST, functools.partial(_bytes_verdict, target=BYTES_TARGET)),
        _verdict(by, OPTIMIZED, OXIPNG, functools.partial(_bytes_verdict, target=OPTIMIZED_TARGET)),
        *(_verdict(by, ours, theirs, _perceptual_verdict) for ours in DITHERED for theirs in DITHERED_PNGQUANT),
    ]


def _run_all(
    sources: Mapping[str, Path], k: int, missing: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, list[_Output]]]:
    """The errors of candidates, and the outputs of the others. They alternate; one that failed is not run again."""
    errors, outputs = dict(missing), {name: [] for name in CANDIDATES}
    for photo, source in sources.items():
        for index, (name, make) in enumerate(CANDIDATES.items()):
            if name in errors:
                continue
            target = source.with_name(f"{source.stem}-{k}-{index}.png")
            try:
                seconds = _seconds(make, source, k, target)
            except _FailedError as error:
                errors[name] = str(error)
            else:
                size = target.stat().st_size
                outputs[name].append(_Output(photo=photo, source=source, target=target, bytes=size, seconds=seconds))
    return errors, {name: each for name, each in outputs.items() if name not in errors}


def _seconds(make: Candidate, source: Path, k: int, target: Path) -> float:
    start = time.perf_counter()
    try:
        make(source, k, target)
    except ProcessError as error:
        raise _FailedError(error.last_line) from error
    seconds = time.perf_counter() - start
    if not target.exists():
        raise _FailedError("no image was written")
    colors = len(np.unique(_rgb(target).reshape(-1, 3), axis=0))
    if colors > k:
        raise _FailedError(f"{colors} colors, expected at most {k}")
    return seconds


def _errors(outputs: Sequence[_Output]) -> dict[Path, Errors]:
    """The errors of each target; those of equal images are measured once."""
    keys = {each.target: (each.source, hashlib.sha256(_rgb(each.target).tobytes()).digest()) for each in outputs}
    pairs = {keys[each.target]: (each.source, each.target) for each in outputs}
    workers = min(_MOST_PROCESSES, os.cpu_count() or 1)
    # Not forked: torch's threads do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_use_one_thread) as pool:
        errors = dict(zip(pairs, pool.map(_errors_of_pair, pairs.values()), strict=True))
    return {target: errors[key] for target, key in keys.items()}


def _use_one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # each process would start FLIP with a thread for every core


def _errors_of_pair(pair: tuple[Path, Path]) -> Errors:
    return errors_of(*pair)


def errors_of(source: Path, target: Path) -> Errors:
    """The errors of the image at `target` against that at `source`; both RGB, of equal size."""
    import flip_evaluator  # pyright: ignore[reportMissingImports]
    import skimage.color  # pyright: ignore[reportMissingImports]
    import ssimulacra2  # pyright: ignore[reportMissingImports]

    before, after = _rgb(source), _rgb(target)
    difference = before.astype(np.int64) - after
    delta = skimage.color.deltaE_ciede2000(skimage.color.rgb2lab(before), skimage.color.rgb2lab(after))
    scaled = [pixels.astype(np.float32) / 255 for pixels in (before, after)]
    _, flip, _ = flip_evaluator.evaluate(*scaled, "LDR", applyMagma=False)
    return Errors(
        mse=float((difference * difference).sum(axis=2).mean()),
        ciede2000=float(delta.mean()),
        ssimulacra2=float(ssimulacra2.compute_ssimulacra2(source, target)),
        flip=float(flip),
    )


def _rgb(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def _photo(output: _Output, errors: Errors) -> Photo:
    return Photo(name=output.photo, **errors._asdict(), bytes=output.bytes, seconds=output.seconds)


def _cells(row: Row) -> list[str]:
    formats = {"mse": ",.2f", "ciede2000": ".3f", "ssimulacra2": ".2f", "flip": ".4f"}
    means = [format(row.mean(figure), spec) for figure, spec in formats.items()]
    return [row.candidate, *means, f"{row.bytes:,}", f"{row.mean('seconds'):.3f}"]


def _verdict(by: Mapping[str, Row], ours: str, theirs: str, verdict: Callable[[Row, Row], str]) -> str:
    for row in (by[ours], by[theirs]):
        if row.error:
            return f"{ours} against {theirs}: not measured, since {row.candidate} is not"
    return f"{ours} against {theirs}: {verdict(by[ours], by[theirs])}"


def _mse_verdict(ours: Row, theirs: Row) -> str:
    count, n = _count(ours, theirs, lambda a, b: a.mse < b.mse), len(ours.photos)
    return f"lower MSE on {count} of {n} files (target {n} of {n}): {_met(count == n)}"


def _bytes_verdict(ours: Row, theirs: Row, target: float) -> str:
    ratio = ours.bytes / theirs.bytes
    return f"total bytes {ratio:.3f} (target <= {target}): {_met(ratio <= target)}"


def _perceptual_verdict(ours: Row, theirs: Row) -> str:
    by_ssimulacra2 = _count(ours, theirs, lambda a, b: a.ssimulacra2 > b.ssimulacra2)
    by_flip = _count(ours, theirs, lambda a, b: a.flip < b.flip)
    either = _count(ours, theirs, lambda a, b: a.ssimulacra2 > b.ssimulacra2 or a.flip < b.flip)
    n = len(ours.photos)
    least = math.ceil(DITHERED_TARGET * n)
    return (
        f"better on SSIMULACRA2 or FLIP on {either} of {n} files (target {least} of {n}): {_met(either >= least)}; "
        f"on SSIMULACRA2 {by_ssimulacra2}, on FLIP {by_flip}"
    )


def _count(ours: Row, theirs: Row, better: Callable[[Photo, Photo], bool]) -> int:
    return sum(better(a, b) for a, b in zip(ours.photos, theirs.photos, strict=True))


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


@functools.cache
def _imagemagick() -> tuple[str, str]:
    """ImageMagick's command and version, or `_NONE`. On some systems `convert` is another program."""
    for command in filter(shutil.which, ("magick", "convert")):
        output = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
        if output.startswith("Version: ImageMagick"):
            return command, output.split()[2]
    return _NONE
