import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.rank_threads import run_on_ranks

from gpukmeans_cli.rows import label_files as module
from gpukmeans_cli.rows.label_files import label_files, label_targets
from gpukmeans_cli.rows.table import open_row_table, rank_rows
from gpukmeans_cli.system.atomic_files import ImageError
from gpukmeans_cli.system.rank_env import RankEnv
from gpukmeans_cli.system.rank_store import CollectiveError, RankStore

SINGLE = RankStore(RankEnv())
INT32 = np.dtype(np.int32)
COUNTS = (5, 0, 1, 11)


@pytest.fixture
def table(tmp_path):
    """Files of 5, 0, 1 and 11 rows."""
    paths = [tmp_path / f"{name}.npy" for name in "abcd"]
    for path, n in zip(paths, COUNTS, strict=True):
        np.save(path, np.zeros((n, 2), np.float32))
    return open_row_table(paths)


@pytest.fixture
def targets(tmp_path, table):
    (tmp_path / "out").mkdir()
    return label_targets([file.path for file in table.files], tmp_path / "out")


def write_all(table, targets, ranks, *, overwrite=False, rows=3, dtype=INT32):
    """Write the label 100 + i of each row i, `rows` labels at a time."""
    with label_files(table, targets, dtype, ranks, overwrite=overwrite) as files:
        start, stop = rank_rows(len(table), ranks.env.rank, ranks.env.size)
        for row in range(start, stop, rows):
            files.write(row, 100 + np.arange(row, min(row + rows, stop)))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [1, 2, 5, 30])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_all_ranks_write_the_label_files_together(table, targets, size, dtype):
    assert run_on_ranks(lambda ranks: write_all(table, targets, ranks, dtype=np.dtype(dtype)), size) == [None] * size
    found = [np.load(target) for target in targets]
    assert [len(labels) for labels in found] == list(COUNTS)
    assert {labels.dtype for labels in found} == {np.dtype(dtype)}
    assert np.concatenate(found).tolist() == list(range(100, 117))
    assert names(targets[0].parent) == ["a-labels.npy", "b-labels.npy", "c-labels.npy", "d-labels.npy"]


def test_a_label_file_has_the_bytes_that_numpy_saves(table, targets, tmp_path):
    write_all(table, targets, SINGLE)
    np.save(tmp_path / "x.npy", np.arange(106, 117, dtype=np.int32))
    assert targets[3].read_bytes() == (tmp_path / "x.npy").read_bytes()


@pytest.mark.parametrize("error", [ImageError("no space"), OSError("no space"), ValueError("no space")])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_of_one_rank_leaves_no_file(table, targets, rank, error):
    def work(ranks):
        with label_files(table, targets, INT32, ranks, overwrite=False):
            if ranks.env.rank == rank:
                raise error

    results = run_on_ranks(work, 2)
    assert [str(result) for result in results] == [f"{'rank 1: ' * rank}no space"] * 2
    assert {type(result) for result in results} == {CollectiveError}
    assert names(targets[0].parent) == []


def test_an_interruption_leaves_no_file(table, targets):
    def interrupted():
        with label_files(table, targets, INT32, SINGLE, overwrite=False) as files:
            files.write(0, np.zeros(5, np.int64))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(targets[0].parent) == []


def test_no_label_file_appears_before_all_are_written(table, targets):
    with label_files(table, targets, INT32, SINGLE, overwrite=False) as files:
        files.write(0, np.zeros(17, np.int64))
        assert all(name.endswith(".tmp") for name in names(targets[0].parent))


def test_an_existing_file_is_kept_unless_overwrite_is_set(table, targets):
    targets[2].write_bytes(b"old")
    with pytest.raises(CollectiveError, match=r"c-labels\.npy already exists; use --force to overwrite it"):
        write_all(table, targets, SINGLE)
    assert targets[2].read_bytes() == b"old"
    assert not [name for name in names(targets[0].parent) if name.endswith(".tmp")]
    write_all(table, targets, SINGLE, overwrite=True)
    assert np.load(targets[2]).tolist() == [105]


def test_overwriting_a_symbolic_link_replaces_its_target(table, targets, tmp_path):
    (tmp_path / "far").mkdir()
    targets[0].symlink_to(tmp_path / "far" / "labels.npy")
    write_all(table, targets, SINGLE, overwrite=True)
    assert targets[0].is_symlink()
    assert len(np.load(tmp_path / "far" / "labels.npy")) == 5
    assert names(tmp_path / "far") == ["labels.npy"]


def test_a_missing_folder_is_an_error_with_the_path_of_the_label_file(table, tmp_path):
    targets = label_targets([file.path for file in table.files], tmp_path / "none")
    with pytest.raises(CollectiveError, match=r"none/a-labels\.npy cannot be written, its folder does not exist"):
        write_all(table, targets, SINGLE)


def test_a_disk_that_fills_up_is_an_error(small_disk, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((10_000, 1), np.int8))
    table = open_row_table([tmp_path / "x.npy"])
    targets = label_targets([tmp_path / "x.npy"], small_disk)
    with pytest.raises(CollectiveError, match=r"x-labels\.npy cannot be written, the disk is full"):
        write_all(table, targets, SINGLE, rows=10_000)
    assert names(small_disk) == []


def test_two_files_of_the_same_stem_are_an_error(tmp_path):
    paths = [tmp_path / "a" / "x.npy", tmp_path / "b" / "x.pt"]
    sentence = f"labels of {paths[0]} and {paths[1]} would both be out/x-labels.npy; rename one file"
    with pytest.raises(CollectiveError, match=re.escape(sentence)):
        label_targets(paths, Path("out"))
    assert module.label_targets(paths[:1], Path("out")) == [Path("out/x-labels.npy")]


def test_label_files_are_not_kept_open(tmp_path):
    paths = [tmp_path / f"{index}.npy" for index in range(300)]
    for path in paths:
        np.save(path, np.zeros((1, 1), np.float32))
    table = open_row_table(paths)
    targets = label_targets(paths, tmp_path)
    with label_files(table, targets, INT32, SINGLE, overwrite=False) as files:
        n_open = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        assert n_open < 100
        files.write(0, np.arange(300))
    assert [np.load(target).item() for target in targets] == list(range(300))
