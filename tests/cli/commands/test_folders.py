"""The command as users run it on folders, patterns and pipes; a process of its own where it is killed or piped."""

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
from helpers.picture_files import assert_one_line, files, noise, rgba, save
from PIL import Image

import gpukmeans
import gpukmeans_cli
from gpukmeans_cli import validation as arguments
from gpukmeans_cli.commands import compress
from gpukmeans_cli.main import main
from gpukmeans_cli.system import rank_store as meeting
from gpukmeans_cli.system.rank_env import Place
from gpukmeans_cli.system.worker_pool import Processes

ROOTS = [str(Path(package.__file__).parents[1]) for package in (gpukmeans, gpukmeans_cli)]
COMMAND = (sys.executable, "-m", "gpukmeans_cli.main", "compress", "--device", "cpu")

LAUNCHER = Path(gpukmeans_cli.__file__).parents[1] / "compress.py"

# The code under test, wherever it lies, and whatever else is installed.
ENV = os.environ | {"PYTHONPATH": os.pathsep.join(ROOTS), "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}

pytestmark = pytest.mark.usefixtures("no_gpu", "ctrl_c")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs processes that are copied, and /proc")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that the command works in, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tree(here):
    """Four pictures in folders, beside what is none or is hidden."""
    (here / "tree" / "sub" / "deep").mkdir(parents=True)
    (here / "tree" / ".hidden").mkdir()
    for seed, name in enumerate(["b.png", "a.PNG", "sub/a.png", "sub/deep/c.gif", ".hidden/d.png"]):
        save(noise(5 + seed, 7, 3, seed=seed), here / "tree" / name)
    (here / "tree" / "notes.txt").write_text("no picture")
    (here / "tree" / "sub" / "photo.png.bak").write_text("no picture either")
    return here / "tree"


PLACES = {"a.PNG": "a-4.png", "b.png": "b-4.png", "sub/a.png": "sub/a-4.png", "sub/deep/c.gif": "sub/deep/c-4.png"}


def names(folder):
    """Paths of all that is in a folder but folders, as text."""
    return {path.relative_to(folder).as_posix() for path in files(folder)}


def inputs_of(out):
    """The inputs that lines of the report are about."""
    return [line.split(" -> ")[0] for line in out.splitlines()]


# Folders


def test_a_tree_is_kept_in_the_output_folder_and_told_of_in_its_order(command, tree, here):
    before = files(tree)
    code, out, err = command("compress", "tree", "-r", "-d", "out", "-k", 4)
    assert code == 0
    assert inputs_of(out) == [f"tree/{name}" for name in PLACES]
    assert names(here / "out") == set(PLACES.values())
    assert_one_line(err, "4 of 4 files done, ")
    assert "skipped" not in err
    assert files(tree) == before


def test_lines_come_in_the_order_of_the_inputs(command, tree, here):
    lone = save(noise(4, 4, 3), here / "lone.png")
    code, out, _ = command("compress", "tree/sub", "tree/b.png", lone, "tree/a.PNG", "-r", "-k", 4)
    assert code == 0
    assert inputs_of(out) == ["tree/sub/a.png", "tree/sub/deep/c.gif", "tree/b.png", str(lone), "tree/a.PNG"]


def test_two_inputs_of_one_place_in_the_output_folder_exit_2(command, tree, here):
    code, out, err = command("compress", "tree/sub", "tree/a.PNG", "-r", "-d", "out", "-k", 4)
    assert (code, out) == (2, "")
    assert_one_line(err, f"2 inputs would write {Path('out', 'a-4.png')}")
    assert not (here / "out").exists()


def test_without_an_output_folder_each_lies_beside_its_input_and_is_no_input_of_a_second_run(command, tree):
    before = names(tree)
    assert command("compress", tree, "-r", "-k", 4)[0] == 0
    assert names(tree) == before | set(PLACES.values())
    code, out, err = command("compress", tree, "-r", "-k", 4, "--skip-existing")
    assert (code, out) == (0, "")
    assert_one_line(err, "0 of 4 files done, 4 skipped, ")


def test_what_is_there_is_skipped_and_left_alone_when_so_asked(command, tree, here):
    command("compress", tree, "-r", "-d", "out", "-k", 4)
    Path("out", "b-4.png").unlink()
    Path("out", "a-4.png").write_bytes(b"mine")
    before = files(here / "out")
    code, out, err = command("compress", "tree", "-r", "-d", "out", "-k", 4, "--skip-existing")
    assert (code, inputs_of(out)) == (0, ["tree/b.png"])
    assert_one_line(err, "1 of 4 files done, 3 skipped, ")
    assert files(here / "out").items() > before.items()
    before = {path: path.stat().st_mtime_ns for path in files(here / "out")}
    code, out, err = command("compress", "tree", "-r", "-d", "out", "-k", 4, "--skip-existing", "--json")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [
        {"input": f"tree/{name}", "output": f"out/{place}", "skipped": True} for name, place in PLACES.items()
    ]
    assert_one_line(err, "0 of 4 files done, 4 skipped, ")
    assert {path: path.stat().st_mtime_ns for path in files(here / "out")} == before


def test_without_force_what_is_there_is_an_error_of_each_file(command, tree, here):
    command("compress", tree, "-r", "-d", "out", "-k", 4)
    Path("out", "b-4.png").unlink()
    code, out, err = command("compress", "tree", "-r", "-d", "out", "-k", 4)
    assert (code, inputs_of(out)) == (1, ["tree/b.png"])
    assert err.count("already exists; use --force") == 2 * 3  # as it happens, and after the summary
    assert "1 of 4 files done, 3 failed, " in err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["-d", "out", "--force", "--skip-existing"], "--skip-existing and --force exclude each other"),
        (["-d", "out", "-o", "few.png"], "--output and --output-folder exclude each other"),
        (["-o", "few.png"], "--output takes one input, got 4"),
        (["-d", "tree/notes.txt"], "--output-folder must be a folder, got the file "),
        (["-d", "out", "-"], "standard input is taken alone"),
        (["-o", "-"], "--output takes one input, got 4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_fit_a_folder_exits_2_before_any_work(command, tree, here, options, complaint):
    before = files(here)
    code, out, err = command("compress", "tree", "-r", *options)
    assert (code, out) == (2, "")
    assert_one_line(err, complaint)
    assert files(here) == before
    assert not (here / "out").exists()


@pytest.mark.parametrize("options", [[], ["-d", "out"], ["--force"], ["--dry-run"]], ids=" ".join)
def test_two_pictures_of_one_stem_exit_2_before_any_work(command, tree, here, options):
    save(noise(4, 4, 3), tree / "sub" / "a.jpg")
    before = files(here)
    code, out, err = command("compress", "tree", "-r", *options)
    assert (code, out) == (2, "")
    assert_one_line(err, "2 inputs would write ", "a-20.png; compress them one by one with --output")
    assert files(here) == before
    assert not (here / "out").exists()


def test_a_folder_without_r_is_an_error_beside_the_others_and_without_pictures_of_all(command, tree, here):
    code, out, err = command("compress", "tree", "tree/b.png", "-d", "out")
    assert (code, inputs_of(out)) == (1, ["tree/b.png"])
    assert "gpukmeans: tree: is a folder; add -r to take the pictures in it\n" in err
    (here / "empty").mkdir()
    code, out, err = command("compress", "empty", "-r")
    assert (code, out) == (2, "")
    assert_one_line(err, "there is no picture to compress in empty")


def test_the_umask_holds_for_outputs_and_the_folders_made_for_them(command, tree, here):
    before = os.umask(0o027)
    try:
        assert command("compress", "tree", "-r", "-d", "far/out")[0] == 0
    finally:
        os.umask(before)
    made = {here / "far", *(here / "far").rglob("*")}
    modes = {path.stat().st_mode & 0o777 for path in made if path.is_file()}
    assert modes == ({0o640} if os.name == "posix" else modes)
    modes = {path.stat().st_mode & 0o777 for path in made if path.is_dir()}
    assert modes == ({0o750} if os.name == "posix" else modes)
    assert len(made) == 2 + 2 + 4


# Patterns


def test_a_quoted_pattern_is_what_it_matches_and_one_that_matches_nothing_is_named(command, tree, here):
    save(noise(4, 4, 3), here / "[1].png")
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
    assert names(here / "out") == {"a-4.png", "sub/a-4.png", "[1]-4.png", "b-4.png"}


# Without writing


def test_a_dry_run_says_what_there_would_be_and_writes_nothing(command, tree, here):
    before = files(here)
    args = ("compress", "tree", "-r", "-d", "out", "-k", 4)
    code, out, _ = command(*args, "--dry-run")
    assert code == 0
    assert inputs_of(out) == [f"tree/{name}" for name in PLACES]
    assert all(line.endswith(", not written") for line in out.splitlines())
    dry = [json.loads(line) for line in command(*args, "--dry-run", "--json")[1].splitlines()]
    assert files(here) == before
    assert not (here / "out").exists()
    real = [json.loads(line) for line in command(*args, "--json")[1].splitlines()]
    assert [report.pop("written") for report in dry] == [False] * 4
    assert [report.pop("written") for report in real] == [True] * 4
    assert [report | {"seconds": 0} for report in dry] == [report | {"seconds": 0} for report in real]
    assert [report["bytes_out"] for report in dry] == [Path(report["output"]).stat().st_size for report in real]


# After a failure


def test_fail_fast_begins_nothing_after_a_failure_and_all_else_is_done_without_it(command, tree, here):
    (tree / "b.png").write_text("no picture")
    args = ("compress", "tree", "-r", "-d", "out", "-k", 4)
    code, out, err = command(*args, "--fail-fast", "-j", 1)
    assert (code, inputs_of(out)) == (1, ["tree/a.PNG"])
    told, summary, again = err.splitlines()
    assert told.startswith("gpukmeans: tree/b.png: is not an image")
    assert summary.startswith("gpukmeans: 1 of 4 files done, 1 failed, 2 not begun or given up, ")
    assert again.startswith("gpukmeans: failed: tree/b.png: ")
    assert names(here / "out") == {"a-4.png"}
    code, out, err = command(*args, "--skip-existing", "--quiet")
    assert (code, out) == (1, "")
    assert_one_line(err, "tree/b.png: is not an image")
    assert names(here / "out") == set(PLACES.values()) - {"b-4.png"}


@linux
def test_a_disk_that_gets_full_has_whole_files_and_those_that_did_not_fit_are_named(command, small_disk, here):
    (here / "tree").mkdir()
    for number, side in enumerate([30, 150, 31, 160, 32]):
        save(noise(side, side, 3, seed=number), here / "tree" / f"{number}.png")
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
    """Exit codes, stdout and stderr of so many ranks with these arguments, which are threads here."""

    def ranks(size, *args):
        def one(rank):
            mine.place = Place(rank=rank, size=size, local_rank=rank, local_size=size)
            mine.ranks = meeting.Meeting(mine.place, store)
            with pytest.raises(SystemExit) as caught:
                main(["compress", *map(str, args), "-j", "1"])
            return caught.value.code

        store = torch.distributed.HashStore()
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(one, range(size), timeout=60)), *capsys.readouterr()

    mine = threading.local()
    for room in (arguments, meeting):
        monkeypatch.setattr(room, "place", lambda: mine.place)
    monkeypatch.setattr(meeting, "_all_ranks", lambda place: mine.ranks)
    monkeypatch.setattr(Processes, "obstacle", staticmethod(lambda: "threads are not to be copied"))
    return ranks


