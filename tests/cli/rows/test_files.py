import os
import re

import numpy as np
import pytest
import torch
from helpers.row_files import save_rows
from safetensors.torch import save_file

from gpukmeans.validation import _COMPUTED_IN
from gpukmeans_cli.rows import files as shard_files
from gpukmeans_cli.rows.files import ShardError, open_shard

DTYPES = list(_COMPUTED_IN)


def rows(n=11, d=3, dtype=torch.float32):
    return (torch.arange(n * d).reshape(n, d) - 7 * (dtype != torch.uint8)).to(dtype)


def read(shard, start, stop):
    target = torch.empty(stop - start, shard.shape[1], dtype=shard.dtype)
    shard.read(start, target)
    return target


def test_a_header_that_is_no_python_is_a_damaged_file(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': ((((((" + b" " * 20 + b"\n"
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert refusal(path) == "is no .npy file of numbers, or is damaged"


def test_a_meta_tensor_has_no_rows(tmp_path):
    torch.save(torch.empty(3, 2, device="meta"), tmp_path / "x.pt")
    assert refusal(tmp_path / "x.pt") == "holds a meta tensor, which has no values; save one that has"


def refusal(path, key=None):
    with pytest.raises(ShardError) as caught:
        open_shard(path, key)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"{path}: ")
    return sentence.removeprefix(f"{path}: ")


def test_all_dtypes_are_those_that_kmeans_takes():
    assert set(shard_files._DTYPES) == set(DTYPES)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(s, d) for s in (".npy", ".safetensors", ".pt") for d in DTYPES if (s, d) != (".npy", torch.bfloat16)],
)
def test_rows_are_read_as_they_were_save_rows(tmp_path, suffix, dtype):
    x = rows(dtype=dtype)
    shard = open_shard(save_rows(x, tmp_path / f"x{suffix}"))
    assert (shard.shape, shard.dtype) == ((11, 3), dtype)
    for start, stop in ((0, 11), (0, 1), (4, 9), (10, 11), (5, 5)):
        assert torch.equal(read(shard, start, stop), x[start:stop])


def test_a_large_file_is_mapped_where_its_rows_lie_and_what_was_read_stays_what_it_was(tmp_path):
    x = torch.randn(30_000, 5)
    path = save_rows(x, tmp_path / "x.npy")
    part = read(open_shard(path), 12_345, 12_999)  # neither begins nor ends at a page
    save_rows(torch.zeros(30_000, 5), path)
    assert torch.equal(part, x[12_345:12_999])


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_a_file_of_no_rows_is_one(tmp_path, suffix):
    shard = open_shard(save_rows(rows(0), tmp_path / f"x{suffix}"))
    assert shard.shape == (0, 3)
    assert read(shard, 0, 0).shape == (0, 3)


def test_opening_reads_no_row(tmp_path, monkeypatch):
    paths = [save_rows(rows(), tmp_path / f"x{suffix}") for suffix in (".npy", ".safetensors", ".pt")]
    monkeypatch.setattr(shard_files.mmap, "mmap", None)
    monkeypatch.setattr(torch.Tensor, "copy_", None)
    assert [open_shard(path).shape for path in paths] == [(11, 3)] * 3


def test_a_tensor_is_taken_by_its_key(tmp_path):
    tensors = {"a": rows(4), "b.c": rows(9) + 1}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"a": "text"})
    torch.save(tensors | {"n": 3}, tmp_path / "x.pt")
    for path in (tmp_path / "x.safetensors", tmp_path / "x.pt"):
        assert torch.equal(read(open_shard(path, "b.c"), 2, 9), tensors["b.c"][2:])
        assert refusal(path) == "holds 2 tensors; name one by --key: a, b.c"
        assert refusal(path, "d") == "holds no tensor d; there is a, b.c"


def test_the_only_tensor_needs_no_key(tmp_path):
    torch.save({"x": torch.nn.Parameter(rows()), "epoch": 3}, tmp_path / "x.pt")
    assert torch.equal(read(open_shard(tmp_path / "x.pt"), 0, 11), rows())


def test_a_tensor_without_a_name_has_no_key(tmp_path):
    assert refusal(save_rows(rows(), tmp_path / "x.pt"), "a") == "holds a tensor without a name; leave --key a out"


