import pytest
import torch

from gpukmeans.engines.plain import TorchEngine
from gpukmeans.engines.selection import ENGINES, choose

X = torch.rand(5, 2)


class Picky(TorchEngine):
    """An engine that takes nothing."""

    name = "picky"

    def obstacle(self, x):
        return "it only takes points of 7 coordinates."


def test_each_engine_is_listed_under_its_own_name():
    assert {name: engine.name for name, engine in ENGINES.items()} == {
        name: name for name in ("triton", "cells", "matmul", "torch")
    }


def test_auto_takes_cells_for_many_points_of_few_coordinates():
    assert choose("auto", torch.rand(16_384, 4)) is ENGINES["cells"]
    assert choose("auto", torch.rand(2, 16_384, 4)) is ENGINES["cells"]
    assert choose("auto", torch.rand(16_383, 4)) is ENGINES["matmul"]
    assert choose("auto", torch.rand(16_384, 5)) is ENGINES["matmul"]


def test_auto_takes_the_first_engine_without_an_obstacle(monkeypatch):
    assert choose("auto", X) is ENGINES["matmul"]
    plain = ENGINES["torch"]
    monkeypatch.setattr("gpukmeans.engines.selection.ENGINES", {"picky": Picky(), "torch": plain})
    assert choose("auto", X) is plain


def test_auto_says_why_where_no_engine_can(monkeypatch):
    monkeypatch.setattr("gpukmeans.engines.selection.ENGINES", {"picky": Picky()})
    with pytest.raises(ValueError, match="no engine can take these points: picky: it only takes points of 7"):
        choose("auto", X)


def test_an_engine_may_be_given_by_name_or_as_itself():
    mine = TorchEngine(tile=7)
    assert choose("torch", X) is ENGINES["torch"]
    assert choose(mine, X) is mine


def test_an_engine_with_an_obstacle_says_it():
    with pytest.raises(ValueError, match="'picky' cannot take these points: it only takes points of 7 coordinates"):
        choose(Picky(), X)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="one of auto, triton, cells, matmul, torch or an engine, got 'cuda'"):
        choose("cuda", X)


def test_what_is_no_engine_is_refused(unchecked):
    with pytest.raises(TypeError, match="a name or an engine, got int"):
        choose(3, X)
