import contextlib
import errno
import os
import resource
import stat
from pathlib import Path

import pytest

from gpukmeans_cli.system.atomic_files import ImageError, check_folder, check_free, check_writable, publish

NEW = b"a new file, long enough to be cut off on its way to the disk"
TAKEN = "already exists; use --force to overwrite it"
NO_LINKS = OSError(errno.EPERM, "Operation not permitted")


def failure(path: Path, *, overwrite: bool = False) -> str:
    with pytest.raises(ImageError) as caught:
        publish(path, NEW, overwrite=overwrite)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"{path} ")
    return sentence.removeprefix(f"{path} ")


def raising(error: BaseException):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_that_exists_is_kept(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    assert failure(path) == TAKEN
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.png"]


def test_a_file_that_exists_is_replaced_when_asked(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    publish(path, NEW, overwrite=True)
    assert path.read_bytes() == NEW
    assert names(tmp_path) == ["out.png"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, links):
    path = tmp_path / "out.png"
    link = os.link

    def link_too_late(source: Path, target: Path) -> None:
        path.write_bytes(b"someone else's")
        if not links:
            raise NO_LINKS
        link(source, target)

    monkeypatch.setattr(os, "link", link_too_late)
    assert failure(path) == TAKEN
    assert path.read_bytes() == b"someone else's"
    assert names(tmp_path) == ["out.png"]


def test_a_disk_without_hard_links_gets_the_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", raising(NO_LINKS))
    path = tmp_path / "out.png"
    publish(path, NEW, overwrite=False)
    assert path.read_bytes() == NEW
    assert names(tmp_path) == ["out.png"]
    assert failure(path) == TAKEN


@contextlib.contextmanager
def files_of_at_most(size: int):
    """The system itself stops every write of this process beyond so many bytes of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("exists", [True, False])
def test_a_write_that_stops_half_way_leaves_the_folder_as_it_was(tmp_path, exists):
    path = tmp_path / "out.png"
    if exists:
        path.write_bytes(b"old")
    with files_of_at_most(40):
        sentence = failure(path, overwrite=exists)
    assert "File too large" in sentence
    assert names(tmp_path) == (["out.png"] if exists else [])
    assert not exists or path.read_bytes() == b"old"


@pytest.mark.parametrize("step", ["replace", "link"])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(), MemoryError()])
def test_an_interruption_leaves_the_folder_as_it_was(tmp_path, monkeypatch, step, interruption):
    path = tmp_path / "out.png"
    if step == "replace":
        path.write_bytes(b"old")
    seen = []

    def interrupt(source: Path, target: Path) -> None:
        seen.extend(names(tmp_path))
        raise interruption

    monkeypatch.setattr(os, step, interrupt)
    with pytest.raises(type(interruption)):
        publish(path, NEW, overwrite=step == "replace")
    assert len(seen) == (2 if step == "replace" else 1), "the temporary file was in the same folder"
    assert names(tmp_path) == (["out.png"] if step == "replace" else [])
    assert step == "link" or path.read_bytes() == b"old"


def test_an_interruption_without_hard_links_gives_the_name_back(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", raising(NO_LINKS))
    monkeypatch.setattr(os, "replace", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "out.png", NEW, overwrite=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_called_full(tmp_path, monkeypatch, code):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", raising(OSError(code, os.strerror(code))))
    assert "disk is full" in failure(path, overwrite=True)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.png"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("overwrite", [True, False])
def test_the_permissions_are_those_of_any_new_file(tmp_path, mask, overwrite):
    path = tmp_path / "out.png"
    before = os.umask(mask)
    try:
        publish(path, NEW, overwrite=overwrite)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert path.stat().st_nlink == 1


def test_overwriting_a_link_replaces_the_file_behind_it(tmp_path):
    (tmp_path / "far").mkdir()
    behind, link = tmp_path / "far" / "behind.png", tmp_path / "link.png"
    behind.write_bytes(b"old")
    link.symlink_to(behind)
    publish(link, NEW, overwrite=True)
    assert link.is_symlink()
    assert behind.read_bytes() == NEW
    assert names(tmp_path / "far") == ["behind.png"]


def test_a_link_is_taken_even_if_it_leads_nowhere(tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "nowhere.png")
    assert failure(link) == TAKEN
    assert not (tmp_path / "nowhere.png").exists()
    publish(link, NEW, overwrite=True)
    assert (tmp_path / "nowhere.png").read_bytes() == NEW


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_missing_folder_is_named_missing(tmp_path, overwrite):
    assert "folder does not exist" in failure(tmp_path / "none" / "out.png", overwrite=overwrite)
    (tmp_path / "file").write_bytes(b"x")
    assert "folder does not exist" in failure(tmp_path / "file" / "out.png", overwrite=overwrite)


def test_a_folder_that_may_not_be_changed_says_so(tmp_path, monkeypatch):
    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert "may not be changed" in failure(tmp_path / "out.png")
    assert names(tmp_path) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_is_no_place_for_the_bytes(tmp_path, overwrite):
    assert failure(tmp_path, overwrite=overwrite) == "is a folder; name a file in it"


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_pipe_is_not_replaced_by_a_file(tmp_path, overwrite):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "not a regular file" in failure(path, overwrite=overwrite)
    assert path.is_fifo()


def test_a_name_at_the_limit_of_the_system_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".png")
    publish(path, NEW, overwrite=False)
    assert path.read_bytes() == NEW
    assert "File name too long" in failure(tmp_path / ("x" * 300))


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_path_is_free_where_nothing_is(tmp_path, overwrite):
    check_free(tmp_path / "out.png", overwrite=overwrite)
    check_free(tmp_path / "none" / "out.png", overwrite=overwrite)
    assert names(tmp_path) == []


def test_a_path_of_a_file_is_free_only_to_overwrite(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    check_free(path, overwrite=True)
    with pytest.raises(ImageError, match=rf"out\.png {TAKEN}"):
        check_free(path, overwrite=False)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_and_a_pipe_are_never_free(tmp_path, overwrite):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="is a folder; name a file in it"):
        check_free(tmp_path, overwrite=overwrite)
    with pytest.raises(ImageError, match="is not a regular file"):
        check_free(tmp_path / "pipe", overwrite=overwrite)


def test_a_missing_folder_is_known_before_there_is_anything_to_write(tmp_path):
    check_folder(tmp_path / "new.png")
    (tmp_path / "file").write_bytes(b"")
    for folder in ("none", "file"):
        path = tmp_path / folder / "new.png"
        with pytest.raises(ImageError) as caught:
            check_folder(path)
        with pytest.raises(ImageError) as later:
            publish(path, b"", overwrite=False)
        assert str(caught.value) == str(later.value)


def test_a_place_that_takes_no_file_is_known_without_writing_one(tmp_path):
    check_writable(tmp_path / "new.npy")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ImageError, match=r"^/none/x.npy cannot be written, its folder does not exist"):
        check_writable(Path("/none/x.npy"))
