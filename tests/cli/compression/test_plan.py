import os
from pathlib import Path

import pytest
from PIL import Image

from gpukmeans_cli.compression.plan import PlanError, plan
from gpukmeans_cli.system.atomic_files import STDIO


@pytest.fixture
def tree(tmp_path):
    """A folder with images in it and in its subfolders, and with other files."""
    root = tmp_path / "in"
    for name in (
        "b.jpg",
        "a.PNG",
        "sub/a.png",
        "sub/deep/c.webp",
        "notes.txt",
        ".hidden.png",
        ".git/x.png",
        "sub/.y.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def pairs(inputs, root, **options):
    """Sources and outputs, relative to a folder."""
    jobs = [job for job in plan(inputs, **{"name": "4"} | options) if not job.is_earlier_output]
    assert not [job for job in jobs if job.problem]
    return [(str(job.source.relative_to(root)), str(job.output.relative_to(root))) for job in jobs]


def test_an_output_is_beside_its_input_with_the_number_of_colors_in_its_name(tmp_path):
    inputs = [tmp_path / "a.jpg", tmp_path / "b.c.png"]
    assert pairs(inputs, tmp_path) == [("a.jpg", "a-4.png"), ("b.c.png", "b.c-4.png")]
    assert pairs(inputs[:1], tmp_path, name="palette") == [("a.jpg", "a-palette.png")]


def test_the_images_of_a_folder_are_sorted_by_path_without_hidden_files(tree):
    assert pairs([tree], tree, recursive=True) == [
        ("a.PNG", "a-4.png"),
        ("b.jpg", "b-4.png"),
        ("sub/a.png", "sub/a-4.png"),
        ("sub/deep/c.webp", "sub/deep/c-4.png"),
    ]


def test_an_output_folder_has_the_relative_paths_of_the_inputs(tree, tmp_path):
    found = pairs([tree], tmp_path, recursive=True, folder=tmp_path / "out")
    assert [output for _, output in found] == [
        "out/a-4.png",
        "out/b-4.png",
        "out/sub/a-4.png",
        "out/sub/deep/c-4.png",
    ]


def test_the_output_of_a_named_file_is_directly_in_the_output_folder(tree, tmp_path):
    assert pairs([tree / "sub" / "a.png"], tmp_path, folder=tmp_path / "out") == [("in/sub/a.png", "out/a-4.png")]


def test_a_folder_without_recursive_is_a_problem(tree):
    (job,) = plan([tree], name="4")
    assert (job.source, job.problem) == (tree, "is a folder; add -r to take the images in it")


@pytest.mark.parametrize("name", [".", "..", "/"])
@pytest.mark.parametrize("folder", [None, Path("out")])
def test_a_folder_without_a_name_is_a_problem(name, folder):
    (job,) = plan([Path(name)], name="4", folder=folder)
    assert job.problem == "is a folder; add -r to take the images in it"


def test_an_input_with_a_problem_does_not_conflict_with_others(tree):
    (tree / "sub.jpg").touch()
    folder, picture = plan([tree / "sub", tree / "sub.jpg"], name="4")
    assert folder.problem
    assert picture.output == tree / "sub-4.png"


def test_an_unreadable_folder_is_a_problem(tree, monkeypatch):
    def scandir(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    original = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    *others, last = plan([tree], name="4", recursive=True)
    assert [job.source.name for job in others] == ["a.PNG", "b.jpg", "a.png"]
    assert last.source == tree / "sub" / "deep"
    assert last.problem == "is a folder that cannot be read (Permission denied)"


def test_outputs_of_an_earlier_run_are_skipped(tree):
    before = pairs([tree], tree, recursive=True)
    for _, output in before:
        (tree / output).touch()
    assert pairs([tree], tree, recursive=True) == before
    assert pairs([Path(f"{tree}/*.[pj][np]g")], tree) == [("a-4.png", "a-4-4.png"), ("b.jpg", "b-4.png")]


def test_outputs_of_any_number_of_colors_are_skipped_beside_their_inputs(tree):
    earlier = ["a-20.png", "b-256.png", "b-palette.png", "sub/a-8.gif", "a-20-4.png"]
    others = ["a-257.png", "b-08.png", "b-8.jpg", "c-8.png", "sub/b-8.png", "sub/a-small.png"]
    for name in earlier + others:
        (tree / name).touch()
    jobs = plan([tree], name="16", recursive=True)
    assert {str(job.source.relative_to(tree)) for job in jobs if job.is_earlier_output} == set(earlier)
    assert set(others) <= {str(job.source.relative_to(tree)) for job in jobs if not job.is_earlier_output}
    assert pairs([tree / "b-256.png"], tree, name="16") == [("b-256.png", "b-256-16.png")]  # named
    assert ("a-20.png", "a-20-16.png") in pairs([tree / "*-2*.png"], tree, name="16")  # found without its original


def test_the_output_of_an_animated_gif_is_a_gif_unless_another_is_named(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (0, 99)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "one.gif")
    (tmp_path / "broken.gif").write_bytes((tmp_path / "two.gif").read_bytes()[:20])
    inputs = [tmp_path / name for name in ("two.gif", "one.gif", "broken.gif", "none.gif")]
    found = pairs(inputs, tmp_path)
    assert [output for _, output in found] == ["two-4.gif", "one-4.png", "broken-4.png", "none-4.png"]
    assert pairs(inputs[:1], tmp_path, folder=tmp_path / "out") == [("two.gif", "out/two-4.gif")]
    assert pairs(inputs[:1], tmp_path, output=tmp_path / "x.png") == [("two.gif", "x.png")]


def test_in_place_each_png_and_gif_is_its_own_output(tree):
    (tree / "a-4.png").touch()
    (tree / "d.gif").touch()
    found = pairs([tree], tree, recursive=True, in_place=True)
    assert found == [(name, name) for name in ("a-4.png", "a.PNG", "d.gif", "sub/a.png")]
    (job,) = plan([tree / "b.jpg"], name="4", in_place=True)
    assert job.problem == "is no .png or .gif, which --in-place needs"
    with pytest.raises(PlanError, match=r"a\.png is named twice"):
        plan([tree, tree / "sub" / "a.png"], name="4", recursive=True, in_place=True)
    with pytest.raises(PlanError, match="standard input has none"):
        plan([STDIO], name="4", in_place=True)


def test_a_named_input_that_is_also_an_output_is_an_error(tree):
    (tree / "b-4.png").touch()
    with pytest.raises(PlanError, match=r"b-4\.png is both an input and an output"):
        plan([tree / "b.jpg", tree / "b-4.png"], name="4")


def test_the_output_folder_is_not_searched(tree):
    (tree / "out").mkdir()
    (tree / "out" / "old.png").touch()
    found = pairs([tree], tree, recursive=True, folder=tree / "sub" / ".." / "out")
    assert "out/old.png" not in [source for source, _ in found]
    assert len(found) == 4


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_pattern_skips_the_output_folder_unless_the_pattern_begins_there(tree):
    out = tree / "out"
    (out / "sub").mkdir(parents=True)
    (out / "a-8.png").touch()
    (out / "sub" / "a-8.png").touch()
    found = pairs([tree / "**" / "a*.png"], tree, folder=out)
    assert found == [("sub/a.png", "out/sub/a-4.png")]
    assert pairs([out / "*.png"], tree, folder=out) == [("out/a-8.png", "out/a-8-4.png")]
    assert pairs([out / "sub" / "*.png"], tree, folder=out) == [("out/sub/a-8.png", "out/a-8-4.png")]


def test_links_to_folders_are_skipped_and_links_to_files_are_inputs(tree, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "far.png").touch()
    (tree / "sub" / "away").symlink_to(tmp_path / "other")
    (tree / "sub" / "back").symlink_to(tree)
    (tree / "near.png").symlink_to(tmp_path / "other" / "far.png")
    assert [source for source, _ in pairs([tree], tree, recursive=True)] == [
        *("a.PNG", "b.jpg", "near.png", "sub/a.png", "sub/deep/c.webp")
    ]


def test_outputs_of_a_pattern_have_the_paths_below_its_first_wildcard(tree, tmp_path):
    found = pairs([tree / "sub" / "**" / "*"], tmp_path, folder=tmp_path / "out")
    assert found == [("in/sub/a.png", "out/a-4.png"), ("in/sub/deep/c.webp", "out/deep/c-4.png")]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_pattern_returns_a_file_once_despite_a_link_to_a_parent_folder(tree):
    (tree / "sub" / "back").symlink_to(tree)
    assert [source for source, _ in pairs([tree / "**" / "*.*g"], tree)] == ["b.jpg", "sub/a.png"]


def test_a_pattern_without_matches_is_a_problem(tree):
    (job,) = plan([tree / "*.tiff"], name="4")
    assert job.problem == "matches no file; check the pattern"


def test_the_name_of_an_existing_file_with_brackets_is_not_a_pattern(tmp_path):
    (tmp_path / "a[1].png").touch()
    (tmp_path / "a1.png").touch()
    assert pairs([tmp_path / "a[1].png"], tmp_path) == [("a[1].png", "a[1]-4.png")]


def test_a_missing_file_is_a_job_without_a_problem(tmp_path):
    assert pairs([tmp_path / "none.png"], tmp_path) == [("none.png", "none-4.png")]


def test_standard_input_is_written_to_standard_output_or_to_a_file(tmp_path):
    assert [(job.source, job.output) for job in plan([STDIO], name="4")] == [(STDIO, STDIO)]
    (job,) = plan([STDIO], name="4", output=tmp_path / "a.gif")
    assert (job.source, job.output) == (STDIO, tmp_path / "a.gif")
    (job,) = plan([tmp_path / "a.png"], name="4", output=STDIO)
    assert (job.source, job.output) == (tmp_path / "a.png", STDIO)


@pytest.mark.parametrize("options", [{"folder": Path("out")}, {"others": [Path("a.png")]}, {"others": [STDIO]}])
def test_standard_input_with_other_inputs_or_a_folder_is_an_error(options):
    with pytest.raises(PlanError, match="standard input must be the only input"):
        plan([STDIO, *options.pop("others", [])], name="4", **options)


def test_two_inputs_with_one_output_are_an_error(tree, tmp_path):
    (tree / "a.jpg").touch()
    with pytest.raises(PlanError, match=r"2 inputs would write .*a-4\.png"):
        plan([tree], name="4", recursive=True)
    with pytest.raises(PlanError, match=r"2 inputs would write .*a-4\.png: .*sub/a\.png and .*/a\.PNG; "):
        plan([tree / "sub" / "a.png", tree / "a.PNG"], name="4", folder=tmp_path / "out")


def test_of_many_inputs_with_one_output_two_are_named(tmp_path):
    inputs = [tmp_path / f"a.{suffix}" for suffix in ("png", "jpg", "gif", "bmp")]
    with pytest.raises(PlanError, match=r"4 inputs would write .*a-4\.png: .*a\.png and .*a\.jpg and 2 more; "):
        plan(inputs, name="4")


def test_inputs_with_problems_may_have_one_output(tree, tmp_path):
    (tmp_path / "other" / "sub").mkdir(parents=True)
    inputs = [tree / "x*.jpg", tree / "sub" / "x*.jpg", tree / "sub", tmp_path / "other" / "sub", tree / "b.jpg"]
    jobs = plan(inputs, name="4", folder=tmp_path / "out")
    assert [job.source for job in jobs] == inputs
    assert [job.problem is None for job in jobs] == [False] * 4 + [True]


def test_an_output_takes_one_input_and_a_writable_format(tree):
    with pytest.raises(PlanError, match="--output takes one input, got 4"):
        plan([tree], name="4", output=Path("a.png"), recursive=True)
    with pytest.raises(PlanError, match=r"--output must end in one of \.png, \.gif, \.webp, got a\.jpg"):
        plan([tree / "b.jpg"], name="4", output=Path("a.jpg"))


def test_an_output_folder_that_is_a_file_is_an_error(tree):
    with pytest.raises(PlanError, match=r"--output-folder must be a folder, got the file .*notes\.txt"):
        plan([tree], name="4", recursive=True, folder=tree / "notes.txt")


def test_a_folder_without_images_gives_no_job(tree):
    (tree / "empty").mkdir()
    assert plan([tree / "empty"], name="4", recursive=True) == []
