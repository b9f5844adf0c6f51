"""Error, size and time of indexed images by gpukmeans, pngquant, Pillow and ImageMagick.

A candidate is one of these programs with some options. A row has the results of one candidate at one K.

Errors are the mean of dR² + dG² + dB² (Celebi), the mean color difference CIEDE2000, and two perceptual measures:
SSIMULACRA2 (100 for equal images, higher is better) and FLIP (0 for equal images, lower is better).
"""

import functools
import hashlib
import importlib.metadata
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, features

from benchmarks import pngquant
from benchmarks.drawings import over
from benchmarks.marks import FailedError
from benchmarks.pngquant import COMPRESS
from benchmarks.processes import ProcessError, run
from benchmarks.table import aligned
from gpukmeans import mean_squared_error
from gpukmeans_cli.formats.reading import read_image
from gpukmeans_cli.system.atomic_files import ImageError

REQUIRED = ["scikit-image", "ssimulacra2", "flip-evaluator"]
N_COLORS = 16, 64, 256
# The value of --lossy, the price of a bit, in the marks without dithering, at each K.
LOSSY = 25
OURS, PLAIN, LOSSY_PLAIN = "gpukmeans", "gpukmeans --dither none --lossy 0", f"gpukmeans --dither none --lossy {LOSSY}"
BUDGETED = "gpukmeans --max-bytes of pngquant"
PNGQUANT, NOFS = "pngquant", "pngquant --nofs"
IMAGEQUANT = "Pillow LIBIMAGEQUANT"
_MOST_PROCESSES = 4
_NONE = ("", "")

_PILLOW = """
import sys
from PIL import Image
k, folder, method, kmeans, *sources = sys.argv[1:]
for number, source in enumerate(sources):
    image = Image.open(source).quantize(int(k), method=Image.Quantize[method], kmeans=int(kmeans))
    image.save(f"{folder}/{number:04}.png")
"""
# A process for each file.
_LOOP = 'n=0; folder=$0; for file in "$@"; do {command} || exit; n=$((n + 1)); done'
_TARGET = '"$folder/$(printf %04d $n).png"'

# From (sources, K, folder), the command that writes images of K colors to the folder. Their names sort as the sources.
Candidate = Callable[[Sequence[Path], int, Path], Sequence[str]]


def gpukmeans(*options: str) -> Candidate:
    """`gpukmeans compress` with these options, all files in one process."""

    def command(sources: Sequence[Path], k: int, folder: Path) -> list[str]:
        outputs = ["-k", str(k), "-d", str(folder), "--allow-larger", "-f", "-q"]
        return [sys.executable, COMPRESS, *map(str, sources), *outputs, *options]

    return command


def by_pngquant(*options: str) -> Candidate:
    """pngquant with these options, in a process for each file."""
    return _loop(f'pngquant --force {" ".join(options)} --output {_TARGET} {{k}} "$file"')


def _imagemagick(*options: str) -> Candidate:
    return _loop(f'{{magick}} "$file" -strip {" ".join(options)} -colors {{k}} {_TARGET}')


def _loop(command: str) -> Candidate:
    def shell(sources: Sequence[Path], k: int, folder: Path) -> list[str]:
        loop = _LOOP.format(command=command.format(k=k, magick=_magick()[0]))
        return ["sh", "-c", loop, str(folder), *map(str, sources)]

    return shell


def _pillow(method: str, kmeans: int) -> Candidate:
    def command(sources: Sequence[Path], k: int, folder: Path) -> list[str]:
        return [sys.executable, "-c", _PILLOW, str(k), str(folder), method, str(kmeans), *map(str, sources)]

    return command


CANDIDATES: Mapping[str, Candidate] = {
    OURS: gpukmeans(),
    PLAIN: gpukmeans("--dither", "none", "--lossy", "0"),
    LOSSY_PLAIN: gpukmeans("--dither", "none", "--lossy", str(LOSSY)),
    "gpukmeans --dither floyd-steinberg": gpukmeans("--dither", "floyd-steinberg"),
    PNGQUANT: by_pngquant(),
    NOFS: by_pngquant("--nofs"),
}
# Peers that are measured at one K only.
AT_256: Mapping[str, Candidate] = {
    "gpukmeans --dither blue-noise": gpukmeans("--dither", "blue-noise"),
    "Pillow MEDIANCUT, kmeans=3": _pillow("MEDIANCUT", 3),
    "Pillow FASTOCTREE": _pillow("FASTOCTREE", 0),
    IMAGEQUANT: _pillow("LIBIMAGEQUANT", 0),
    "ImageMagick": _imagemagick("-dither", "None"),
    "ImageMagick, dithered": _imagemagick("-dither", "FloydSteinberg"),
}


@dataclass(frozen=True, kw_only=True)
class Errors:
    """The errors of an image relative to its source, by four measures."""

    mse: float
    ciede2000: float
    ssimulacra2: float
    flip: float


