"""The report as one page of HTML, which needs no other files."""

import base64
import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import gpukmeans_cli.report.charts as charts
from gpukmeans_cli.formats.palette_files import hex_of
from gpukmeans_cli.report.color_pca import MAX_COORDINATE
from gpukmeans_cli.report.variants import PLAIN, Encoding, ReportData, Variant
from gpukmeans_cli.terminal.formatting import format_percent, format_size
from gpukmeans_cli.terminal.messages import one_line

_TEMPLATES = Path(__file__).parent / "templates"

# Numbers of palette colors that are listed at first, in a wide window and on a phone.
_MAX_LISTED, _MAX_LISTED_ON_PHONE = 32, 12

_ZOOMS = (1, 2, 4, 8)

# Number of variants above which the points of the chart have no labels, since they would overlap.
_MAX_LABELS = 12


def render_page(name: str, data: ReportData, options: Sequence[str] = ()) -> str:
    """The HTML report on a photo of this name, the same text for the same data.

    `options` are the arguments of `compress`, besides the photo and -k, that write these variants. The middle variant
    is selected at first. The page makes no network requests. Its content security policy allows no requests, and no
    script other than its own, even if the name of the file contains markup.
    """
    name = one_line(name)
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"size": format_size, "percent": format_percent, "number": _number, "decibels": _decibels}
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    variants = data.variants
    encodings = [*variants, *(variant.plain for variant in variants if variant.plain is not None)]
    return environment.get_template("report.html").render(
        name=name,
        photo=data,
        original=_data_url(data.original, data.original_suffix),
        variants=[_variant_context(name, variant, data, options) for variant in variants],
        selected=variants[len(variants) // 2].n_colors,
        has_plain=any(variant.plain is not None for variant in variants),
        plain_mode=PLAIN,
        zooms=_ZOOMS,
        max_listed=_MAX_LISTED,
        max_listed_on_phone=_MAX_LISTED_ON_PHONE,
        charts=charts,
        sizes=charts.chart_sizes(
            [len(encoding.data) for encoding in encodings],
            [encoding.quality for encoding in encodings],
            data.n_bytes if _is_comparable(data) else None,
        ),
        has_labels=len(variants) <= _MAX_LABELS,
        cloud=_cloud_data(data),
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
    )


def _variant_context(name: str, variant: Variant, data: ReportData, options: Sequence[str]) -> dict[str, Any]:
    """The template variables of one variant."""
    inertia = variant.inertia
    if variant.kept:
        options = [*options, "--allow-larger"]
    return {
        **_encoding_context(variant, data),
        "n": variant.n_colors,
        "n_used": len(variant.colors),
        "mode": variant.mode,
        "plain": None if variant.plain is None else _encoding_context(variant.plain, data),
        "n_iter": variant.n_iter,
        "swatches": list(
            zip(map(hex_of, variant.colors.tolist()), variant.counts.tolist(), variant.fractions, strict=True)
        ),
        "inertia": charts.chart_inertia(inertia) if inertia else None,
        "inertia_ratio": inertia[-1] / inertia[0] if inertia and inertia[0] > 0 else None,
        "command": shlex.join(["gpukmeans", "compress", _as_argument(name), "-k", str(variant.n_colors), *options]),
    }


def _encoding_context(encoding: Encoding, data: ReportData) -> dict[str, Any]:
    return {
        "image": _data_url(encoding.data, ".png"),
        "n_bytes": len(encoding.data),
        "size_ratio": len(encoding.data) / data.n_bytes if _is_comparable(data) else None,
        "kept": encoding.kept,
        "psnr": encoding.psnr,
        "quality": encoding.quality,
    }


def _is_comparable(data: ReportData) -> bool:
    # A pipe has no known size, and a file of several frames is larger than one image.
    return data.n_bytes > 0 and data.dropped_frames == 0


def _as_argument(name: str) -> str:
    # Without ./ the name would be read as an option. The name - is standard input.
    return f"./{name}" if name.startswith("-") and name != "-" else name


def _cloud_data(data: ReportData) -> dict[str, Any]:
    """The cloud of colors as JSON for the script of the page. A label is two hex digits per point."""
    return {
        "max": MAX_COORDINATE,
        "points": _flatten(data.cloud.points),
        "counts": data.cloud.draw_counts.tolist(),
        "colors": [hex_of(color) for color in data.cloud.colors.tolist()],
        "variants": {
            str(variant.n_colors): {
                "labels": variant.labels.astype(np.uint8).tobytes().hex(),
                "centers": _flatten(variant.centers),
                "colors": [hex_of(color) for color in variant.center_colors.tolist()],
            }
            for variant in data.variants
        },
    }


def _flatten(coordinates: np.ndarray) -> list[int]:
    return coordinates.ravel().tolist()


def _data_url(data: bytes, suffix: str) -> str:
    return f"data:image/{suffix[1:]};base64,{base64.b64encode(data).decode('ascii')}"


def _number(psnr: float | None) -> str:
    return "lossless" if psnr is None else f"{psnr:.2f}"


def _decibels(psnr: float | None) -> str:
    return _number(psnr) if psnr is None else f"{psnr:.2f} dB"
