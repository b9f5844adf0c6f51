import threading
import time

import numpy as np
import pytest
import scipy.sparse
import torch
from helpers.array_libraries import ArrayOnDisk, DLPackArray, Frame
from helpers.batch_sources import BatchIterable, W, X, no_reader_is_left, wait_for
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from gpukmeans import Batches


def read(batches):
    """The points and the weights of all batches, and the number of rows of each."""
    found = list(batches.read())
    weights = None if found[0].weights is None else torch.cat([batch.weights for batch in found])
    return torch.cat([batch.x for batch in found]), weights, [len(batch.x) for batch in found]


class Pairs(IterableDataset):
    def __iter__(self):
        return iter([(X[:3], W[:3]), (X[3:], W[3:])])


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "x.npy", X.numpy())
    return np.load(tmp_path / "x.npy", mmap_mode="r")


def test_a_list_of_tensors_is_a_source():
    assert [tuple(batch.shape) for batch in Batches([X[:7], X[7:]])] == [(7, 2), (3, 2)]


@pytest.mark.parametrize("weights", [W, W.numpy(), DLPackArray(W)], ids=["tensor", "array", "DLPack"])
def test_weighted_batches_are_points_with_their_weights(weights):
    for batch in ((X, weights), [X, weights], (X, weights, "more")):
        ((x, found),) = Batches([batch], weighted=True)
        assert torch.equal(x, X)
        assert torch.equal(found, W)


def test_a_mask_is_weights_of_0_and_1():
    ((_, weights),) = Batches([(X, W > 3)], weighted=True)
    assert weights.tolist() == [0] * 4 + [1] * 6


CLASSES = [0, 1] * 5


@pytest.mark.parametrize(
    "batch",
    [(X, W), [X, W], (X,), (X, CLASSES), (X, W, "more"), (X.numpy(), ["class"] * 10)],
    ids=["classes", "list", "one", "list of classes", "three", "arrays"],
)
def test_the_first_entry_of_a_tuple_is_the_points_and_the_rest_is_ignored(batch):
    (x,) = Batches([batch])
    assert torch.equal(x, X)


def test_two_tensors_as_the_source_are_two_batches():
    for source in ([X, X + 1], (X, X + 1)):
        assert [batch[0, 0].item() for batch in Batches(source)] == [0, 1]


@pytest.mark.parametrize(
    ("source", "sizes"),
    [
        (BatchIterable(), [4, 6]),
        ([X[:1].numpy(), X[1:].numpy()], [1, 9]),
        ([DLPackArray(X[:1]), Frame(X[1:].numpy())], [1, 9]),
        (DataLoader(TensorDataset(X), batch_size=4), [4, 4, 2]),
        (DataLoader(TensorDataset(X, W), batch_size=7), [7, 3]),
        (Pairs(), [3, 7]),
    ],
    ids=["iterable", "arrays", "arrays of others", "loader", "loader of pairs", "iterable dataset"],
)
def test_an_iterable_gives_the_same_batches_in_each_iteration(source, sizes):
    batches = Batches(source)
    for _ in range(2):
        x, weights, rows = read(batches)
        assert torch.equal(x, X)
        assert weights is None
        assert rows == sizes


@pytest.mark.parametrize(
    ("source", "batch_rows", "sizes"),
    [
        (DataLoader(TensorDataset(X, W), batch_size=7), None, [7, 3]),
        (Pairs(), None, [3, 7]),
        (TensorDataset(X, W), 4, [4, 4, 2]),
        (TensorDataset(X, W), None, [10]),
    ],
    ids=["loader", "iterable dataset", "slices", "dataset"],
)
def test_a_source_of_pairs_has_weights_if_they_are_asked_for(source, batch_rows, sizes):
    x, weights, rows = read(Batches(source, batch_rows, weighted=True))
    assert torch.equal(x, X)
    assert torch.equal(weights, W)
    assert rows == sizes


@pytest.mark.parametrize("size", [1, 7, 10, 11])
def test_a_table_is_read_in_slices_of_batch_rows(size, mapped):
    sizes = [len(X[start : start + size]) for start in range(0, 10, size)]
    arrays = (X, mapped, X.numpy(), Frame(X.numpy()), ArrayOnDisk(X.numpy()))
    for source in (*arrays, TensorDataset(X), TensorDataset(X, W)):
        x, _, rows = read(Batches(source, size))
        assert torch.equal(x, X)
        assert rows == sizes


def test_by_default_a_batch_of_a_table_is_32_mib(monkeypatch):
    rows = torch.zeros(1 << 17, 128, dtype=torch.uint8)
    assert [len(batch) for batch in Batches(rows)] == [1 << 17]
    monkeypatch.setattr("gpukmeans.points.batches._BYTES", 1 << 23)
    assert [len(batch) for batch in Batches(rows)] == [1 << 16, 1 << 16]


def test_a_source_with_a_length_and_slices_that_is_not_iterable_is_a_table():
    class Rows:
        def __len__(self):
            return len(X)

        def __getitem__(self, rows):
            return X[rows]

    for source in (Rows(), TensorDataset(X)):
        assert [tuple(batch.shape) for batch in Batches(source)] == [(10, 2)]


def test_points_have_the_dtype_of_the_argument():
    ((x, weights),) = Batches([(X, W)], dtype=torch.float64, weighted=True)
    assert (x.dtype, weights.dtype) == (torch.float64, torch.int64)


