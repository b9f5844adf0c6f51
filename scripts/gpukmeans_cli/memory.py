"""Memory that runs out, as an error of one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gpukmeans_cli.files import ImageError


@contextmanager
def within_memory(device: torch.device) -> Iterator[None]:
    """Inside, ImageError in place of the several errors that say that memory has run out."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ImageError(f"{device} is out of memory; use --device cpu") from None
    except MemoryError:
        raise ImageError("out of memory; use a smaller picture") from None
    except RuntimeError as error:
        # torch has no class of its own for memory that the CPU does not have.
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise ImageError("out of memory; use a smaller picture") from None
        raise
