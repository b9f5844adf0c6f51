import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.row_files import blobs, save_parts, save_rows
from safetensors import safe_open
from safetensors.torch import load_file

from gpukmeans import __version__, assign, kmeans
from gpukmeans_cli.commands import cluster
from gpukmeans_cli.main import main
from gpukmeans_cli.rows import run as rows_run
from gpukmeans_cli.rows import task_runner
from gpukmeans_cli.system.rank_env import RankEnv
from gpukmeans_cli.system.rank_store import RankStore

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(command, tmp_path, monkeypatch):
    """Runs `gpukmeans cluster` in an empty folder, and gives the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(command, "cluster")


@pytest.fixture
def x(tmp_path):
    """The rows of x.npy."""
    x = blobs()
    save_rows(x, tmp_path / "x.npy")
    return x


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Reports and outputs


def test_the_result_is_printed_in_one_line_and_written_to_a_file(run, x, tmp_path):
    code, out, err = run("x.npy", "-k", 5)
    expected = kmeans(x, 5, init="k-means||")
    assert (code, err) == (0, "")
    inertia = re.escape(f"{float(expected.inertia):.6g}")
    line = (
        rf"x\.npy, 600 x 3 -> centers\.safetensors: K=5, inertia {inertia}, \d+ iterations?, converged, \d+\.\d\d s\n"
    )
    assert re.fullmatch(line, out)
    found = load_file(tmp_path / "centers.safetensors")
    assert found.keys() == {"centers", "cluster_weights", "inertia"}
    assert torch.equal(found["centers"], expected.centers)
    with safe_open(tmp_path / "centers.safetensors", framework="pt") as file:
        assert file.metadata() == {
            "metric": "euclidean",
            "n_iter": str(int(expected.n_iter)),
            "converged": "true",
            "version": __version__,
        }
    assert names(tmp_path) == ["centers.safetensors", "x.npy"]


def test_the_json_of_a_clustering_has_exactly_the_documented_keys(run, x, tmp_path):
    paths = save_parts(x, tmp_path, (100, 500))
    code, out, err = run(*paths, "-k", 5, "--json", "-o", "c.npy", "--batch-rows", 150, "--labels", "out")
    assert (code, err, out.count("\n")) == (0, "", 1)
    report = json.loads(out)
    expected = kmeans(x, 5, init="k-means||")
    assert report.pop("seconds") > 0
    assert report.pop("rows_per_s") > 600
    assert report == {
        "inputs": [str(path) for path in paths],
        "rows": 600,
        "dimensions": 3,
        "clusters": 5,
        "inertia": float(expected.inertia),
        "n_iter": int(expected.n_iter),
        "converged": True,
        "ranks": 1,
        "device": "cpu",
        "output": "c.npy",
        "labels": "out",
    }
    labels = np.concatenate([np.load(tmp_path / "out" / f"part{index}-labels.npy") for index in (0, 1)])
    assert np.array_equal(labels, assign(x, expected.centers).labels.int().numpy())


def test_patterns_and_tensor_keys_are_accepted(run, x, tmp_path):
    torch.save({"a": x[:300].clone(), "b": x[:2].clone()}, tmp_path / "one.pt")
    torch.save({"b": torch.zeros(1), "a": x[300:].clone()}, tmp_path / "two.pt")
    assert run("*.pt", "-k", 5, "--key", "a", "-q") == (0, "", "")
    assert torch.equal(load_file("centers.safetensors")["centers"], kmeans(x, 5, init="k-means||").centers)


def test_verbose_prints_each_iteration(run, x):
    code, out, err = run("x.npy", "-k", 5, "-v")
    n_iterations = int(re.search(r"(\d+) iterations?,", out).group(1))
    lines = err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"gpukmeans: iteration {n}" for n in range(1, n_iterations + 1)]
    assert code == 0


def test_quiet_prints_only_requested_json(run, x):
    assert run("x.npy", "-k", 5, "-q", "-v") == (0, "", "")
    code, out, err = run("x.npy", "-k", 5, "-q", "--json", "--force")
    assert (code, err) == (0, "")
    assert json.loads(out)["clusters"] == 5


def test_force_overwrites_centers_and_labels(run, x, tmp_path):
    (tmp_path / "c.npy").write_bytes(b"old")
    (tmp_path / "x-labels.npy").write_bytes(b"old")
    assert run("x.npy", "-k", 5, "-o", "c.npy", "--labels", ".", "-f", "-q") == (0, "", "")
    assert np.load(tmp_path / "c.npy").shape == (5, 3)
    assert np.load(tmp_path / "x-labels.npy").shape == (600,)


# Wrong arguments


def refuse(*args, **options):
    raise AssertionError("unexpected call")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "Please specify a file of rows, for example: gpukmeans cluster rows.npy -k 64"),
        (["x.npy"], "Please specify the number of clusters, for example: -k 64"),
        (["x.npy", "-k", "0"], "of at least 1, got '0'"),
        (["-", "-k", "2"], "standard input cannot be read several times; name a file"),
        (["x.npy", "-k", "2", "-o", "c.txt"], "--output must end in .safetensors or .npy, got c.txt"),
        (["x.npy", "-k", "2", "-o", "-"], "--output must end in .safetensors or .npy, got -"),
        (["x.npy", "-k", "2", "--resume"], "--resume continues from a --checkpoint; name its file"),
        (["x.npy", "-k", "2", "--tol", "nan"], "--tol must be a number, at least 0, got nan"),
        (["x.npy", "-k", "2", "--timeout", "0"], "--timeout must be a number of seconds above 0, got 0"),
        (["x.npy", "-k", "2", "--device", "tpu"], "--device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["x.npy", "-k", "2", "--device", "cuda"], "--device cuda: "),
        (["x.npy", "-k", "2", "--init", "best"], "'best' is not one of"),
        (["x.npy", "-k", "2", "--metric", "cos"], "'cos' is not one of"),
        (["x.npy", "-k", "2", "--dtype", "float16"], "'float16' is not one of"),
        (["x.npy", "-k", "601"], "--clusters must be at most the number of rows, 600, got 601"),
        (["none.npy", "-k", "2"], "none.npy: there is no such file"),
        (["*.pt", "-k", "2"], "*.pt: matches no file; check the pattern"),
        ([".", "-k", "2"], ".: is a folder; name the files in it"),
        (["x.npy", "x.npy", "-k", "2"], "x.npy: is named twice; its rows would count twice"),
        (["x.npy", "wide.npy", "-k", "2"], "wide.npy: has rows of 4 float32, and x.npy of 3 float32; all must"),
        (["x.npy", "-k", "2", "--key", "a"], "x.npy: holds no tensors by name; leave --key a out"),
        (["x.npy", "-k", "2", "-o", "old.npy"], "old.npy already exists; use --force to overwrite it"),
        (["x.npy", "-k", "2", "-o", "no/c.npy"], "no/c.npy cannot be written, its folder does not exist"),
        (["x.npy", "-k", "2", "-o", "x.npy", "-f"], "x.npy is an input, and would be overwritten; choose another name"),
        (["x.npy", "-k", "2", "--checkpoint", "no/c"], "no/c cannot be written, its folder does not exist"),
        (
            ["x.npy", "-k", "2", "--checkpoint", "old.npy"],
            "old.npy already exists; continue from it by --resume, or overwrite it by --force",
        ),
        (["x.npy", "-k", "2", "--checkpoint", "c", "--resume"], "--resume: there is no file c to continue from"),
        (
            ["x.npy", "-k", "2", "--checkpoint", "old.npy", "--resume"],
            "old.npy is not a checkpoint of gpukmeans cluster",
        ),
        (
            ["x.npy", "-k", "2", "--checkpoint", "c.npy", "-o", "c.npy"],
            "c.npy would be written twice; choose another name",
        ),
        (["x.npy", "-k", "2", "--labels", "taken"], "taken/x-labels.npy already exists; use --force"),
        (["x.npy", "-k", "2", "--labels", "old.npy"], "old.npy cannot be created (a file has its name)"),
        (["x.npy", "taken/x.npy", "-k", "2", "--labels", "out"], "taken/x.npy would both be out/x-labels.npy"),
        (
            ["x.npy", "x-labels.npy", "-k", "2", "--labels", ".", "-f"],
            "x-labels.npy is an input, and would be overwritten",
        ),
    ],
)
def test_an_impossible_task_gives_one_line_before_any_work(run, x, tmp_path, monkeypatch, args, complaint):
    monkeypatch.setattr(rows_run, "kmeans", refuse)
    (tmp_path / "taken").mkdir()
    save_rows(blobs(4, 4), tmp_path / "wide.npy")
    for name in ("old.npy", "taken/x.npy", "taken/x-labels.npy", "x-labels.npy"):
        save_rows(x, tmp_path / name)
    before = names(tmp_path)
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"gpukmeans: [^\n]+\n", err)
    assert complaint in err
    assert names(tmp_path) == before


def test_help_and_wrong_arguments_are_answered_without_torch(codes_without_torch):
    calls = [["cluster", "--help"], ["cluster"], ["cluster", "x.npy"], ["cluster", "x.npy", "-k", "2", "--tol", "nan"]]
    assert codes_without_torch(calls) == ["0", "2", "2", "2"]


# Failures during the run


def test_rows_that_cannot_be_clustered_give_one_line_and_no_file(run, tmp_path):
    save_rows(torch.tensor([[1.0], [float("nan")], [2.0]]), tmp_path / "x.npy")
    code, out, err = run("x.npy", "-k", 2, "--json")
    assert code == 1
    assert re.fullmatch(r"gpukmeans: x\.npy: rows 0 to 2 must be finite, [^\n]*\n", err)
    assert json.loads(out) == {"inputs": ["x.npy"], "error": err.removeprefix("gpukmeans: ").strip()}
    assert names(tmp_path) == ["x.npy"]


def test_a_file_that_changes_during_the_run_gives_one_line_and_no_labels(run, x, tmp_path, monkeypatch):
    find = rows_run.kmeans

    def change(*args, **options):
        result = find(*args, **options)
        save_rows(x[:500], tmp_path / "x.npy")
        return result

    monkeypatch.setattr(rows_run, "kmeans", change)
    code, out, err = run("x.npy", "-k", 2, "--labels", "out")
    assert (code, out) == (1, "")
    assert err == "gpukmeans: x.npy: has changed while it was being read; leave it as it is and start anew\n"
    assert names(tmp_path / "out") == []
    assert (tmp_path / "centers.safetensors").exists()  # which were complete


def test_an_output_that_appears_during_the_run_is_kept(run, x, tmp_path, monkeypatch):
    find = rows_run.kmeans

    def take(*args, **options):
        (tmp_path / "centers.safetensors").write_bytes(b"someone else's")
        return find(*args, **options)

    monkeypatch.setattr(rows_run, "kmeans", take)
    code, out, err = run("x.npy", "-k", 2)
    assert (code, out) == (1, "")
    assert err == "gpukmeans: centers.safetensors already exists; use --force to overwrite it\n"
    assert (tmp_path / "centers.safetensors").read_bytes() == b"someone else's"


def test_running_out_of_memory_gives_one_line(run, x, monkeypatch):
    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(rows_run, "kmeans", fail)
    assert run("x.npy", "-k", 2) == (1, "", "gpukmeans: out of memory; use a smaller --batch-rows\n")


def test_an_unexpected_exception_is_not_caught(run, x, monkeypatch):
    def fail(*args, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(rows_run, "kmeans", fail)
    with pytest.raises(ZeroDivisionError):
        main(["cluster", "x.npy", "-k", "2"])


# Interruptions


@pytest.mark.parametrize(("send", "why"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_an_interruption_leaves_no_labels_and_names_the_checkpoint(run, x, tmp_path, monkeypatch, ctrl_c, send, why):
    def interrupt(*args, **options):
        os.kill(os.getpid(), send)

    monkeypatch.setattr(rows_run, "assign", interrupt)
    args = ("x.npy", "-k", 5, "--labels", "out", "--checkpoint", "state")
    assert run(*args) == (130, "", f"gpukmeans: {why}; --resume continues from state\n")
    assert names(tmp_path / "out") == []
    with monkeypatch.context() as during:
        during.setattr(rows_run, "kmeans", interrupt)
        assert run("x.npy", "-k", 5, "-f") == (130, "", f"gpukmeans: {why}\n")
    monkeypatch.setattr(rows_run, "assign", assign)
    code, _, err = run(*args, "--resume", "-q")  # the centers were written before the interruption
    assert (code, err) == (0, "")
    assert names(tmp_path / "out") == ["x-labels.npy"]
    monkeypatch.setattr(rows_run, "kmeans", interrupt)
    assert run("x.npy", "-k", 5, "-f", "-q") == (130, "", "")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


KILLED = """
import os, signal, sys
from gpukmeans_cli.main import main
replace, n_replaced = os.replace, 0
def kill_the_third_time(*args):
    global n_replaced
    n_replaced += 1
    if n_replaced == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*args)
