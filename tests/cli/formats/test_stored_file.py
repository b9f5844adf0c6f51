import io

import pytest

from gpukmeans_cli.formats.stored_file import StoredFile
from gpukmeans_cli.system.atomic_files import ImageError


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"content")
    with path.open("rb") as file:
        return StoredFile.of(path, file)


def test_a_file_is_read_again_from_its_path(stored):
    assert [stored.read(), stored.read()] == [b"content"] * 2
    with stored.open() as file:
        assert file.read(4) == b"cont"


def test_the_bytes_of_a_pipe_are_kept(tmp_path):
    stored = StoredFile.of(tmp_path / "pipe", io.BytesIO(b"content"))
    assert stored.read() == b"content"
    with stored.open() as file:
        assert file.read() == b"content"


def test_a_file_that_changes_before_or_while_it_is_read_is_an_error(stored):
    def change_while_open():
        with stored.open() as file:
            file.read(1)
            stored.path.write_bytes(b"longer content")

    with pytest.raises(ImageError, match="has changed since it was read; try again"):
        change_while_open()
    with pytest.raises(ImageError, match="has changed since it was read; try again"):
        stored.read()


def test_a_file_that_is_gone_is_an_error(stored):
    stored.path.unlink()
    with pytest.raises(ImageError, match="does not exist; check the path"):
        stored.read()
