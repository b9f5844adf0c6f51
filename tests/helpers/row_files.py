"""Rows to cluster, and the files they are in."""

import numpy as np
import torch
from safetensors.torch import save_file


def blobs(n=600, d=3, k=5, dtype=torch.float32, seed=0):
    """Rows (n, d) around k places."""
    generator = torch.Generator().manual_seed(seed)
    places = 8 * torch.randn(k, d, generator=generator)
    of = torch.randint(k, (n,), generator=generator)
    return (places[of] + torch.randn(n, d, generator=generator)).to(dtype)


def save_rows(x, path):
    """The file of these rows, in the format of its suffix."""
    if path.suffix == ".npy":
        np.save(path, x.numpy())
    elif path.suffix == ".safetensors":
        save_file({"rows": x}, path)
    else:
        torch.save(x, path)
    return path


def save_parts(x, folder, sizes):
    """Files of so many of the rows each, in order, of all formats in turn."""
    suffixes = [".npy", ".safetensors", ".pt"]
    parts = x.split(list(sizes))
    return [save_rows(part.clone(), folder / f"part{index}{suffixes[index % 3]}") for index, part in enumerate(parts)]
