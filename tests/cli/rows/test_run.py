import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.rank_threads import run_on_ranks
from helpers.row_files import blobs, save_parts, save_rows
from safetensors.torch import load_file

from gpukmeans import assign, kmeans
from gpukmeans_cli.rows.progress import cluster_progress
from gpukmeans_cli.rows.run import ClusterResult, ClusterTask, cluster_rows, prepare
from gpukmeans_cli.system.rank_env import RankEnv
from gpukmeans_cli.system.rank_store import CollectiveError, RankStore

SINGLE = RankStore(RankEnv())


@pytest.fixture
def task(tmp_path):
    return ClusterTask(
        inputs=(),
        key=None,
        n_clusters=5,
        metric="euclidean",
        init="auto",
        n_init=1,
        refine=0,
        max_iter=100,
        tol=1e-4,
        seed=0,
        batch_rows=None,
        dtype=None,
        device=torch.device("cpu"),
        output=tmp_path / "centers.safetensors",
        labels=None,
        checkpoint=None,
        every=10,
        resume=False,
        force=False,
    )


def run(task):
    """The result of a task, and the tensors that it wrote."""
    with cluster_progress(quiet=True) as progress:
        result = cluster_rows(prepare(task, SINGLE), SINGLE, None, progress)
    return result, load_file(task.output)


def kmeans_of(x, task):
    """The result of the library for one tensor of all rows."""
    return kmeans(
        x,
        task.n_clusters,
        init="k-means||" if task.init == "auto" else task.init,
        n_init=task.n_init,
        refine=task.refine,
        metric=task.metric,
        max_iter=task.max_iter,
        generator=torch.Generator().manual_seed(task.seed),
    )


@pytest.mark.parametrize("sizes", [(600,), (1, 0, 250, 349), (200, 200, 200)])
@pytest.mark.parametrize("batch_rows", [None, 31, 137])
def test_centers_equal_those_of_one_tensor_of_all_rows(task, tmp_path, sizes, batch_rows):
    x = blobs()
    task = replace(task, inputs=tuple(save_parts(x, tmp_path, sizes)), batch_rows=batch_rows)
    result, found = run(task)
    expected = kmeans_of(x, task)
    for name in ("centers", "cluster_weights", "inertia"):
        assert torch.equal(found[name], getattr(expected, name))
    assert (result.n_iter, result.converged) == (int(expected.n_iter), True)
    assert (result.inertia, result.rows, result.dimensions) == (float(expected.inertia), 600, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"metric": "cosine"},
        {"init": "random", "seed": 3},
        {"init": "k-means++", "n_clusters": 3},
        {"n_init": 2, "refine": 1},
        {"max_iter": 1},
    ],
    ids=str,
)
def test_options_reach_the_library(task, tmp_path, options):
    x = blobs()
    task = replace(task, inputs=(save_rows(x, tmp_path / "x.npy"),), batch_rows=100, **options)
    result, found = run(task)
    expected = kmeans_of(x, task)
    assert torch.equal(found["centers"], expected.centers)
    assert result.converged == bool(expected.converged)


@pytest.mark.parametrize(
    ("stored", "dtype", "computed"),
    [
        (torch.float16, None, torch.float32),
        (torch.bfloat16, None, torch.float32),
        (torch.float64, None, torch.float64),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.float32, torch.float32),
        (torch.int8, None, torch.float32),
        (torch.int32, None, torch.float64),
    ],
)
def test_rows_are_clustered_in_the_dtype_of_the_library_or_the_given_dtype(task, tmp_path, stored, dtype, computed):
    x = blobs(dtype=stored)
    task = replace(task, inputs=(save_rows(x, tmp_path / "x.safetensors"),), dtype=dtype, labels=tmp_path)
    _, found = run(task)
    assert found["centers"].dtype == computed
    rows = x if dtype is None else x.to(dtype)
    assert torch.equal(found["centers"], kmeans_of(rows, task).centers)
    labels = torch.from_numpy(np.load(tmp_path / "x-labels.npy"))
    assert torch.equal(labels, assign(rows, found["centers"]).labels.int())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_each_file_gets_a_file_of_the_labels_that_assign_returns(task, tmp_path, metric):
    x = blobs()
    paths = save_parts(x, tmp_path, (1, 0, 250, 349))
    task = replace(task, inputs=tuple(paths), batch_rows=99, labels=tmp_path / "a" / "b", metric=metric)
    result, found = run(task)
    labels = [np.load(tmp_path / "a" / "b" / f"{path.stem}-labels.npy") for path in paths]
    assert [each.shape for each in labels] == [(1,), (0,), (250,), (349,)]
    assert {each.dtype for each in labels} == {np.dtype(np.int32)}
    expected = assign(x, found["centers"], metric=metric).labels.int()
    assert torch.equal(torch.from_numpy(np.concatenate(labels)), expected)
    assert result.labels == str(tmp_path / "a" / "b")


