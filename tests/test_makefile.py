"""The Makefile installs what a target needs, once, and uses a torch that is there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIND_TORCH = re.search(r"define FIND_TORCH\n(.*?)endef", (ROOT / "Makefile").read_text(), re.DOTALL)[1]


@pytest.fixture
def commands(tmp_path):
    """Gives the commands that a target would run in a fresh checkout."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def commands(target):
        answer = subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True)
        return answer.stdout.splitlines()

    return commands


def installations(lines):
    return [line.split("--editable ")[1] for line in lines if "pip install" in line and "--constraint" in line]


def test_the_demo_installs_only_what_running_needs(commands):
    assert installations(commands("demo")) == ["."]


@pytest.mark.parametrize("target", ["test", "quick"])
def test_the_tests_install_what_they_need_in_addition(commands, target):
    assert installations(commands(target)) == [".", "'.[dev,docs]'"]


@pytest.fixture
def find_torch(tmp_path):
    """Runs the search for torch in an interpreter that has only the torch of a version, in a folder, or none."""

    def find_torch(version, folder):
        packages = tmp_path / folder
        if version is not None:
            (packages / "torch").mkdir(parents=True)
            (packages / "torch" / "__init__.py").write_text("raise SystemExit")  # is not imported
            (packages / f"torch-{version}.dist-info").mkdir()
            (packages / f"torch-{version}.dist-info" / "METADATA").write_text(f"Name: torch\nVersion: {version}\n")
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        args = [sys.executable, "-S", "-c", FIND_TORCH]
        env = os.environ | {"PYTHONPATH": str(packages)}
        answer = subprocess.run(args, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        return answer.stdout.strip()

    return find_torch


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "3.0.0"])
def test_a_torch_that_is_there_is_found(find_torch, tmp_path, version):
    assert find_torch(version, "packages") == str(tmp_path / "packages")


@pytest.mark.parametrize(("version", "folder"), [(None, "none"), ("2.5.1", "old"), ("2.13.0", ".venv/lib")])
def test_no_torch_an_old_one_and_that_of_the_environment_are_not_used(find_torch, version, folder):
    assert find_torch(version, folder) == ""
