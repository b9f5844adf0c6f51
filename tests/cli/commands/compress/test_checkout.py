"""The launchers of a checkout that is not installed."""

import runpy
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
from helpers.command_processes import run_process
from helpers.image_files import assert_one_line

ROOT = Path(__file__).parents[4]


@pytest.fixture
def checkout(tmp_path):
    """A copy of the code that prints a line when it is imported."""
    folder = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gpukmeans", folder / "gpukmeans", ignore=ignore)
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=ignore)
    for package in ("gpukmeans", "scripts/gpukmeans_cli"):
        with (folder / package / "__init__.py").open("a") as file:
            file.write(f"import sys\nprint('copy of {package}', file=sys.stderr)\n")
    return folder


@pytest.mark.parametrize("installed", [True, False], ids=["another one installed", "none installed"])
def test_a_checkout_runs_its_own_code_from_any_folder_and_writes_the_same_bytes(run, photo, checkout, installed):
    # -S disables editable installations; PYTHONPATH makes the other packages importable.
    python = [sys.executable] if installed else [sys.executable, "-S"]
    env = {} if installed else {"PYTHONPATH": sysconfig.get_path("purelib")}
    (elsewhere := photo.parent / "elsewhere").mkdir()
    options = ("-k", "5", "--dither", "none", "--seed", "3")
    args = (checkout / "scripts" / "compress.py", photo, *options, "-o", "few.png")
    answer = run_process(*python, *args, cwd=elsewhere, env=env)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.split(b"\n") == [b"copy of scripts/gpukmeans_cli", b"copy of gpukmeans", b""]
    assert answer.stdout.startswith(str(photo).encode())
    run(photo, *options, "-o", photo.parent / "same.png")
    assert (elsewhere / "few.png").read_bytes() == (photo.parent / "same.png").read_bytes()


def test_the_launcher_reports_a_missing_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compress.py"])
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "scripts" / "compress.py"), run_name="__main__")
    assert caught.value.code == 2
    assert_one_line(capsys.readouterr().err, "Please specify an image")
