"""Comparison of the outputs shown in documents with the outputs of a run."""

import re
from pathlib import Path

import pytest
from PIL import features

ROOT = Path(__file__).parents[2]


def same_output(expected, received):
    """Whether outputs are equal apart from seconds, with sizes within 3 %. Sizes depend on the zlib of Pillow."""
    near = sizes(received) == pytest.approx(sizes(expected), rel=0.03)
    return near and _without_measurements(received) == _without_measurements(expected)


def sizes(text):
    """The sizes in kB in a text."""
    return [float(size) for size in re.findall(r"([\d.]+) kB", text)]


def _without_measurements(text):
    text = re.sub(r"[\d.]+ kB( \(\d+%\)|$)", "... kB", text, flags=re.MULTILINE)
    return re.sub(r"\d+\.\d+ s$", "... s", text, flags=re.MULTILINE)


def draws_letters_as_the_pictures_do():
    """Whether Pillow draws letters as in the pictures of the documents: it has the pinned version and raqm."""
    pinned = re.search(r"^pillow==(.*)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    return pinned is not None and features.version("pil") == pinned[1] and features.check("raqm")
