import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.rank_threads import as_ranks

from gpukmeans_cli.rows import label_files as module
from gpukmeans_cli.rows.label_files import label_files, label_targets
from gpukmeans_cli.rows.table import open_shards, share
from gpukmeans_cli.system.atomic_files import ImageError
from gpukmeans_cli.system.rank_env import Place
from gpukmeans_cli.system.rank_store import Meeting, SharedError

ALONE = Meeting(Place())
INT32 = np.dtype(np.int32)
COUNTS = (5, 0, 1, 11)


@pytest.fixture
def shards(tmp_path):
    """Files of 5, 0, 1 and 11 rows."""
    paths = [tmp_path / f"{name}.npy" for name in "abcd"]
    for path, n in zip(paths, COUNTS, strict=True):
        np.save(path, np.zeros((n, 2), np.float32))
    return open_shards(paths)


@pytest.fixture
def targets(tmp_path, shards):
    (tmp_path / "out").mkdir()
    return label_targets([file.path for file in shards.files], tmp_path / "out")


def write_all(shards, targets, ranks, *, overwrite=False, rows=3, dtype=INT32):
    """Write 100 and the number of each row, some at a time."""
    with label_files(shards, targets, dtype, ranks, overwrite=overwrite) as files:
        first, last = share(len(shards), ranks.place.rank, ranks.place.size)
        for start in range(first, last, rows):
            files.write(start, 100 + np.arange(start, min(start + rows, last)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [1, 2, 5, 30])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_all_ranks_together_write_the_files_of_labels(shards, targets, size, dtype):
    assert as_ranks(lambda ranks: write_all(shards, targets, ranks, dtype=np.dtype(dtype)), size) == [None] * size
    found = [np.load(target) for target in targets]
    assert [len(labels) for labels in found] == list(COUNTS)
    assert {labels.dtype for labels in found} == {np.dtype(dtype)}
    assert np.concatenate(found).tolist() == list(range(100, 117))
    assert names(targets[0].parent) == ["a-labels.npy", "b-labels.npy", "c-labels.npy", "d-labels.npy"]


def test_the_bytes_are_those_that_numpy_saves(shards, targets, tmp_path):
    write_all(shards, targets, ALONE)
    np.save(tmp_path / "x.npy", np.arange(106, 117, dtype=np.int32))
    assert targets[3].read_bytes() == (tmp_path / "x.npy").read_bytes()


@pytest.mark.parametrize("error", [ImageError("no room"), OSError("no room"), ValueError("no room")])
@pytest.mark.parametrize("rank", [0, 1])
def test_the_failure_of_one_rank_leaves_no_file(shards, targets, rank, error):
    def do(ranks):
        with label_files(shards, targets, INT32, ranks, overwrite=False):
            if ranks.place.rank == rank:
                raise error

    results = as_ranks(do, 2)
    assert [str(result) for result in results] == [f"{'rank 1: ' * rank}no room"] * 2
    assert {type(result) for result in results} == {SharedError}
    assert names(targets[0].parent) == []


def test_an_interruption_leaves_no_file(shards, targets):
    def interrupted():
        with label_files(shards, targets, INT32, ALONE, overwrite=False) as files:
            files.write(0, np.zeros(5, np.int64))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(targets[0].parent) == []


def test_no_label_is_seen_before_all_are_written(shards, targets):
    with label_files(shards, targets, INT32, ALONE, overwrite=False) as files:
        files.write(0, np.zeros(17, np.int64))
        assert all(name.endswith(".tmp") for name in names(targets[0].parent))


def test_a_file_that_is_there_is_kept_unless_it_may_be_overwritten(shards, targets):
    targets[2].write_bytes(b"old")
    with pytest.raises(SharedError, match=r"c-labels\.npy already exists; use --force to overwrite it"):
        write_all(shards, targets, ALONE)
    assert targets[2].read_bytes() == b"old"
    assert not [name for name in names(targets[0].parent) if name.endswith(".tmp")]
    write_all(shards, targets, ALONE, overwrite=True)
    assert np.load(targets[2]).tolist() == [105]


def test_a_link_is_followed_where_it_may_be_overwritten(shards, targets, tmp_path):
    (tmp_path / "far").mkdir()
    targets[0].symlink_to(tmp_path / "far" / "labels.npy")
    write_all(shards, targets, ALONE, overwrite=True)
    assert targets[0].is_symlink()
    assert len(np.load(tmp_path / "far" / "labels.npy")) == 5
    assert names(tmp_path / "far") == ["labels.npy"]


def test_a_folder_that_is_gone_is_told_with_the_name_of_the_file(shards, tmp_path):
    targets = label_targets([file.path for file in shards.files], tmp_path / "none")
    with pytest.raises(SharedError, match=r"none/a-labels\.npy cannot be written, its folder does not exist"):
        write_all(shards, targets, ALONE)


def test_a_full_disk_while_labels_are_written_is_told(small_disk, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((10_000, 1), np.int8))
    shards = open_shards([tmp_path / "x.npy"])
    targets = label_targets([tmp_path / "x.npy"], small_disk)
    with pytest.raises(SharedError, match=r"x-labels\.npy cannot be written, the disk is full"):
        write_all(shards, targets, ALONE, rows=10_000)
    assert names(small_disk) == []


def test_files_of_one_stem_have_no_two_places(tmp_path):
    paths = [tmp_path / "a" / "x.npy", tmp_path / "b" / "x.pt"]
    sentence = f"labels of {paths[0]} and {paths[1]} would both be out/x-labels.npy; give one another name"
    with pytest.raises(SharedError, match=re.escape(sentence)):
        label_targets(paths, Path("out"))
    assert module.label_targets(paths[:1], Path("out")) == [Path("out/x-labels.npy")]


def test_many_files_are_not_held_open(tmp_path):
    paths = [tmp_path / f"{index}.npy" for index in range(300)]
    for path in paths:
        np.save(path, np.zeros((1, 1), np.float32))
    shards = open_shards(paths)
    targets = label_targets(paths, tmp_path)
    with label_files(shards, targets, INT32, ALONE, overwrite=False) as files:
        before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        assert before < 100
        files.write(0, np.arange(300))
    assert [np.load(target).item() for target in targets] == list(range(300))
