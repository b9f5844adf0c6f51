"""`gpukmeans compress` on a folder: photos a second beside pngquant, and the memory of a process that sees many."""

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

from benchmarks.pngquant import COMPRESS, OPTIONS
from benchmarks.processes import Cost, medians
from gpukmeans_cli.compression.batch import default_workers

N_COLORS = 16
SMALL = 48  # pixels a side
EARLY = 100  # files after which memory is looked at first
SCRIPTS = Path(__file__).resolve().parents[1]

# Turned over the diagonal, upside down, left to right, and the order of the channels. The last changes fastest, so
# that only those who need many get pictures that lie on their side.
_VARIANTS = list(itertools.product((1, -1), (1, -1), (1, -1), itertools.permutations(range(3))))
_Variant = tuple[int, int, int, tuple[int, ...]]

_MADE_BY_PNGQUANT = "-pngquant.png"
# A process for each file, as many at a time as there are cores. Each has as many threads again unless told otherwise.
_XARGS = f'xargs -0 -n 1 -P "$1" pngquant --force {OPTIONS} --ext {_MADE_BY_PNGQUANT} {N_COLORS} < "$2"'


class PhotosError(Exception):
    """A folder of which not as many photos can be made as are wanted; its text is a sentence to put after its path."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """What it took to compress all photos, the start of the process included."""

    name: str
    cost: Cost
    n_bytes: int
    """Of all files written."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """Resident memory of one process in bytes, when it had compressed `EARLY` files and when all."""

    early: int
    late: int


def write_photos(pictures: Mapping[str, np.ndarray], n: int, folder: Path) -> list[Path]:
    """The paths of so many PNGs in `folder`, which is made; no two have the same pixels.

    They are the pictures, uint8 (H, W, 3), then these with channels exchanged, flipped, and turned over the diagonal:
    up to 48 of each. PhotosError if that does not give enough.
    """
    chosen = _different(pictures, n)
    folder.mkdir()
    paths = [folder / f"{number:05}.png" for number in range(n)]

    def write(path: Path, name: str, variant: _Variant) -> None:
        Image.fromarray(_varied(pictures[name], variant)).save(path)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, paths, *zip(*chosen, strict=True)))
    return paths


def write_crops(photos: Sequence[Path], n: int, folder: Path) -> None:
    """Make `folder` and in it so many PNGs of `SMALL` x `SMALL` pixels, or as many as a photo has.

    They are cut from the photos in turn, at places drawn with a fixed seed.
    """
    folder.mkdir()
    draw = np.random.default_rng(0)
    for first, path in enumerate(photos[:n]):
        with Image.open(path) as photo:
            pixels = np.asarray(photo)
        for number in range(first, n, len(photos)):
            top, left = (int(draw.integers(0, max(1, side - SMALL + 1))) for side in pixels.shape[:2])
            crop = np.ascontiguousarray(pixels[top : top + SMALL, left : left + SMALL])
            Image.fromarray(crop).save(folder / f"{number:05}.png")


def megapixels(photos: Sequence[Path]) -> float:
    """Of all of them."""
    total = 0
    for path in photos:
        with Image.open(path) as photo:
            total += photo.width * photo.height
    return total / 1e6


def throughputs(photos: Sequence[Path], runs: int, folder: Path) -> list[Throughput]:
    """What all photos take ours, ours with one worker, and pngquant in two ways: medians of runs in turn.

    The photos lie in a folder of their own. What is written stays in `folder`, ours in `folder / "ours"`.
    """
    ours, alone, theirs, names = (folder / name for name in ("ours", "alone", "theirs", "names"))
    # Beside the photos its outputs would be inputs of ours.
    theirs.mkdir()
    copies = [str(shutil.copyfile(photo, theirs / photo.name)) for photo in photos]
    names.write_text("\0".join(copies))
    cores = default_workers(torch.device("cpu"))
    compress = [sys.executable, COMPRESS, str(photos[0].parent), "-r", "-k", str(N_COLORS), "-q", "-f"]
    commands = {
        "gpukmeans compress": [*compress, "-d", str(ours)],
        "gpukmeans compress -j 1": [*compress, "-d", str(alone), "-j", "1"],
        f"pngquant by xargs -P{cores}": ["sh", "-c", _XARGS, "sh", str(cores), str(names)],
        "the same, a thread each": ["sh", "-c", f"OMP_NUM_THREADS=1 {_XARGS}", "sh", str(cores), str(names)],
    }
    costs = medians(commands, runs)
    by_pngquant = list(theirs.glob(f"*{_MADE_BY_PNGQUANT}"))
    written = [list(ours.iterdir()), list(alone.iterdir()), by_pngquant, by_pngquant]
    assert [len(paths) for paths in written] == [len(photos)] * 4
    return [
        Throughput(name=name, cost=costs[name], n_bytes=sum(path.stat().st_size for path in paths))
        for name, paths in zip(commands, written, strict=True)
    ]


def seconds_beside_codecs(photos: Path, compressed: Path, folder: Path, runs: int, device: str) -> tuple[float, float]:
    """Median seconds to compress a folder in a process that is warm, and there only to decode and encode its photos.

    The latter is done by 16 threads, and what is encoded lies in `compressed`.
    """
    answer = _answer_of("codecs", photos, compressed, folder, runs, device, N_COLORS)
    return answer["compress"], answer["codecs"]


def memory_held(photos: Path, folder: Path, n_workers: int | None) -> Held:
    """What one process holds that compresses a folder: the one at work, or the parent of several workers.

    None is as many workers as by default. Linux only.
    """
    return Held(**_answer_of("memory", photos, folder, n_workers or 0, EARLY, N_COLORS))


def _answer_of(*arguments: object) -> dict[str, Any]:
    path = os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent)])
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.folder_child", *map(str, arguments)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
        check=True,
    )
    return json.loads(child.stdout)


def _different(pictures: Mapping[str, np.ndarray], n: int) -> list[tuple[str, _Variant]]:
    """Names and variants of so many pictures that differ, all pictures as they are before any is varied."""
    found: dict[bytes, tuple[str, _Variant]] = {}
    for variant, name in itertools.product(_VARIANTS, pictures):
        pixels = _varied(pictures[name], variant)
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        found.setdefault(digest, (name, variant))
        if len(found) == n:
            return list(found.values())
    if not pictures:
        raise PhotosError("holds no picture of red, green and blue")
    raise PhotosError(
        f"holds too few pictures of red, green and blue: flipped and with their channels exchanged {len(pictures)} of "
        f"them make {len(found)} that differ, and {n} are wanted"
    )


def _varied(pixels: np.ndarray, variant: _Variant) -> np.ndarray:
    over, down, across, channels = variant
    turned = pixels if over == 1 else pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(turned[::down, ::across, list(channels)])
