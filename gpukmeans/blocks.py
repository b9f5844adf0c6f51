"""A long axis in blocks, so that what is computed of it stays small."""

from collections.abc import Iterator


def blocks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size`, at least 1, that cover 0..length in order."""
    size = max(1, size)
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))
