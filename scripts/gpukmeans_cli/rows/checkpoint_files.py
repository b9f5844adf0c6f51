"""Files of centers, and checkpoints of a clustering, written atomically."""

import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from gpukmeans_cli.system.atomic_files import ImageError, write_atomically

_METADATA_KEY = "gpukmeans cluster"
"""The key of the metadata of a checkpoint. Other .safetensors files do not have it."""


class CheckpointError(Exception):
    """A run cannot resume from a file. The text is one sentence with its path."""


def centers_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, object], suffix: str) -> bytes:
    """The bytes of a file of centers: .npy of the tensor `centers`, or .safetensors of all tensors and the metadata."""
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, tensors["centers"].cpu().numpy(), allow_pickle=False)
        return buffer.getvalue()
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    return _safetensors_bytes(tensors, texts)


def save_checkpoint(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, object]) -> None:
    """Write the state and metadata of a run, replacing the file. OSError with the path if that fails."""
    try:
        write_atomically(path, _safetensors_bytes(state, {_METADATA_KEY: json.dumps(metadata)}), overwrite=True)
    except ImageError as error:
        raise OSError(str(error)) from error


def load_checkpoint(path: Path, metadata: Mapping[str, object]) -> dict[str, Tensor]:
    """The state in a file that was saved with equal metadata. CheckpointError names the first difference.

    The keys of `metadata` appear in errors; the values are JSON values.
    """
    if not path.is_file():
        raise CheckpointError(f"--resume: there is no file {path} to continue from")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            names = file.keys()
            state = {name: file.get_tensor(name) for name in names}
        saved = json.loads(texts[_METADATA_KEY])
    except (safetensors.SafetensorError, KeyError, ValueError):
        raise CheckpointError(f"--resume: {path} is not a checkpoint of gpukmeans cluster") from None
    except OSError as error:
        raise CheckpointError(f"--resume: {path} cannot be read ({error.strerror or error})") from None
    for name, value in metadata.items():
        if saved.get(name) != value:
            raise CheckpointError(f"--resume: {path} was written with {name} {saved.get(name)}, now it is {value}")
    return state


def _safetensors_bytes(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    """The bytes of a .safetensors file, equal for equal input. The library alone writes the texts in any order."""
    # Copies, because the library refuses tensors that share memory.
    copies = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    data = safetensors.torch.save(copies)
    (n_bytes,) = struct.unpack("<Q", data[:8])
    header = {"__metadata__": dict(texts), **json.loads(data[8 : 8 + n_bytes])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors must begin at a multiple of 8
    return struct.pack("<Q", len(text)) + text + data[8 + n_bytes :]
