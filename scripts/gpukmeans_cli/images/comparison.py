"""Two image files compared: error, similarity, sizes, and a sheet with both images and their difference."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gpukmeans_cli.formats.color import to_srgb
from gpukmeans_cli.formats.reading import DecodedImage, read_image
from gpukmeans_cli.formats.still import write_png
from gpukmeans_cli.images.comparison_sheet import amplified_difference, draw_comparison
from gpukmeans_cli.images.quality import compare_pixels
from gpukmeans_cli.images.ssimulacra2 import measure_ssimulacra2
from gpukmeans_cli.system.atomic_files import ImageError, stream_name
from gpukmeans_cli.system.device import within_memory
from gpukmeans_cli.terminal.formatting import format_quality, format_size, format_sizes
from gpukmeans_cli.terminal.messages import one_line, warn_ignored_frames


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The similarity of two images. Its fields are the keys of the JSON report. Sizes are in bytes, `psnr` in dB."""

    a: str
    b: str
    width: int
    height: int
    mse: float
    psnr: float | None
    """None for equal images, since JSON has no infinity."""
    ssim: float
    ssimulacra2: float | None
    """None without the optional package, and for images of fewer than 8 rows or columns."""
    bytes_a: int
    bytes_b: int
    output: str | None
    """The path of the comparison sheet, if it was drawn."""

    def quality(self) -> list[str]:
        """PSNR, SSIM and, where it was measured, SSIMULACRA2."""
        ssimulacra2 = [] if self.ssimulacra2 is None else [f"SSIMULACRA2 {self.ssimulacra2:.2f}"]
        return [format_quality(self.psnr, "identical"), f"SSIM {self.ssim:.4f}", *ssimulacra2]

    def line(self) -> str:
        """The report as one line of text."""
        names = f"{stream_name(self.a)}, {stream_name(self.b)}"
        return f"{names}: {', '.join(self.quality())}, {format_sizes(self.bytes_a, self.bytes_b)}"


def compare_files(a: Path, b: Path, sheet: Path | None, *, force: bool, max_pixels: int | None) -> Comparison:
    """The comparison of two image files. The comparison sheet is written to the path `sheet`, if it is given.

    ImageError, a sentence with the path, if a file cannot be read or written, the sizes differ or memory runs out.
    """
    with within_memory(torch.device("cpu")):
        before, after = _read(a, max_pixels), _read(b, max_pixels)
        (height, width), other = before.pixels.shape[:2], after.pixels.shape[:2]
        if other != (height, width):
            raise ImageError(
                f"{stream_name(a)} is {width} x {height} and {stream_name(b)} {other[1]} x {other[0]}, but "
                "only images of one size can be compared; resize one of them"
            )
        mse, psnr, ssim = compare_pixels(torch.from_numpy(before.pixels), torch.from_numpy(after.pixels))
        comparison = Comparison(
            a=str(a),
            b=str(b),
            width=width,
            height=height,
            mse=mse,
            psnr=psnr,
            ssim=ssim,
            ssimulacra2=measure_ssimulacra2(before.pixels, after.pixels),
            bytes_a=before.n_bytes,
            bytes_b=after.n_bytes,
            output=None if sheet is None else str(sheet),
        )
        if sheet is not None:
            captions = _caption(a, format_size(before.n_bytes)), _caption(b, format_size(after.n_bytes))
            difference, factor = amplified_difference(before.pixels, after.pixels)
            notes = [f"Absolute difference x {factor}", *comparison.quality()]
            drawn = draw_comparison(before.pixels, after.pixels, captions=captions, difference=difference, notes=notes)
            write_png(sheet, drawn, overwrite=force)
    return comparison


def _read(path: Path, max_pixels: int | None) -> DecodedImage:
    """The image, with its pixels in sRGB. ImageError, a sentence with the path, if it cannot be read."""
    try:
        picture = read_image(path, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(f"{stream_name(path)}: {error}") from error
    warn_ignored_frames(stream_name(path), picture.frames)
    return replace(picture, pixels=to_srgb(picture.pixels, picture.metadata))


def _caption(path: Path, text: str) -> str:
    # Without FreeType, Pillow's font has only the characters of Latin-1.
    return f"{one_line(path.name, 'latin-1')}: {text}"
