"""`gpukmeans compress` with folders, patterns, ranks, pipes and signals; in a subprocess for signals and pipes."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.image_files import assert_one_line, files, noise, rgba, save
from PIL import Image

import gpukmeans
import gpukmeans_cli
from gpukmeans_cli import validation
from gpukmeans_cli.main import main
from gpukmeans_cli.system import rank_store
from gpukmeans_cli.system.rank_env import RankEnv
from gpukmeans_cli.system.worker_pool import ProcessPool

ROOTS = [str(Path(package.__file__).parents[1]) for package in (gpukmeans, gpukmeans_cli)]
COMMAND = (sys.executable, "-m", "gpukmeans_cli.main", "compress", "--device", "cpu")

LAUNCHER = Path(gpukmeans_cli.__file__).parents[1] / "compress.py"

# Import the code under test, not an installed copy.
ENV = os.environ | {"PYTHONPATH": os.pathsep.join(ROOTS), "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}

pytestmark = pytest.mark.usefixtures("no_gpu", "ctrl_c")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    """The working directory of the command, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tree(cwd):
    """Four images in folders, beside hidden files and files that are no images."""
    (cwd / "tree" / "sub" / "deep").mkdir(parents=True)
    (cwd / "tree" / ".hidden").mkdir()
    for seed, name in enumerate(["b.png", "a.PNG", "sub/a.png", "sub/deep/c.gif", ".hidden/d.png"]):
        save(noise(5 + seed, 7, 3, seed=seed), cwd / "tree" / name)
    (cwd / "tree" / "notes.txt").write_text("no image")
    (cwd / "tree" / "sub" / "photo.png.bak").write_text("no image either")
    return cwd / "tree"


OUTPUTS = {"a.PNG": "a-4.png", "b.png": "b-4.png", "sub/a.png": "sub/a-4.png", "sub/deep/c.gif": "sub/deep/c-4.png"}


def names(folder):
    """Relative paths of all files below a folder, as text."""
    return {path.relative_to(folder).as_posix() for path in files(folder)}


def inputs_of(out):
    """The inputs named by the lines of the report."""
    return [line.split(" -> ")[0] for line in out.splitlines()]


# Folders


def test_the_output_folder_has_the_tree_of_the_input_and_reports_are_ordered(command, tree, cwd):
    before = files(tree)
    code, out, err = command("compress", "tree", "-r", "-d", "out", "-k", 4)
    assert code == 0
    assert inputs_of(out) == [f"tree/{name}" for name in OUTPUTS]
    assert names(cwd / "out") == set(OUTPUTS.values())
    assert_one_line(err, "4 of 4 files done, ")
    assert "skipped" not in err
    assert files(tree) == before


def test_report_lines_have_the_order_of_the_inputs(command, tree, cwd):
    lone = save(noise(4, 4, 3), cwd / "lone.png")
    code, out, _ = command("compress", "tree/sub", "tree/b.png", lone, "tree/a.PNG", "-r", "-k", 4)
    assert code == 0
    assert inputs_of(out) == ["tree/sub/a.png", "tree/sub/deep/c.gif", "tree/b.png", str(lone), "tree/a.PNG"]


def test_two_inputs_with_one_path_in_the_output_folder_give_exit_code_2(command, tree, cwd):
    code, out, err = command("compress", "tree/sub", "tree/a.PNG", "-r", "-d", "out", "-k", 4)
    assert (code, out) == (2, "")
    assert_one_line(err, f"2 inputs would write {Path('out', 'a-4.png')}")
    assert not (cwd / "out").exists()


def test_without_an_output_folder_outputs_are_beside_inputs_and_no_inputs_of_a_second_run(command, tree):
    before = names(tree)
    assert command("compress", tree, "-r", "-k", 4)[0] == 0
    assert names(tree) == before | set(OUTPUTS.values())
    code, out, err = command("compress", tree, "-r", "-k", 4, "--skip-existing")
    assert (code, out) == (0, "")
    assert_one_line(err, "0 of 8 files done, 8 skipped, ")


