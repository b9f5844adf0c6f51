import pytest
import torch

from gpukmeans import assign
from gpukmeans.engines.native import engine as module
from gpukmeans.engines.native.engine import NativeEngine


def test_points_that_are_no_plain_tensors_on_the_cpu_are_refused_with_a_reason():
    class Tagged(torch.Tensor):
        pass

    engine = NativeEngine()
    assert "on meta" in engine.unsupported_reason(torch.rand(5, 2, device="meta"))
    assert "Tagged" in engine.unsupported_reason(torch.rand(5, 2).as_subclass(Tagged))
    assert "up to 32768 coordinates, got 32769" in engine.unsupported_reason(torch.rand(1, 32769))
    reasons = torch.vmap(lambda x: x.new_zeros(()) + (engine.unsupported_reason(x) is not None))(torch.rand(3, 5, 2))
    assert reasons.tolist() == [1, 1, 1]
    assert engine.unsupported_reason(torch.nn.Parameter(torch.rand(5, 2))) is None


def test_centers_and_problems_that_do_not_fit_the_points_are_refused():
    bound = NativeEngine().bind(torch.rand(2, 5, 3), None)
    with pytest.raises(ValueError, match=r"float32 or float64 of shape \(1, K, 3\), got float32 of shape \(1, 4, 2\)"):
        bound.assign(torch.rand(1, 4, 2), [0])
    with pytest.raises(ValueError, match="problems must be from 0 to 1, got 0 to 2"):
        bound.assign(torch.rand(2, 4, 3), [0, 2])


def test_without_kernels_the_reason_is_that_of_the_library(monkeypatch):
    monkeypatch.setattr(module, "unavailable_reason", lambda: "they were not built")
    with pytest.raises(ValueError, match="engine 'native' cannot take these points: they were not built"):
        assign(torch.rand(5, 2), torch.rand(2, 2), engine="native")


def test_points_that_are_a_negated_view_are_read_as_their_values():
    x = torch.complex(torch.zeros(1, 5, 2), torch.rand(1, 5, 2)).conj().imag
    assert x.is_neg()
    found = NativeEngine().bind(x, None).assign(torch.full((1, 1, 2), -0.5), [0])
    assert torch.equal(
        found.sqdist, NativeEngine().bind(x.clone(), None).assign(torch.full((1, 1, 2), -0.5), [0]).sqdist
    )
    assert (found.sqdist < 0.5).all()