def test_a_part_of_a_larger_tensor_is_read_from_where_it_lies(tmp_path):
    torch.save(rows(20)[5:9], tmp_path / "x.pt")
    assert torch.equal(read(open_shard(tmp_path / "x.pt"), 1, 4), rows(20)[6:9])


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
@pytest.mark.parametrize("shape", [(6,), (2, 3, 1), (), (4, 0)])
def test_what_is_no_table_is_refused_with_its_shape(tmp_path, suffix, shape):
    path = save_rows(torch.zeros(shape), tmp_path / f"x{suffix}")
    assert refusal(path) == f"wanted are rows of numbers, of shape (N, D), got shape {shape}"


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_what_are_no_numbers_to_compute_with_is_refused_with_its_dtype(tmp_path, suffix):
    path = save_rows(torch.zeros(3, 2, dtype=torch.bool), tmp_path / f"x{suffix}")
    assert re.fullmatch("wanted are numbers of float16, .*, int64, got bool", refusal(path), re.IGNORECASE)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt", ".PT"])
@pytest.mark.parametrize("junk", [b"not what its name says, though long enough", b"PK\x03\x04", b"\x93NUMPY\x01\x00v"])
def test_a_damaged_file_is_refused(tmp_path, suffix, junk):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(junk)
    assert re.match("is no .*file", refusal(path))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_a_file_that_is_cut_off_is_refused_before_work(tmp_path, suffix):
    path = save_rows(rows(100), tmp_path / f"x{suffix}")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    assert "truncated" in refusal(path)


def test_a_truncated_file_is_told_how_long_it_should_be(tmp_path):
    path = save_rows(rows(100), tmp_path / "x.npy")
    os.truncate(path, 1000)
    assert refusal(path) == "is truncated: 100 x 3 float32 take 1,328 bytes, and it has 1,000"


def test_files_that_are_not_there_or_not_regular_are_refused(tmp_path):
    assert refusal(tmp_path / "none.npy") == "there is no such file"
    (tmp_path / "empty.npy").touch()
    assert refusal(tmp_path / "empty.npy") == "is empty, 0 bytes"
    (tmp_path / "folder.npy").mkdir()
    assert "is a folder; name the files in it, such as '" in refusal(tmp_path / "folder.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    assert "is not a regular file" in refusal(tmp_path / "pipe.npy")
    assert refusal(tmp_path / "x.csv") == "rows are read from files that end in .npy, .safetensors, .pt, .pth"
    (tmp_path / "folder").mkdir()
    assert "is a folder" in refusal(tmp_path / "folder")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def deny(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", deny)
    assert refusal(tmp_path / "x.npy") == "may not be read; change its permissions"


def test_arrays_in_an_order_of_their_own_are_refused_with_the_way_to_save_them(tmp_path):
    np.save(tmp_path / "f.npy", np.asfortranarray(rows().numpy()))
    assert "by np.save(PATH, np.ascontiguousarray(np.load(PATH)))" in refusal(tmp_path / "f.npy")
    torch.save(rows().t(), tmp_path / "t.pt")
    assert refusal(tmp_path / "t.pt") == "does not lie row by row; save tensor.contiguous()"
    np.save(tmp_path / "b.npy", rows().numpy().astype(">f4"))
    assert refusal(tmp_path / "b.npy") == "has its bytes in big-endian order; save it by numpy with .astype('<f4')"
    torch.save(rows().to_sparse(), tmp_path / "s.pt")
    assert refusal(tmp_path / "s.pt") == "holds a tensor that is not dense; save tensor.to_dense()"


def test_an_array_of_one_column_has_one_order(tmp_path):
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (5, 1), "fortran_order": True, "descr": "<f4"})
        file.write(rows(5, 1).numpy().tobytes())
    assert torch.equal(read(open_shard(path), 1, 5), rows(5, 1)[1:])


class Trap:
    """An object that runs code where it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_no_pickle_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": rows(), "trap": Trap()}, tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    torch.save([rows()], tmp_path / "list.pt")
    torch.save({"n": 1}, tmp_path / "none.pt")
    assert refusal(tmp_path / "x.pt").startswith("holds Python objects, which are not read")
    assert refusal(tmp_path / "x.npy").startswith("holds Python objects, which are not read")
    assert refusal(tmp_path / "list.pt") == "holds neither a tensor nor a dict of tensors, but a list"
    assert refusal(tmp_path / "none.pt") == "holds no tensor"
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_a_file_that_changes_or_goes_later_is_an_error_and_no_crash(tmp_path, suffix):
    path = save_rows(rows(40_000), tmp_path / f"x{suffix}")
    shard = open_shard(path)
    os.truncate(path, 5000)
    with pytest.raises(OSError, match=f"x{suffix}: has changed while it was being read"):
        read(shard, 30_000, 40_000)
    save_rows(rows(40_000), path)
    with pytest.raises(OSError, match="has changed"):
        read(shard, 0, 1)
    path.unlink()
    with pytest.raises(OSError, match="there is no such file"):
        read(shard, 0, 1)
