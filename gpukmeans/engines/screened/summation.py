"""The order in which `gpukmeans.distance` adds more than 8 squares, as a table of coordinates for the kernels."""

import functools
from typing import NamedTuple

import torch

# `gpukmeans.distance` adds up to this many terms from left to right.
_SEQUENTIAL = 8


class Summation(NamedTuple):
    """A sum of `n_terms` terms from left to right; each term is a balanced binary tree over 2**depth squares.

    `coordinates` int32 (8, 2**depth) has the coordinate of each leaf of each term. Adjacent leaves are added first,
    then adjacent sums, and so on. Leaves and terms of -1 are squares of 0, which change no bit of a sum of squares.
    """

    n_terms: int
    depth: int
    coordinates: torch.Tensor


def summation(width: int) -> Summation:
    """The order of summation of `width` squares, on the CPU.

    A halving of n terms adds term i + h to term i, where h = (n + 1) // 2. So term i of h is the sum of the terms i and
    i + h of n, and from the last halving back to the first each term has twice as many leaves.
    """
    lengths = [width]
    while lengths[-1] > _SEQUENTIAL:
        lengths.append((lengths[-1] + 1) // 2)
    leaves = torch.arange(lengths[-1], dtype=torch.int32, device="cpu")[:, None]
    for half, length in zip(lengths[:0:-1], lengths[-2::-1], strict=True):
        partners = torch.where((leaves >= 0) & (leaves + half < length), leaves + half, -1)
        leaves = torch.stack([leaves, partners], dim=2).flatten(1)
    missing = leaves.new_full((_SEQUENTIAL - lengths[-1], leaves.shape[1]), -1)
    return Summation(lengths[-1], len(lengths) - 1, torch.cat([leaves, missing]))


@functools.lru_cache(maxsize=32)
def summation_on(width: int, device: torch.device) -> Summation:
    """The order of summation with its table on the device. It is cached, because the copy waits for the device."""
    order = summation(width)
    return order._replace(coordinates=order.coordinates.to(device))
