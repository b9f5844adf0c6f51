import dataclasses
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from gpukmeans import apply_palette
from gpukmeans.engines.fused.engine import TritonEngine
from gpukmeans.engines.plain import PlainEngine
from gpukmeans.tiling import blocks


@pytest.fixture
def checked():
    """The decorator of each function and class of the package while tests run."""
    return jaxtyping.jaxtyped(typechecker=beartype)


def test_axes_of_the_same_name_must_agree(checked):
    @checked
    def distances(x: Float[Tensor, "n d"], y: Float[Tensor, "k d"]) -> Float[Tensor, "n k"] | None:
        return torch.cdist(x, y)[: len(x) if len(y) != 3 else 1]

    assert distances(torch.rand(5, 2), torch.rand(4, 2)).shape == (5, 4)
    with pytest.raises(TypeCheckError, match="y"):
        distances(torch.rand(5, 2), torch.rand(4, 1))
    with pytest.raises(TypeCheckError, match="return"):
        distances(torch.rand(5, 2), torch.rand(3, 2))


def test_arguments_and_return_values_must_have_the_annotated_types(checked):
    @checked
    def half(n: int) -> int:
        return n // 2 if n else "none"

    assert half(5) == 2
    with pytest.raises(BeartypeCallHintViolation, match="n="):
        half("5")
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        half(0)


def test_fields_of_dataclasses_must_have_the_annotated_types(checked):
    @checked
    @dataclasses.dataclass(frozen=True)
    class Fit:
        n: int

    assert Fit(3).n == 3
    with pytest.raises(BeartypeCallHintViolation):
        Fit("3")


def test_all_checks_can_be_turned_off(checked, unchecked):
    @checked
    def same(n: int, x: Float[Tensor, "d d"] | None = None) -> Iterator[int]:
        return n

    @checked
    def less(n: int) -> int:
        return n

    assert (same("5", torch.rand(2, 3)), less("5")) == ("5", "5")


@pytest.mark.parametrize(
    "call",
    [
        lambda: apply_palette(torch.zeros(3, 3, dtype=torch.uint8), torch.zeros(2, 3, dtype=torch.uint8)),
        lambda: next(blocks("3", 2)),
        lambda: PlainEngine().bind([[1.0]], None),
        lambda: TritonEngine(programs="3"),
    ],
    ids=["axes", "generator", "method", "dataclass"],
)
def test_the_package_is_checked_against_its_annotations(call):
    with pytest.raises((TypeCheckError, BeartypeCallHintViolation)):
        call()
