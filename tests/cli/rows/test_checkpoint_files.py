import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from safetensors.torch import save as serialized

from gpukmeans_cli.rows.checkpoint_files import StateError, centers_bytes, load_state, save_state

STATE = {"centers": torch.randn(4, 3), "n_iter": torch.tensor(7), "done": torch.tensor([True, False])}
ABOUT = {"rows": "10 x 3 float32", "--seed": 0, "--dtype": None}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_state_comes_back_as_it_was(tmp_path):
    save_state(tmp_path / "c", STATE, ABOUT)
    assert same(load_state(tmp_path / "c", ABOUT), STATE)
    parts = {"one": STATE["centers"].t(), "other": STATE["centers"][1:], "same": STATE["centers"]}
    save_state(tmp_path / "c", parts, ABOUT)
    assert same(load_state(tmp_path / "c", ABOUT), parts)
    assert os.listdir(tmp_path) == ["c"]


def test_a_state_of_something_else_is_refused_with_what_is_different(tmp_path):
    save_state(tmp_path / "c", STATE, ABOUT)
    with pytest.raises(StateError) as caught:
        load_state(tmp_path / "c", {**ABOUT, "--seed": 3})
    assert str(caught.value) == f"--resume: {tmp_path}/c was written with --seed 0, now it is 3"


def test_what_is_no_state_is_refused(tmp_path):
    path = tmp_path / "c"
    with pytest.raises(StateError, match=r"there is no file .*/c to go on from"):
        load_state(path, ABOUT)
    path.mkdir()
    with pytest.raises(StateError, match="there is no file"):
        load_state(path, ABOUT)
    path.rmdir()
    save_file(STATE, path)
    for data in (path.read_bytes(), b"", b"short", b"longer than the header of a file is"):
        path.write_bytes(data)
        with pytest.raises(StateError, match="c is no checkpoint of gpukmeans cluster"):
            load_state(path, ABOUT)


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    save_state(tmp_path / "c", STATE, ABOUT)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=r"c cannot be written, the disk is full"):
        save_state(tmp_path / "c", {}, ABOUT)
    assert same(load_state(tmp_path / "c", ABOUT), STATE)
    assert os.listdir(tmp_path) == ["c"]


def test_centers_are_a_file_of_numpy_or_one_of_tensors_and_what_they_are(tmp_path):
    data = centers_bytes(STATE, {"metric": "cosine", "n_iter": 7, "converged": True}, ".npy")
    (tmp_path / "x.npy").write_bytes(data)
    assert np.array_equal(np.load(tmp_path / "x.npy"), STATE["centers"].numpy())
    data = centers_bytes(STATE, {"metric": "cosine", "n_iter": 7, "converged": True}, ".safetensors")
    (tmp_path / "x.safetensors").write_bytes(data)
    assert same(load_file(tmp_path / "x.safetensors"), STATE)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"metric": "cosine", "n_iter": "7", "converged": "true"}


def test_equal_tensors_and_texts_are_equal_bytes():
    texts = {f"text {index}": "é" for index in range(9)}
    data = centers_bytes(STATE, texts, ".safetensors")
    assert data == centers_bytes(STATE, texts, ".safetensors")
    # Those of the library are too where its texts are in that order, which for one is so.
    assert centers_bytes(STATE, {"a": "b"}, ".safetensors") == serialized(STATE, {"a": "b"})