def test_a_numpy_file_holds_the_centers(task, tmp_path):
    x = blobs()
    task = replace(task, inputs=(save_rows(x, tmp_path / "x.npy"),), output=tmp_path / "c.npy")
    with cluster_progress(quiet=True) as progress:
        cluster_rows(prepare(task, SINGLE), SINGLE, None, progress)
    assert np.array_equal(np.load(tmp_path / "c.npy"), kmeans_of(x, task).centers.numpy())


def test_batches_are_about_32_mib(task, tmp_path):
    for dtype, d, rows in ((torch.float32, 16, 524_288), (torch.float64, 3, 1_398_101)):
        task = replace(task, inputs=(save_rows(blobs(6, d, dtype=dtype), tmp_path / f"{d}.npy"),))
        assert prepare(task, SINGLE).batch_rows == rows
    assert prepare(replace(task, batch_rows=7), SINGLE).batch_rows == 7
    wide = replace(task, n_clusters=1, inputs=(save_rows(torch.zeros(1, 2**23 + 1), tmp_path / "wide.npy"),))
    assert prepare(wide, SINGLE).batch_rows == 1


def test_too_few_distinct_rows_are_one_warning(task, tmp_path, capsys):
    task = replace(task, inputs=(save_rows(torch.tensor([[1.0], [2.0]]).repeat(9, 1), tmp_path / "x.npy"),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(task)
    assert capsys.readouterr().err == "gpukmeans: x has only 2 distinct points, so 3 of 5 clusters stay empty\n"


def test_a_checkpoint_of_other_rows_or_options_is_refused(task, tmp_path):
    x = blobs()
    task = replace(task, inputs=(save_rows(x, tmp_path / "x.npy"),), checkpoint=tmp_path / "c")
    run(task)
    task = replace(task, resume=True, output=tmp_path / "other.safetensors")
    for options, words in (
        ({"n_clusters": 6}, "written with --clusters 5, now it is 6"),
        ({"seed": 1}, "written with --seed 0, now it is 1"),
        ({"init": "random"}, "written with --init auto, now it is random"),
        ({"dtype": torch.float64}, "written with --dtype None, now it is float64"),
        ({"inputs": (save_rows(x[:-1], tmp_path / "y.npy"),)}, "written with rows 600 x 3 float32, now it is 599 x 3"),
    ):
        with pytest.raises(CollectiveError, match=words):
            prepare(replace(task, **options), SINGLE)
    (tmp_path / "other").mkdir()
    other = replace(task, inputs=(save_rows(x + 1, tmp_path / "other" / "x.npy"),))
    with pytest.raises(CollectiveError, match="checkpoint"):
        run(other)


def test_a_checkpoint_of_files_in_another_order_is_refused(task, tmp_path):
    paths = save_parts(blobs(), tmp_path, [300, 300])
    task = replace(task, inputs=tuple(paths), checkpoint=tmp_path / "c")
    run(task)
    with pytest.raises(CollectiveError, match=r"written with files .*, now it is"):
        prepare(replace(task, inputs=tuple(reversed(paths)), resume=True), SINGLE)


def test_an_error_of_rows_names_their_files(task, tmp_path):
    x = blobs()
    x[450, 1] = torch.nan
    paths = save_parts(x, tmp_path, [400, 200])
    task = replace(task, inputs=tuple(paths), batch_rows=150)
    with pytest.raises(CollectiveError) as raised:
        run(task)
    assert str(raised.value).startswith(f"{paths[1]}: rows 50 to 199 must be finite, got NaN")
    task = replace(task, batch_rows=500)
    with pytest.raises(CollectiveError) as raised:
        run(task)
    assert str(raised.value).startswith(f"{paths[0]}: rows 0 to 399 and {paths[1]}: rows 0 to 99 must be finite")


@pytest.mark.parametrize("option", ["output", "checkpoint", "labels"])
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs a folder that cannot hold files, even for root")
def test_a_folder_that_cannot_hold_files_is_refused_before_the_clustering(task, tmp_path, option):
    path = Path("/proc") if option == "labels" else Path("/proc/none.npy")
    task = replace(task, inputs=(save_rows(blobs(), tmp_path / "x.npy"),), **{option: path})
    with pytest.raises(CollectiveError, match=r"^/proc/.* cannot be written, its folder cannot contain files; choose"):
        prepare(task, SINGLE)


def test_a_checkpoint_that_cannot_be_written_is_an_error_in_one_line(task, tmp_path, small_disk):
    x = torch.rand(300, 64, generator=torch.Generator().manual_seed(0))
    task = replace(task, n_clusters=200, init="random", max_iter=1, checkpoint=small_disk / "c")
    task = replace(task, inputs=(save_rows(x, tmp_path / "x.npy"),))
    with pytest.raises(CollectiveError, match="c cannot be written, the disk is full"):
        run(task)
    assert not task.output.exists()


# Ranks


def test_ranks_with_different_files_are_an_error_on_all_ranks(task, tmp_path):
    save_rows(blobs(), tmp_path / "a.npy")
    save_rows(blobs(601), tmp_path / "b.npy")

    def work(ranks):
        return prepare(replace(task, inputs=(tmp_path / f"{'ab'[ranks.env.rank]}.npy",)), ranks)

    sentence = "rank 1: found 601 x 3 float32 in 1 file, but rank 0 found 600 x 3 float32 in 1 file"
    assert [str(result) for result in run_on_ranks(work, 2)] == [sentence] * 2


def test_an_output_that_rank_0_cannot_write_is_an_error_on_all_ranks(task, tmp_path):
    task = replace(task, inputs=(save_rows(blobs(), tmp_path / "x.npy"),))
    prepared = run_on_ranks(lambda ranks: prepare(task, ranks), 3)
    assert [each.rank_fraction(RankEnv(rank=rank, size=3)) for rank, each in enumerate(prepared)] == [1 / 3] * 3
    task.output.touch()
    results = run_on_ranks(lambda ranks: prepare(task, ranks), 3)
    sentence = f"{task.output} already exists; use --force to overwrite it"
    assert [str(result) for result in results] == [sentence] * 3


def test_all_ranks_get_the_state_to_resume(task, tmp_path):
    task = replace(task, inputs=(save_rows(blobs(), tmp_path / "x.npy"),), checkpoint=tmp_path / "c")
    run(task)
    task = replace(task, resume=True, force=True)
    first, second = run_on_ranks(lambda ranks: prepare(task, ranks), 2)
    assert first.state.keys() == second.state.keys()
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)


# The report


RESULT = ClusterResult(
    inputs=["a.npy", "b.npy", "c.npy"],
    rows=50_000_000,
    dimensions=16,
    clusters=1256,
    inertia=1234567.8,
    n_iter=23,
    converged=True,
    seconds=41.0,
    rows_per_s=1e7,
    ranks=2,
    device="cpu",
    output="centers.safetensors",
    labels=None,
)


def test_a_result_is_one_line_of_text():
    assert RESULT.line() == (
        "3 files, 50,000,000 x 16 -> centers.safetensors: K=1,256, inertia 1.23457e+06, 23 iterations, converged, "
        "41.00 s"
    )
    one = replace(RESULT, inputs=["a.npy"], n_iter=1, converged=False, labels="out")
    assert one.line() == (
        "a.npy, 50,000,000 x 16 -> centers.safetensors, out: K=1,256, inertia 1.23457e+06, 1 iteration, not converged, "
        "41.00 s"
    )
