"""Writes the notebook and the pictures of docs/tutorial.md from the code in that page: python scripts/tutorial.py"""

import ast
import contextlib
import doctest
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gpukmeans import IndexedImage, quantize
from gpukmeans_cli.formats.still import MOST_EFFORT, encode_still

ROOT = Path(__file__).resolve().parents[1]
PAGE, NOTEBOOK, PICTURES = ROOT / "docs/tutorial.md", ROOT / "examples/tutorial.ipynb", ROOT / "docs/tutorial"

ROUNDS = (0, 1, 3, 10)
WHITE, GREY, PALE, INK, BLUE = (255, 255, 255), (150, 150, 150), (225, 225, 225), (40, 40, 40), (20, 90, 200)

# Pictures of points: margin around the square of 256 x 256 levels, and radius of a center, in pixels.
_MARGIN, _RADIUS = 10, 6

# Charts, in pixels: width and height, and left, top, right and bottom margin of the plotted area.
_CHART, _AROUND = (480, 240), (56, 16, 20, 40)


# --- The notebook ---


def notebook(page: str) -> str:
    """The page as a notebook in the format nbformat 4: JSON text, with the outputs that the page shows."""
    cells: list[dict[str, Any]] = []
    for index, part in enumerate(re.split(r"^```pycon\n(.*?)^```\n", page, flags=re.MULTILINE | re.DOTALL)):
        if index % 2:
            cells += [_code_cell(source, output) for source, output in _steps(part)]
        elif part.strip():
            cells.append({"cell_type": "markdown", "metadata": {}, "source": _lines(_links_from_examples(part))})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    content = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _steps(block: str) -> Iterator[tuple[str, str]]:
    """The source and the output of each cell of a block. A cell ends after an output, or at the end of the block."""
    source = ""
    for example in doctest.DocTestParser().get_examples(block):
        source += example.source
        if example.want:
            yield source, example.want
            source = ""
    if source:
        yield source, ""


def _code_cell(source: str, output: str) -> dict[str, Any]:
    outputs: list[dict[str, Any]] = []
    if output and is_value(source):
        data = {"text/plain": _lines(output)}
        outputs.append({"data": data, "execution_count": None, "metadata": {}, "output_type": "execute_result"})
    elif output:
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(output, strip=False)})
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": outputs, "source": _lines(source)}


def is_value(source: str) -> bool:
    """Whether the last statement of a cell is an expression, whose value is shown, and not a call of print."""
    last = ast.parse(source).body[-1]
    return isinstance(last, ast.Expr) and not ast.unparse(last).startswith("print(")


def _links_from_examples(text: str) -> str:
    """Markdown with links that are relative to docs/ changed to links relative to examples/."""
    text = re.sub(r"\]\((?![\w+]+://|#)([^)]+)\)", r"](../docs/\1)", text)
    return text.replace("](../docs/../", "](../")


def _lines(text: str, *, strip: bool = True) -> list[str]:
    """The lines of a text as a notebook stores them, without blank lines at the ends."""
    return (text.strip("\n") if strip else text).splitlines(keepends=True)


# --- The pictures ---


def run(page: str) -> dict[str, Any]:
    """Run the code blocks of the page in a temporary folder and discard their output. Returns their variables."""
    blocks = re.findall(r"^```pycon\n(.*?)^```\n", page, flags=re.MULTILINE | re.DOTALL)
    variables: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for block in blocks:
            for source, _ in _steps(block):
                exec(compile(source, "<tutorial>", "exec"), variables)
    return variables


def pictures(variables: dict[str, Any]) -> dict[str, IndexedImage]:
    """The pictures of the page by name, drawn from the variables that `run` returns."""
    image, x, history, nearest = (variables[name] for name in ("image", "x", "history", "nearest"))
    found = {"photo": quantize(image, 256, dither="optimized", lossy=15)}
    found["points"] = quantize(_points(x, x), 64)
    for n in ROUNDS:
        centers = history[n]
        labels = nearest(x, centers)
        found[f"points-{n}"] = quantize(_points(x, centers[labels], centers), 64)
        found[f"rounds-{n}"] = quantize(centers.round().byte()[labels].reshape(image.shape), 256)
    found["rebuilt"] = quantize(variables["rebuilt"], 256)
    for k, pixels in variables["by_k"].items():
        found[f"colors-{k}"] = quantize(pixels, 256)
    for name, few in variables["dithered"].items():
        found[f"dithered-{name}"] = quantize(_enlarged(few.pixels()), 256)
    found["lossy"] = quantize(_enlarged(variables["by_lossy"][15].pixels()), 256)
    found["chart-rounds"] = _as_indexed(_chart_of_rounds(variables["errors"]))
    found["chart-starts"] = _as_indexed(_chart_of_starts(variables["starts"]))
    found["chart-rates"] = _as_indexed(_chart_of_rates(variables["rates"]))
    return found


