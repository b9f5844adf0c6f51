"""What a type checker finds in code that uses the package."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Lines that end with "# error" must have an error, and no others.
CODE = """
from typing import Any, assert_type

import numpy as np
import torch
from torch import Tensor

from gpukmeans import (
    Batches, InitName, KMeansResult, MetricName, QuantizeColors, assign, compare_n_clusters, kmeans, quantize
)

x = torch.rand(9, 2)
assert_type(kmeans(x, 2).labels, Tensor)
assert_type(kmeans([x, x], 2, max_iter=3).labels, None)
assert_type(kmeans(Batches(x, 3), 2).labels, None)
assert_type(kmeans(x.numpy(), 2).labels, Tensor | None)  # None for a memory map


def pick(name: InitName, metric: MetricName, options: dict[str, Any]) -> KMeansResult[Tensor]:
    kmeans(x, 2, init=name, metric=metric, engine="plain")
    return kmeans(x, 2, **options)


def use(result: KMeansResult) -> Tensor:
    return result.centers[result.labels]


use(kmeans(x, 2, init=kmeans(x, 2).centers))
use(kmeans(x, np.int64(2), weights=np.ones(9), init=lambda points, k, generator: x[:k]))
compare_n_clusters(x, range(2, 4), metric="cosine").result.labels
kmeans([x, x], 2).labels.sum()  # error
kmeans(x, 2, init="k-mean++")  # error
kmeans(x, 2, n_int=3)  # error
kmeans(x, 2, metric="cosinus")  # error
assign(x, x, engine="tritn")  # error
image = torch.zeros(2, 2, 3, dtype=torch.uint8)
quantize(image, 2, space="oklab", dither="bayer")
quantize(image, 2, dither=lambda image, palette, nearest, strength: nearest)
quantize(image, 2, space="lab")  # error
quantize(image, 2, dither="floyd")  # error
QuantizeColors(2, dither="bayr")  # error
"""


def test_a_type_checker_knows_labels_and_names(tmp_path):
    file = tmp_path / "code.py"
    file.write_text(CODE, encoding="utf-8")
    command = [Path(sys.executable).with_name("basedpyright"), "--outputjson", file]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout)
    errors = {each["range"]["start"]["line"]: each["message"] for each in found["generalDiagnostics"]}
    expected = {number for number, line in enumerate(CODE.splitlines()) if line.endswith("# error")}
    assert errors.keys() == expected, errors
