"""README and docs are true: their code runs, their commands print what they show, their links and names exist."""

import ast
import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from helpers.outputs import draws_letters_as_the_pictures_do, same_output, sizes
from PIL import Image
from safetensors import safe_open

from gpukmeans_cli.images.comparison_sheet import GUTTER, MARGIN, draw_comparison

ROOT = Path(__file__).parents[1]
PATHS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
README = DOCS["README.md"]
CPU = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # the documents show the CPU


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def docs_with(language):
    return [name for name, text in DOCS.items() if blocks(text, language)]


def read_pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class OutputChecker(doctest.OutputChecker):
    """Sizes of files may differ a little."""

    def check_output(self, want, got, optionflags):
        return super().check_output(want, got, optionflags) or same_output(want, got)


@pytest.mark.parametrize("name", DOCS)
def test_every_block_of_code_is_of_a_kind_that_is_tested(name):
    assert set(re.findall(r"^```(\w*)$", DOCS[name], flags=re.MULTILINE)) <= {
        "",
        "console",
        "pycon",
        "sh",
        "text",
        "python",
    }
    assert blocks(DOCS[name], "python") == [] or name == "README.md"


@pytest.mark.parametrize("name", docs_with("pycon"))
def test_python_prints_what_the_documents_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a codebook is saved
    test = doctest.DocTestParser().get_doctest("\n".join(blocks(DOCS[name], "pycon")), {}, name, name, 0)
    result = doctest.DocTestRunner(OutputChecker(), verbose=False).run(test)
    assert result.attempted >= 7
    assert result.failed == 0