@pytest.mark.parametrize("size", [2, 3, 6])
def test_ranks_share_the_files_that_the_first_of_them_finds(ranks, tree, here, size):
    codes, out, err = ranks(size, "tree", "-r", "-d", "out", "-k", 4)
    assert codes == [0] * size
    assert sorted(inputs_of(out)) == [f"tree/{name}" for name in PLACES]
    assert names(here / "out") == set(PLACES.values())
    assert_one_line(err, "4 of 4 files done, ")


def test_only_one_rank_looks_for_files_which_may_come_and_go_meanwhile(ranks, tree, monkeypatch):
    def planned(*args, **options):
        plans.append(original(*args, **options))
        save(noise(3, 3, 3), tree / "late.png")
        return plans[-1]

    plans, original = [], compress.planned
    monkeypatch.setattr(compress, "planned", planned)
    before = names(tree)
    assert ranks(2, tree, "-r", "-k", 4)[0] == [0, 0]
    assert len(plans) == 1
    assert names(tree) == before | set(PLACES.values()) | {"late.png"}


def test_a_file_that_fails_is_of_one_rank_and_all_others_are_done(ranks, tree, here):
    (tree / "b.png").write_text("no picture")
    codes, out, err = ranks(2, "tree", "-r", "-d", "out", "-k", 4, "--json", "--shared-palette")
    assert codes == [0, 1]
    assert sorted(json.loads(line)["input"] for line in out.splitlines()) == [f"tree/{name}" for name in PLACES]
    assert names(here / "out") == set(PLACES.values()) - {"b-4.png"}
    failure, summary, again = err.splitlines()
    assert "tree/b.png: is not an image" in failure
    assert "3 of 4 files done, 1 failed, " in summary
    assert again == failure.replace("gpukmeans: ", "gpukmeans: failed: ")


