"""Devices: the one that was asked for, and errors where memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gpukmeans_cli.system.atomic_files import ImageError


class DeviceError(Exception):
    """A device that is not there; its text is one sentence."""


def pick_device(name: str) -> torch.device:
    """The device of that name: "auto" (CUDA if there is a GPU, else the CPU), "cpu", "cuda" or "cuda:N".

    DeviceError if it is asked for but absent. Never another one in its place.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and n_gpus == 0:
        built = "torch sees no GPU" if torch.backends.cuda.is_built() else "this torch is built without CUDA"
        raise DeviceError(f"--device {name}: {built}; use --device cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        raise DeviceError(f"--device {name}: there are only {n_gpus} GPUs, cuda:0 to cuda:{n_gpus - 1}")
    return device


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
