"""Trials as one page of HTML, which needs nothing but a browser."""

import base64
import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import gpukmeans_cli.report.charts as charts
from gpukmeans_cli.compression.result import format_share, format_size
from gpukmeans_cli.formats.palette_files import hex_of
from gpukmeans_cli.report.color_pca import SIDE
from gpukmeans_cli.report.variants import Trial, Trials
from gpukmeans_cli.terminal.messages import one_line

_TEMPLATES = Path(__file__).parent / "templates"

# Colors of a palette that are listed at once; the rest unfolds.
_LISTED = 32

# More labels than that would lie on each other.
_MOST_LABELS = 12


def render_page(name: str, trials: Trials, options: Sequence[str] = ()) -> str:
    """The report on a photo of this name, as HTML; of equal trials the same text.

    `options` are arguments of `compress` beside the photo and -k that the trials were made with. The number of colors
    in the middle is chosen at first. The page asks for nothing on a network, and its policy forbids to: no script
    runs in it but its own, whatever a file is called.
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
    environment.filters |= {"size": format_size, "percent": format_share, "decibels": _decibels}
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sizes = charts.chart_sizes([len(trial.data) for trial in trials.trials], [trial.psnr for trial in trials.trials])
    return environment.get_template("report.html").render(
        name=name,
        photo=trials,
        original=_data_url(trials.original, trials.original_suffix),
        trials=[_shown(name, trial, trials, options) for trial in trials.trials],
        chosen=trials.trials[len(trials.trials) // 2].n_colors,
        listed=_LISTED,
        charts=charts,
        sizes=sizes,
        labelled=len(trials.trials) <= _MOST_LABELS,
        cloud=_cloud(trials),
        script=script,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
    )


def _shown(name: str, trial: Trial, photo: Trials, options: Sequence[str]) -> dict[str, Any]:
    """What the page says of one trial."""
    # A file of several frames, and a pipe, have no size that one picture could be compared with.
    comparable = photo.n_bytes > 0 and photo.frames_left_out == 0
    return {
        "n": trial.n_colors,
        "n_worn": len(trial.colors),
        "image": _data_url(trial.data, ".png"),
        "n_bytes": len(trial.data),
        "of_input": len(trial.data) / photo.n_bytes if comparable else None,
        "kept": trial.kept,
        "psnr": trial.psnr,
        "n_iter": trial.n_iter,
        "swatches": list(zip(map(hex_of, trial.colors.tolist()), trial.counts.tolist(), trial.shares, strict=True)),
        "inertia": charts.chart_inertia(trial.inertia) if trial.inertia else None,
        "fell": trial.inertia[-1] / trial.inertia[0] if trial.inertia and trial.inertia[0] > 0 else None,
        "command": shlex.join(["gpukmeans", "compress", _as_argument(name), "-k", str(trial.n_colors), *options]),
    }


def _as_argument(name: str) -> str:
    # Else it would be taken for an option; - alone is standard input.
    return f"./{name}" if name.startswith("-") and name != "-" else name


def _cloud(photo: Trials) -> dict[str, Any]:
    """The cloud as the script of the page reads it; labels are two hex digits for each point."""
    return {
        "side": SIDE,
        "points": _flat(photo.cloud.points),
        "times": photo.cloud.times.tolist(),
        "colors": [hex_of(color) for color in photo.cloud.colors.tolist()],
        "trials": {
            str(trial.n_colors): {
                "labels": trial.labels.astype(np.uint8).tobytes().hex(),
                "centers": _flat(trial.centers),
                "colors": [hex_of(color) for color in trial.center_colors.tolist()],
            }
            for trial in photo.trials
        },
    }


def _flat(places: np.ndarray) -> list[int]:
    return places.ravel().tolist()


def _data_url(data: bytes, suffix: str) -> str:
    return f"data:image/{suffix[1:]};base64,{base64.b64encode(data).decode('ascii')}"


def _decibels(psnr: float | None) -> str:
    return "lossless" if psnr is None else f"{psnr:.2f} dB"
