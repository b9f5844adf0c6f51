"""Counting and lookup of colors by native kernels have the results of tensor operations."""

import pytest
import torch
from helpers import native
from helpers.problems import random_image
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.engines.native.colors import ColorRows, count_colors
from gpukmeans.images.histogram import ColorHistogram, unique_colors

ALPHAS = st.sampled_from(["any", "0 and 255", "mostly 255"])
SIZES = st.sampled_from([(1, 1), (1, 57), (57, 1), (1, 4096), (31, 33), (64, 64)])


def image_with_alpha(height, width, channels, levels, alphas, seed):
    """A random image of this many levels of each channel, which are spread over 0 to 255."""
    image = (random_image(height, width, channels, levels, seed) * (255 // max(levels - 1, 1))).to(torch.uint8)
    if channels in (2, 4) and alphas != "any":
        below = 128 if alphas == "0 and 255" else 240
        image[..., -1] = torch.where(random_image(height, width, 1, 256, seed + 1)[..., 0] < below, 255, image[..., -1])
        if alphas == "0 and 255":
            image[..., -1] = image[..., -1] // 255 * 255
    return image


def assert_equal_to_tensor_operations(image):
    histogram = unique_colors(image)
    values = (torch.arange(len(histogram.colors)) * 37 % 251).to(torch.uint8)
    rows, mapped = histogram.lookup(image), histogram.map_values(values, image)
    with native.without_native():
        expected = unique_colors(image)
        assert torch.equal(histogram.colors, expected.colors)
        assert torch.equal(histogram.counts, expected.counts)
        assert torch.equal(rows, expected.lookup(image))
        assert torch.equal(mapped, expected.map_values(values, image))
    assert (rows.dtype, mapped.dtype, histogram.counts.dtype) == (torch.int32, torch.uint8, torch.int64)


@given(SIZES, st.integers(1, 4), st.sampled_from([1, 2, 3, 16, 256]), ALPHAS, st.integers(0, 2**31))
def test_colors_are_counted_and_looked_up_as_by_tensor_operations(size, channels, levels, alphas, seed):
    assert_equal_to_tensor_operations(image_with_alpha(*size, channels, levels, alphas, seed))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_each_library_counts_and_looks_up_the_colors_of_large_images(each_library, channels, china):
    assert_equal_to_tensor_operations(random_image(520, 2020, channels, 256, 0))  # more than a chunk
    photo = torch.cat([china, china.flip(0)[..., :1]], dim=2)[..., :channels].clone()
    photo[100:, :, -1] = 255
    assert_equal_to_tensor_operations(photo)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_chunks_may_end_within_the_pixels_of_a_part(monkeypatch, channels, chunk):
    monkeypatch.setattr("gpukmeans.engines.native.colors._BLOCK", chunk)
    assert_equal_to_tensor_operations(image_with_alpha(23, 29, channels, 4, "0 and 255", 0))


def test_images_of_more_pixels_than_a_kernel_counts_are_counted_in_blocks(monkeypatch):
    monkeypatch.setattr("gpukmeans.images.histogram._NATIVE_BLOCK", 100)
    assert_equal_to_tensor_operations(random_image(23, 29, 4, 3, 0))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_strides_are_counted_and_looked_up(channels):
    image = random_image(60, 50, channels, 16, 0)
    for view in (image.transpose(0, 1), image[::2, 3::3], image.flip(2), image[:, :1].expand(-1, 9, -1)):
        assert_equal_to_tensor_operations(view)
    histogram = unique_colors(image)
    strided = ColorHistogram(colors=histogram.colors.T.contiguous().T, counts=histogram.counts)
    assert torch.equal(strided.lookup(image), histogram.lookup(image))
    values = torch.stack([histogram.counts, -histogram.counts], dim=1).to(torch.uint8)[:, 0]
    assert torch.equal(strided.map_values(values, image), histogram.map_values(values.contiguous(), image))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_number_of_threads_does_not_matter(monkeypatch, channels):
    monkeypatch.setattr("gpukmeans.engines.native.colors._BLOCK", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert_equal_to_tensor_operations(random_image(60, 50, channels, 16, 0))


@pytest.mark.parametrize("colors", [[[0, 0, 0, 9]], [[7, 7, 7, 1], [7, 7, 7, 4], [7, 7, 7, 200], [9, 0, 0, 255]]])
def test_a_color_that_is_not_in_the_list_is_found_by_no_search(colors):
    rows, values = (
        ColorRows(torch.tensor(colors, dtype=torch.uint8)),
        torch.arange(1, 5, dtype=torch.uint8)[: len(colors)],
    )
    for color in {(*color[:3], alpha) for color in [*colors, [8, 7, 7, 1]] for alpha in range(256)}:
        pixel = torch.tensor([color], dtype=torch.uint8)
        if list(color) in colors:
            assert rows.look_up(pixel).tolist() == [colors.index(list(color))]
            assert rows.map_values(values, pixel).tolist() == [colors.index(list(color)) + 1]
        else:
            with pytest.raises(ValueError, match="no other colors than the histogram"):
                rows.look_up(pixel)
            assert rows.map_values(values, pixel).tolist() == [0]


@pytest.mark.parametrize("colors", [[[1, 0], [0, 9]], [[4, 4], [4, 4]]])
def test_colors_that_are_not_in_lexicographic_order_are_refused(colors):
    with pytest.raises(ValueError, match="distinct and in lexicographic order"):
        ColorRows(torch.tensor(colors, dtype=torch.uint8))


def test_another_number_of_values_than_colors_is_refused():
    histogram = unique_colors(random_image(3, 3, 3, 256, 0))
    with pytest.raises(ValueError, match="values must be one for each of 9 colors, got 8"):
        histogram.map_values(torch.zeros(8, dtype=torch.uint8), random_image(3, 3, 3, 256, 0))


def test_no_pixels_have_no_colors():
    colors, counts = count_colors(torch.empty(0, 3, dtype=torch.uint8))
    assert (colors.shape, counts.shape) == ((0, 3), (0,))


@pytest.mark.parametrize("level", native.DRIVER_LEVELS)
def test_the_kernels_stay_within_their_arrays(level):
    driver = """
import ctypes, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
i32, i64, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
prefix, to = "gpukmeans_colors_", lambda array: array.ctypes.data_as(pointer)
library[prefix + "part_counts_bytes"].restype = i64
structure = lambda *values: (i64 * len(values))(*(v.ctypes.data if hasattr(v, "ctypes") else v for v in values))
rng = np.random.default_rng(0)
for channels in (1, 2, 3, 4):
    for n in (1, 2, 65, 3000):
        for levels in (1, 2, 256):
            pixels = (255 - rng.integers(levels, size=(n, channels))).astype(np.uint8)
            ends, rests = np.array([n], np.uint32), pixels
            if channels > 2:
                sizes, rests = np.zeros(65536, np.uint32), np.empty(n, np.uint8 if channels == 3 else np.uint16)
                library[prefix + "part_sizes"](i32(channels), to(pixels), i64(0), i64(n), to(sizes))
                ends = np.cumsum(sizes).astype(np.uint32)
                places = ends - sizes
                library[prefix + "partition"](i32(channels), to(pixels), i64(0), i64(n), to(places), to(rests), i64(n))
                assert (places == ends).all()
            part = np.zeros(library[prefix + "part_counts_bytes"](), np.uint8)
            scan = structure(rests, ends, part, 0, 0, 0, 0)
            library[prefix + "count"](i32(channels), scan, i64(0), i64(n // 3))
            library[prefix + "count"](i32(channels), scan, i64(n // 3), i64(n))
            colors, counts = np.empty((scan[6], channels), np.uint8), np.empty(scan[6], np.int64)
            library[prefix + "count"](i32(channels), structure(rests, ends, part, colors, counts, 0, 0), i64(0), i64(n))
            expected, expected_counts = np.unique(pixels, axis=0, return_counts=True)
            assert (colors == expected).all() and (counts == expected_counts).all() and not part.any()
            groups = np.zeros((max(1, 256 ** min(channels, 3) // 64), 2), np.int64)
            firsts = np.empty(len(colors) + 1 if channels == 4 else 0, np.int32)
            rows = structure(colors, len(colors), groups, firsts)
            assert library[prefix + "index"](i32(channels), rows)
            others = np.concatenate([pixels, rng.integers(256, size=(99, channels)).astype(np.uint8)])
            found, mapped = np.empty(len(others), np.int32), np.empty(len(others), np.uint8)
            values = np.arange(len(colors)).astype(np.uint8)
            ends_of = i64(0), i64(len(others))
            library[prefix + "look_up"](i32(channels), rows, to(others), *ends_of, to(found))
            library[prefix + "map_values"](i32(channels), rows, to(others), *ends_of, to(values), to(mapped))
            assert (colors[found[:n]] == pixels).all() and (mapped[:n] == values[found[:n]]).all()
            known = (others[:, None] == colors[None]).all(2).any(1) if len(colors) < 300 else found >= 0
            assert (known == (found >= 0)).all()
"""
    native.run_sanitized(driver, level=level)
