import functools

import pytest
from helpers.image_files import assert_one_line, noise, rgba, save

pytestmark = pytest.mark.usefixtures("no_gpu")


@pytest.fixture
def run(command):
    """Runs `gpukmeans compress`, and gives the exit code, stdout and stderr."""
    return functools.partial(command, "compress")


@pytest.fixture
def photo(tmp_path):
    return save(noise(11, 17, 3), tmp_path / "photo.png")


def test_a_palette_without_an_opaque_color_is_used_with_a_warning(run, photo, tmp_path):
    palette, output = tmp_path / "palette.hex", tmp_path / "out.png"
    palette.write_text("#10203040\n#ffffff80\n")
    code, _, err = run(photo, "--palette", palette, "-o", output)
    assert code == 0
    assert_one_line(err, f"--palette {palette} has no opaque color, so opaque pixels become translucent")
    assert rgba(output)[..., 3].max() == 0x80
    assert run(photo, "--palette", palette, "-o", output, "-f", "-q")[2] == ""
    palette.write_text("#10203040\n#ffffff80\n#000000\n")
    assert run(photo, "--palette", palette, "-o", output, "-f")[2] == ""
    assert rgba(output)[..., 3].min() == 255
