import numpy as np
import pytest
from PIL import Image

from gpukmeans_cli.files import ImageError
from gpukmeans_cli.source import read_source


def frames(n_frames, channels):
    return np.random.default_rng(0).integers(0, 255, (n_frames, 5, 7, channels), dtype=np.uint8)


def test_a_still_is_one_frame(tmp_path):
    pixels = frames(1, 3)
    Image.fromarray(pixels[0]).save(tmp_path / "still.png")
    source = read_source(tmp_path / "still.png")
    assert np.array_equal(source.pixels, pixels)
    assert (source.format, source.mode, source.frames_in_file, source.animation) == ("PNG", "RGB", 1, None)
    assert source.n_bytes == (tmp_path / "still.png").stat().st_size


@pytest.mark.parametrize("channels", [3, 4])
def test_an_animation_is_all_its_frames_without_alpha_if_that_says_nothing(tmp_path, channels):
    pixels = frames(4, channels)
    first, *others = (Image.fromarray(frame) for frame in pixels)
    first.save(tmp_path / "moving.png", save_all=True, append_images=others, duration=70)
    source = read_source(tmp_path / "moving.png")
    assert np.array_equal(source.pixels, pixels)
    assert (source.format, source.frames_in_file) == ("PNG", 4)
    assert source.animation.durations == (70, 70, 70, 70)


def test_of_pages_that_are_no_animation_only_the_first_is_taken(tmp_path):
    first, *others = (Image.fromarray(frame) for frame in frames(3, 3))
    first.save(tmp_path / "pages.tiff", save_all=True, append_images=others)
    source = read_source(tmp_path / "pages.tiff")
    assert (len(source.pixels), source.frames_in_file, source.animation) == (1, 3, None)


def test_what_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        read_source(tmp_path / "missing.png")