@dataclass(frozen=True, kw_only=True)
class Photo(Errors):
    """Errors and size of the output of a candidate for one photo."""

    name: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of a candidate for all photos at K colors, or the `error` that prevented them."""

    candidate: str
    n_colors: int
    photos: list[Photo]
    seconds: float = 0.0
    """Seconds of all photos, less the import of torch."""
    error: str | None = None

    @property
    def bytes(self) -> int:
        """Total size of all files."""
        return sum(photo.bytes for photo in self.photos)

    def mean(self, figure: str) -> float:
        """Mean over the photos of a field of `Photo`."""
        return statistics.mean(getattr(photo, figure) for photo in self.photos)

    def count_better(self, other: "Row", figure: str, *, higher: bool = False) -> int:
        """The number of photos whose figure is lower than in the other row, or with `higher` higher."""
        sign = -1 if higher else 1
        pairs = zip(self.photos, other.photos, strict=True)
        return sum(sign * getattr(own, figure) < sign * getattr(theirs, figure) for own, theirs in pairs)


class Output(NamedTuple):
    """The files written by a candidate, in the order of the sources, and the seconds of its processes."""

    targets: list[Path]
    seconds: float

    @property
    def sizes(self) -> list[int]:
        return [target.stat().st_size for target in self.targets]


def unavailable() -> dict[str, str]:
    """The candidates that cannot run here, each with the reason."""
    reasons = {
        "pngquant": None if pngquant.version() else "pngquant is not installed",
        BUDGETED: None if pngquant.version() else "pngquant is not installed",
        IMAGEQUANT: None if features.check("libimagequant") else "this Pillow is built without libimagequant",
        "ImageMagick": None if _magick() != _NONE else "neither `magick` nor `convert` is ImageMagick",
    }
    names = [*CANDIDATES, *AT_256, BUDGETED]
    return {name: why for name in names for tool, why in reasons.items() if why and name.startswith(tool)}


def versions() -> dict[str, str]:
    """The versions of the installed programs, and of the packages that measure errors."""
    peers = {"pngquant": pngquant.version(), "ImageMagick": _magick()[1]}
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


def write_pictures(pictures: Mapping[str, np.ndarray], folder: Path) -> list[Path]:
    """Write the pictures as PNGs to the new folder. The order of the returned paths is also their sorted order."""
    folder.mkdir()
    paths = [folder / f"{number:04}.png" for number in range(len(pictures))]
    for path, pixels in zip(paths, pictures.values(), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def compare(pictures: Mapping[str, np.ndarray], seconds_of_import: float) -> Iterator[list[Row]]:
    """The rows of each K of `N_COLORS`, all measured on the same PNGs. One process runs at a time."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = write_pictures(pictures, Path(scratch, "sources"))
        for k in N_COLORS:
            outputs, errors = _outputs(sources, k, Path(scratch), seconds_of_import)
            pairs = [pair for each in outputs.values() for pair in zip(sources, each.targets, strict=True)]
            measured = _errors(pairs)
            rows = []
            for name, each in outputs.items():
                files = zip(pictures, each.targets, each.sizes, strict=True)
                photos = [Photo(name=n, **asdict(measured[target]), bytes=size) for n, target, size in files]
                rows.append(Row(candidate=name, n_colors=k, photos=photos, seconds=each.seconds))
            yield [*rows, *(Row(candidate=name, n_colors=k, photos=[], error=why) for name, why in errors.items())]


def write(name: str, candidate: Candidate, sources: Sequence[Path], k: int, folder: Path) -> Output:
    """Run a candidate, which writes to the new folder. FailedError or ProcessError if it fails."""
    folder.mkdir()
    seconds = run(candidate(sources, k, folder)).seconds
    targets = sorted(folder.iterdir())
    if len(targets) != len(sources):
        raise FailedError(f"{name} wrote {len(targets)} of {len(sources)} images")
    if (most := max(map(_count_colors, targets))) > k:
        raise FailedError(f"{name} wrote {most} colors, expected at most {k}")
    return Output(targets, seconds)


def table(rows: Sequence[Row]) -> str:
    """The rows of one K as text: a line for each candidate, and below a line for each error."""
    heads = ["", "bytes", "MSE", "CIEDE2000", "SSIMULACRA2", "FLIP", "seconds"]
    lines = aligned([heads, *(_cells(row) for row in rows if not row.error)])
    return "\n".join([lines, *(f"{row.candidate}: not measured, {row.error}" for row in rows if row.error)])


