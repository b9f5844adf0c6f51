import doctest

import pytest
import torch

from gpukmeans import assign, kmeans
from gpukmeans.engines import ENGINES, base, choose
from gpukmeans.engines.plain import PlainEngine

X = torch.rand(5, 2)


class LimitedEngine(PlainEngine):
    """An engine that supports no points."""

    name = "limited"

    def unsupported_reason(self, x):
        return "it only takes points of 7 coordinates"


def test_each_engine_is_listed_under_its_own_name():
    assert {name: engine.name for name, engine in ENGINES.items()} == {
        name: name for name in ("triton", "screened", "native", "matmul", "plain")
    }


def test_auto_chooses_the_native_engine_on_the_cpu():
    if ENGINES["native"].unsupported_reason(X) is not None:
        pytest.skip("there are no native kernels")
    assert choose("auto", torch.rand(2, 3, 8)) is ENGINES["native"]
    assert choose("auto", torch.rand(20_000, 1)) is ENGINES["native"]
    assert choose("auto", torch.rand(3, 1000)) is ENGINES["native"]
    assert choose("auto", torch.rand(1, 1 << 16)) is ENGINES["matmul"]


@pytest.fixture
def no_native(monkeypatch):
    monkeypatch.setitem(ENGINES, "native", LimitedEngine())


def test_auto_chooses_the_first_engine_that_supports_the_points(no_native, monkeypatch):
    assert choose("auto", X) is ENGINES["matmul"]
    plain = ENGINES["plain"]
    monkeypatch.setattr("gpukmeans.engines.selection.ENGINES", {"limited": LimitedEngine(), "plain": plain})
    assert choose("auto", X) is plain


def test_auto_computes_no_reason_of_an_engine_that_is_not_needed(no_native, monkeypatch):
    class FailingEngine(PlainEngine):
        def unsupported_reason(self, x):
            raise AssertionError("a reason was computed")

    monkeypatch.setitem(ENGINES, "plain", FailingEngine())
    assert choose("auto", X) is ENGINES["matmul"]


def test_auto_raises_with_the_reasons_if_no_engine_supports_the_points(monkeypatch):
    monkeypatch.setattr("gpukmeans.engines.selection.ENGINES", {"limited": LimitedEngine()})
    with pytest.raises(ValueError, match="no engine can take these points: limited: it only takes points of 7"):
        choose("auto", X)


def test_an_engine_is_given_by_name_or_as_an_object():
    engine = PlainEngine(tile=7)
    assert choose("plain", X) is ENGINES["plain"]
    assert choose(engine, X) is engine


def test_an_engine_that_does_not_support_the_points_is_refused_with_its_reason():
    with pytest.raises(ValueError, match="'limited' cannot take these points: it only takes points of 7 coordinates"):
        choose(LimitedEngine(), X)


def test_an_unknown_name_is_refused_with_the_known_names():
    names = "auto, triton, screened, native, matmul, plain"
    with pytest.raises(ValueError, match=f"one of {names} or an engine, got 'cuda'"):
        choose("cuda", X)


def test_an_object_that_is_not_an_engine_is_refused(unchecked):
    with pytest.raises(TypeError, match="a name or an engine, got int"):
        choose(3, X)


def test_the_example_of_an_engine_is_right():
    names = {"torch": torch, "kmeans": kmeans, "assign": assign, "ENGINES": ENGINES}
    result = doctest.testmod(base, globs={**vars(base), **names})
    assert (result.attempted, result.failed) == (3, 0)
