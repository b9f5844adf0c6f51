import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gpukmeans_cli.rows.files import RowFileError
from gpukmeans_cli.rows.table import RowRange, expand_patterns, open_row_table, rank_rows


@pytest.fixture
def row_files(tmp_path):
    """Rows (17, 2) in files of 5, 0, 1 and 11 rows, of each format, and their paths."""
    x = torch.randn(17, 2, generator=torch.Generator().manual_seed(0))
    paths = [tmp_path / name for name in ("a.npy", "b.npy", "c.safetensors", "d.pt")]
    np.save(paths[0], x[:5].numpy())
    np.save(paths[1], x[:0].numpy())
    save_file({"x": x[5:6]}, paths[2])
    torch.save(x[6:].clone(), paths[3])
    return x, paths


def test_the_rows_of_many_files_are_one_table(row_files):
    x, paths = row_files
    table = open_row_table(paths)
    assert (len(table), table.n_columns, table.dtype) == (17, 2, torch.float32)
    for start, stop in itertools.product(range(18), range(19)):
        assert torch.equal(table[start:stop], x[start:stop])
    assert torch.equal(table[:], x)
    assert torch.equal(table[-3:], x[-3:])


def test_a_slice_of_a_row_table_is_a_copy(row_files):
    x, paths = row_files
    table = open_row_table(paths)
    table[:].zero_()
    assert torch.equal(table[:], x)


def test_a_slice_with_a_step_is_an_error(row_files):
    with pytest.raises(ValueError, match="must have step 1, got 2"):
        open_row_table(row_files[1])[::2]


def test_file_ranges_give_the_file_and_rows_of_a_slice(row_files):
    table = open_row_table(row_files[1])
    assert table.file_ranges(3, 9) == [(0, 3, 5), (2, 0, 1), (3, 0, 3)]
    assert table.file_ranges(5, 5) == []
    assert table.starts == (0, 5, 5, 6, 17)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 40])
def test_ranks_divide_all_rows_evenly_and_in_order(row_files, size):
    x, paths = row_files
    table = open_row_table(paths)
    ranges = [RowRange(table, *rank_rows(len(table), rank, size)) for rank in range(size)]
    assert torch.equal(torch.cat([rows[:] for rows in ranges]), x)
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_a_row_range_reports_the_number_of_rows_read(row_files):
    x, paths = row_files
    counts = []
    rows = RowRange(open_row_table(paths), 4, 9, counts.append)
    assert torch.equal(rows[1:3], x[5:7])
    assert torch.equal(rows[3:100], x[7:9])
    assert counts == [2, 2]


@pytest.mark.parametrize("other", [np.zeros((2, 3), np.float32), np.zeros((2, 2), np.float64)])
def test_two_files_that_differ_in_columns_or_dtype_are_both_named(row_files, tmp_path, other):
    np.save(tmp_path / "other.npy", other)
    kind = f"{other.shape[1]} {other.dtype}"
    sentence = f"{tmp_path}/other.npy: has rows of {kind}, and {tmp_path}/a.npy of 2 float32; all must have the same"
    with pytest.raises(RowFileError, match=re.escape(sentence)):
        open_row_table([*row_files[1], tmp_path / "other.npy"])


def test_a_key_without_a_file_of_named_tensors_is_an_error(row_files, tmp_path):
    x, paths = row_files
    assert torch.equal(open_row_table([paths[0], paths[2]], "x")[:], torch.cat([x[:5], x[5:6]]))
    with pytest.raises(RowFileError, match=r"a\.npy: holds no tensors by name; leave --key x out"):
        open_row_table(paths[:2], "x")


def test_patterns_expand_to_their_matches_in_order(row_files, tmp_path):
    paths = row_files[1]
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "folder.npy" / "e.npy").touch()
    assert expand_patterns([paths[3], tmp_path / "[ab].npy"]) == [paths[3], *paths[:2]]
    assert expand_patterns([tmp_path / "**/*.npy"]) == [*paths[:2], tmp_path / "folder.npy/e.npy"]
    (tmp_path / "[x].npy").touch()
    assert expand_patterns([tmp_path / "[x].npy"]) == [tmp_path / "[x].npy"]
    with pytest.raises(RowFileError, match=r"\*\.none: matches no file"):
        expand_patterns([tmp_path / "*.none"])


def test_a_file_named_twice_is_an_error(row_files, tmp_path):
    paths = row_files[1]
    with pytest.raises(RowFileError, match=r"a\.npy: is named twice; its rows"):
        expand_patterns([paths[0], tmp_path / "a*"])
    (tmp_path / "link.npy").symlink_to(paths[0])
    with pytest.raises(RowFileError, match=r"link\.npy: is named twice, also as .*a\.npy"):
        expand_patterns([paths[0], tmp_path / "link.npy"])


def peak_memory():
    """The maximum resident memory of this process in kB since the last reset of the counter."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE).group(1))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("name", ["x.npy", "x.pt"])
def test_reading_takes_the_memory_of_a_slice(tmp_path, name):
    n = 2**21  # rows of 64 bytes
    if name == "x.npy":
        with (tmp_path / name).open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"shape": (n, 16), "fortran_order": False, "descr": "<f4"})
            file.truncate(file.tell() + n * 64)  # a sparse file
    else:
        torch.save(torch.zeros(n, 16), tmp_path / name)
    table = open_row_table([tmp_path / name])
    table[: 2**16]
    Path("/proc/self/clear_refs").write_text("5")  # resets the counter
    before = peak_memory()
    for start in range(0, n, 2**16):
        table[start : start + 2**16]
    after = peak_memory()
    (tmp_path / name).unlink()
    assert after - before < 32 * 2**10
