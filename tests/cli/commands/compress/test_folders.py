"""`gpukmeans compress` with folders and patterns, without writing, and after a failure."""

import json
import os
import sys
from pathlib import Path

import pytest
from helpers.image_files import assert_one_line, files, noise, rgba, save
from helpers.image_trees import OUTPUTS, inputs_of, names

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and /proc")


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