def test_pictures_that_share_no_palette_are_one_line_of_all_ranks(ranks, here):
    for name in ("a.png", "b.png"):
        (here / name).write_text("no picture")
    codes, out, err = ranks(2, "a.png", "b.png", "-k", 4, "--shared-palette")
    assert (codes, out) == ([1, 1], "")
    assert_one_line(err, "none of the pictures can be read")


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["tree", "-r", "-k", "0"], "'--colors': 0 is not in the range"),
        (["tree", "-r", "--tol", "nan"], "--tol must be a number"),
        (["tree/sub", "tree/a.PNG", "-r", "-d", "out"], "2 inputs would write"),
        (["tree", "-r", "--palette", "missing.hex"], "missing.hex"),
        (["tree", "-r", "--device", "cuda"], "use --device cpu or auto"),
        (["-"], "- is a picture for one process, and there are 3 ranks"),
        (["tree/b.png", "-o", "-"], "- is a picture for one process"),
    ],
)
def test_ranks_say_once_what_is_wrong_with_their_arguments(ranks, tree, here, args, complaint):
    before = files(here)
    codes, out, err = ranks(3, *args)
    assert (codes, out) == ([2, 2, 2], "")
    assert_one_line(err, complaint)
    assert files(here) == before


def test_processes_started_by_torchrun_write_the_bytes_of_one(command, tree, here):
    """Also where one of them has a file that fails, which must not stop the others."""
    (tree / "sub" / "broken.png").write_text("no picture")
    args = ("tree", "-r", "-k", "8", "-j", "1", "--shared-palette", "--device", "cpu")
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", LAUNCHER)
    answer = subprocess.run(
        [*launch, *args, "-d", "two"], capture_output=True, text=True, env=ENV, timeout=120, check=False
    )
    assert answer.returncode == 1
    assert command("compress", *args, "-d", "one")[0] == 1
    one, two = (
        {path.relative_to(here / name): data for path, data in files(here / name).items()} for name in ("one", "two")
    )
    assert len(one) == 4
    assert two == one
    assert sorted(inputs_of(answer.stdout)) == [f"tree/{name}" for name in PLACES]
    failure, summary, again = [line for line in answer.stderr.splitlines() if line.startswith("gpukmeans: ")]
    assert "tree/sub/broken.png: is not an image" in failure
    assert "4 of 5 files done, 1 failed, " in summary
    assert again == failure.replace("gpukmeans: ", "gpukmeans: failed: ")


