"""What became of one file, for people and for programs."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of one file. The fields are the keys of the JSON report; sizes are in bytes, `psnr` in dB."""

    input: str
    output: str
    width: int
    height: int
    frames: int
    """Those written: 1, or all of an animation."""
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
    kept: bool
    """Whether the output is the input as it was, since the picture of few colors would be no smaller."""
    device: str
    seconds: float

    def line(self) -> str:
        """The report as a person wants it."""
        frames = f"{self.frames} frames of " if self.frames > 1 else ""
        sizes = f"{format_size(self.bytes_in)} -> {format_size(self.bytes_out)}"
        sizes += f" ({self.bytes_out / self.bytes_in:.0%}{', larger' if self.bytes_out > self.bytes_in else ''})"
        if self.kept:
            sizes = f"{format_size(self.bytes_in)}, kept as it is: few colors would make it no smaller"
        quality = "lossless" if self.psnr is None else f"PSNR {self.psnr:.2f} dB"
        return (
            f"{self.input} -> {self.output}: {frames}{self.width} x {self.height}, "
            f"{self.colors_in:,} -> {self.colors_out} colors, {sizes}, "
            f"{quality}, {self.iterations} iterations, {self.device}, {self.seconds:.2f} s"
        )

    def as_json(self) -> dict[str, object]:
        """The report as keys and values that JSON knows."""
        return asdict(self)


def format_size(n_bytes: int) -> str:
    """A number of bytes for people, in decimal units: 640 bytes, 12.3 kB, 4.5 MB."""
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    thousands = round(n_bytes / 1000, 1)  # before the unit is chosen: 999,999 bytes are 1.0 MB
    return f"{thousands:.1f} kB" if thousands < 1000 else f"{n_bytes / 1e6:.1f} MB"
