"""One file through the whole line: read, count colors, cluster, write, report."""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from gpukmeans.colorspace import encode, hide_invisible
from gpukmeans.engines import ENGINES
from gpukmeans.histogram import ColorHistogram, unique_colors
from gpukmeans.quantization import Palette, fit_palette, index_image
from gpukmeans_cli.files import ImageError, check_free
from gpukmeans_cli.image_io import read_picture, write_palette_png

# Pictures of fewer pixels are clustered on the CPU unless a device was asked for: so few colors are less work than the
# 60 launches of a round. Chosen by that count and not by measuring, as no GPU was at hand.
_FEW_PIXELS = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for every file of a run."""

    n_colors: int
    device: torch.device
    any_device: bool = False
    """Whether the CPU may do instead, where moving a picture to the device would cost more."""
    force: bool = False
    max_pixels: int | None = None
    init: str = "random"
    n_init: int = 1
    refine: int = 1
    max_iter: int = 100
    tol: float = 1e-4
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of one file. The fields are the keys of the JSON report; sizes are in bytes, `psnr` in dB."""

    input: str
    output: str
    width: int
    height: int
    mode: str
    colors_in: int
    colors_out: int
    bytes_in: int
    bytes_out: int
    mse: float
    psnr: float | None
    """None where nothing was lost: infinity is not JSON."""
    iterations: int
    converged: bool
    device: str
    seconds: float

    def line(self) -> str:
        """The report as a person wants it."""
        sizes = f"{format_size(self.bytes_in)} -> {format_size(self.bytes_out)}"
        if self.bytes_in:  # a pipe has no size
            sizes += f" ({self.bytes_out / self.bytes_in:.0%})"
        quality = "lossless" if self.psnr is None else f"PSNR {self.psnr:.2f} dB"
        return (
            f"{self.input} -> {self.output}: {self.width} x {self.height}, "
            f"{self.colors_in:,} -> {self.colors_out} colors, {sizes}, "
            f"{quality}, {self.iterations} iterations, {self.device}, {self.seconds:.2f} s"
        )

    def as_json(self) -> dict[str, object]:
        """The report as keys and values that JSON knows."""
        return asdict(self)


@dataclass(frozen=True)
class Outcome:
    """A report, with what `--verbose` and a note to the user need beside it."""

    report: Report
    frames: int
    engine: str
    """Its name, and why it."""
    stages: dict[str, float]
    """Seconds of each stage."""


@dataclass
class _Clock:
    device: torch.device
    stages: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Ascribe the time since the last lap to a stage."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.stages[stage] = now - self._last
        self._last = now


def compress_picture(source: Path, target: Path, settings: Settings) -> Outcome:
    """What became of `source`, after `target` has been written as a PNG with a palette.

    ImageError if either file cannot be, or if memory runs out; `target` is then as it was before.
    """
    check_free(target, overwrite=settings.force)
    try:
        return _compress(source, target, settings)
    except torch.OutOfMemoryError:
        raise ImageError(f"{settings.device} is out of memory; use --device cpu") from None
    except MemoryError:
        raise ImageError("out of memory; use a smaller picture") from None
    except RuntimeError as error:
        # torch has no class of its own for memory that the CPU does not have.
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise ImageError("out of memory; use a smaller picture") from None
        raise


def _compress(source: Path, target: Path, settings: Settings) -> Outcome:
    clock = _Clock(settings.device)
    picture = read_picture(source, max_pixels=settings.max_pixels)
    height, width, channels = picture.pixels.shape
    clock.lap("read")
    device = torch.device("cpu") if settings.any_device and height * width < _FEW_PIXELS else settings.device
    image = hide_invisible(torch.from_numpy(picture.pixels).to(device))
    histogram = unique_colors(image)
    clock.lap("count colors")
    palette = fit_palette(
        histogram,
        settings.n_colors,
        init=settings.init,
        n_init=settings.n_init,
        refine=settings.refine,
        max_iter=settings.max_iter,
        tol=settings.tol,
        generator=torch.Generator().manual_seed(settings.seed),
    )
    clock.lap("cluster")
    indexed = index_image(image, histogram, palette)
    colors, indices = indexed.palette.cpu().numpy(), indexed.indices.cpu().numpy()
    clock.lap("map pixels")
    bytes_out = write_palette_png(target, colors, indices, overwrite=settings.force)
    clock.lap("write")
    report = Report(
        input=str(source),
        output=str(target),
        width=width,
        height=height,
        mode=picture.mode,
        colors_in=len(histogram.colors),
        colors_out=len(colors),
        bytes_in=picture.n_bytes,
        bytes_out=bytes_out,
        mse=palette.mse,
        psnr=_psnr(palette, channels),
        iterations=palette.n_iter,
        converged=palette.converged,
        device=str(device),
        seconds=sum(clock.stages.values()),
    )
    return Outcome(report, picture.frames, _engine_and_why(palette, histogram), clock.stages)


def _engine_and_why(palette: Palette, histogram: ColorHistogram) -> str:
    """The engine that was at work, and why not another."""
    if palette.engine is None:
        return "none, since there are no more colors than asked for"
    points = encode(histogram.colors)
    passed_over = [
        f"; {name} cannot: {reason}" for name, engine in ENGINES.items() if (reason := engine.obstacle(points))
    ]
    return f"{palette.engine}, the fastest for these colors{''.join(passed_over)}"


def _psnr(palette: Palette, channels: int) -> float | None:
    """Peak signal to noise per channel, in dB: of R, G and B, and of alpha if there is one."""
    if palette.mse == 0:
        return None
    compared = 4 if channels in (2, 4) else 3
    return 10 * math.log10(255**2 * compared / palette.mse)


def format_size(n_bytes: int) -> str:
    """A number of bytes for people, in decimal units: 640 bytes, 12.3 kB, 4.5 MB."""
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    thousands = round(n_bytes / 1000, 1)  # before the unit is chosen: 999,999 bytes are 1.0 MB
    return f"{thousands:.1f} kB" if thousands < 1000 else f"{n_bytes / 1e6:.1f} MB"
