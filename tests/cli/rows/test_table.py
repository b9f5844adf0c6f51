import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gpukmeans_cli.rows.files import ShardError
from gpukmeans_cli.rows.table import Part, found_paths, open_shards, share


@pytest.fixture
def table(tmp_path):
    """Rows (17, 2) in files of 5, 0, 1 and 11 rows, of each format, and their paths."""
    x = torch.randn(17, 2, generator=torch.Generator().manual_seed(0))
    paths = [tmp_path / name for name in ("a.npy", "b.npy", "c.safetensors", "d.pt")]
    np.save(paths[0], x[:5].numpy())
    np.save(paths[1], x[:0].numpy())
    save_file({"x": x[5:6]}, paths[2])
    torch.save(x[6:].clone(), paths[3])
    return x, paths


def test_the_rows_of_many_files_are_one_table(table):
    x, paths = table
    shards = open_shards(paths)
    assert (len(shards), shards.width, shards.dtype) == (17, 2, torch.float32)
    for start, stop in itertools.product(range(18), range(19)):
        assert torch.equal(shards[start:stop], x[start:stop])
    assert torch.equal(shards[:], x)
    assert torch.equal(shards[-3:], x[-3:])


def test_a_slice_is_a_copy_of_its_own(table):
    x, paths = table
    shards = open_shards(paths)
    shards[:].zero_()
    assert torch.equal(shards[:], x)


def test_only_rows_in_their_order_are_read(table):
    with pytest.raises(ValueError, match="got a step of 2"):
        open_shards(table[1])[::2]


def test_spans_name_the_files_that_rows_lie_in(table):
    shards = open_shards(table[1])
    assert shards.spans(3, 9) == [(0, 3, 5), (2, 0, 1), (3, 0, 3)]
    assert shards.spans(5, 5) == []
    assert shards.starts == (0, 5, 5, 6, 17)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 40])
def test_ranks_share_all_rows_in_their_order(table, size):
    x, paths = table
    shards = open_shards(paths)
    parts = [Part(shards, *share(len(shards), rank, size)) for rank in range(size)]
    assert torch.equal(torch.cat([part[:] for part in parts]), x)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_is_a_table_that_tells_of_what_is_read(table):
    x, paths = table
    seen = []
    part = Part(open_shards(paths), 4, 9, seen.append)
    assert torch.equal(part[1:3], x[5:7])
    assert torch.equal(part[3:100], x[7:9])
    assert seen == [2, 2]


@pytest.mark.parametrize("other", [np.zeros((2, 3), np.float32), np.zeros((2, 2), np.float64)])
def test_files_that_do_not_fit_together_are_named_both(table, tmp_path, other):
    np.save(tmp_path / "other.npy", other)
    kind = f"{other.shape[1]} {other.dtype}"
    sentence = f"{tmp_path}/other.npy: has rows of {kind}, and {tmp_path}/a.npy of 2 float32; all must be alike"
    with pytest.raises(ShardError, match=re.escape(sentence)):
        open_shards([*table[1], tmp_path / "other.npy"])


def test_a_key_is_for_files_that_have_names(table, tmp_path):
    x, paths = table
    assert torch.equal(open_shards([paths[0], paths[2]], "x")[:], torch.cat([x[:5], x[5:6]]))
    with pytest.raises(ShardError, match=r"a\.npy: holds no tensors by name; leave --key x out"):
        open_shards(paths[:2], "x")


def test_patterns_are_the_files_they_match_in_order(table, tmp_path):
    paths = table[1]
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "folder.npy" / "e.npy").touch()
    assert found_paths([paths[3], tmp_path / "[ab].npy"]) == [paths[3], *paths[:2]]
    assert found_paths([tmp_path / "**/*.npy"]) == [*paths[:2], tmp_path / "folder.npy/e.npy"]
    (tmp_path / "[x].npy").touch()
    assert found_paths([tmp_path / "[x].npy"]) == [tmp_path / "[x].npy"]
    with pytest.raises(ShardError, match=r"\*\.none: matches no file"):
        found_paths([tmp_path / "*.none"])


def test_rows_never_count_twice(table, tmp_path):
    paths = table[1]
    with pytest.raises(ShardError, match=r"a\.npy: is named twice; its rows"):
        found_paths([paths[0], tmp_path / "a*"])
    (tmp_path / "link.npy").symlink_to(paths[0])
    with pytest.raises(ShardError, match=r"link\.npy: is named twice, also as .*a\.npy"):
        found_paths([paths[0], tmp_path / "link.npy"])


def most_memory():
    """The most kB that this process has held since it was last forgotten, by Linux."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE).group(1))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
@pytest.mark.parametrize("name", ["x.npy", "x.pt"])
def test_the_memory_of_reading_is_that_of_a_slice(tmp_path, name):
    n = 2**21  # of 64 bytes
    if name == "x.npy":
        with (tmp_path / name).open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"shape": (n, 16), "fortran_order": False, "descr": "<f4"})
            file.truncate(file.tell() + n * 64)  # zeros that take no disk
    else:
        torch.save(torch.zeros(n, 16), tmp_path / name)
    shards = open_shards([tmp_path / name])
    shards[: 2**16]
    Path("/proc/self/clear_refs").write_text("5")  # which forgets
    before = most_memory()
    for start in range(0, n, 2**16):
        shards[start : start + 2**16]
    after = most_memory()
    (tmp_path / name).unlink()
    assert after - before < 32 * 2**10
