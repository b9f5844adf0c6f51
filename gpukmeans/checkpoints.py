"""Checkpoints: the state of a run of `kmeans` as named tensors, to be saved and resumed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

CheckpointState = dict[str, Tensor]
"""The state of a run: named tensors, contiguous and without shared memory, as `torch.save` and safetensors expect. A
state to resume from may be on any device."""


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint option of `kmeans`: the function that saves the state of a run, and the state to resume from.

    A resumed run needs the points and options of the saved run, and ends with the bits of an uninterrupted run.
    docs/guarantees.md has the rules for ranks.

    Args:
        save: a function of a `CheckpointState`. It is called before the first iteration and after every `every`
            iterations, until all runs have ended.
        every: the number of iterations between two calls, at least 1.
        state: a saved state to resume from; None for a new run.

    Raises:
        TypeError, ValueError: from `kmeans`, for other values, and for a state of other points or options.

    Example:
        >>> states = []
        >>> x = torch.rand(100, 2)
        >>> result = kmeans(x, 3, checkpoint=Checkpoint(states.append, every=2))
        >>> resumed = kmeans(x, 3, checkpoint=Checkpoint(states.append, state=states[-1]))
        >>> torch.equal(resumed.centers, result.centers)
        True
    """

    save: Callable[[CheckpointState], object]
    every: int = 10
    state: Mapping[str, Tensor] | None = None


def to_tensors(value: Any, name: str) -> CheckpointState:
    """Copies of all tensors in a nested dataclass. The keys are `name` and the field names, joined by dots."""
    if isinstance(value, Tensor):
        return {name: value.clone(memory_format=torch.contiguous_format)}
    parts = (to_tensors(getattr(value, field.name), f"{name}.{field.name}") for field in fields(value))
    return {key: tensor for part in parts for key, tensor in part.items()}


def from_tensors(kind: type[T], state: Mapping[str, Tensor], name: str) -> T:
    """The nested dataclass of this type from the result of `to_tensors`. ValueError if a tensor is missing."""
    values = {}
    for field in fields(kind):  # pyright: ignore[reportArgumentType] # a dataclass
        inner, key = field.type, f"{name}.{field.name}"
        if not is_dataclass(inner) and key not in state:
            raise ValueError(f"a checkpoint must contain the tensor {key!r}, got {len(state)} other tensors")
        values[field.name] = from_tensors(inner, state, key) if is_dataclass(inner) else state[key]  # pyright: ignore
    return kind(**values)


def check_same_problem(state: Mapping[str, Tensor], identity: CheckpointState) -> CheckpointState:
    """The state, if it contains the tensors of `identity`, which describe points and options.

    ValueError names the first tensor that differs.
    """
    for name, value in identity.items():
        saved = state.get(name)
        if saved is None or saved.dtype != value.dtype or not torch.equal(saved.to(value.device), value):
            raise ValueError(f"a checkpoint must be of the same points and options, got one that differs in {name}")
    return dict(state)
