import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from safetensors.torch import save as serialized

from gpukmeans_cli.rows.checkpoint_files import CheckpointError, centers_bytes, load_checkpoint, save_checkpoint

STATE = {"centers": torch.randn(4, 3), "n_iter": torch.tensor(7), "done": torch.tensor([True, False])}
METADATA = {"rows": "10 x 3 float32", "--seed": 0, "--dtype": None}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_is_loaded_as_it_was_saved(tmp_path):
    save_checkpoint(tmp_path / "c", STATE, METADATA)
    assert equal(load_checkpoint(tmp_path / "c", METADATA), STATE)
    views = {"transposed": STATE["centers"].t(), "slice": STATE["centers"][1:], "same": STATE["centers"]}
    save_checkpoint(tmp_path / "c", views, METADATA)
    assert equal(load_checkpoint(tmp_path / "c", METADATA), views)
    assert os.listdir(tmp_path) == ["c"]


def test_a_checkpoint_of_other_options_is_refused_with_the_difference(tmp_path):
    save_checkpoint(tmp_path / "c", STATE, METADATA)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "c", {**METADATA, "--seed": 3})
    assert str(caught.value) == f"--resume: {tmp_path}/c was written with --seed 0, now it is 3"


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "c"
    with pytest.raises(CheckpointError, match=r"there is no file .*/c to continue from"):
        load_checkpoint(path, METADATA)
    path.mkdir()
    with pytest.raises(CheckpointError, match="there is no file"):
        load_checkpoint(path, METADATA)
    path.rmdir()
    save_file(STATE, path)
    for data in (path.read_bytes(), b"", b"short", b"longer than the header of a file is"):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="c is not a checkpoint of gpukmeans cluster"):
            load_checkpoint(path, METADATA)


def test_a_checkpoint_that_cannot_be_written_keeps_the_previous_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c", STATE, METADATA)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=r"c cannot be written, the disk is full"):
        save_checkpoint(tmp_path / "c", {}, METADATA)
    assert equal(load_checkpoint(tmp_path / "c", METADATA), STATE)
    assert os.listdir(tmp_path) == ["c"]


def test_centers_are_a_numpy_array_or_a_safetensors_file_with_metadata(tmp_path):
    data = centers_bytes(STATE, {"metric": "cosine", "n_iter": 7, "converged": True}, ".npy")
    (tmp_path / "x.npy").write_bytes(data)
    assert np.array_equal(np.load(tmp_path / "x.npy"), STATE["centers"].numpy())
    data = centers_bytes(STATE, {"metric": "cosine", "n_iter": 7, "converged": True}, ".safetensors")
    (tmp_path / "x.safetensors").write_bytes(data)
    assert equal(load_file(tmp_path / "x.safetensors"), STATE)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"metric": "cosine", "n_iter": "7", "converged": "true"}


def test_equal_tensors_and_metadata_give_equal_bytes():
    texts = {f"text {index}": "é" for index in range(9)}
    data = centers_bytes(STATE, texts, ".safetensors")
    assert data == centers_bytes(STATE, texts, ".safetensors")
    # With a single text, whose order is fixed, safetensors writes the same bytes.
    assert centers_bytes(STATE, {"a": "b"}, ".safetensors") == serialized(STATE, {"a": "b"})