def test_skip_existing_skips_and_keeps_existing_outputs(command, tree, cwd):
    command("compress", tree, "-r", "-d", "out", "-k", 4)
    Path("out", "b-4.png").unlink()
    Path("out", "a-4.png").write_bytes(b"mine")
    before = files(cwd / "out")
    code, out, err = command("compress", "tree", "-r", "-d", "out", "-k", 4, "--skip-existing")
    assert (code, inputs_of(out)) == (0, ["tree/b.png"])
    assert_one_line(err, "1 of 4 files done, 3 skipped, ")
    assert files(cwd / "out").items() > before.items()
    before = {path: path.stat().st_mtime_ns for path in files(cwd / "out")}
    code, out, err = command("compress", "tree", "-r", "-d", "out", "-k", 4, "--skip-existing", "--json")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"input": f"tree/{name}", "output": f"out/{output}", "skipped": True} for name, output in OUTPUTS.items()
    ]
    assert_one_line(err, "0 of 4 files done, 4 skipped, ")
    assert {path: path.stat().st_mtime_ns for path in files(cwd / "out")} == before


def test_without_force_each_existing_output_is_an_error(command, tree, cwd):
    command("compress", tree, "-r", "-d", "out", "-k", 4)
    Path("out", "b-4.png").unlink()
    code, out, err = command("compress", "tree", "-r", "-d", "out", "-k", 4)
    assert (code, inputs_of(out)) == (1, ["tree/b.png"])
    assert err.count("already exists; use --force") == 2 * 3  # immediately, and after the summary
    assert "1 of 4 files done, 3 failed, " in err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["-d", "out", "--force", "--skip-existing"], "--skip-existing and --force cannot be used together"),
        (["-d", "out", "-o", "few.png"], "--output and --output-folder cannot be used together"),
        (["-o", "few.png"], "--output takes one input, got 4"),
        (["-d", "tree/notes.txt"], "--output-folder must be a folder, got the file "),
        (["-d", "out", "-"], "standard input must be the only input"),
        (["-o", "-"], "--output takes one input, got 4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_conflict_with_a_folder_give_exit_code_2_before_any_work(command, tree, cwd, options, complaint):
    before = files(cwd)
    code, out, err = command("compress", "tree", "-r", *options)
    assert (code, out) == (2, "")
    assert_one_line(err, complaint)
    assert files(cwd) == before
    assert not (cwd / "out").exists()


@pytest.mark.parametrize("options", [[], ["-d", "out"], ["--force"], ["--dry-run"]], ids=" ".join)
def test_two_images_of_one_stem_give_exit_code_2_before_any_work(command, tree, cwd, options):
    save(noise(4, 4, 3), tree / "sub" / "a.jpg")
    before = files(cwd)
    code, out, err = command("compress", "tree", "-r", *options)
    assert (code, out) == (2, "")
    assert_one_line(err, "2 inputs would write ", "a.jpg and tree/sub/a.png; compress them one by one with --output")
    assert files(cwd) == before
    assert not (cwd / "out").exists()


def test_a_folder_without_r_fails_alone_and_a_folder_without_images_fails_the_command(command, tree, cwd):
    code, out, err = command("compress", "tree", "tree/b.png", "-d", "out")
    assert (code, inputs_of(out)) == (1, ["tree/b.png"])
    assert "gpukmeans: tree: is a folder; add -r to take the images in it\n" in err
    (cwd / "empty").mkdir()
    code, out, err = command("compress", "empty", "-r")
    assert (code, out) == (2, "")
    assert_one_line(err, "there is no image to compress in empty")


def test_the_umask_applies_to_outputs_and_created_folders(command, tree, cwd):
    before = os.umask(0o027)
    try:
        assert command("compress", "tree", "-r", "-k", 4, "-d", "far/out")[0] == 0
    finally:
        os.umask(before)
    made = {cwd / "far", *(cwd / "far").rglob("*")}
    modes = {path.stat().st_mode & 0o777 for path in made if path.is_file()}
    assert modes == ({0o640} if os.name == "posix" else modes)
    modes = {path.stat().st_mode & 0o777 for path in made if path.is_dir()}
    assert modes == ({0o750} if os.name == "posix" else modes)
    assert len(made) == 2 + 2 + 4


# Patterns


def test_a_pattern_is_expanded_and_one_without_matches_is_an_error(command, tree, cwd):
    save(noise(4, 4, 3), cwd / "[1].png")
    patterns = ["tree/**/a*", "none/*.png", "tree/sub/*.gif", "[1].png", "tree/b.p?g"]
    code, out, err = command("compress", *patterns, "-d", "out", "-k", 4)
    assert code == 1
    assert inputs_of(out) == ["tree/a.PNG", "tree/sub/a.png", "[1].png", "tree/b.png"]
    assert [line.split(", ")[0] for line in err.splitlines()] == [
        "gpukmeans: none/*.png: matches no file; check the pattern",
        "gpukmeans: tree/sub/*.gif: matches no file; check the pattern",
        "gpukmeans: 4 of 6 files done",
        "gpukmeans: failed: none/*.png: matches no file; check the pattern",
        "gpukmeans: failed: tree/sub/*.gif: matches no file; check the pattern",
    ]
    assert names(cwd / "out") == {"a-4.png", "sub/a-4.png", "[1]-4.png", "b-4.png"}


# Without writing


def test_a_dry_run_reports_what_would_be_written_and_writes_nothing(command, tree, cwd):
    before = files(cwd)
    args = ("compress", "tree", "-r", "-d", "out", "-k", 4)
    code, out, _ = command(*args, "--dry-run")
    assert code == 0
    assert inputs_of(out) == [f"tree/{name}" for name in OUTPUTS]
    assert all(line.endswith(", not written") for line in out.splitlines())
    dry = [json.loads(line) for line in command(*args, "--dry-run", "--json")[1].splitlines()]
    assert files(cwd) == before
    assert not (cwd / "out").exists()
    real = [json.loads(line) for line in command(*args, "--json")[1].splitlines()]
    assert [report.pop("written") for report in dry] == [False] * 4
    assert [report.pop("written") for report in real] == [True] * 4
    assert [report | {"seconds": 0} for report in dry] == [report | {"seconds": 0} for report in real]
    assert [report["bytes_out"] for report in dry] == [Path(report["output"]).stat().st_size for report in real]


# After a failure


def test_fail_fast_starts_no_file_after_a_failure(command, tree, cwd):
    (tree / "b.png").write_text("no image")
    args = ("compress", "tree", "-r", "-d", "out", "-k", 4)
    code, out, err = command(*args, "--fail-fast", "-j", 1)
    assert (code, inputs_of(out)) == (1, ["tree/a.PNG"])
    failure, summary, again = err.splitlines()
    assert failure.startswith("gpukmeans: tree/b.png: is not an image")
    assert summary.startswith("gpukmeans: 1 of 4 files done, 1 failed, 2 not finished, ")
    assert again.startswith("gpukmeans: failed: tree/b.png: ")
    assert names(cwd / "out") == {"a-4.png"}
    code, out, err = command(*args, "--skip-existing", "--quiet")
    assert (code, out) == (1, "")
    assert_one_line(err, "tree/b.png: is not an image")
    assert names(cwd / "out") == set(OUTPUTS.values()) - {"b-4.png"}


@linux_only
def test_a_disk_that_gets_full_has_only_complete_files_and_the_others_are_errors(command, small_disk, cwd):
    (cwd / "tree").mkdir()
    for number, side in enumerate([30, 150, 31, 160, 32]):
        save(noise(side, side, 3, seed=number), cwd / "tree" / f"{number}.png")
    args = ("compress", "tree", "-r", "-k", 256, "--max-iter", 1, "--refine", 0, "--json", "-j", 2)
    code, out, err = command(*args, "-d", small_disk / "out")
    assert code == 1
    reports = [json.loads(line) for line in out.splitlines()]
    assert [report["input"] for report in reports] == [f"tree/{number}.png" for number in range(5)]
    written = {Path(report["output"]).name for report in reports if "error" not in report}
    assert {"0-256.png", "2-256.png"} <= written
    assert names(small_disk / "out") == written
    failed = [report["input"] for report in reports if "error" in report]
    assert {"tree/1.png", "tree/3.png"} <= set(failed)
    assert [line.split(": ")[1] for line in err.splitlines() if "is full" in line and "failed: " not in line] == failed
    assert {rgba(small_disk / "out" / name).shape[0] for name in written} <= {30, 31, 32}  # whole


# Ranks


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
        [*launch, *args, "-d", "two"], capture_output=True, text=True, env=ENV, timeout=120, check=False
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


# Pipes


@pytest.fixture
def piped(monkeypatch, capsys):
    """Exit code, bytes on stdout and text on stderr of `gpukmeans compress` with these bytes on stdin."""

    def piped(*args, data=b""):
        raw = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
            patch.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=True))
            with pytest.raises(SystemExit) as caught:
                main(["compress", *map(str, args)])
            return caught.value.code, raw.getvalue(), capsys.readouterr().err

    return piped


