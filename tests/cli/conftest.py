import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gpukmeans_cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_gpu(monkeypatch):
    """torch finds no GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def command(capsys):
    """Runs `gpukmeans` with arguments, and gives the exit code, stdout and stderr."""

    def command(*args):
        with pytest.raises(SystemExit) as caught:
            main([*map(str, args)])
        return caught.value.code, *capsys.readouterr()

    return command


@pytest.fixture
def ctrl_c():
    """SIGINT raises KeyboardInterrupt, also in subprocesses, even if a background shell job would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def codes_without_torch(tmp_path):
    """Runs `gpukmeans` with each list of arguments in one new interpreter, and gives exit codes and slow imports."""
    program = """
import json, sys
from gpukmeans_cli.main import main
for args in json.loads(sys.argv[1]):
    try:
        main(args)
    except SystemExit as exit:
        print(exit.code, *sorted({"torch", "numpy", "PIL"} & sys.modules.keys()), file=sys.stderr)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])}

    def codes_without_torch(calls):
        args = [sys.executable, "-c", program, json.dumps(calls)]
        answer = subprocess.run(args, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60, check=False)
        return [line for line in answer.stderr.splitlines() if re.match(r"\d", line)]

    return codes_without_torch


@pytest.fixture
def small_disk(tmp_path):
    """The folder of a mounted disk of 16 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            yield folder
            subprocess.run(["umount", str(folder)], check=True)
            return
    pytest.skip("needs the right to mount a disk")
