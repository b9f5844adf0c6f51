"""What a run is in the middle of, as tensors by name, so that it can be kept and gone on with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

State = dict[str, Tensor]
"""Tensors by name, contiguous and each for itself: what `torch.save` and safetensors write. Those of a state that is
gone on from may be on any device."""


@dataclass(frozen=True)
class Checkpoint:
    """What keeps a run of `kmeans` that may be cut off.

    `save` is called with a `State` before the first round and after each `every` of them, while there is something left
    to do; on ranks it is called on each, with equal states, and where it fails on one, that ends all. With such a
    `state` the run goes on from there, to the same bits as if it had never ended; on ranks that of rank 0 counts, and
    the others need none. It must be of the same points and options, which a pass over the points makes sure of.
    """

    save: Callable[[State], object]
    every: int = 10
    state: Mapping[str, Tensor] | None = None


def packed(value: Any, name: str) -> State:
    """Copies of the tensors of a dataclass, and of those in it, by the names of the fields that lead to them."""
    if isinstance(value, Tensor):
        return {name: value.clone(memory_format=torch.contiguous_format)}
    parts = (packed(getattr(value, each.name), f"{name}.{each.name}") for each in fields(value))
    return {key: tensor for part in parts for key, tensor in part.items()}


def unpacked(kind: type[T], state: Mapping[str, Tensor], name: str) -> T:
    """The dataclass of that kind which `packed` took apart. ValueError if a tensor is missing."""
    parts = {}
    for each in fields(kind):  # pyright: ignore[reportArgumentType] # a dataclass
        inner, key = each.type, f"{name}.{each.name}"
        if not is_dataclass(inner) and key not in state:
            raise ValueError(f"a checkpoint must hold the tensor {key!r}, got one of {len(state)} others")
        parts[each.name] = unpacked(inner, state, key) if is_dataclass(inner) else state[key]  # pyright: ignore
    return kind(**parts)


def of_the_same(state: Mapping[str, Tensor], known: State) -> State:
    """The state, if what is known of points and options is in it as it is now. ValueError with what is not."""
    for name, value in known.items():
        kept = state.get(name)
        if kept is None or kept.dtype != value.dtype or not torch.equal(kept.to(value.device), value):
            raise ValueError(f"a checkpoint must be of the same points and options, got one that differs in {name}")
    return dict(state)
