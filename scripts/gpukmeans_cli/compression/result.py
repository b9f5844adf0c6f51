"""The result of compressing one file, as text, as JSON and with timings."""

from dataclasses import asdict, dataclass

from gpukmeans_cli.system.atomic_files import stream_name
from gpukmeans_cli.terminal.formatting import format_count, format_quality, format_size, format_sizes


@dataclass(frozen=True, kw_only=True)
class CompressionReport:
    """Sizes, colors and error of one compressed file.

    The fields are the keys of the JSON report. Sizes are in bytes, `psnr` in dB.
    """

    input: str
    output: str
    width: int
    height: int
    frames: int
    """Frames written: 1, or all of an animation."""
    mode: str
    colors_in: int
    colors_out: int
    bytes_in: int
    bytes_out: int
    mse: float
    psnr: float | None
    """None without error, since JSON has no infinity."""
    iterations: int
    converged: bool
    kept: bool
    """Whether the output is the input, perhaps stripped, since a palette would not make the file smaller."""
    written: bool
    """Whether the output was written: False after a dry run."""
    device: str
    seconds: float

    def line(self) -> str:
        """The report as one line of text."""
        frames = f"{self.frames} frames of " if self.frames > 1 else ""
        sizes = format_sizes(self.bytes_in, self.bytes_out)
        if self.kept:
            state = f"{format_size(self.bytes_in)}, kept as it is"
            if self.bytes_out != self.bytes_in:
                state = f"{sizes}, kept without its metadata"
            sizes = f"{state}, because a palette would not make it smaller"
        quality = format_quality(self.psnr, "lossless")
        files = f"{stream_name(self.input)} -> {stream_name(self.output, 'standard output')}"
        return (
            f"{files}: {frames}{self.width} x {self.height}, "
            f"{self.colors_in:,} -> {format_count(self.colors_out, 'color')}, {sizes}, "
            f"{quality}, {format_count(self.iterations, 'iteration')}, {self.device}, {self.seconds:.2f} s"
            f"{'' if self.written else ', not written'}"
        )

    def as_json(self) -> dict[str, object]:
        """The report as a dictionary of JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class CompressionResult:
    """The report on one file, with details for `--verbose` and for warnings."""

    report: CompressionReport
    dropped_frames: int
    """Frames of the input that are missing in the output."""
    engine: str
    """The name of the engine, and the reasons against the others."""
    stages: dict[str, float]
    """Seconds of each stage."""
    broken_animation: bool = False
    """Whether the default image was taken, since the frames of an APNG cannot be decoded."""
    left_out: tuple[str, ...] = ()
    """Phrases about the chunks of the input that were left out."""
