"""`gpukmeans compress` on the ranks of torchrun: threads as ranks, and once real processes."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers.command_processes import CHECKOUT_ENV
from helpers.image_files import assert_one_line, files, noise, save
from helpers.image_trees import OUTPUTS, inputs_of, names

import gpukmeans_cli
from gpukmeans_cli import validation
from gpukmeans_cli.main import main
from gpukmeans_cli.system import rank_store
from gpukmeans_cli.system.rank_env import RankEnv
from gpukmeans_cli.system.worker_pool import ProcessPool

LAUNCHER = Path(gpukmeans_cli.__file__).parents[1] / "compress.py"


@pytest.fixture
def ranks(capsys, monkeypatch):
    """Exit codes, stdout and stderr of this many ranks with these arguments. The ranks are threads."""

    def ranks(size, *args):
        def one(rank):
            local.env = RankEnv(rank=rank, size=size, local_rank=rank, local_size=size)
            local.ranks = rank_store.RankStore(local.env, store)
            with pytest.raises(SystemExit) as caught:
                main(["compress", *map(str, args), "-j", "1"])
            return caught.value.code

        store = torch.distributed.HashStore()
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(one, range(size), timeout=60)), *capsys.readouterr()

    local = threading.local()
    for module in (validation, rank_store):
        monkeypatch.setattr(module, "rank_env", lambda: local.env)
    monkeypatch.setattr(rank_store, "_all_ranks", lambda _: local.ranks)
    monkeypatch.setattr(
        ProcessPool, "unsupported_reason", staticmethod(lambda: "ranks are threads, which fork does not copy")
    )
    return ranks


@pytest.mark.parametrize("size", [2, 3, 6])
def test_ranks_divide_the_files_that_the_main_rank_finds(ranks, tree, cwd, size):
    codes, out, err = ranks(size, "tree", "-r", "-d", "out", "-k", 4)
    assert codes == [0] * size
    assert sorted(inputs_of(out)) == [f"tree/{name}" for name in OUTPUTS]
    assert names(cwd / "out") == set(OUTPUTS.values())
    assert_one_line(err, "4 of 4 files done, ")


def test_only_the_main_rank_searches_for_files(ranks, tree, monkeypatch):
    def plan_jobs(*args, **options):
        plans.append(original(*args, **options))
        save(noise(3, 3, 3), tree / "late.png")
        return plans[-1]

    plans, original = [], validation.plan_jobs
    monkeypatch.setattr(validation, "plan_jobs", plan_jobs)
    before = names(tree)
    assert ranks(2, tree, "-r", "-k", 4)[0] == [0, 0]
    assert len(plans) == 1
    assert names(tree) == before | set(OUTPUTS.values()) | {"late.png"}


def test_a_failing_file_affects_one_rank_and_no_other_file(ranks, tree, cwd):
    (tree / "b.png").write_text("no image")
    codes, out, err = ranks(2, "tree", "-r", "-d", "out", "-k", 4, "--json", "--shared-palette")
    assert codes == [0, 1]
    assert sorted(json.loads(line)["input"] for line in out.splitlines()) == [f"tree/{name}" for name in OUTPUTS]
    assert names(cwd / "out") == set(OUTPUTS.values()) - {"b-4.png"}
    failure, summary, again = err.splitlines()
    assert "tree/b.png: is not an image" in failure
    assert "3 of 4 files done, 1 failed, " in summary
    assert again == failure.replace("gpukmeans: ", "gpukmeans: failed: ")


def test_unreadable_images_with_a_shared_palette_give_one_line_for_all_ranks(ranks, cwd):
    for name in ("a.png", "b.png"):
        (cwd / name).write_text("no image")
    codes, out, err = ranks(2, "a.png", "b.png", "-k", 4, "--shared-palette")
    assert (codes, out) == ([1, 1], "")
    assert_one_line(err, "none of the images can be read")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["tree", "-r", "-k", "0"], "'--colors': must be an integer from 1 to 256, got '0'"),
        (["tree", "-r", "--tol", "nan"], "--tol must be a number"),
        (["tree/sub", "tree/a.PNG", "-r", "-d", "out"], "2 inputs would write"),
        (["tree", "-r", "--palette", "missing.hex"], "missing.hex"),
        (["tree", "-r", "--device", "cuda"], "use --device cpu or auto"),
        (["-"], "- needs a single process, got 3 ranks"),
        (["tree/b.png", "-o", "-"], "- needs a single process"),
    ],
)
def test_ranks_print_an_argument_error_once(ranks, tree, cwd, args, complaint):
    before = files(cwd)
    codes, out, err = ranks(3, *args)
    assert (codes, out) == ([2, 2, 2], "")
    assert_one_line(err, complaint)
    assert files(cwd) == before


def test_processes_started_by_torchrun_write_the_bytes_of_one_process(command, tree, cwd):
    """One rank has a file that fails, which must not stop the other rank."""
    (tree / "sub" / "broken.png").write_text("no image")
    args = ("tree", "-r", "-k", "8", "-j", "1", "--shared-palette", "--device", "cpu")
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", LAUNCHER)
    answer = subprocess.run(
        [*launch, *args, "-d", "two"], capture_output=True, text=True, env=CHECKOUT_ENV, timeout=120, check=False
    )
    assert answer.returncode == 1
    assert command("compress", *args, "-d", "one")[0] == 1
    one, two = (
        {path.relative_to(cwd / name): data for path, data in files(cwd / name).items()} for name in ("one", "two")
    )
    assert len(one) == 4
    assert two == one
    assert sorted(inputs_of(answer.stdout)) == [f"tree/{name}" for name in OUTPUTS]
    failure, summary, again = [line for line in answer.stderr.splitlines() if line.startswith("gpukmeans: ")]
    assert "tree/sub/broken.png: is not an image" in failure
    assert "4 of 5 files done, 1 failed, " in summary
    assert again == failure.replace("gpukmeans: ", "gpukmeans: failed: ")