# Pipes


@pytest.fixture
def piped(monkeypatch, capsys):
    """Exit code, bytes on stdout and text on stderr of `gpukmeans compress` with such bytes on stdin."""

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
def photo(here):
    return save(noise(11, 17, 3), here / "photo.png")


@pytest.fixture
def animation(here):
    frames = [Image.fromarray(noise(9, 8, 3, seed=seed)) for seed in range(3)]
    frames[0].save(here / "a.gif", save_all=True, append_images=frames[1:], duration=70)
    return here / "a.gif"


def test_a_picture_through_a_pipe_is_the_one_that_a_file_gets(command, photo, here):
    assert command("compress", photo, "-k", 16, "-o", "few.png")[0] == 0
    before = files(here)
    with photo.open("rb") as stdin:
        args = [*COMMAND, "-", "-k", "16"]
        answer = subprocess.run(args, stdin=stdin, cwd=here, env=ENV, capture_output=True, timeout=120, check=False)
    assert (answer.returncode, answer.stdout) == (0, Path("few.png").read_bytes())
    assert_one_line(answer.stderr.decode(), "gpukmeans: - -> -: 17 x 11, 187 -> 16 colors, ")
    assert files(here) == before


def test_either_end_may_be_a_file(command, piped, photo):
    command("compress", photo, "-k", 5, "-o", "few.png")
    few = Path("few.png").read_bytes()
    code, out, err = piped(photo, "-k", 5, "-o", "-")
    assert (code, out) == (0, few)
    assert_one_line(err, f"gpukmeans: {photo} -> -: ")
    code, out, err = piped("-", "-k", 5, "-o", "same.png", data=photo.read_bytes())
    assert (code, err, Path("same.png").read_bytes()) == (0, "", few)
    assert out.startswith(b"- -> same.png: 17 x 11, ")
    code, out, _ = piped("-", "-k", 5, "-o", "json.png", "--json", data=photo.read_bytes())
    assert (code, json.loads(out)["input"], Path("json.png").read_bytes()) == (0, "-", few)


