"""Rows to cluster, and files of rows."""

import numpy as np
import torch
from safetensors.torch import save_file


def blobs(n=600, d=3, k=5, dtype=torch.float32, seed=0):
    """Points (n, d) around k random centers."""
    generator = torch.Generator().manual_seed(seed)
    centers = 8 * torch.randn(k, d, generator=generator)
    labels = torch.randint(k, (n,), generator=generator)
    return (centers[labels] + torch.randn(n, d, generator=generator)).to(dtype)


def save_rows(x, path):
    """Write rows to a file in the format of its suffix. Returns the path."""
    if path.suffix == ".npy":
        np.save(path, x.numpy())
    elif path.suffix == ".safetensors":
        save_file({"rows": x}, path)
    else:
        torch.save(x, path)
    return path


def save_parts(x, folder, sizes):
    """Write rows to several files of the given sizes, in .npy, .safetensors and .pt by turns. Returns the paths."""
    suffixes = [".npy", ".safetensors", ".pt"]
    blocks = x.split(list(sizes))
    return [save_rows(rows.clone(), folder / f"part{i}{suffixes[i % 3]}") for i, rows in enumerate(blocks)]