@pytest.mark.parametrize(
    "once",
    [iter([X]), (X for _ in range(2)), map(torch.clone, [X]), zip([X], [W], strict=True)],
    ids=lambda x: type(x).__name__,
)
def test_an_iterator_is_an_error_with_the_reason(once):
    with pytest.raises(TypeError, match=r"read again, because each iteration reads all .* gives them only once; got"):
        Batches(once)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((3,), TypeError, "x must be a tensor, an array, or batches that can be read again.* got int"),
        (("x.npy",), TypeError, "got str"),
        ((np.zeros((2, 3, 4)),), ValueError, r"a table of rows must have shape \(N, D\), got 3 dimensions"),
        ((scipy.sparse.csr_array(X.numpy()),), TypeError, "x must be dense, got a sparse csr_array"),
        (([X], 0), ValueError, "batch_rows must be at least 1, got 0"),
        (([X], 1.5), TypeError, "batch_rows must be an int, got float"),
        ((BatchIterable(), 3), TypeError, r"x must have len\(\) and slices for batch_rows, got BatchIterable"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_source_is_an_error_with_the_expected_value(args, error, message):
    with pytest.raises(error, match=message):
        Batches(*args)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ("rows", "batch 1 of x must be a tensor or an array, got str"),
        ((), "batch 1 of x must be points, or a tuple whose first entry is the points, got 0 entries"),
        ([[1.0, 2.0]], "batch 1 of x must be a tensor or an array, got list"),
        (
            np.ma.masked_array([[1.0]], [[True]]),
            "must be an array without a mask, got MaskedArray: give masked points weights of 0",
        ),
        (Image.new("L", (2, 2)), "batch 1 of x must be a tensor or an array, got Image"),
        (np.array(["a"]), "batch 1 of x must be of a dtype that torch has, got an array of <U1"),
    ],
)
def test_an_invalid_batch_is_an_error_with_its_number(batch, message):
    with pytest.raises(TypeError, match=message):
        list(Batches([X, batch]))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X, 3), "the weights of batch 1 of x must be a tensor or an array, got int"),
        ((X, None), "the weights of batch 1 of x must be a tensor or an array, got NoneType"),
        ((X,), "batch 1 of x must be a pair of points and weights, got 1 entries"),
        (X, "batch 1 of x must be a pair of points and weights, got Tensor"),
    ],
)
def test_a_batch_without_weights_that_were_asked_for_is_an_error_with_its_number(batch, message):
    with pytest.raises(TypeError, match=message):
        list(Batches([(X, W), batch], weighted=True))


def test_a_dataset_without_slices_needs_a_loader():
    class Items(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return X[int(index)]

    with pytest.raises(TypeError, match=r"Items has no slices .*: pass a DataLoader of it"):
        list(Batches(Items()))
    assert [len(batch) for batch in Batches(DataLoader(Items(), batch_size=2))] == [2, 1]


def test_a_source_is_read_in_the_grad_mode_of_the_caller():
    modes = []

    class Recording:
        def __iter__(self):
            modes.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            yield X

    list(Batches(Recording()))
    with torch.no_grad():
        list(Batches(Recording()))
    with torch.inference_mode():
        list(Batches(Recording()))
    assert modes == [(True, False), (False, False), (False, True)]


def test_an_array_is_copied_only_if_torch_cannot_share_its_memory(mapped):
    owned = X.numpy().copy()
    read_only = owned.copy()
    read_only.flags.writeable = False
    writable = np.memmap(mapped.filename, mapped.dtype, "r+", mapped.offset, mapped.shape)
    for array in (owned, owned[:, :1], read_only, owned[::-1], mapped, writable):
        copied = array is not owned and array.shape[1] == 2
        (batch,) = Batches([array])
        assert torch.equal(batch, torch.tensor(np.ascontiguousarray(array)))
        assert np.shares_memory(batch.numpy(), array) != copied


def test_batches_are_on_the_device_of_the_argument():
    ((x, weights),) = Batches([(X, W)], device="cpu", weighted=True)
    assert torch.equal(x, X)
    assert torch.equal(weights, W)


def test_the_next_batch_but_no_third_is_read_while_one_is_in_use():
    reads = []

    class Recording:
        def __iter__(self):
            for number in range(4):
                reads.append((number, threading.current_thread() is threading.main_thread()))
                yield X

    batches = Batches(Recording()).read()
    for number in range(4):
        next(batches)
        wait_for(lambda number=number: len(reads) == min(number + 2, 4))
        time.sleep(0.02)
        assert [index for index, _ in reads] == list(range(min(number + 2, 4)))
    assert not any(on_the_main_thread for _, on_the_main_thread in reads)


def test_an_error_while_reading_is_raised_in_place_of_the_batch():
    class Broken:
        def __iter__(self):
            yield X
            raise OSError("the disk is gone")

    batches = Batches(Broken()).read()
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_no_thread_is_left_after_an_incomplete_iteration():
    batches = Batches([X] * 5).read()
    next(batches)
    del batches
    assert no_reader_is_left()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_are_complete():
    rows = torch.rand(1 << 20, 8)
    found = [batch.sum(dim=1).cpu() for batch in Batches(rows, 1 << 16, device="cuda")]
    torch.testing.assert_close(torch.cat(found), rows.sum(dim=1))
