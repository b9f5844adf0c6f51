"""The device of the frames."""

from dataclasses import replace

import pytest
import torch

from gpukmeans_cli.compression import input_frames
from gpukmeans_cli.compression.pipeline import compress_image
from gpukmeans_cli.compression.settings import Settings


def test_a_small_image_is_clustered_on_the_cpu_with_any_device_only(photo, tmp_path, monkeypatch):
    # The device "meta" computes nothing, so clustering raises there.
    meta = Settings(n_colors=4, device=torch.device("meta"), any_device=True, force=True)
    assert compress_image(photo, tmp_path / "few.png", meta).report.device == "cpu"
    with pytest.raises(NotImplementedError):
        compress_image(photo, tmp_path / "few.png", replace(meta, any_device=False))
    monkeypatch.setattr(input_frames, "MIN_GPU_PIXELS", 17 * 11)
    with pytest.raises(NotImplementedError):
        compress_image(photo, tmp_path / "few.png", meta)
