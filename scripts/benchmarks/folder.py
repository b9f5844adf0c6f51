"""`gpukmeans compress` on a folder: photos per second beside pngquant, and memory over many files."""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.marks import FailedError
from benchmarks.pngquant import COMPRESS, NEAREST, OPTIONS
from benchmarks.processes import ENVIRONMENT, Cost, medians
from gpukmeans_cli.compression.workers import default_workers

N_COLORS = 16
SMALL = 48  # pixels a side
EARLY = 100  # number of files after which memory is first measured

# Variants of a photo: -1 or 1 for transposed or not, flipped vertically or not, flipped horizontally or not, and the
# order of the channels. Only large numbers of photos contain transposed ones, since the first value varies slowest.
_VARIANTS = list(itertools.product((1, -1), (1, -1), (1, -1), itertools.permutations(range(3))))
_Variant = tuple[int, int, int, tuple[int, ...]]

_PNGQUANT_SUFFIX = "-pngquant.png"
# One process for each file; $1 processes run at a time. By default, each has as many threads as the machine has cores.
_XARGS = f'xargs -0 -n 1 -P "$1" pngquant --force {OPTIONS} --ext {_PNGQUANT_SUFFIX} "$3" < "$2"'


class PhotosError(FailedError):
    """A folder has too few photos. The message follows the path of the folder, as the rest of a sentence."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Cost of compressing all photos in one way, including the start of processes, and the size of the output."""

    name: str
    cost: Cost
    n_bytes: int
    """Total size of all output files."""


@dataclass(frozen=True, kw_only=True)
class ResidentMemory:
    """Resident memory of one process in bytes, after `EARLY` files and after all files."""

    early: int
    late: int


def write_photos(pictures: Mapping[str, np.ndarray], n: int, folder: Path) -> list[Path]:
    """Write n PNGs with different pixels to the new `folder`, and return their paths.

    The pictures, uint8 (H, W, 3), come first, then their variants with permuted channels, flipped or transposed. Each
    picture has at most 48 variants. PhotosError if there are fewer than n variants in all.
    """
    chosen = _distinct_variants(pictures, n)
    folder.mkdir()
    paths = [folder / f"{number:05}.png" for number in range(n)]

    def write(path: Path, name: str, variant: _Variant) -> None:
        Image.fromarray(_variant_of(pictures[name], variant)).save(path)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, paths, *zip(*chosen, strict=True)))
    return paths


def write_crops(photos: Sequence[Path], n: int, folder: Path) -> None:
    """Write n PNGs of at most `SMALL` x `SMALL` pixels to the new `folder`.

    They are crops of the photos in cyclic order, at random positions with a fixed seed.
    """
    folder.mkdir()
    random = np.random.default_rng(0)
    for first, path in enumerate(photos[:n]):
        with Image.open(path) as photo:
            pixels = np.asarray(photo)
        for number in range(first, n, len(photos)):
            top, left = (int(random.integers(0, max(1, side - SMALL + 1))) for side in pixels.shape[:2])
            crop = np.ascontiguousarray(pixels[top : top + SMALL, left : left + SMALL])
            Image.fromarray(crop).save(folder / f"{number:05}.png")


def megapixels(photos: Sequence[Path]) -> float:
    """Total number of megapixels of the photos."""
    total = 0
    for path in photos:
        with Image.open(path) as photo:
            total += photo.width * photo.height
    return total / 1e6


def throughputs(
    photos: Sequence[Path], runs: int, folder: Path, n_colors: int = N_COLORS, *, all_ways: bool = True
) -> list[Throughput]:
    """Median costs of `compress`, pngquant with one thread per file, `compress -j 1`, and pngquant, run alternately.

    Without `all_ways` only the first two are run. The folder of `photos` must not contain other files. The files that
    are written stay in `folder`, those of the first in `folder / "ours"`.
    """
    ours, alone, theirs, names = (folder / name for name in ("ours", "alone", "theirs", "names"))
    # pngquant writes beside its input, where `compress` would read its output.
    theirs.mkdir()
    copies = [str(shutil.copyfile(photo, theirs / photo.name)) for photo in photos]
    names.write_text("\0".join(copies))
    cores = default_workers(torch.device("cpu"))
    compress = [sys.executable, COMPRESS, str(photos[0].parent), "-r", "-k", str(n_colors), *NEAREST, "-q", "-f"]
    pngquant = [str(cores), str(names), str(n_colors)]
    ways = {
        "gpukmeans compress": ([*compress, "-d", str(ours)], ours, "*"),
        f"pngquant by xargs -P{cores}, one thread each": (
            ["sh", "-c", f"OMP_NUM_THREADS=1 {_XARGS}", "sh", *pngquant],
            theirs,
            f"*{_PNGQUANT_SUFFIX}",
        ),
        "gpukmeans compress -j 1": ([*compress, "-d", str(alone), "-j", "1"], alone, "*"),
        f"pngquant by xargs -P{cores}": (["sh", "-c", _XARGS, "sh", *pngquant], theirs, f"*{_PNGQUANT_SUFFIX}"),
    }
    chosen = list(ways)[: len(ways) if all_ways else 2]
    costs = medians({name: ways[name][0] for name in chosen}, runs)
    written = {name: list(ways[name][1].glob(ways[name][2])) for name in chosen}
    assert {len(paths) for paths in written.values()} == {len(photos)}
    return [
        Throughput(name=name, cost=costs[name], n_bytes=sum(path.stat().st_size for path in written[name]))
        for name in chosen
    ]


def seconds_beside_codecs(photos: Path, compressed: Path, folder: Path, runs: int, device: str) -> tuple[float, float]:
    """Median seconds of compressing a folder, and of only decoding its photos and encoding compressed images.

    Both are measured in one process after a first run. Decoding and encoding use 16 threads. The encoded images are the
    files in `compressed`.
    """
    answer = _run_child("codecs", photos, compressed, folder, runs, device, N_COLORS)
    return answer["compress"], answer["codecs"]


def resident_memory(photos: Path, folder: Path, n_workers: int | None) -> ResidentMemory:
    """Resident memory of a process that compresses a folder, either alone or as the parent of several workers.

    `n_workers` None is the default number of workers. Linux only.
    """
    return ResidentMemory(**_run_child("memory", photos, folder, n_workers or 0, EARLY, N_COLORS))


def _run_child(*arguments: object) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.folder_child", *map(str, arguments)],
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        check=True,
    )
    return json.loads(child.stdout)


def _distinct_variants(pictures: Mapping[str, np.ndarray], n: int) -> list[tuple[str, _Variant]]:
    """Names and variants of n images with different pixels. The unchanged pictures come first."""
    variants: dict[bytes, tuple[str, _Variant]] = {}
    for variant, name in itertools.product(_VARIANTS, pictures):
        pixels = _variant_of(pictures[name], variant)
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        variants.setdefault(digest, (name, variant))
        if len(variants) == n:
            return list(variants.values())
    if not pictures:
        raise PhotosError("holds no RGB picture")
    raise PhotosError(
        f"holds too few RGB pictures: {len(pictures)} of them have {len(variants)} different variants, flipped and "
        f"with permuted channels, and {n} are required"
    )


def _variant_of(pixels: np.ndarray, variant: _Variant) -> np.ndarray:
    diagonal, vertical, horizontal, channels = variant
    oriented = pixels if diagonal == 1 else pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(oriented[::vertical, ::horizontal, list(channels)])
