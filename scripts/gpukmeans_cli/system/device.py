"""Device selection, and errors for exhausted memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gpukmeans_cli.system.atomic_files import ImageError


class DeviceError(Exception):
    """A missing device. The text is one sentence."""


def pick_device(name: str) -> torch.device:
    """The device of this name: "auto" (CUDA if there is a GPU, else the CPU), "cpu", "cuda" or "cuda:N".

    DeviceError if the named device is missing. There is no fallback.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and n_gpus == 0:
        built = "torch finds no GPU" if torch.backends.cuda.is_built() else "this torch is built without CUDA"
        raise DeviceError(f"--device {name}: {built}; use --device cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= n_gpus:
        raise DeviceError(f"--device {name}: there are only {n_gpus} GPUs, cuda:0 to cuda:{n_gpus - 1}")
    return device


@contextmanager
def within_memory(device: torch.device, advice: str | None = None) -> Iterator[None]:
    """Inside the block, any error for exhausted memory becomes an ImageError with advice.

    The default advice is to use a smaller image, or `--device cpu` if the memory of a GPU is exhausted.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise ImageError(f"{device} is out of memory; {advice or 'use --device cpu'}") from None
    except MemoryError:
        raise ImageError(f"out of memory; {advice or 'use a smaller image'}") from None
    except RuntimeError as error:
        # torch has no error class for exhausted memory of the CPU.
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise ImageError(f"out of memory; {advice or 'use a smaller image'}") from None
        raise
