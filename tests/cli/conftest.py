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
