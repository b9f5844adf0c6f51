"""The device that was asked for."""

import torch


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