def test_quiet_and_dry_runs_of_a_pipe_say_and_write_as_little_as_elsewhere(piped, photo):
    data = photo.read_bytes()
    code, out, err = piped("-", "-q", data=data)
    assert (code, out[:4], err) == (0, b"\x89PNG", "")
    code, out, err = piped("-", "--dry-run", data=data)
    assert (code, out) == (0, b"")
    assert err.endswith(", not written\n")


def test_an_animation_comes_through_a_pipe(piped, animation):
    code, out, err = piped("-", "-o", "x.png", data=animation.read_bytes())
    assert (code, err) == (0, "")
    assert out.startswith(b"- -> x.png: 3 frames of 8 x 9, ")
    with Image.open("x.png") as image:
        assert (image.n_frames, image.info["duration"]) == (3, 70)
    code, out, _ = piped("-", data=animation.read_bytes())
    assert (code, out) == (0, Path("x.png").read_bytes())


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "-: is empty (0 bytes); "),
        (b"no picture", "-: is not an image that Pillow can read; "),
        (b"\x89PNG\r\n\x1a\n", "-: "),
    ],
    ids=["empty", "text", "head"],
)
def test_what_is_no_picture_on_stdin_is_one_line_and_nothing_on_stdout(piped, here, data, complaint):
    code, out, err = piped("-", data=data)
    assert (code, out) == (1, b"")
    assert_one_line(err, complaint)
    code, out, err = piped("-", "-o", "x.png", data=data)
    assert (code, out) == (1, b"")
    assert not (here / "x.png").exists()


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["-", "photo.png"], "standard input is taken alone"),
        (["-", "-"], "standard input is taken alone"),
        (["-", "-d", "out"], "standard input is taken alone"),
        (["-", "--json"], "--json and a picture cannot both go to standard output"),
        (["photo.png", "-o", "-", "--json"], "--json and a picture cannot both go to standard output"),
        (["-", "-o", "x.jpg"], "--output must end in one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_fit_a_pipe_exits_2_before_any_work(piped, photo, here, args, complaint):
    code, out, err = piped(*args, data=photo.read_bytes())
    assert (code, out) == (2, b"")
    assert_one_line(err, complaint)
    assert names(here) == {"photo.png"}


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_a_pipe_that_is_closed_exits_2(monkeypatch, capsys, photo, stream):
    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(SystemExit) as caught:
        main(["compress", "-"] if stream == "stdin" else ["compress", "photo.png", "-o", "-"])
    assert caught.value.code == 2
    assert_one_line(capsys.readouterr().err, {"stdin": "standard input", "stdout": "standard output"}[stream], "closed")


def test_stdout_is_never_skipped_whatever_lies_in_the_folder(piped, photo, here):
    (here / "-").write_bytes(b"a file of that name")
    code, out, _ = piped("-", "--skip-existing", data=photo.read_bytes())
    assert (code, out[:4]) == (0, b"\x89PNG")
    assert Path("-").read_bytes() == b"a file of that name"


@pytest.mark.skipif(os.name == "nt", reason="needs pipes and devices of Unix")
@pytest.mark.parametrize(
    ("sink", "args"),
    [("gone", ["-"]), ("full", ["-"]), ("gone", ["tree", "-r", "-d", "out", "-j", "2"])],
    ids=["picture to nobody", "picture to a full disk", "lines to nobody"],
)
def test_a_stdout_that_takes_nothing_is_at_most_one_line_and_exit_1(tree, photo, here, sink, args):
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
            cwd=here,
            env=ENV,
            stdin=stdin,
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    assert answer.returncode == 1
    lines = [line for line in answer.stderr.decode().splitlines() if " files done" not in line]
    assert [line.split(" (")[0] for line in lines] == (["gpukmeans: cannot go on"] if sink == "full" else [])
    if args != ["-"]:  # what was done before is whole
        assert names(here / "out") <= {place.replace("-4", "-20") for place in PLACES.values()}


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo terminals here")
def test_a_bar_on_the_terminal_leaves_lines_in_a_file_untouched(tree, here):
    reader, writer = os.openpty()
    with open("lines.txt", "wb") as out:
        args = [*COMMAND, "tree", "-r", "-d", "out", "-k", "4", "-j", "2"]
        process = subprocess.Popen(args, cwd=here, env=ENV, stdin=subprocess.DEVNULL, stdout=out, stderr=writer)
    os.close(writer)
    written = bytearray()
    try:
        while data := os.read(reader, 1 << 16):
            written += data
    except OSError:  # nobody has the other end open any more
        pass
    os.close(reader)
    assert process.wait(timeout=60) == 0
    assert b"4 of 4 files" in written
    assert b"\x1b[?25h" in written  # the cursor is back
    assert b"4 of 4 files done, " in written.rpartition(b"\x1b")[2]
    text = Path("lines.txt").read_text()
    assert inputs_of(text) == [f"tree/{name}" for name in PLACES]
    assert text.replace("\n", "").isprintable()
    assert b"a.PNG" not in written


# Signals


def session_of(process):
    """Processes at work in the session that this one began, but for itself."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session, *others = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(session) == process.pid and int(path.parent.name) != process.pid and state != "Z":
            found.append((int(path.parent.name), sum(map(int, others[7:9]))))
    # The one that has taken most time of a processor first.
    return [number for number, _ in sorted(found, key=lambda pair: -pair[1])]


def wait_until(true, seconds=60):
    for _ in range(100 * seconds):
        if found := true():
            return found
        time.sleep(0.01)
    raise AssertionError("that did not happen")


@contextmanager
def at_work(here, *args):
    """The command in a session of its own, by two workers; none of it is left afterwards."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*COMMAND, *args], cwd=here, env=ENV, text=True, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        for number in [*session_of(process), *([process.pid] if process.poll() is None else [])]:
            os.kill(number, signal.SIGKILL)
        process.communicate()


# A worker that is not stopped works on a large picture for longer than a test waits.
LONG = ("-k", "256", "--tol", "0", "--max-iter", "100000", "--n-init", "3")
SHORT = ("-k", "256", "--max-iter", "1", "--refine", "0")


@pytest.fixture
def long_tree(here):
    """Small pictures 0, 3 and 4, and between them two that take long."""
    (here / "tree").mkdir()
    for number, side in enumerate([4, 600, 600, 5, 6]):
        save(noise(side, side, 3, seed=number), here / "tree" / f"{number}.png", compress_level=1)
    return here / "tree"


@linux
def test_ctrl_c_ends_all_workers_and_a_second_run_does_the_rest(command, long_tree, here):
    with at_work(here, "tree", "-r", "-d", "out", "-j", "2", *LONG) as process:
        assert process.stdout.readline().startswith("tree/0.png -> ")
        time.sleep(0.5)  # two are at work on the large ones now
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, "")
        assert session_of(process) == []
    interrupted, summary = err.splitlines()
    assert interrupted == "gpukmeans: interrupted; --skip-existing goes on where this ended"
    assert summary.startswith("gpukmeans: 1 of 5 files done, 4 not begun or given up, ")
    assert names(here / "out") == {"0-256.png"}
    code, out, err = command("compress", "tree", "-r", "-d", "out", *SHORT, "--skip-existing")
    assert (code, inputs_of(out)) == (0, [f"tree/{number}.png" for number in range(1, 5)])
    assert_one_line(err, "4 of 5 files done, 1 skipped, ")
    assert [rgba(here / "out" / f"{number}-256.png").shape[0] for number in range(5)] == [4, 600, 600, 5, 6]


