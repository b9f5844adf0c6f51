import numpy as np
import pytest
from helpers.animations import (
    PALETTE,
    WITH_TRANSPARENT,
    animation_of,
    decoded_by_pillow,
    error_of,
    moving_square,
    read,
    read_animation,
    rgba_at,
    rgba_of,
    save_frames,
    square_indices,
    visible,
)
from PIL import Image

from gpukmeans_cli.formats.animation import encode_animation
from gpukmeans_cli.system.atomic_files import ImageError


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_the_limit_of_pixels_is_for_the_sum_over_all_frames(tmp_path, suffix):
    large = [frame.resize((100, 60), Image.Resampling.NEAREST) for frame in moving_square()]
    path = save_frames(tmp_path / f"a{suffix}", large, duration=100)
    assert error_of(path, max_pixels=29_999).startswith("has 30000 pixels in 5 frames, the limit is 29999; ")
    assert error_of(path, max_pixels=5999).startswith("has 6000 pixels, the limit is 5999; ")
    assert len(read(path, max_pixels=30_000).frames) == 5


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_a_small_frame_counts_as_4096_pixels(tmp_path, suffix):
    path = save_frames(tmp_path / f"a{suffix}", moving_square(), duration=100)
    message = "has 20480 pixels in 5 frames, counted as at least 4096 each, the limit is 20479; "
    assert error_of(path, max_pixels=20_479).startswith(message)
    assert len(read(path, max_pixels=20_480).frames) == 5


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_each_iteration_over_the_frames_gives_new_arrays_of_equal_pixels(tmp_path, suffix):
    animation = read_animation(save_frames(tmp_path / f"a{suffix}", moving_square(), duration=100))
    first = next(iter(animation.frames))
    first[...] = 0
    frames = list(animation.frames)
    np.testing.assert_array_equal(frames, rgba_of(moving_square())[..., :3])
    assert (animation.height, animation.width, animation.channels) == frames[0].shape
    np.testing.assert_array_equal(frames, list(animation.frames))


def test_a_file_that_changes_between_two_iterations_over_its_frames_is_an_error(tmp_path):
    path = save_frames(tmp_path / "a.gif", moving_square(), duration=100)
    frames = read_animation(path).frames
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ImageError, match="has changed since it was read; try again"):
        list(frames)
    path.unlink()
    with pytest.raises(ImageError, match="does not exist"):
        list(frames)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp"])  # browsers ignore the EXIF of a WebP
def test_frames_are_turned_by_the_exif_of_a_png_only(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    frames = moving_square()
    path = save_frames(tmp_path / f"a{suffix}", frames, duration=100, exif=exif)
    transpose = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation if suffix == ".png" else 1)
    expected = frames if transpose is None else [frame.transpose(transpose) for frame in frames]
    np.testing.assert_array_equal(read(path).frames, rgba_of(expected))


@pytest.mark.parametrize("suffix", [".gif", ".png", ".PNG"])
@pytest.mark.parametrize("palette", [PALETTE, WITH_TRANSPARENT])
def test_frames_of_a_moving_square_are_small(suffix, palette):
    still = square_indices(1)
    data = encode_animation(palette, square_indices(50) % 3, animation_of([40] * 50), suffix)
    one = encode_animation(palette, still, animation_of([40]), suffix)
    assert len(data) - len(one) < 49 * 100
    np.testing.assert_array_equal(visible(decoded_by_pillow(data)[0]), visible(palette[square_indices(50) % 3]))


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_unchanged_noise_inside_the_box_is_skipped(suffix):
    indices = np.repeat(np.random.default_rng(0).integers(0, 15, (1, 50, 50), dtype=np.uint8), 2, axis=0)
    palette = np.random.default_rng(1).integers(0, 256, (15, 3), dtype=np.uint8)
    indices[1, [0, -1], [0, -1]] = (indices[0, [0, -1], [0, -1]] + 1) % 15
    two = encode_animation(palette, indices, animation_of([100, 100]), suffix)
    one = encode_animation(palette, indices[:1], animation_of([100]), suffix)
    assert len(two) - len(one) < 300
    np.testing.assert_array_equal(decoded_by_pillow(two)[0], rgba_at(palette, indices))
