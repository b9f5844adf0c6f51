import contextlib
import os
import subprocess

import pytest
import torch

from gpukmeans_cli.main import main


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
