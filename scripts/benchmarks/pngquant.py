"""`gpukmeans compress` and pngquant on the same photos: time of whole processes, error and size of each file."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.processes import IMPORT_TORCH, SCRIPTS, Cost, medians
from gpukmeans import mean_squared_error
from gpukmeans_cli.formats.reading import read_image

COMPRESS = str(SCRIPTS / "compress.py")
OPTIONS = "--speed 4 --nofs"
NEAREST = ["--effort", "0"]
"""Options of gpukmeans for the quick encoder."""
# A process for each file, as in typical shell use.
_LOOP = f'for file in "$@"; do pngquant --force {OPTIONS} --ext {{ext}} {{k}} "$file" || exit; done'


@dataclass(frozen=True, kw_only=True)
class Photo:
    """Mean squared error (the mean over the pixels of dR² + dG² + dB²) and size of both output files of one photo."""

    name: str
    mse: float
    bytes: int
    mse_of_pngquant: float
    bytes_of_pngquant: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Seconds of all photos at K colors, and figures of each photo.

    `seconds` and `cpu_seconds` are those of gpukmeans less the import of torch.
    """

    n_colors: int
    seconds: float
    cpu_seconds: float
    seconds_of_import_torch: float
    seconds_of_pngquant: float
    cpu_seconds_of_pngquant: float
    photos: list[Photo]

    @property
    def ratio(self) -> float:
        """Time of gpukmeans relative to the time of pngquant."""
        return self.seconds / self.seconds_of_pngquant

    @property
    def cpu_ratio(self) -> float:
        """CPU seconds of gpukmeans relative to those of pngquant. They depend less on other work on the machine."""
        return self.cpu_seconds / self.cpu_seconds_of_pngquant

    @property
    def worse(self) -> list[str]:
        """Names of the photos on which the error of gpukmeans is not lower than that of pngquant."""
        return [photo.name for photo in self.photos if not photo.mse < photo.mse_of_pngquant]


def version() -> str | None:
    """The version of pngquant; None if it is not installed."""
    if shutil.which("pngquant") is None:
        return None
    return subprocess.run(["pngquant", "--version"], capture_output=True, text=True, check=True).stdout.split()[0]


def rgb_photos(folder: Path) -> list[Path]:
    """The RGB PNGs of a folder: pngquant reads only PNG, and weights errors of alpha differently."""
    return [path for path in sorted(folder.glob("*.png")) if read_image(path).pixels.shape[2] == 3]


def compare(photos: Sequence[Path], n_colors: Sequence[int], runs: int) -> list[Comparison]:
    """A comparison for each K of `n_colors`, all measured alternately."""
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(shutil.copyfile(photo, Path(folder) / photo.name)) for photo in photos]
        names = [str(copy) for copy in copies]
        commands = {"torch": IMPORT_TORCH}
        for k in n_colors:
            commands[f"ours {k}"] = [sys.executable, COMPRESS, *names, "-k", str(k), *NEAREST, "-f", "-q"]
            commands[f"theirs {k}"] = ["sh", "-c", _LOOP.format(ext=_extension(k), k=k), "sh", *names]
        costs = medians(commands, runs)
        return [
            _comparison(k, costs["torch"], costs[f"ours {k}"], costs[f"theirs {k}"], [_photo(c, k) for c in copies])
            for k in n_colors
        ]


def _comparison(n_colors: int, start: Cost, ours: Cost, theirs: Cost, photos: list[Photo]) -> Comparison:
    return Comparison(
        n_colors=n_colors,
        seconds=ours.seconds - start.seconds,
        cpu_seconds=ours.cpu_seconds - start.cpu_seconds,
        seconds_of_import_torch=start.seconds,
        seconds_of_pngquant=theirs.seconds,
        cpu_seconds_of_pngquant=theirs.cpu_seconds,
        photos=photos,
    )


def _photo(source: Path, n_colors: int) -> Photo:
    ours = source.with_name(f"{source.stem}-{n_colors}.png")
    theirs = source.with_name(f"{source.stem}{_extension(n_colors)}")
    before, after, after_pngquant = (torch.from_numpy(read_image(path).pixels) for path in (source, ours, theirs))
    return Photo(
        name=source.name,
        mse=mean_squared_error(before, after),
        bytes=ours.stat().st_size,
        mse_of_pngquant=mean_squared_error(before, after_pngquant),
        bytes_of_pngquant=theirs.stat().st_size,
    )


def _extension(n_colors: int) -> str:
    return f"-pngquant-{n_colors}.png"
