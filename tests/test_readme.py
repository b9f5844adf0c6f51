"""The README does what it says: its Python runs, its commands print what stands there, its make targets exist."""

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def without_seconds(text):
    """Nor the bytes of files, which depend on the zlib of Pillow."""
    text = re.sub(r"[\d.]+ kB( \(\d+%\)|$)", "... kB", text, flags=re.MULTILINE)
    return re.sub(r"\d+\.\d+ s$", "... s", text, flags=re.MULTILINE)


def test_every_block_of_code_is_of_a_kind_that_is_tested():
    assert set(re.findall(r"^```(\w+)$", README, flags=re.MULTILINE)) == {"console", "pycon", "sh"}


def test_python_prints_what_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it saves a codebook
    session = "\n".join(blocks("pycon"))
    test = doctest.DocTestParser().get_doctest(session, {}, "README.md", "README.md", 0)
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.attempted >= 10
    assert result.failed == 0


def test_commands_print_what_the_readme_shows(tmp_path):
    shutil.copy(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg", tmp_path / "photo.jpg")
    rows = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    for index, part in enumerate(rows.split(2500)):
        np.save(tmp_path / f"rows-{index}.npy", part.numpy())
    sessions = re.findall(r"^\$ gpukmeans (.*)\n((?:[^$].*\n)*)", "".join(blocks("console")), flags=re.MULTILINE)
    assert len(sessions) == 4
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # the README shows the CPU
    for arguments, expected in sessions:
        command = [sys.executable, "-m", "gpukmeans_cli.main", *shlex.split(arguments)]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert without_seconds(run.stdout + run.stderr) == without_seconds(expected)


def test_several_ranks_do_what_the_readme_says(tmp_path):
    random = np.random.default_rng(0)
    for folder in ("embeddings", "photos"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        np.save(tmp_path / "embeddings" / f"{number}.npy", random.standard_normal((200, 8), np.float32))
        pixels = random.integers(256, size=(9, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    commands = re.findall(r"^torchrun (.*)$", "".join(blocks("sh")), flags=re.MULTILINE)
    assert len(commands) == 2
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    for arguments in commands:
        words = [str(ROOT / word) if word.startswith("scripts/") else word for word in shlex.split(arguments)]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    labels = [np.load(tmp_path / "labels" / f"{number}-labels.npy") for number in range(3)]
    with safe_open(tmp_path / "centers.safetensors", framework="pt") as centers:
        totals = centers.get_tensor("totals")
    assert np.array_equal(np.bincount(np.concatenate(labels), minlength=64), totals)
    pictures = [Image.open(path).convert("RGB") for path in (tmp_path / "small").iterdir()]
    assert len(pictures) == 3
    assert len({color for picture in pictures for _, color in picture.getcolors()}) <= 16


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", "".join(blocks("sh")), flags=re.MULTILINE))
def test_make_has_the_targets_the_readme_names(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("picture", re.findall(r"!\[.*\]\((.*)\)", README))
def test_a_picture_is_there_and_small(picture):
    assert (ROOT / picture).stat().st_size < 300_000


def test_the_report_is_there_and_small():
    assert "](docs/report.html)" in README
    assert (ROOT / "docs" / "report.html").stat().st_size < 1_000_000
