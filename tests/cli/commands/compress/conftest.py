import functools
import json

import pytest
from helpers.image_files import noise, save
from helpers.image_trees import save_tree
from helpers.photos import save_crop


@pytest.fixture
def run(command):
    """Runs `gpukmeans compress` with the nearest colors, unless a dithering is given: exit code, stdout and stderr."""
    return functools.partial(command, "compress", "--dither", "none")


@pytest.fixture
def report(run):
    """Runs `gpukmeans compress` on one file, and gives the JSON report."""

    def report(*args):
        code, out, err = run(*args, "--json", "-q")
        assert (code, err) == (0, "")
        return json.loads(out)

    return report


@pytest.fixture
def photo(tmp_path):
    return save(noise(11, 17, 3), tmp_path / "photo.png")


@pytest.fixture(scope="module")
def crop(tmp_path_factory):
    """A crop of a photo, as a PNG."""
    return save_crop(tmp_path_factory.mktemp("crop") / "crop.png", (200, 100, 328, 196))


@pytest.fixture
def cwd(tmp_path, monkeypatch):
    """The working directory of the command, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tree(cwd):
    """The images of `save_tree`, in the folder "tree"."""
    return save_tree(cwd / "tree")
