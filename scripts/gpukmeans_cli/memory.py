"""Memory that runs out, as an error of one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gpukmeans_cli.files import ImageError


@contextmanager
def within_memory(device: torch.device, instead: str | None = None) -> Iterator[None]:
    """Inside, ImageError in place of the several errors that say that memory has run out, with what to do instead.

    By default that is a smaller picture, or on a GPU the CPU.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise ImageError(f"{device} is out of memory; {instead or 'use --device cpu'}") from None
    except MemoryError:
        raise ImageError(f"out of memory; {instead or 'use a smaller picture'}") from None
    except RuntimeError as error:
        # torch has no class of its own for memory that the CPU does not have.
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise ImageError(f"out of memory; {instead or 'use a smaller picture'}") from None
        raise
