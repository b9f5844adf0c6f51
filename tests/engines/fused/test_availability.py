import pytest
import torch

from gpukmeans.engines.fused.availability import unavailable_reason
from gpukmeans.engines.fused.engine import TritonEngine

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def unknown_triton():
    """What is known of the installed triton is forgotten before and after a test."""
    unavailable_reason.cache_clear()
    yield
    unavailable_reason.cache_clear()


def test_the_installed_triton_is_available():
    assert unavailable_reason() is None


def test_without_triton_the_reason_is_that_it_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reason = TritonEngine(device="cpu").unsupported_reason(torch.rand(3, 2))
    assert reason == "it needs triton, which is not installed"


def test_an_old_triton_is_refused_with_the_needed_version(monkeypatch):
    import triton

    monkeypatch.setattr(triton, "__version__", "3.2.0")
    monkeypatch.delattr(triton.language, "tuple")
    reason = TritonEngine(device="cpu").unsupported_reason(torch.rand(3, 2))
    assert reason == "it needs triton 3.3 or later, got 3.2.0"
