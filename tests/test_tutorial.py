"""The tutorial: its code makes its notebook and its pictures, and its functions are those of the textbook."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.outputs import draws_letters_as_the_pictures_do, same_output
from PIL import Image

import tutorial

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
NOTEBOOK = (ROOT / "examples" / "tutorial.ipynb").read_text(encoding="utf-8")
CELLS = json.loads(NOTEBOOK)["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def shown(cell):
    """The text that the stored outputs of a cell show."""
    return "".join("".join(output.get("text", []) or output["data"]["text/plain"]) for output in cell["outputs"])


def output_of(source, variables):
    """What a notebook shows for a cell: the lines printed, and the value of a last expression."""
    body = ast.parse(source).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), "cell", "exec"), variables)
        value = None if last is None else eval(compile(last, "cell", "eval"), variables)
    return printed.getvalue() + ("" if value is None else repr(value))


@pytest.fixture(scope="module")
def outputs_and_variables(tmp_path_factory):
    """The outputs of all cells of the notebook, run in their order, and the variables after them."""
    variables = {}
    with contextlib.chdir(tmp_path_factory.mktemp("tutorial")):
        outputs = [output_of("".join(cell["source"]), variables) for cell in CODE]
    return outputs, variables


@pytest.fixture(scope="module")
def drawn(outputs_and_variables):
    """The pictures that `make tutorial` would write."""
    return tutorial.pictures(outputs_and_variables[1])


def test_the_notebook_is_what_make_tutorial_writes():
    assert tutorial.notebook(PAGE) == NOTEBOOK


def test_every_cell_of_the_notebook_shows_the_output_of_its_code(outputs_and_variables):
    outputs, _ = outputs_and_variables
    assert len(outputs) > 20
    for cell, output in zip(CODE, outputs, strict=True):
        assert same_output(shown(cell), output), "".join(cell["source"])


def test_links_of_the_notebook_lead_somewhere():
    text = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert len(links) > 20
    for link in links:
        assert (ROOT / "examples" / link).exists(), link


def test_the_page_shows_the_functions_of_the_textbook():
    page = ast.parse("\n".join("".join(cell["source"]) for cell in CODE))
    functions = {node.name: node for node in page.body if isinstance(node, ast.FunctionDef)}
    textbook = ast.parse((ROOT / "gpukmeans" / "textbook.py").read_text(encoding="utf-8"))
    for node in textbook.body:
        if isinstance(node, ast.FunctionDef):
            del node.body[0]  # its docstring
            assert ast.unparse(functions[node.name]) == ast.unparse(node)


def test_the_pictures_are_those_that_the_page_shows(drawn):
    files = {path.stem for path in (ROOT / "docs" / "tutorial").iterdir()}
    assert files == set(drawn) == set(re.findall(r"\]\(tutorial/([\w-]+)\.png\)", PAGE))


def test_the_pictures_are_those_that_the_code_draws(drawn):
    for name, few in drawn.items():
        path = ROOT / "docs" / "tutorial" / f"{name}.png"
        assert path.stat().st_size < 60_000
        with Image.open(path) as image:
            stored = np.asarray(image.convert("RGB")).astype(int)
        pixels = few.pixels().numpy()
        assert stored.shape == pixels.shape
        if not name.startswith("chart"):
            # A point almost as far from two centers may have either of them, depending on the CPU.
            assert np.abs(stored - pixels).mean() < 0.5, name
        elif draws_letters_as_the_pictures_do():
            assert np.array_equal(stored, pixels), name


def test_the_numbers_of_the_text_are_those_of_the_outputs(outputs_and_variables):
    outputs, variables = outputs_and_variables
    text = re.sub(r"```pycon\n.*?```|\]\([^)]*\)|\(Arthur.*?\)|\(Floyd.*?\)", "", PAGE, flags=re.DOTALL)
    printed = set(re.findall(r"\d+", "\n".join(outputs)))
    for number in re.findall(r"\b[\d,]*\d{2}\b(?! %)", text):
        assert number.replace(",", "") in {*printed, "11", "24", "255", "256"}, number
    whole, histogram = variables["whole"], variables["histogram"]
    rows = [100 * len(each.colors) / int(each.counts.sum()) for each in (histogram, whole)]
    assert re.findall(r"(\d+) %", text) == [f"{share:.0f}" for share in rows]
