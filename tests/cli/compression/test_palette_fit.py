"""The palette of a histogram, and the name of the engine."""

import pytest
import torch

from gpukmeans.engines.matmul import MatmulEngine
from gpukmeans.engines.native.engine import NativeEngine
from gpukmeans_cli.compression import palette_fit
from gpukmeans_cli.compression.pipeline import compress_image
from gpukmeans_cli.compression.settings import Settings

CPU = torch.device("cpu")


@pytest.mark.parametrize(("n_colors", "default"), [(7, False), (8, True), (32, True), (33, False)])
def test_flat_pixels_are_counted_by_default_with_8_to_32_colors(photo, tmp_path, monkeypatch, n_colors, default):
    counted = []
    count = palette_fit.flat_counts
    monkeypatch.setattr(palette_fit, "flat_counts", lambda *args, **kwargs: counted.append(1) or count(*args, **kwargs))
    for keep_vivid, expected in ((None, default), (True, True), (False, False)):
        settings = Settings(n_colors=n_colors, device=CPU, keep_vivid=keep_vivid, force=True)
        compress_image(photo, tmp_path / "few.png", settings)
        assert bool(counted) == expected
        counted.clear()


def test_no_engine_is_named_if_nothing_is_clustered(photo, tmp_path):
    result = compress_image(photo, tmp_path / "all.png", Settings(n_colors=256, device=CPU))
    assert result.engine.startswith("none, ")


def test_the_engine_that_clustered_is_named(photo, tmp_path, monkeypatch):
    for engine in (NativeEngine, MatmulEngine):
        monkeypatch.setattr(
            engine, "unsupported_reason", lambda self, x: "it is broken" if x.is_floating_point() else None
        )
    result = compress_image(photo, tmp_path / "few.png", Settings(n_colors=4, device=CPU))
    assert result.engine.startswith(
        "plain, the fastest for these colors; native cannot: it is broken; matmul cannot: it is broken"
    )