@pytest.mark.parametrize("name", docs_with("console"))
def test_commands_print_what_the_documents_show(name, tmp_path):
    shutil.copy(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg", tmp_path / "photo.jpg")
    rows = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    for index, part in enumerate(rows.split(2500)):
        np.save(tmp_path / f"rows-{index}.npy", part.numpy())
    text = "".join(blocks(DOCS[name], "console"))
    sessions = re.findall(r"^\$ gpukmeans (.*)\n((?:[^$].*\n)*)", text, flags=re.MULTILINE)
    assert len(sessions) == text.count("$ ")
    for arguments, expected in sessions:
        command = [sys.executable, "-m", "gpukmeans_cli.main", *shlex.split(arguments)]
        run = subprocess.run(command, cwd=tmp_path, env=CPU, capture_output=True, text=True, check=False)
        assert same_output(expected, run.stdout + run.stderr), run.stdout + run.stderr


def test_several_ranks_do_what_the_documents_say(tmp_path):
    random = np.random.default_rng(0)
    for folder in ("embeddings", "photos"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        np.save(tmp_path / "embeddings" / f"{number}.npy", random.standard_normal((200, 8), np.float32))
        pixels = random.integers(256, size=(9, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    commands = re.findall(r"^torchrun (.*)$", "\n".join(DOCS.values()), flags=re.MULTILINE)
    assert len(commands) == 2
    for arguments in commands:
        words = [str(ROOT / word) if word.startswith("scripts/") else word for word in shlex.split(arguments)]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words]
        env = {**CPU, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    labels = [np.load(tmp_path / "labels" / f"{number}-labels.npy") for number in range(3)]
    with safe_open(tmp_path / "centers.safetensors", framework="pt") as centers:
        cluster_weights = centers.get_tensor("cluster_weights")
    assert np.array_equal(np.bincount(np.concatenate(labels), minlength=64), cluster_weights)
    pictures = [read_pixels(path) for path in (tmp_path / "small").iterdir()]
    assert len(pictures) == 3
    assert len(np.unique(np.concatenate(pictures).reshape(-1, 3), axis=0)) <= 16


def test_the_readme_shows_the_code_of_the_textbook():
    """All of it but docstrings and comments."""
    (shown,) = blocks(README, "python")
    textbook = ast.parse((ROOT / "gpukmeans" / "textbook.py").read_text(encoding="utf-8"))
    for node in [textbook, *textbook.body]:
        if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node):
            del node.body[0]
    assert ast.unparse(ast.parse(shown)) == ast.unparse(textbook)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The line that `gpukmeans demo` prints of its image, and the folder of its files."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "gpukmeans_cli.main", "demo", "-d", str(folder)]
    return subprocess.run(command, env=CPU, capture_output=True, text=True, check=True).stdout.splitlines()[0], folder


def captions_in(sheet):
    """The rows of a sheet of the sample image between its pictures and its swatches."""
    column = (sheet.shape[1] - 2 * MARGIN - GUTTER) // 2
    return slice(MARGIN + round(column * 864 / 1280), sheet.shape[0] - MARGIN - 64)


def test_the_image_of_the_readme_is_the_comparison_that_the_demo_draws(demo):
    _, folder = demo
    drawn = read_pixels(folder / "sample-20-comparison.png")
    shown = read_pixels(ROOT / "docs" / "comparison.png")
    assert drawn.shape == shown.shape
    different = (drawn != shown).any(axis=(1, 2))
    different[captions_in(drawn)] = False  # sizes depend on zlib, and letters on FreeType: see below
    assert not different.any()


def test_the_captions_of_the_image_are_those_of_the_readme_and_of_the_demo(demo):
    line, _ = demo
    alt = re.search(r"!\[.* with ([\d,]+) colors \((.* kB)\) and with (\d+) colors \((.* kB)\)", README)
    assert alt is not None
    captions = f"sample.png: {alt[1]} colors, {alt[2]}", f"sample-20.png: {alt[3]} colors, {alt[4]}"
    assert f" {alt[1]} -> {alt[3]} colors, " in line
    assert sizes(" ".join(captions)) == pytest.approx(sizes(line), rel=0.03)
    if not draws_letters_as_the_pictures_do():
        pytest.skip("letters depend on the versions of Pillow, FreeType and Raqm")
    shown = read_pixels(ROOT / "docs" / "comparison.png")
    black = np.zeros((864, 1280, 1), np.uint8)
    drawn = np.asarray(draw_comparison(black, black, black[:1, 0], np.ones(1), captions=captions))
    assert np.array_equal(drawn[captions_in(drawn)], shown[captions_in(shown)])


def test_the_readme_is_short():
    assert len(README.split()) <= 1300


def test_the_figures_of_the_readme_are_those_of_the_benchmarks():
    (table,) = re.findall(r"^\| \| gpukmeans \| others \|\n.*\n((?:\|.*\n)+)", README, flags=re.MULTILINE)
    rows = table.splitlines()
    assert len(rows) == 5
    for row in rows:
        for figure in re.findall(r"[\d,.]+\d(?: kB| ms| s)?", row.split("|", 2)[2]):
            assert figure in DOCS["docs/benchmarks.md"], figure


def anchors(text):
    heads = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", DOCS)
def test_every_relative_link_of_a_page_has_a_file_and_an_anchor(name):
    for link in re.findall(r'(?:\]\(|href=")([^)"]+)[)"]', DOCS[name]):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (ROOT / name).parent / path if path else ROOT / name
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_every_image_and_page_is_shown_and_small():
    shown = {Path(link).name for text in DOCS.values() for link in re.findall(r"\]\(([^)#]*)\)", text)}
    for path in (path for path in (ROOT / "docs").rglob("*") if path.is_file()):
        assert path.name in shown or path.suffix == ".md"
        assert path.stat().st_size < {".png": 300_000, ".html": 1_000_000, ".md": 100_000}[path.suffix]


@pytest.mark.parametrize("name", DOCS)
def test_files_and_folders_that_are_named_exist(name):
    for path in re.findall(r"`((?:gpukmeans|scripts|tests|docs)/[\w./]*)`", DOCS[name]):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", DOCS)
def test_make_targets_and_benchmarks_that_are_named_exist(name):
    makefile, bench = ((ROOT / path).read_text(encoding="utf-8") for path in ("Makefile", "scripts/bench.py"))
    for target in re.findall(r"(?:^|`)make (\w+)", DOCS[name], flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for command in re.findall(r"bench\.py ([a-z]+)", DOCS[name]):
        assert f"\ndef {command}(" in bench, command


def test_only_pyproject_names_the_version_of_python():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert re.fullmatch(r">=3\.\d+", required)
    assert not re.search(r"Python 3\.\d+ (or|and) (newer|later)", "\n".join(DOCS.values()))