@pytest.fixture
def photo(cwd):
    return save(noise(11, 17, 3), cwd / "photo.png")


@pytest.fixture
def animation(cwd):
    frames = [Image.fromarray(noise(9, 8, 3, seed=seed)) for seed in range(3)]
    frames[0].save(cwd / "a.gif", save_all=True, append_images=frames[1:], duration=70)
    return cwd / "a.gif"


def test_an_image_through_a_pipe_equals_the_one_written_to_a_file(command, photo, cwd):
    assert command("compress", photo, "-k", 16, "-o", "few.png")[0] == 0
    before = files(cwd)
    with photo.open("rb") as stdin:
        args = [*COMMAND, "-", "-k", "16"]
        answer = subprocess.run(args, stdin=stdin, cwd=cwd, env=ENV, capture_output=True, timeout=120, check=False)
    assert (answer.returncode, answer.stdout) == (0, Path("few.png").read_bytes())
    assert_one_line(answer.stderr.decode(), "gpukmeans: standard input -> standard output: 17 x 11, 187 -> 16 colors, ")
    assert files(cwd) == before


def test_input_or_output_may_be_a_file(command, piped, photo):
    command("compress", photo, "-k", 5, "-o", "few.png")
    few = Path("few.png").read_bytes()
    code, out, err = piped(photo, "-k", 5, "-o", "-")
    assert (code, out) == (0, few)
    assert_one_line(err, f"gpukmeans: {photo} -> standard output: ")
    code, out, err = piped("-", "-k", 5, "-o", "same.png", data=photo.read_bytes())
    assert (code, err, Path("same.png").read_bytes()) == (0, "", few)
    assert out.startswith(b"standard input -> same.png: 17 x 11, ")
    code, out, _ = piped("-", "-k", 5, "-o", "json.png", "--json", data=photo.read_bytes())
    assert (code, json.loads(out)["input"], Path("json.png").read_bytes()) == (0, "-", few)


