import contextlib
from pathlib import Path

import pytest
import torch
from helpers.row_files import blobs, save_rows
from safetensors.torch import load_file

from gpukmeans import kmeans
from gpukmeans_cli.rows import run as rows_run
from gpukmeans_cli.rows import task_runner
from gpukmeans_cli.rows.reporter import ClusterReporter
from gpukmeans_cli.rows.run import ClusterTask
from gpukmeans_cli.rows.task_runner import PreparationError, run_task
from gpukmeans_cli.system.rank_env import RankEnv, RankError
from gpukmeans_cli.system.rank_store import RankStore

REPORTER = ClusterReporter(is_main=True, as_json=False, quiet=False, verbose=False, inputs=["x.npy"])
ALONE = RankStore(RankEnv())


def task(**changes):
    options = {
        "inputs": (Path("x.npy"),),
        "key": None,
        "n_clusters": 5,
        "metric": "euclidean",
        "init": "k-means||",
        "n_init": 1,
        "refine": 0,
        "max_iter": 100,
        "tol": 1e-4,
        "seed": 0,
        "batch_rows": None,
        "dtype": None,
        "device": torch.device("cpu"),
        "output": Path("centers.safetensors"),
        "labels": None,
        "checkpoint": None,
        "every": 10,
        "resume": False,
        "force": False,
    }
    return ClusterTask(**options | changes)


@pytest.fixture
def x(tmp_path, monkeypatch):
    """The rows of x.npy, in the working directory."""
    monkeypatch.chdir(tmp_path)
    x = blobs()
    save_rows(x, Path("x.npy"))
    return x


def test_a_task_that_succeeds_is_reported_and_its_centers_are_written(x, capsys):
    assert run_task(task(), ALONE, None, REPORTER)
    out, err = capsys.readouterr()
    assert out.startswith("x.npy, 600 x 3 -> centers.safetensors: K=5, ")
    assert err == ""
    assert torch.equal(load_file("centers.safetensors")["centers"], kmeans(x, 5, init="k-means||").centers)


def test_a_task_that_cannot_start_is_a_preparation_error_without_a_report(x, capsys):
    with pytest.raises(PreparationError, match="--clusters must be at most the number of rows, 600, got 601"):
        run_task(task(n_clusters=601), ALONE, None, REPORTER)
    assert capsys.readouterr() == ("", "")


def test_a_task_that_fails_during_the_run_is_reported(x, capsys):
    x[1, 0] = float("nan")
    save_rows(x, Path("x.npy"))
    assert not run_task(task(), ALONE, None, REPORTER)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gpukmeans: x.npy: rows 0 to 599 must be finite, ")


def test_an_interruption_is_reported_and_raised(x, capsys, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(rows_run, "kmeans", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_task(task(), ALONE, None, REPORTER)
    assert capsys.readouterr() == ("", "gpukmeans: interrupted\n")


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_a_process_group_that_cannot_be_initialized_is_a_rank_error(x, monkeypatch, error):
    @contextlib.contextmanager
    def process_group(*args):
        raise error("timeout\nafter 1 s")
        yield

    class LocalStore(RankStore):
        """The store of one of several ranks that exchanges nothing with the others."""

        def gather(self, thing):
            return [thing]

        def broadcast(self, thing):
            return thing

    monkeypatch.setattr(task_runner, "process_group", process_group)
    message = r"rank 1 of 2: cannot join the process group \(timeout\); start all ranks by torchrun"
    with pytest.raises(RankError, match=message):
        run_task(task(), LocalStore(RankEnv(rank=1, size=2)), None, REPORTER)
