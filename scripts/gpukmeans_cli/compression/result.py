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
    output: str | None
    """Path of the output; None if there is nothing to write, since the input is kept."""
    width: int
    height: int
    frames: int
    """Frames written: 1, or all of an animation."""
    mode: str
    colors_in: int
    colors_out: int
    bytes_in: int
    bytes_out: int
    """Size of the output; size of the input if there is nothing to write."""
    bytes_with_palette: int
    """Size of the image with a palette, even if the input is kept."""
    dither: str
    lossy: float
    """Price of a bit, in hundredths of the mean squared error (`mapping`)."""
    mse: float
    psnr: float | None
    """None for an image without error, since JSON has no infinity."""
    iterations: int
    converged: bool
    kept: bool
    """Whether the input is kept, perhaps stripped, since a palette would not make the file smaller."""
    written: bool
    """Whether a file was written: False after a dry run, and without an output."""
    device: str
    seconds: float

    def line(self) -> str:
        """The report as one line of text."""
        frames = f"{self.frames} frames of " if self.frames > 1 else ""
        files = stream_name(self.input)
        if self.output is not None:
            files += f" -> {stream_name(self.output, 'standard output')}"
        not_written = "" if self.written or self.output is None else ", not written"
        result = self._kept() if self.kept else self._compressed()
        return (
            f"{files}: {frames}{self.width} x {self.height}, {result}, {self.device}, {self.seconds:.2f} s{not_written}"
        )

    def _kept(self) -> str:
        state = f"{format_size(self.bytes_in)}, kept as it is"
        if self.bytes_out != self.bytes_in:
            state = f"{format_sizes(self.bytes_in, self.bytes_out)}, kept without its metadata"
        with_palette = format_size(self.bytes_with_palette)
        return f"{format_count(self.colors_in, 'color')}, {state}, since a palette would make it {with_palette}"

    def _compressed(self) -> str:
        return (
            f"{self.colors_in:,} -> {format_count(self.colors_out, 'color')}, "
            f"{format_sizes(self.bytes_in, self.bytes_out)}, {format_quality(self.psnr, 'lossless')}, "
            f"{format_count(self.iterations, 'iteration')}"
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
    """The text of `describe_engine`."""
    stages: dict[str, float]
    """Seconds of each stage."""
    broken_animation: bool = False
    """Whether the default image was taken, since the frames of an APNG cannot be decoded."""
    lacks_kernels: bool = False
    """Whether the indices of many pixels were optimized without native kernels, which is slow."""
    left_out: tuple[str, ...] = ()
    """Phrases about the chunks of a PNG input that were left out."""
    tries: tuple[str, ...] = ()
    """Phrases about the tries for a target, in their order."""
