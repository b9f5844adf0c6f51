"""Names, help and errors use the field's standard terms: private words of the past do not come back."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("gpukmeans", "scripts") for path in (ROOT / folder).rglob("*.py"))

# Words in no name: what stands there now is in docs/architecture.md and docs/guide.md.
IN_NAMES = {
    *("breath", "breaths", "census", "company", "crew", "desert", "goal", "masses", "meeting", "obstacle"),
    *("survey", "tally", "trial", "trials", "urn", "voice", "weighed", "worn"),
}
# Whole names, of words that are good in others.
NAMES = {
    *("Alone", "Form", "Grid", "Group", "Lists", "Near", "Part", "Place", "Plane", "Ranks", "Request", "Rounds"),
    *("RanksPart", "Shares", "Spread", "StreamPart", "TensorPart", "Stored"),
    *("agreed", "computed_in", "draw_far", "draw_new", "from_grid", "leads", "moved_to", "of_runs", "to_grid"),
    *("_Kept", "_Running", "_Standing", "fan", "keep", "nearer", "together", "turn", "watch"),
}
IN_MESSAGES = re.compile(r"\b(breaths?|crew|goal|grid|obstacle|tell|told|urn|voice|wears?|worn)\b", re.IGNORECASE)


def name_of(path):
    return str(path.relative_to(ROOT))


def names_in(tree):
    """All names that a module defines or uses."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name
        elif isinstance(node, ast.arg) or (isinstance(node, ast.keyword) and node.arg):
            yield node.arg
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def words_of(name):
    """The words of a name in snake case or camel case, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def messages_in(tree):
    """Texts that users read: help of options, docstrings of commands, errors, warnings, messages."""
    readers = {"Argument", "Option", "Typer", "echo", "say", "warn", "print"}
    for node in ast.walk(tree):
        is_error = isinstance(node, ast.Raise) and node.exc is not None
        is_message = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in readers
        if is_error or is_message:
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def test_words_of_a_name_are_found_in_every_case():
    assert words_of("_RanksPart2") == {"ranks", "part"}
    assert words_of("by_FIFO_order") == {"by", "fifo", "order"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_names_have_no_private_words(path):
    names = {path.stem, *names_in(ast.parse(path.read_text(encoding="utf-8")))}
    assert not {name for name in names if name in NAMES or words_of(name) & IN_NAMES}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_help_and_errors_have_no_private_words(path):
    messages = messages_in(ast.parse(path.read_text(encoding="utf-8")))
    assert not [message for message in messages if IN_MESSAGES.search(message)]