def _outputs(
    sources: Sequence[Path], k: int, scratch: Path, seconds_of_import: float
) -> tuple[dict[str, Output], dict[str, str]]:
    """The outputs of candidates, and the errors of the others."""
    missing = unavailable()
    candidates = dict(CANDIDATES) | (dict(AT_256) if k == 256 else {BUDGETED: gpukmeans()})
    errors = {name: why for name, why in missing.items() if name in candidates}
    outputs: dict[str, Output] = {}
    for name in [name for name in candidates if name not in errors]:
        folder = scratch / f"{name} {k}"
        try:
            if name == BUDGETED:
                output = _within_budgets(sources, outputs[PNGQUANT].sizes, folder)
            else:
                output = write(name, candidates[name], sources, k, folder)
        except (FailedError, ProcessError, KeyError) as error:
            errors[name] = getattr(error, "last_line", str(error))
            continue
        n_imports = (len(sources) if name == BUDGETED else 1) * name.startswith("gpukmeans")
        outputs[name] = output._replace(seconds=output.seconds - n_imports * seconds_of_import)
    return outputs, errors


def _within_budgets(sources: Sequence[Path], sizes: Sequence[int], folder: Path) -> Output:
    """Compress each source with `--max-bytes` of its size in `sizes`, in a process of its own."""
    folder.mkdir()
    targets = [folder / source.name for source in sources]
    seconds = 0.0
    for source, target, size in zip(sources, targets, sizes, strict=True):
        options = ["--max-bytes", str(size), "-o", str(target), "--allow-larger", "-f", "-q"]
        seconds += run([sys.executable, COMPRESS, str(source), *options]).seconds
        if target.stat().st_size > size:
            raise FailedError(f"{BUDGETED} wrote {target.stat().st_size} bytes, expected at most {size}")
    return Output(targets, seconds)


def _count_colors(path: Path) -> int:
    return len(np.unique(read_pixels(path, "RGBA").view(np.uint32)))


def _errors(pairs: Sequence[tuple[Path, Path]]) -> dict[Path, Errors]:
    """The errors of each target relative to its source. Equal targets of a source are measured once."""
    keys = {target: (source, hashlib.sha256(read_pixels(target).tobytes()).digest()) for source, target in pairs}
    different = {keys[target]: (source, target) for source, target in pairs}
    workers = min(_MOST_PROCESSES, os.cpu_count() or 1)
    # Spawned, since the threads of torch do not survive a fork.
    spawn = multiprocessing.get_context("spawn")
    # Otherwise FLIP would start a thread for every core in each process.
    with ProcessPoolExecutor(workers, spawn, initializer=os.putenv, initargs=("OMP_NUM_THREADS", "1")) as pool:
        errors = dict(zip(different, pool.map(errors_of, *zip(*different.values(), strict=True)), strict=True))
    return {target: errors[key] for target, key in keys.items()}


def errors_of(source: Path, target: Path) -> Errors:
    """The errors of the image at `target` relative to the image at `source`. Both are RGB and of equal size."""
    import flip_evaluator  # pyright: ignore[reportMissingImports]

    before, after = read_pixels(source), read_pixels(target)
    scaled, other = (pixels.astype(np.float32) / 255 for pixels in (before, after))
    _, flip, _ = flip_evaluator.evaluate(scaled, other, "LDR", applyMagma=False)
    return Errors(
        mse=mean_squared_error(torch.from_numpy(before), torch.from_numpy(after)),
        ciede2000=float(ciede2000(before, after).mean()),
        ssimulacra2=ssimulacra2_over(before, after, 255),
        flip=float(flip),
    )


def ciede2000(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The color difference of each pixel (H, W) of two RGB pictures."""
    import skimage.color  # pyright: ignore[reportMissingImports]

    return skimage.color.deltaE_ciede2000(skimage.color.rgb2lab(before), skimage.color.rgb2lab(after))


def ssimulacra2_over(before: np.ndarray, after: np.ndarray, background: int) -> float:
    """SSIMULACRA2 of two pictures, uint8 (H, W, C), over a grey background."""
    import ssimulacra2  # pyright: ignore[reportMissingImports]

    first, second = BytesIO(), BytesIO()
    for file, pixels in ((first, before), (second, after)):
        Image.fromarray(over(pixels, background)).save(file, "ppm")
    return float(ssimulacra2.compute_ssimulacra2(first, second))


def read_pixels(path: Path, mode: str = "RGB") -> np.ndarray:
    """The pixels of an image in a mode of Pillow, uint8 (H, W, C)."""
    with Image.open(path) as image:
        return np.array(image.convert(mode))


def _cells(row: Row) -> list[str]:
    formats = {"mse": ",.2f", "ciede2000": ".3f", "ssimulacra2": ".2f", "flip": ".4f"}
    means = [format(row.mean(figure), spec) for figure, spec in formats.items()]
    return [row.candidate, f"{row.bytes:,}", *means, f"{row.seconds:.2f}"]


@functools.cache
def _magick() -> tuple[str, str]:
    """ImageMagick's command and version, or `_NONE`. On some systems `convert` is another program."""
    for command in filter(shutil.which, ("magick", "convert")):
        output = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
        if output.startswith("Version: ImageMagick"):
            return command, output.split()[2]
    return _NONE
