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
    """A machine without a GPU, whatever this one has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def command(capsys):
    """Exit code, stdout and stderr of `gpukmeans` with these arguments."""

    def command(*args):
        with pytest.raises(SystemExit) as caught:
            main([*map(str, args)])
        return caught.value.code, *capsys.readouterr()

    return command


@pytest.fixture
def ctrl_c():
    """Ctrl-C is heard, here and in processes that are started, as what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def codes_without_torch(tmp_path):
    """The exit codes of `gpukmeans` with each of these arguments, in a new interpreter, which must not import torch."""
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
    """A folder that is a disk of 16 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            yield folder
            subprocess.run(["umount", str(folder)], check=True)
            return
    pytest.skip("needs the right to mount a disk")
