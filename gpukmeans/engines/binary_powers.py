"""Constants of binary logarithms in units of 1/64: `powers_of_parts`."""

import functools
import math

_PARTS = 64


@functools.cache
def powers_of_parts() -> tuple[int, ...]:
    """2 to the power of 62 + i / 64 for i from 1 to 63, rounded up."""
    powers = []
    for i in range(1, _PARTS):
        root = number = 1 << 62 * _PARTS + i
        for _ in range(_PARTS.bit_length() - 1):
            root = math.isqrt(root)
        powers.append(root + (root**_PARTS < number))
    return tuple(powers)
