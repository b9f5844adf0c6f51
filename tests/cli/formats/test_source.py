import io
import os
import struct
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

import gpukmeans_cli.formats.png_chunks as png
from gpukmeans_cli.formats.source import read_source, read_still
from gpukmeans_cli.system.atomic_files import STDIO, ImageError


def frames(n_frames, channels):
    return np.random.default_rng(0).integers(0, 255, (n_frames, 5, 7, channels), dtype=np.uint8)


def pixels_of(source):
    return np.stack(list(source.frames))


def test_a_still_image_has_one_frame(tmp_path):
    pixels = frames(1, 3)
    Image.fromarray(pixels[0]).save(tmp_path / "still.png")
    source = read_source(tmp_path / "still.png")
    assert np.array_equal(pixels_of(source), pixels)
    assert (source.format, source.mode, source.frames_in_file, source.animation) == ("PNG", "RGB", 1, None)
    assert source.n_bytes == (tmp_path / "still.png").stat().st_size


@pytest.mark.parametrize("channels", [3, 4])
def test_an_animation_has_all_its_frames_without_alpha_if_all_are_opaque(tmp_path, channels):
    pixels = frames(4, channels)
    first, *others = (Image.fromarray(frame) for frame in pixels)
    first.save(tmp_path / "animation.png", save_all=True, append_images=others, duration=70)
    source = read_source(tmp_path / "animation.png")
    assert np.array_equal(pixels_of(source), pixels)
    assert (source.format, source.frames_in_file) == ("PNG", 4)
    assert source.animation.durations == (70, 70, 70, 70)


def test_a_transparent_16_bit_color_is_compared_at_16_bits_in_every_frame(tmp_path):
    key, other = struct.pack(">3H", 1, 2, 3), struct.pack(">3H", 1, 2, 4)
    control = [struct.pack(">IIIIIHHBB", number, 2, 1, 0, 0, 1, 10, 0, 0) for number in (0, 1)]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)),
        (b"acTL", struct.pack(">II", 2, 0)),
        (b"tRNS", key),
        (b"fcTL", control[0]),
        (b"IDAT", zlib.compress(b"\0" + key + other)),
        (b"fcTL", control[1]),
        (b"fdAT", struct.pack(">I", 2) + zlib.compress(b"\0" + other + key)),
    ]
    (tmp_path / "a.png").write_bytes(png.png_file(*(png.chunk(*chunk) for chunk in chunks)))
    assert pixels_of(read_source(tmp_path / "a.png"))[..., 3].tolist() == [[[0, 255]], [[255, 0]]]


def test_only_the_first_page_of_a_tiff_is_decoded(tmp_path):
    first, *others = (Image.fromarray(frame) for frame in frames(3, 3))
    first.save(tmp_path / "pages.tiff", save_all=True, append_images=others)
    source = read_source(tmp_path / "pages.tiff")
    assert (len(pixels_of(source)), source.frames_in_file, source.animation) == (1, 3, None)


def test_one_translucent_pixel_keeps_the_alpha_of_all_frames(tmp_path):
    pixels = frames(2, 4)
    pixels[..., 3] = 255
    pixels[1, 4, 6, 3] = 100
    Image.fromarray(pixels[0]).save(tmp_path / "in.png", save_all=True, append_images=[Image.fromarray(pixels[1])])
    assert np.array_equal(pixels_of(read_source(tmp_path / "in.png")), pixels)


@pytest.mark.parametrize("n_frames", [1, 2])
def test_the_limit_of_pixels_is_for_the_sum_over_all_frames(tmp_path, n_frames):
    first, *others = (Image.fromarray(frame) for frame in frames(n_frames, 3))
    first.save(tmp_path / "in.png", save_all=True, append_images=others)
    n_pixels = n_frames * 4096 if n_frames > 1 else 5 * 7  # a frame counts as at least 4096
    assert pixels_of(read_source(tmp_path / "in.png", max_pixels=n_pixels)).shape[:3] == (n_frames, 5, 7)
    with pytest.raises(ImageError, match=f"has {n_pixels} pixels.* the limit is {n_pixels - 1}"):
        read_source(tmp_path / "in.png", max_pixels=n_pixels - 1)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ImageError, match="does not exist"):
        read_source(tmp_path / "missing.png")


def save_animation(path):
    first, *others = (Image.fromarray(frame) for frame in frames(4, 3))
    first.save(path, save_all=True, append_images=others, duration=70)
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes in the file system")
def test_an_animation_in_a_pipe_is_read_like_a_file(tmp_path):
    data = save_animation(tmp_path / "animation.png").read_bytes()
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=[data], daemon=True)
    writer.start()
    source = read_source(tmp_path / "pipe")
    writer.join(timeout=10)
    assert np.array_equal(pixels_of(source), frames(4, 3))
    assert (source.n_bytes, source.original()) == (len(data), data)


def test_standard_input_is_read_like_a_file(tmp_path, monkeypatch):
    data = save_animation(tmp_path / "animation.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    source = read_source(STDIO)
    assert np.array_equal(pixels_of(source), frames(4, 3))
    assert (source.n_bytes, source.original()) == (len(data), data)


def test_closed_standard_input_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ImageError, match="standard input is closed; send an image in"):
        read_source(STDIO)


def test_the_original_is_the_content_of_the_file(tmp_path):
    path = save_animation(tmp_path / "animation.png")
    assert read_source(path).original() == path.read_bytes()


def append(path):
    with path.open("ab") as file:
        file.write(b"more")


def replace(path):
    data = path.read_bytes()
    path.unlink()
    path.with_name("other").write_bytes(data)
    path.with_name("other").rename(path)


def touch(path):
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [append, replace, touch])
def test_the_original_of_a_changed_file_is_an_error(tmp_path, change):
    path = save_animation(tmp_path / "animation.png")
    open_file = path.open("rb")  # so that its inode is not reused
    source = read_source(path)
    change(path)
    with pytest.raises(ImageError, match="has changed since it was read; try again"):
        source.original()
    open_file.close()


def test_the_original_of_a_deleted_file_is_an_error(tmp_path):
    source = read_source(save_animation(tmp_path / "animation.png"))
    source.path.unlink()
    with pytest.raises(ImageError, match="does not exist"):
        source.original()


def test_read_still_decodes_only_the_first_frame(tmp_path):
    pixels = frames(3, 3)
    first, *others = (Image.fromarray(frame) for frame in pixels)
    first.save(tmp_path / "animation.png", save_all=True, append_images=others)
    source = read_still(tmp_path / "animation.png")
    assert np.array_equal(pixels_of(source), pixels[:1])
    assert (source.frames_in_file, source.animation, source.format) == (3, None, "PNG")
