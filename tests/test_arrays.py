import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import torch
from helpers.array_libraries import DLPackArray, Frame, NamespaceArray
from PIL import Image

from gpukmeans.arrays import as_tensor, converter_for, to_tensor

X = np.arange(12.0, dtype=np.float32).reshape(4, 3)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def test_a_writable_array_shares_its_memory_with_the_tensor():
    array = X.copy()
    as_tensor(array[:, 1:], "x").zero_()
    assert array[:, 1:].max() == 0
    assert array[:, 0].tolist() == [0, 3, 6, 9]


@pytest.mark.parametrize(
    "array",
    [
        read_only(X),
        X[::-1],
        X[:, ::-2],
        X.astype(">f4"),
        np.broadcast_to(X, (2, 4, 3)),
        np.rec.array([(1, 2.5), (3, 4.5)], dtype=[("a", "i1"), ("b", "f4")]).b,
        np.array(7.0),
        X[:0],
    ],
    ids=["read-only", "reversed", "negative step", "big-endian", "broadcast", "field", "0-d", "empty"],
)
@pytest.mark.filterwarnings("error")
def test_an_array_of_any_memory_layout_is_the_tensor_of_its_values(array):
    tensor = as_tensor(array, "x")
    assert tensor.shape == array.shape
    assert tensor.tolist() == array.tolist()
    assert tensor.numpy().dtype == array.dtype.newbyteorder("=")


def test_tensors_and_objects_that_are_no_arrays_are_unchanged():
    for value in (torch.ones(2), [1, 2], [X, X], iter([X]), "auto", None, 3, np.float32(3), Image.new("L", (2, 2))):
        assert as_tensor(value, "x") is value


def test_a_memory_map_stays_one_unless_it_is_to_be_read(mapped):
    assert as_tensor(mapped, "x") is mapped
    assert as_tensor(mapped[1:], "x").shape == (3, 3)
    assert isinstance(as_tensor(mapped[1:], "x"), np.memmap)
    assert torch.equal(as_tensor(mapped, "x", mapped=True), torch.from_numpy(X))
    assert torch.equal(to_tensor(mapped, "x"), torch.from_numpy(X))
    for in_memory in (mapped.copy(), mapped[[0, 1, 2, 3]], np.asarray(mapped)):
        assert torch.equal(as_tensor(in_memory, "x"), torch.from_numpy(X))


def test_an_array_that_supports_dlpack_shares_its_memory():
    values = torch.arange(3.0)
    tensor = as_tensor(DLPackArray(values), "x")
    assert tensor.data_ptr() == values.data_ptr()
    assert torch.equal(tensor, values)


def test_a_frame_of_numbers_is_the_tensor_of_its_values():
    assert torch.equal(as_tensor(Frame(X), "x"), torch.from_numpy(X))
    mixed = Frame(np.array([[1, True], [2, False]], dtype=object), ["Int64", "bool"])
    assert as_tensor(mixed, "x").tolist() == [[1, 1], [2, 0]]
    with pytest.raises(TypeError, match="x must have columns of numbers only, got a Frame with columns of object, str"):
        as_tensor(Frame(np.array([[1, "a", "b"]], dtype=object), ["int64", "object", "str"]), "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([["a"]]), "x must be of a dtype that torch has, got an array of <U1"),
        (np.array([[None]]), "x must be of a dtype that torch has, got an array of object"),
        (np.zeros((2, 2), np.longdouble), "x must be of a dtype that torch has, got an array of .*float"),
        (np.zeros(2, "M8[s]"), "x must be of a dtype that torch has, got an array of datetime64"),
        (np.zeros(2, [("a", "f4")]), "x must be of a dtype that torch has, got an array of"),
        (
            np.ma.masked_array(X, X > 3),
            "x must be an array without a mask, got MaskedArray: give masked points weights of 0",
        ),
        (scipy.sparse.csr_array(X), r"x must be dense, got a sparse csr_array: call its toarray\(\)"),
        (scipy.sparse.coo_matrix(X), r"x must be dense, got a sparse coo_matrix: call its toarray\(\)"),
        (
            DLPackArray(torch.ones(1, requires_grad=True)),
            "x must be an array that DLPack shares with torch, got DLPackArray",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_array_that_is_no_tensor_is_an_error_with_what_came(values, message):
    for convert in (as_tensor, to_tensor):
        with pytest.raises(TypeError, match=message):
            convert(values, "x")


@pytest.mark.parametrize("value", [[1.0], None, "x", np.float32(3), Image.new("L", (2, 2))], ids=lambda x: str(type(x)))
def test_only_arrays_and_tensors_can_be_made_tensors(value):
    with pytest.raises(TypeError, match=f"y must be a tensor or an array, got {type(value).__name__}"):
        to_tensor(value, "y")


def test_results_are_converted_to_the_kind_of_the_points(mapped):
    result = torch.arange(3.0, requires_grad=True)
    for points in (torch.ones(2), [X], DLPackArray(result)):
        assert converter_for(points)(result) is result
    for points in (X, Frame(X), mapped):
        found = converter_for(points)(result)
        assert type(found) is np.ndarray
        assert found.tolist() == [0, 1, 2]
    found = converter_for(NamespaceArray(result))(result)
    assert isinstance(found, NamespaceArray)
    assert torch.equal(found.values, result)
    assert not found.values.requires_grad  # DLPack shares no gradients


def test_an_array_of_a_library_without_a_namespace_is_converted_by_its_module(monkeypatch):
    class Library:
        from_dlpack = staticmethod(lambda tensor: ("library", tensor))

    monkeypatch.setitem(sys.modules, "library", Library)
    kind = type("ndarray", (DLPackArray,), {"__module__": "library._core"})
    result = torch.ones(1)
    assert converter_for(kind(result))(result) == ("library", result)


def test_using_arrays_imports_no_other_array_library():
    code = "import sys, torch, gpukmeans.arrays as a; a.as_tensor([torch.ones(1)], 'x'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "scipy", "sklearn"} & set(run.stdout.split())  # torch itself imports NumPy