@linux
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg), (signal.SIGKILL, os.kill)],
    ids=["SIGTERM", "SIGTERM of the group", "SIGKILL"],
)
def test_a_parent_that_is_killed_takes_its_workers_along_and_leaves_no_part_of_a_file(long_tree, here, number, send):
    with at_work(here, "tree", "-r", "-d", "out", "-j", "2", *LONG) as process:
        assert process.stdout.readline().startswith("tree/0.png -> ")
        time.sleep(0.5)
        assert len(session_of(process)) == 2
        send(process.pid, number)
        assert process.wait(timeout=60) == -number
        wait_until(lambda: not session_of(process), seconds=10)
        assert process.communicate() == ("", "")
    assert names(here / "out") == {"0-256.png"}


@linux
def test_a_worker_that_is_killed_costs_its_file_and_no_other(long_tree, here):
    shutil.copy(long_tree / "3.png", long_tree / "2.png")  # one long picture is enough
    with at_work(here, "tree", "-r", "-d", "out", "-j", "2", *LONG) as process:
        wait_until((here / "out" / "4-256.png").exists)
        workers = session_of(process)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert session_of(process) == []
    assert inputs_of(out) == [f"tree/{number}.png" for number in (0, 2, 3, 4)]
    why = "tree/1.png: the process that worked on it was killed, perhaps for its memory; try fewer --jobs"
    told, summary, again = err.splitlines()
    assert told == f"gpukmeans: {why}"
    assert re.match(r"gpukmeans: 4 of 5 files done, 1 failed, ", summary)
    assert again == f"gpukmeans: failed: {why}"
    assert names(here / "out") == {f"{number}-256.png" for number in (0, 2, 3, 4)}
