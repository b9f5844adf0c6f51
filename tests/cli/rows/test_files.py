import os
import re

import numpy as np
import pytest
import torch
from helpers.row_files import save_rows
from safetensors.torch import save_file

from gpukmeans import kmeans
from gpukmeans_cli.rows import files as module
from gpukmeans_cli.rows.files import RowFileError, open_row_file

DTYPES = list(module._DTYPES)


def rows(n=11, d=3, dtype=torch.float32):
    return (torch.arange(n * d).reshape(n, d) - 7 * (dtype != torch.uint8)).to(dtype)


def read(row_file, start, stop):
    target = torch.empty(stop - start, row_file.shape[1], dtype=row_file.dtype)
    row_file.read(start, target)
    return target


def test_a_header_that_numpy_cannot_parse_is_a_damaged_file(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': ((((((" + b" " * 20 + b"\n"
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert error_of(path) == "is not a .npy file of numbers, or is damaged"


def test_a_meta_tensor_has_no_rows(tmp_path):
    torch.save(torch.empty(3, 2, device="meta"), tmp_path / "x.pt")
    assert error_of(tmp_path / "x.pt") == "holds a meta tensor, which has no values; save a tensor with values"


def error_of(path, key=None):
    with pytest.raises(RowFileError) as caught:
        open_row_file(path, key)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"{path}: ")
    return sentence.removeprefix(f"{path}: ")


@pytest.mark.usefixtures("unchecked")
def test_files_have_the_dtypes_that_kmeans_accepts():
    def is_accepted(dtype):
        try:
            kmeans(torch.tensor([[0], [1]]).to(dtype), 1)
        except (TypeError, ValueError, RuntimeError):
            return False
        return True

    dtypes = {dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype) and not dtype.is_complex}
    assert {dtype for dtype in dtypes if is_accepted(dtype)} == set(DTYPES)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(s, d) for s in (".npy", ".safetensors", ".pt") for d in DTYPES if (s, d) != (".npy", torch.bfloat16)],
)
def test_rows_are_read_as_they_were_saved(tmp_path, suffix, dtype):
    x = rows(dtype=dtype)
    row_file = open_row_file(save_rows(x, tmp_path / f"x{suffix}"))
    assert (row_file.shape, row_file.dtype) == ((11, 3), dtype)
    for start, stop in ((0, 11), (0, 1), (4, 9), (10, 11), (5, 5)):
        assert torch.equal(read(row_file, start, stop), x[start:stop])


def test_rows_read_from_a_large_file_are_copies(tmp_path):
    x = torch.randn(30_000, 5)
    path = save_rows(x, tmp_path / "x.npy")
    rows_read = read(open_row_file(path), 12_345, 12_999)  # neither start nor end is at a page boundary
    save_rows(torch.zeros(30_000, 5), path)
    assert torch.equal(rows_read, x[12_345:12_999])


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_a_file_of_zero_rows_can_be_opened(tmp_path, suffix):
    row_file = open_row_file(save_rows(rows(0), tmp_path / f"x{suffix}"))
    assert row_file.shape == (0, 3)
    assert read(row_file, 0, 0).shape == (0, 3)


def test_opening_reads_no_row(tmp_path, monkeypatch):
    paths = [save_rows(rows(), tmp_path / f"x{suffix}") for suffix in (".npy", ".safetensors", ".pt")]
    monkeypatch.setattr(module.mmap, "mmap", None)
    monkeypatch.setattr(torch.Tensor, "copy_", None)
    assert [open_row_file(path).shape for path in paths] == [(11, 3)] * 3


def test_a_tensor_is_selected_by_its_key(tmp_path):
    tensors = {"a": rows(4), "b.c": rows(9) + 1}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"a": "text"})
    torch.save(tensors | {"n": 3}, tmp_path / "x.pt")
    for path in (tmp_path / "x.safetensors", tmp_path / "x.pt"):
        assert torch.equal(read(open_row_file(path, "b.c"), 2, 9), tensors["b.c"][2:])
        assert error_of(path) == "holds 2 tensors; name one by --key: a, b.c"
        assert error_of(path, "d") == "holds no tensor d; there is a, b.c"


def test_the_only_tensor_needs_no_key(tmp_path):
    torch.save({"x": torch.nn.Parameter(rows()), "epoch": 3}, tmp_path / "x.pt")
    assert torch.equal(read(open_row_file(tmp_path / "x.pt"), 0, 11), rows())


def test_a_tensor_without_a_name_has_no_key(tmp_path):
    assert error_of(save_rows(rows(), tmp_path / "x.pt"), "a") == "holds a tensor without a name; leave --key a out"


