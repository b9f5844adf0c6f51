"""Centers and the state of a clustering as files, written whole or not at all."""

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

from gpukmeans_cli.system.atomic_files import ImageError, publish

_ABOUT = "gpukmeans cluster"
"""The key of what a state is about, which no other file has."""


class StateError(Exception):
    """A file that holds no state to go on from; its text is one sentence with the path in front."""


def centers_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, object], suffix: str) -> bytes:
    """A file of that suffix: .npy of `centers` alone, or .safetensors of all tensors and, as texts, what they are."""
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, tensors["centers"].cpu().numpy(), allow_pickle=False)
        return buffer.getvalue()
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    return _bytes_of(tensors, texts)


def save_state(path: Path, state: Mapping[str, Tensor], about: Mapping[str, object]) -> None:
    """Put the state and what it is about in place of the file. OSError, a sentence with the path, if it cannot be."""
    try:
        publish(path, _bytes_of(state, {_ABOUT: json.dumps(about)}), overwrite=True)
    except ImageError as error:
        raise OSError(str(error)) from error


def load_state(path: Path, about: Mapping[str, object]) -> dict[str, Tensor]:
    """The state in a file, if it is about the same. StateError names the first thing that is not.

    The keys of `about` are names for people, and values are what JSON has.
    """
    if not path.is_file():
        raise StateError(f"--resume: there is no file {path} to go on from")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            names = file.keys()
            state = {name: file.get_tensor(name) for name in names}
        before = json.loads(texts[_ABOUT])
    except (safetensors.SafetensorError, KeyError, ValueError):
        raise StateError(f"--resume: {path} is no checkpoint of gpukmeans cluster") from None
    except OSError as error:
        raise StateError(f"--resume: {path} cannot be read ({error.strerror or error})") from None
    for name, value in about.items():
        if before.get(name) != value:
            raise StateError(f"--resume: {path} was written with {name} {before.get(name)}, now it is {value}")
    return state


def _bytes_of(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    """A .safetensors file: of equal tensors and texts, equal bytes. The library has its texts in any order."""
    # Copies, as some may be parts of one tensor, of which the library would make an error.
    alone = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    data = safetensors.torch.save(alone)
    (n_bytes,) = struct.unpack("<Q", data[:8])
    header = {"__metadata__": dict(texts), **json.loads(data[8 : 8 + n_bytes])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8
    return struct.pack("<Q", len(text)) + text + data[8 + n_bytes :]
