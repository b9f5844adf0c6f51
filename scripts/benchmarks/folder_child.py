"""A process that compresses a folder: python -m benchmarks.folder_child WHAT PHOTOS ...

`memory PHOTOS TARGET N_WORKERS EARLY K` writes the pictures of PHOTOS to TARGET in K colors. It prints the resident
memory of this process in bytes, after EARLY files and after all. N_WORKERS 0 is the default number. Linux only.

`codecs PHOTOS COMPRESSED TARGET RUNS DEVICE K` prints the median seconds of two tasks: compressing PHOTOS to TARGET,
and only decoding PHOTOS and encoding the indexed images in COMPRESSED. A first run of each is not counted.

The result is one line of JSON; the exit code is 1 if a file fails.
"""

import json
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from gpukmeans_cli.system.startup import import_torch

import_torch()  # before any import of torch, as the command does

import numpy as np
import torch

from benchmarks.processes import seconds_of, status_bytes
from gpukmeans import unique_colors
from gpukmeans_cli.compression.batch import compress_all
from gpukmeans_cli.compression.plan import plan
from gpukmeans_cli.compression.reporter import Reporter
from gpukmeans_cli.compression.result import CompressionResult
from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.formats.reading import read_image
from gpukmeans_cli.formats.source import read_source
from gpukmeans_cli.formats.still import encode_still
from gpukmeans_cli.system.device import pick_device

N_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class _MemoryReporter(Reporter):
    """Prints nothing, and records the resident memory after each file."""

    resident: list[int] = field(default_factory=list)

    def done(self, result: CompressionResult) -> None:
        self.resident.append(status_bytes("VmRSS"))


def memory(photos: str, target: str, n_workers: str, early: str, n_colors: str) -> dict[str, int]:
    """Resident memory after `early` files and after all files."""
    reporter = _MemoryReporter(quiet=True)
    _compress(photos, target, int(n_colors), "auto", reporter, int(n_workers) or None)
    return {"early": reporter.resident[int(early) - 1], "late": reporter.resident[-1]}


def codecs(photos: str, compressed: str, target: str, runs: str, device: str, n_colors: str) -> dict[str, float]:
    """Median seconds of compressing, and of only decoding and encoding."""
    pictures = [
        (path, *_indexed(Path(compressed) / f"{path.stem}-{n_colors}.png")) for path in sorted(Path(photos).iterdir())
    ]

    def decode_and_encode(picture: tuple[Path, np.ndarray, np.ndarray]) -> int:
        path, colors, indices = picture
        return len(encode_still(colors, indices, ".png", metadata=read_source(path).metadata))

    def decode_and_encode_all() -> None:
        with ThreadPoolExecutor(N_THREADS) as pool:
            list(pool.map(decode_and_encode, pictures))

    def compress() -> None:
        _compress(photos, target, int(n_colors), device, Reporter(quiet=True), None)

    seconds = [(seconds_of(compress), seconds_of(decode_and_encode_all)) for _ in range(1 + int(runs))][1:]
    return {"compress": statistics.median(a for a, _ in seconds), "codecs": statistics.median(b for _, b in seconds)}


def _compress(photos: str, target: str, n_colors: int, device: str, reporter: Reporter, n_workers: int | None) -> None:
    """Compress as `gpukmeans compress PHOTOS -r -d TARGET -k K -f` does. SystemExit if a file fails."""
    jobs = plan([Path(photos)], name=str(n_colors), folder=Path(target), recursive=True)
    settings = Settings(
        n_colors=n_colors,
        device=pick_device(device),
        any_device=device == "auto",
        force=True,
        clustering={"init": "random", "max_iter": 100},
        root=Path(target),
    )
    if not compress_all(jobs, settings, reporter, n_workers=n_workers):
        sys.exit(1)


def _indexed(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Colors (K, C) and indices (H, W), uint8, of a picture of at most 256 colors."""
    image = torch.from_numpy(read_image(path).pixels)
    histogram = unique_colors(image)
    return histogram.colors.numpy(), histogram.lookup(image).to(torch.uint8).numpy()


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    print(json.dumps({"memory": memory, "codecs": codecs}[what](*arguments)))
