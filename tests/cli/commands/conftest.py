import functools
import json

import pytest
from helpers.image_files import noise, save


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