def _points(x: Tensor, colors: Tensor, centers: Tensor | None = None) -> Tensor:
    """A picture of points (N, 3) as dots and of centers as disks. Red increases to the right and blue upwards."""
    side = 256 + 2 * _MARGIN
    panel = np.full((side, side, 3), 255, np.uint8)
    levels = x.byte().numpy().astype(int)
    panel[_MARGIN + 255 - levels[:, 2], _MARGIN + levels[:, 0]] = colors.round().byte().numpy()
    picture = Image.fromarray(panel)
    draw = ImageDraw.Draw(picture)
    for red, green, blue in [] if centers is None else centers.round().int().tolist():
        column, row = _MARGIN + red, _MARGIN + 255 - blue
        box = (column - _RADIUS, row - _RADIUS, column + _RADIUS, row + _RADIUS)
        draw.ellipse(box, fill=(red, green, blue), outline=WHITE)
        draw.ellipse((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1), outline=(0, 0, 0))
    return torch.from_numpy(np.array(picture))


def _enlarged(pixels: Tensor) -> Tensor:
    """The part of the picture with sky, roof and trees, at twice its size."""
    return pixels[10:110, 60:190].repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)


def _as_indexed(picture: Image.Image) -> IndexedImage:
    return quantize(torch.from_numpy(np.array(picture)), 16)


class _Chart:
    """A chart with linear axes, drawn with Pillow."""

    def __init__(self, across: Sequence[float], up: Sequence[float], names: tuple[str, str]):
        """`across` and `up` are the labelled values of the axes; the first and the last are their ends."""
        self.picture = Image.new("RGB", _CHART, WHITE)
        self.draw = ImageDraw.Draw(self.picture)
        self.font = ImageFont.load_default(size=12)
        self.ends = across[0], across[-1], up[0], up[-1]
        for value in across:
            column, _ = self.place(value, up[0])
            self.draw.line([self.place(value, up[0]), self.place(value, up[-1])], fill=PALE)
            self.write((column, _CHART[1] - _AROUND[3] + 5), f"{value:g}", "ma")
        for value in up:
            column, row = self.place(across[0], value)
            self.draw.line([(column, row), self.place(across[-1], value)], fill=PALE)
            self.write((column - 6, row), f"{value:g}", "rm")
        self.write((_CHART[0] - _AROUND[2], _CHART[1] - 4), names[0], "rd")
        self.write((_CHART[0] / 2, 1), names[1], "ma")

    def place(self, across: float, up: float) -> tuple[int, int]:
        """Column and row of a value."""
        left, right, low, high = self.ends
        width, height = _CHART[0] - _AROUND[0] - _AROUND[2], _CHART[1] - _AROUND[1] - _AROUND[3]
        column = _AROUND[0] + round((across - left) / (right - left) * width)
        return column, _AROUND[1] + round((high - up) / (high - low) * height)

    def write(self, place: tuple[float, float], text: str, anchor: str, color: tuple[int, int, int] = INK) -> None:
        self.draw.text(place, text, fill=color, font=self.font, anchor=anchor)

    def dot(self, across: float, up: float, color: tuple[int, int, int] = BLUE) -> tuple[int, int]:
        column, row = self.place(across, up)
        self.draw.ellipse((column - 4, row - 4, column + 4, row + 4), fill=color, outline=WHITE)
        return column, row


def _chart_of_rounds(errors: list[float]) -> Image.Image:
    chart = _Chart(range(0, 121, 20), range(300, 701, 100), ("rounds", "error"))
    chart.draw.line([chart.place(n, error) for n, error in enumerate(errors)], fill=BLUE, width=2)
    for n in (*ROUNDS, len(errors) - 1):
        column, row = chart.dot(n, errors[n])
        chart.write((column + 7, row - 4), str(n), "ld", BLUE)
    return chart.picture


def _chart_of_starts(starts: dict[str, list[float]]) -> Image.Image:
    chart = _Chart(range(290, 361, 10), (0, 3), ("error", ""))
    chart.draw.rectangle(
        (0, 0, _AROUND[0] - 1, _CHART[1] - _AROUND[3] + 4), fill=WHITE
    )  # hides the labels of the vertical axis
    for up, (name, errors) in zip((2, 1), starts.items(), strict=True):
        column, row = chart.place(290, up)
        chart.write((column + 4, row - 22), name, "ld")
        chart.draw.line([(column, row), chart.place(360, up)], fill=GREY)
        for error in errors:
            chart.dot(error, up)
    return chart.picture


def _chart_of_rates(rates: dict[str, tuple[float, float]]) -> Image.Image:
    chart = _Chart(range(10, 23, 2), range(100, 181, 20), ("kB", "visible error"))
    curve = [rate for name, rate in rates.items() if name.startswith("lossy")]
    chart.draw.line([chart.place(*rate) for rate in curve], fill=BLUE, width=2)
    for name, rate in rates.items():
        column, row = chart.dot(*rate, BLUE if name.startswith("lossy") else INK)
        if name.startswith("lossy"):
            chart.write((column + 6, row - 3), name, "ld", BLUE)
        else:
            chart.write((column, row - 6), name, "md")
    return chart.picture


def main() -> None:
    """Write the notebook and all pictures, and remove pictures that are no longer drawn."""
    page = PAGE.read_text(encoding="utf-8")
    NOTEBOOK.write_text(notebook(page), encoding="utf-8")
    drawn = pictures(run(page))
    for path in PICTURES.glob("*.png"):
        if path.stem not in drawn:
            path.unlink()
    for name, (palette, indices) in drawn.items():
        data = encode_still(palette.numpy(), indices.numpy(), ".png", effort=MOST_EFFORT)
        (PICTURES / f"{name}.png").write_bytes(data)


if __name__ == "__main__":
    main()
