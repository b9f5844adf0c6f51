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
    written: bool
    """Whether the output is there: not after a dry run."""
    device: str
    seconds: float

    def line(self) -> str:
        """The report as a person wants it."""
        frames = f"{self.frames} frames of " if self.frames > 1 else ""
        sizes = format_sizes(self.bytes_in, self.bytes_out)
        if self.kept:
            sizes = f"{format_size(self.bytes_in)}, kept as it is: few colors would make it no smaller"
        quality = format_quality(self.psnr, "lossless")
        return (
            f"{self.input} -> {self.output}: {frames}{self.width} x {self.height}, "
            f"{self.colors_in:,} -> {counted(self.colors_out, 'color')}, {sizes}, "
            f"{quality}, {counted(self.iterations, 'iteration')}, {self.device}, {self.seconds:.2f} s"
            f"{'' if self.written else ', not written'}"
        )

    def as_json(self) -> dict[str, object]:
        """The report as keys and values that JSON knows."""
        return asdict(self)


def counted(number: int, noun: str) -> str:
    """So many of them: 1 color, 20 colors."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_sizes(before: int, after: int) -> str:
    """Two numbers of bytes, and the second by the first: 196.7 kB -> 66.2 kB (34%)."""
    larger = ", larger" if after > before else ""
    return f"{format_size(before)} -> {format_size(after)} ({after / before:.0%}{larger})"


def format_quality(psnr: float | None, without_loss: str) -> str:
    """A PSNR in dB, or that word where it is None."""
    return without_loss if psnr is None else f"PSNR {psnr:.2f} dB"


def format_size(n_bytes: int) -> str:
    """A number of bytes for people, in decimal units: 640 bytes, 12.3 kB, 4.5 MB."""
    if n_bytes < 1000:
        return f"{n_bytes} bytes"
    thousands = round(n_bytes / 1000, 1)  # before the unit is chosen: 999,999 bytes are 1.0 MB
    return f"{thousands:.1f} kB" if thousands < 1000 else f"{n_bytes / 1e6:.1f} MB"


def format_share(share: float) -> str:
    """A share of 0 to 1 for people: 31.2 %; what is there is never said to be nothing."""
    return f"{share:.1%}".replace("%", " %") if share >= 0.0005 else "< 0.1 %"
