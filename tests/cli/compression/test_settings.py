"""Options of a run, and the timer of stages."""

import inspect
from dataclasses import MISSING, fields

import torch

from gpukmeans_cli.commands.compress import compress
from gpukmeans_cli.compression.settings import Settings, StageTimer


def test_settings_and_command_have_the_same_defaults():
    options = inspect.signature(compress).parameters
    defaults = {field.name: field.default for field in fields(Settings) if field.default is not MISSING}
    for name in ("any_device", "target", "root", "gpu_lock", "dither_strength", "optional_output", "on_try"):
        del defaults[name]  # set from other options
    for name in ("dither", "lossy", "effort"):
        del defaults[name]  # those of the command depend on the file
    assert defaults == {name: options[name].default for name in defaults}


def test_the_timer_synchronizes_a_cuda_device(monkeypatch):
    synchronized = []
    monkeypatch.setattr(torch.cuda, "synchronize", synchronized.append)
    timer = StageTimer(torch.device("cuda:1"))
    timer.lap("read")
    assert synchronized == [torch.device("cuda:1")]
    assert timer.stages["read"] > 0