os.replace = kill_the_third_time
main(["cluster", *sys.argv[1:]])
"""


def test_a_killed_run_resumes_to_the_same_bytes(run, tmp_path):
    generator = torch.Generator().manual_seed(0)
    save_parts(torch.rand(800, 2, generator=generator), tmp_path, (300, 500))
    args = ["part*", "-k", "16", "--tol", "0", "--every", "2", "--batch-rows", "100", "--labels"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")])}
    command = [sys.executable, "-c", KILLED, *args, "one", "--checkpoint", "state", "-o", "one.safetensors"]
    killed = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "one.safetensors").exists()
    code, _, err = run(*args, "one", "--checkpoint", "state", "--resume", "-o", "one.safetensors", "-v")
    assert code == 0
    assert err.startswith("gpukmeans: iteration 3, ")
    assert run(*args, "two", "-o", "two.safetensors", "-q") == (0, "", "")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    for name in ("part0-labels.npy", "part1-labels.npy"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# Ranks


def test_an_invalid_rank_environment_is_rejected(run, x, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    code, out, err = run("x.npy", "-k", 2)
    assert out == ""
    assert code != 0
    assert "as torchrun sets them, got RANK=0, WORLD_SIZE=missing" in err


def test_a_rank_that_cannot_join_the_process_group_gives_one_line(run, x, monkeypatch):
    @contextlib.contextmanager
    def group(*args):
        raise RuntimeError("timeout\nafter 1 s")
        yield

    monkeypatch.setattr(task_runner, "process_group", group)
    monkeypatch.setattr("gpukmeans_cli.validation.find_rank_env", lambda *paths: RankEnv(rank=0, size=2))
    monkeypatch.setattr(cluster, "rank_store", lambda env: contextlib.nullcontext(LocalStore(env)))
    message = "rank 0 of 2: cannot join the process group (timeout); start all ranks by torchrun"
    assert run("x.npy", "-k", 2) == (1, "", f"gpukmeans: {message}\n")


class LocalStore(RankStore):
    """The store of one of several ranks that exchanges nothing with the others."""

    def gather(self, thing):
        return [thing]

    def broadcast(self, thing):
        return thing


def test_a_lost_rank_is_reported_by_the_waiting_ranks(run, x, monkeypatch):
    def lose(*args, **options):
        raise RuntimeError(message)

    monkeypatch.setattr(rows_run, "kmeans", lose)
    message = (
        "rank 0 of 2 lost the other ranks at the sum of moments: a rank may have ended or not arrived in time (closed)"
    )
    assert run("x.npy", "-k", 2) == (1, "", f"gpukmeans: {message}\n")
    message = "rank 1: OutOfMemoryError: CUDA out of memory"
    assert run("x.npy", "-k", 2) == (1, "", f"gpukmeans: {message}\n")
    message = "shapes differ"
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["cluster", "x.npy", "-k", "2"])


def torchrun(*args, cwd):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [ROOT / "scripts" / "cluster.py", *args]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=180, check=False)


def test_two_ranks_write_the_bytes_of_one_process(run, tmp_path):
    save_parts(torch.rand(801, 2, generator=torch.Generator().manual_seed(0)), tmp_path, (300, 0, 501))
    args = ["part*", "-k", "16", "--every", "2", "--batch-rows", "99", "--json"]
    both = torchrun(*args, "--labels", "two", "--checkpoint", "two-state", "-o", "two.npy", cwd=tmp_path)
    assert both.returncode == 0, both.stderr
    code, out, _ = run(*args, "--labels", "one", "--checkpoint", "one-state", "-o", "one.npy")
    assert code == 0
    assert both.stdout.count("\n") == 1
    one, two = json.loads(out), json.loads(both.stdout)
    assert two["ranks"] == 2
    assert all(one[key] == two[key] for key in ("inputs", "rows", "inertia", "n_iter", "converged"))
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert names(tmp_path / "two") == names(tmp_path / "one")
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()
    # One process resumes from the checkpoint of two ranks.
    assert run(*args, "--checkpoint", "two-state", "--resume", "-o", "on.npy")[0] == 0
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "on.npy").read_bytes()


def test_invalid_rows_on_one_rank_are_reported_once(tmp_path):
    x = blobs()
    x[500] = float("inf")
    save_rows(x, tmp_path / "x.npy")
    both = torchrun("x.npy", "-k", "5", cwd=tmp_path)
    assert both.returncode != 0
    errors = re.findall(r"^gpukmeans: .*", both.stderr, re.MULTILINE)
    assert len(errors) == 1
    assert "finite" in errors[0]
    assert names(tmp_path) == ["x.npy"]