def test_a_slice_of_a_larger_tensor_is_read_from_its_offset(tmp_path):
    torch.save(rows(20)[5:9], tmp_path / "x.pt")
    assert torch.equal(read(open_row_file(tmp_path / "x.pt"), 1, 4), rows(20)[6:9])


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
@pytest.mark.parametrize("shape", [(6,), (2, 3, 1), (), (4, 0)])
def test_a_tensor_that_is_not_two_dimensional_is_refused_with_its_shape(tmp_path, suffix, shape):
    path = save_rows(torch.zeros(shape), tmp_path / f"x{suffix}")
    assert error_of(path) == f"expected rows of numbers, of shape (N, D), got shape {shape}"


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_an_unsupported_dtype_is_refused_with_its_name(tmp_path, suffix):
    path = save_rows(torch.zeros(3, 2, dtype=torch.bool), tmp_path / f"x{suffix}")
    assert re.fullmatch("expected numbers of dtype float16, .*, int64, got bool", error_of(path), re.IGNORECASE)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt", ".PT"])
@pytest.mark.parametrize("junk", [b"not a file of its suffix, but long enough", b"PK\x03\x04", b"\x93NUMPY\x01\x00v"])
def test_a_damaged_file_is_refused(tmp_path, suffix, junk):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(junk)
    assert re.match("is not a .*file", error_of(path))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_a_truncated_file_is_refused_when_it_is_opened(tmp_path, suffix):
    path = save_rows(rows(100), tmp_path / f"x{suffix}")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    assert "truncated" in error_of(path)


def test_the_error_of_a_truncated_file_has_its_expected_size(tmp_path):
    path = save_rows(rows(100), tmp_path / "x.npy")
    os.truncate(path, 1000)
    assert error_of(path) == "is truncated: 100 x 3 float32 take 1,328 bytes, and it has 1,000"


def test_missing_and_irregular_files_are_refused(tmp_path):
    assert error_of(tmp_path / "none.npy") == "there is no such file"
    (tmp_path / "empty.npy").touch()
    assert error_of(tmp_path / "empty.npy") == "is empty, 0 bytes"
    (tmp_path / "folder.npy").mkdir()
    assert "is a folder; name the files in it, such as '" in error_of(tmp_path / "folder.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    assert "is not a regular file" in error_of(tmp_path / "pipe.npy")
    assert error_of(tmp_path / "x.csv") == "rows are read from files that end in .npy, .safetensors, .pt, .pth"
    (tmp_path / "folder").mkdir()
    assert "is a folder" in error_of(tmp_path / "folder")


def test_a_file_without_read_permission_is_refused(tmp_path, monkeypatch):
    def deny(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", deny)
    assert error_of(tmp_path / "x.npy") == "cannot be read; check its permissions"


def test_arrays_in_another_memory_order_are_refused_with_a_remedy(tmp_path):
    np.save(tmp_path / "f.npy", np.asfortranarray(rows().numpy()))
    assert "by np.save(PATH, np.ascontiguousarray(np.load(PATH)))" in error_of(tmp_path / "f.npy")
    torch.save(rows().t(), tmp_path / "t.pt")
    assert error_of(tmp_path / "t.pt") == "is not stored row by row; save tensor.contiguous()"
    np.save(tmp_path / "b.npy", rows().numpy().astype(">f4"))
    assert error_of(tmp_path / "b.npy") == "is stored in big-endian order; save it by numpy with .astype('<f4')"
    torch.save(rows().to_sparse(), tmp_path / "s.pt")
    assert error_of(tmp_path / "s.pt") == "holds a tensor that is not dense; save tensor.to_dense()"


def test_an_array_of_one_column_may_be_in_fortran_order(tmp_path):
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": (5, 1), "fortran_order": True, "descr": "<f4"})
        file.write(rows(5, 1).numpy().tobytes())
    assert torch.equal(read(open_row_file(path), 1, 5), rows(5, 1)[1:])


class Trap:
    """An object that runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_pickled_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"x": rows(), "trap": Trap()}, tmp_path / "x.pt")
    np.save(tmp_path / "x.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    torch.save([rows()], tmp_path / "list.pt")
    torch.save({"n": 1}, tmp_path / "none.pt")
    assert error_of(tmp_path / "x.pt").startswith("holds Python objects, which are not read")
    assert error_of(tmp_path / "x.npy").startswith("holds Python objects, which are not read")
    assert error_of(tmp_path / "list.pt") == "holds neither a tensor nor a dict of tensors, but a list"
    assert error_of(tmp_path / "none.pt") == "holds no tensor"
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_a_file_that_changes_or_disappears_after_opening_is_an_error(tmp_path, suffix):
    path = save_rows(rows(40_000), tmp_path / f"x{suffix}")
    row_file = open_row_file(path)
    os.truncate(path, 5000)
    with pytest.raises(OSError, match=f"x{suffix}: has changed while it was being read"):
        read(row_file, 30_000, 40_000)
    save_rows(rows(40_000), path)
    with pytest.raises(OSError, match="has changed"):
        read(row_file, 0, 1)
    path.unlink()
    with pytest.raises(OSError, match="there is no such file"):
        read(row_file, 0, 1)
