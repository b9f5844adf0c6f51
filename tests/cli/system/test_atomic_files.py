import contextlib
import errno
import os
import pickle
import resource
import stat
from pathlib import Path

import pytest

from gpukmeans_cli.system.atomic_files import (
    ImageError,
    check_folder,
    check_free,
    check_writable,
    unexpected_error,
    write_atomically,
)

NEW = b"a new file, long enough to be cut off on its way to the disk"
TAKEN = "already exists; use --force to overwrite it"
NO_LINKS = OSError(errno.EPERM, "Operation not permitted")


def failure(path: Path, *, overwrite: bool = False) -> str:
    with pytest.raises(ImageError) as caught:
        write_atomically(path, NEW, overwrite=overwrite)
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


def test_an_existing_file_is_kept(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    assert failure(path) == TAKEN
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.png"]


def test_an_existing_file_is_replaced_with_overwrite(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    write_atomically(path, NEW, overwrite=True)
    assert path.read_bytes() == NEW
    assert names(tmp_path) == ["out.png"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_during_the_write_is_kept(tmp_path, monkeypatch, links):
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


def test_a_file_system_without_hard_links_gets_the_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", raising(NO_LINKS))
    path = tmp_path / "out.png"
    write_atomically(path, NEW, overwrite=False)
    assert path.read_bytes() == NEW
    assert names(tmp_path) == ["out.png"]
    assert failure(path) == TAKEN


@contextlib.contextmanager
def file_size_limit(size: int):
    """Inside, the system fails each write of this process beyond this file size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_write_leaves_the_folder_unchanged(tmp_path, exists):
    path = tmp_path / "out.png"
    if exists:
        path.write_bytes(b"old")
    with file_size_limit(40):
        sentence = failure(path, overwrite=exists)
    assert "File too large" in sentence
    assert names(tmp_path) == (["out.png"] if exists else [])
    assert not exists or path.read_bytes() == b"old"


@pytest.mark.parametrize("step", ["replace", "link"])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(), MemoryError()])
def test_an_interruption_leaves_the_folder_unchanged(tmp_path, monkeypatch, step, interruption):
    path = tmp_path / "out.png"
    if step == "replace":
        path.write_bytes(b"old")
    files_during_write = []

    def interrupt(source: Path, target: Path) -> None:
        files_during_write.extend(names(tmp_path))
        raise interruption

    monkeypatch.setattr(os, step, interrupt)
    with pytest.raises(type(interruption)):
        write_atomically(path, NEW, overwrite=step == "replace")
    assert len(files_during_write) == (2 if step == "replace" else 1), "the temporary file was in the same folder"
    assert names(tmp_path) == (["out.png"] if step == "replace" else [])
    assert step == "link" or path.read_bytes() == b"old"


def test_an_interruption_without_hard_links_removes_the_reserved_name(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", raising(NO_LINKS))
    monkeypatch.setattr(os, "replace", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "out.png", NEW, overwrite=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported_as_full(tmp_path, monkeypatch, code):
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
        write_atomically(path, NEW, overwrite=overwrite)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert path.stat().st_nlink == 1


def test_overwriting_a_symbolic_link_replaces_its_target(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target.png", tmp_path / "link.png"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, NEW, overwrite=True)
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert names(tmp_path / "far") == ["target.png"]


def test_a_broken_symbolic_link_is_an_existing_file(tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "nowhere.png")
    assert failure(link) == TAKEN
    assert not (tmp_path / "nowhere.png").exists()
    write_atomically(link, NEW, overwrite=True)
    assert (tmp_path / "nowhere.png").read_bytes() == NEW


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_missing_folder_is_reported_as_missing(tmp_path, overwrite):
    assert "folder does not exist" in failure(tmp_path / "none" / "out.png", overwrite=overwrite)
    (tmp_path / "file").write_bytes(b"x")
    assert "folder does not exist" in failure(tmp_path / "file" / "out.png", overwrite=overwrite)


def test_a_read_only_folder_is_reported(tmp_path, monkeypatch):
    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert "its folder is read-only" in failure(tmp_path / "out.png")
    assert names(tmp_path) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_is_not_overwritten(tmp_path, overwrite):
    assert failure(tmp_path, overwrite=overwrite) == "is a folder; name a file in it"


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_pipe_is_not_overwritten(tmp_path, overwrite):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "not a regular file" in failure(path, overwrite=overwrite)
    assert path.is_fifo()


def test_a_name_of_the_maximum_length_can_be_written(tmp_path):
    path = tmp_path / ("x" * 251 + ".png")
    write_atomically(path, NEW, overwrite=False)
    assert path.read_bytes() == NEW
    assert "File name too long" in failure(tmp_path / ("x" * 300))


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_path_without_a_file_is_free(tmp_path, overwrite):
    check_free(tmp_path / "out.png", overwrite=overwrite)
    check_free(tmp_path / "none" / "out.png", overwrite=overwrite)
    assert names(tmp_path) == []


def test_the_path_of_a_file_is_free_only_with_overwrite(tmp_path):
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


def test_check_folder_reports_a_missing_folder_in_the_words_of_the_write(tmp_path):
    check_folder(tmp_path / "new.png")
    (tmp_path / "file").write_bytes(b"")
    for folder in ("none", "file"):
        path = tmp_path / folder / "new.png"
        with pytest.raises(ImageError) as caught:
            check_folder(path)
        with pytest.raises(ImageError) as later:
            write_atomically(path, b"", overwrite=False)
        assert str(caught.value) == str(later.value)


def test_check_writable_leaves_no_file(tmp_path):
    check_writable(tmp_path / "new.npy")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ImageError, match=r"^/none/x.npy cannot be written, its folder does not exist"):
        check_writable(Path("/none/x.npy"))


def test_an_unexpected_exception_becomes_one_line_with_a_traceback_that_other_processes_can_send():
    def fail():
        raise ValueError("two\nlines")

    try:
        fail()
    except ValueError as error:
        received = pickle.loads(pickle.dumps(unexpected_error(error)))
    assert isinstance(received, ImageError)
    assert (
        str(received) == "failed by a bug of gpukmeans (ValueError: two lines); compress --verbose prints the traceback"
    )
    assert "in fail\n" in received.traceback