def test_quiet_and_dry_run_work_with_a_pipe(piped, photo):
    data = photo.read_bytes()
    code, out, err = piped("-", "-q", data=data)
    assert (code, out[:4], err) == (0, b"\x89PNG", "")
    code, out, err = piped("-", "--dry-run", data=data)
    assert (code, out) == (0, b"")
    assert err.endswith(", not written\n")


def test_an_animation_comes_through_a_pipe(piped, animation):
    code, out, err = piped("-", "-o", "x.png", data=animation.read_bytes())
    assert (code, err) == (0, "")
    assert out.startswith(b"standard input -> x.png: 3 frames of 8 x 9, ")
    with Image.open("x.png") as image:
        assert (image.n_frames, image.info["duration"]) == (3, 70)
    code, out, _ = piped("-", data=animation.read_bytes())
    assert (code, out) == (0, Path("x.png").read_bytes())


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "standard input: is empty (0 bytes); "),
        (b"no image", "standard input: is not an image that Pillow can read; "),
        (b"\x89PNG\r\n\x1a\n", "standard input: "),
    ],
    ids=["empty", "text", "head"],
)
def test_invalid_data_on_stdin_gives_one_line_and_nothing_on_stdout(piped, cwd, data, complaint):
    code, out, err = piped("-", data=data)
    assert (code, out) == (1, b"")
    assert_one_line(err, complaint)
    code, out, err = piped("-", "-o", "x.png", data=data)
    assert (code, out) == (1, b"")
    assert not (cwd / "x.png").exists()


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["-", "photo.png"], "standard input must be the only input"),
        (["-", "-"], "standard input must be the only input"),
        (["-", "-d", "out"], "standard input must be the only input"),
        (["-", "--json"], "--json and an image cannot both go to standard output"),
        (["photo.png", "-o", "-", "--json"], "--json and an image cannot both go to standard output"),
        (["-", "-o", "x.jpg"], "--output must end in one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_conflict_with_a_pipe_give_exit_code_2_before_any_work(piped, photo, cwd, args, complaint):
    code, out, err = piped(*args, data=photo.read_bytes())
    assert (code, out) == (2, b"")
    assert_one_line(err, complaint)
    assert names(cwd) == {"photo.png"}


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_a_closed_stream_gives_exit_code_2(monkeypatch, capsys, photo, stream):
    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(SystemExit) as caught:
        main(["compress", "-"] if stream == "stdin" else ["compress", "photo.png", "-o", "-"])
    assert caught.value.code == 2
    assert_one_line(capsys.readouterr().err, {"stdin": "standard input", "stdout": "standard output"}[stream], "closed")


def test_stdout_is_never_skipped_even_if_a_file_has_its_name(piped, photo, cwd):
    (cwd / "-").write_bytes(b"a file of that name")
    code, out, _ = piped("-", "--skip-existing", data=photo.read_bytes())
    assert (code, out[:4]) == (0, b"\x89PNG")
    assert Path("-").read_bytes() == b"a file of that name"


@pytest.mark.skipif(os.name == "nt", reason="needs pipes and devices of Unix")
@pytest.mark.parametrize(
    ("sink", "args"),
    [("closed", ["-"]), ("full", ["-"]), ("closed", ["tree", "-r", "-k", "4", "-d", "out", "-j", "2"])],
    ids=["image to a closed pipe", "image to a full disk", "lines to a closed pipe"],
)
def test_an_unwritable_stdout_gives_at_most_one_line_and_exit_code_1(tree, photo, cwd, sink, args):
    if sink == "full":
        if not Path("/dev/full").exists():
            pytest.skip("needs a device that is always full")
        stdout = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stdout = os.pipe()
        os.close(reader)
    with photo.open("rb") as stdin, os.fdopen(stdout, "wb") as out:
        answer = subprocess.run(
            [*COMMAND, *args],
            cwd=cwd,
            env=ENV,
            stdin=stdin,
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    assert answer.returncode == 1
    lines = [line for line in answer.stderr.decode().splitlines() if " files done" not in line]
    assert [line.split(" (")[0] for line in lines] == (["gpukmeans: cannot continue"] if sink == "full" else [])
    if args != ["-"]:  # files written before are complete
        assert names(cwd / "out") <= set(OUTPUTS.values())


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo terminals")
def test_a_progress_bar_on_the_terminal_does_not_change_stdout_in_a_file(tree, cwd):
    reader, writer = os.openpty()
    with open("lines.txt", "wb") as out:
        args = [*COMMAND, "tree", "-r", "-d", "out", "-k", "4", "-j", "2"]
        process = subprocess.Popen(args, cwd=cwd, env=ENV, stdin=subprocess.DEVNULL, stdout=out, stderr=writer)
    os.close(writer)
    written = bytearray()
    try:
        while data := os.read(reader, 1 << 16):
            written += data
    except OSError:  # the other end is closed
        pass
    os.close(reader)
    assert process.wait(timeout=60) == 0
    assert b"4 of 4 files" in written
    assert b"\x1b[?25h" in written  # the cursor is back
    assert b"4 of 4 files done, " in written.rpartition(b"\x1b")[2]
    text = Path("lines.txt").read_text()
    assert inputs_of(text) == [f"tree/{name}" for name in OUTPUTS]
    assert text.replace("\n", "").isprintable()
    assert b"a.PNG" not in written


# Signals


def cpu_times(process):
    """The CPU time in clock ticks of each process of the session that this process started, without itself."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session, *others = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(session) == process.pid and int(path.parent.name) != process.pid and state != "Z":
            found[int(path.parent.name)] = sum(map(int, others[7:9]))
    return found


def session_of(process):
    return list(cpu_times(process))


def busy_one_of(process):
    """The process that computes while the other is idle, once its CPU time leaves no doubt; None before."""
    (other_time, _), (time, number) = sorted((time, number) for number, time in cpu_times(process).items())
    return number if time > other_time + 50 else None


def wait_until(condition, seconds=60):
    for _ in range(100 * seconds):
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("timeout")


@contextmanager
def running(cwd, *args):
    """The running command with two workers in its own session; all its processes are killed at the end."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, *args], cwd=cwd, env=ENV, text=True, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        for number in [*session_of(process), *([process.pid] if process.poll() is None else [])]:
            os.kill(number, signal.SIGKILL)
        process.communicate()


# A large image takes a worker longer than the timeout of a test.
LONG = ("--dither", "none", "--allow-larger", "--tol", "0", "--max-iter", "100000", "--n-init", "3")
SHORT = ("--dither", "none", "--allow-larger", "--max-iter", "1", "--refine", "0")


@pytest.fixture
def long_tree(cwd):
    """Small images 0, 3 and 4, and the large images 1 and 2 between them."""
    (cwd / "tree").mkdir()
    for number, side in enumerate([4, 600, 600, 5, 6]):
        save(noise(side, side, 3, seed=number), cwd / "tree" / f"{number}.png", compress_level=1)
    return cwd / "tree"


@linux_only
def test_ctrl_c_ends_all_workers_and_a_second_run_compresses_the_rest(command, long_tree, cwd):
    with running(cwd, "tree", "-r", "-d", "out", "-j", "2", *LONG) as process:
        assert process.stdout.readline().startswith("tree/0.png -> ")
        time.sleep(0.5)  # now both workers have a large image
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, "")
        assert session_of(process) == []
    interrupted, summary = err.splitlines()
    assert interrupted == "gpukmeans: interrupted; run again with --skip-existing to continue"
    assert summary.startswith("gpukmeans: 1 of 5 files done, 4 not finished, ")
    assert names(cwd / "out") == {"0-256.png"}
    code, out, err = command("compress", "tree", "-r", "-d", "out", *SHORT, "--skip-existing")
    assert (code, inputs_of(out)) == (0, [f"tree/{number}.png" for number in range(1, 5)])
    assert_one_line(err, "4 of 5 files done, 1 skipped, ")
    assert [rgba(cwd / "out" / f"{number}-256.png").shape[0] for number in range(5)] == [4, 600, 600, 5, 6]


@linux_only
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg), (signal.SIGKILL, os.kill)],
    ids=["SIGTERM", "SIGTERM of the group", "SIGKILL"],
)
def test_a_killed_parent_ends_its_workers_and_leaves_no_partial_file(long_tree, cwd, number, send):
    with running(cwd, "tree", "-r", "-d", "out", "-j", "2", *LONG) as process:
        assert process.stdout.readline().startswith("tree/0.png -> ")
        time.sleep(0.5)
        assert len(session_of(process)) == 2
        send(process.pid, number)
        assert process.wait(timeout=60) == -number
        wait_until(lambda: not session_of(process), seconds=10)
        assert process.communicate() == ("", "")
    assert names(cwd / "out") == {"0-256.png"}


@linux_only
def test_a_killed_worker_fails_its_file_and_no_other(long_tree, cwd):
    shutil.copy(long_tree / "3.png", long_tree / "2.png")  # one large image is enough
    with running(cwd, "tree", "-r", "-d", "out", "-j", "2", *LONG) as process:
        wait_until((cwd / "out" / "4-256.png").exists)
        os.kill(wait_until(lambda: busy_one_of(process)), signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert session_of(process) == []
    assert inputs_of(out) == [f"tree/{number}.png" for number in (0, 2, 3, 4)]
    why = "tree/1.png: the worker process was killed, perhaps for its memory; try fewer --jobs"
    failure, summary, again = err.splitlines()
    assert failure == f"gpukmeans: {why}"
    assert re.match(r"gpukmeans: 4 of 5 files done, 1 failed, ", summary)
    assert again == f"gpukmeans: failed: {why}"
    assert names(cwd / "out") == {f"{number}-256.png" for number in (0, 2, 3, 4)}
