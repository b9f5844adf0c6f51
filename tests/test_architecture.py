"""What the packages import and touch. The order of the layers is checked by import-linter, see pyproject.toml."""

import ast
from pathlib import Path

import pytest

import gpukmeans

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "gpukmeans").rglob("*.py"))
COMMAND = sorted((ROOT / "scripts" / "gpukmeans_cli").rglob("*.py"))
# The kernels: a file of the package itself, which is loaded, and threads, which a fork ends.
NATIVE = {"library": {"os", "pathlib"}, "threads": {"os"}}
FORBIDDEN = {"PIL", "argparse", "io", "numpy", "os", "pathlib", "rich", "subprocess", "sys", "tempfile", "typer"}


def name_of(path):
    return str(path.relative_to(ROOT))


def imports(path):
    """(module, names) of each import of a file, at its top or inside."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, set()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name modules in full"
            yield node.module, {alias.name for alias in node.names}


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_tensor_package_touches_no_file_argument_or_device(path):
    reads_modules = ("sys", {"modules"})  # which of them are loaded
    allowed = NATIVE.get(path.stem, set()) if path.parent.name == "native" else set()
    imported = {module.split(".")[0] for module, names in imports(path) if (module, names) != reads_modules}
    assert not imported & FORBIDDEN - allowed
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert not calls & {"open", "print", "input"}
    globals_touched = ("torch.manual_seed", "torch.cuda.", "torch.set_", "torch.backends")
    assert not [call for call in calls if call.startswith(globals_touched)]


@pytest.mark.parametrize("path", COMMAND, ids=name_of)
def test_the_command_imports_only_what_the_library_exports(path):
    for module, names in imports(path):
        if module.split(".")[0] == "gpukmeans":
            assert module == "gpukmeans"
            assert names <= {*gpukmeans.__all__, "__version__"}


@pytest.mark.parametrize("launcher", sorted((ROOT / "scripts").glob("*.py")), ids=lambda path: path.name)
def test_a_checkout_runs_its_own_package(launcher):
    assert "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))" in launcher.read_text()


@pytest.mark.parametrize("path", [*LIBRARY, *COMMAND], ids=name_of)
def test_every_module_has_a_test_file_at_the_same_place(path):
    engines = ROOT / "gpukmeans" / "engines"
    if path.stem == "__init__" or path in (engines / "base.py", engines / "iteration.py"):  # which have types alone
        return
    if path.stem.endswith("_kernels"):  # tested with the module that launches the kernels
        path = path.with_stem(path.stem.removesuffix("_kernels"))
    package = ROOT / "gpukmeans" if path.is_relative_to(ROOT / "gpukmeans") else ROOT / "scripts" / "gpukmeans_cli"
    tests = ROOT / "tests" / ("" if package.name == "gpukmeans" else "cli")
    place = tests / path.relative_to(package).parent
    assert (place / f"test_{path.stem}.py").exists() or list((place / path.stem).glob("test_*.py"))
