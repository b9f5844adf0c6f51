"""The report of one photo as an HTML file."""

from collections.abc import Sequence
from pathlib import Path

from gpukmeans_cli.compression.mapping import default_lossy
from gpukmeans_cli.compression.settings import Settings
from gpukmeans_cli.report.page import render_page
from gpukmeans_cli.report.variants import build_report_data
from gpukmeans_cli.system.atomic_files import check_folder, check_free, stream_name, write_atomically
from gpukmeans_cli.terminal.formatting import format_count, format_size
from gpukmeans_cli.terminal.messages import warn_ignored_frames


def write_report(photo: Path, output: Path, counts: Sequence[int], settings: Settings) -> str:
    """Write the report on a photo in each of these numbers of colors to `output`. Returns one line of text about it.

    ImageError if the photo cannot be read, the page cannot be written or memory runs out.
    """
    check_free(output, overwrite=settings.force)
    check_folder(output)
    variants = build_report_data(photo, counts, settings)
    warn_ignored_frames(photo, variants.dropped_frames + 1)
    data = render_page(photo.name, variants, compress_options(settings)).encode()
    write_atomically(output, data, overwrite=settings.force)
    first = f"{counts[0]} to " if len(counts) > 1 else ""
    palettes = f"{format_count(len(counts), 'palette')} of {first}{format_count(counts[-1], 'color')}"
    return f"{stream_name(photo)} -> {output}: {palettes}, {format_size(len(data))}"


def compress_options(settings: Settings) -> list[str]:
    """The options of `gpukmeans compress` with these settings, without its defaults."""
    options: list[str] = []
    if settings.space != "srgb":
        options += ["--space", settings.space]
    if settings.dither is not None:
        options += ["--dither", settings.dither]
    if settings.dither_strength != 1:
        options += ["--dither-strength", f"{settings.dither_strength:g}"]
    if settings.lossy not in (None, default_lossy(settings.dither or "optimized")):
        options += ["--lossy", f"{settings.lossy:g}"]
    return [*options, "--seed", str(settings.seed)] if settings.seed else options
