"""Floyd-Steinberg dithering by native kernels has the bits of tensor operations."""

import pytest
import torch
from helpers import native
from helpers.problems import random_image, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans.images.colorspace import clear_transparent_pixels
from gpukmeans.images.dithering import dither, floyd_steinberg
from gpukmeans.images.quantization import quantize

SIZES = st.sampled_from([(1, 1), (1, 2), (2, 1), (1, 40), (40, 1), (2, 3), (3, 2), (5, 6), (9, 17), (17, 9), (40, 50)])
ALPHAS = st.sampled_from(["0", "255", "any", "0 and 255", "254 and 255"])


def with_alpha(colors, alphas, seed):
    """The colors (..., C) with the alpha of this kind, if they have one."""
    channels, colors = colors.shape[-1], colors.clone()
    if channels in (2, 4) and alphas != "any":
        values = torch.tensor([int(alpha) for alpha in alphas.split(" and ")], dtype=torch.uint8)
        chosen = torch.randint(len(values), colors.shape[:-1], generator=seeded(seed))
        colors[..., -1] = values[chosen]
    return colors


def smooth_image(height, width, channels, seed):
    steps = torch.randint(-9, 10, (2, channels), generator=seeded(seed)).double() / 2
    ramp = torch.arange(height)[:, None, None] * steps[0] + torch.arange(width)[:, None] * steps[1]
    return (ramp + 128).clamp(0, 255).to(torch.uint8)


def assert_equal_to_tensor_operations(image, palette, strength=256):
    indices = dither(image, palette, strength=strength / 256)
    with native.without_native():
        assert torch.equal(indices, dither(image, palette, strength=strength / 256))
    return indices


@settings(max_examples=100)
@given(
    size=SIZES,
    channels=st.integers(1, 4),
    levels=st.sampled_from([2, 5, 256, "smooth"]),
    alphas=ALPHAS,
    palette_alphas=ALPHAS,
    k=st.sampled_from([2, 3, 9, 64, 255, 256]),
    strength=st.integers(1, 256),
    seed=st.integers(0, 2**31),
)
def test_images_are_dithered_as_by_tensor_operations(size, channels, levels, alphas, palette_alphas, k, strength, seed):
    if levels == "smooth":
        image = smooth_image(*size, channels, seed)
    else:
        image = random_image(*size, channels, levels, seed) * (255 // (levels - 1))
    image = with_alpha(image, alphas, seed)
    palette = with_alpha(random_image(1, k, channels, 256, seed + 1)[0], palette_alphas, seed + 1)
    assert_equal_to_tensor_operations(clear_transparent_pixels(image) if seed % 2 else image, palette, strength)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_each_library_dithers_a_photo(each_library, channels, china):
    image = torch.cat([china, china.flip(0)[..., :1]], dim=2)[100:260, :400, :channels].clone()
    if channels in (2, 4):
        image[:100, :, -1] = 255
    palette = quantize(image, 256 if channels > 2 else 16).palette
    indices = assert_equal_to_tensor_operations(image, palette)
    assert (indices != dither(image, palette, "none")).float().mean() > 0.1
    assert_equal_to_tensor_operations(image, palette, strength=77)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_each_library_finds_the_nearest_color_of_cells_with_ties(each_library, channels):
    # Equal and symmetric colors are equally near to many cells; the ends of the image give cells of all colors.
    palette = torch.cartesian_prod(*[torch.tensor([0, 64, 128, 192, 255])] * channels).view(-1, channels)
    palette = torch.cat([palette.flip(0)[::7], palette[::3], palette[::5]])[:256].to(torch.uint8)
    image = random_image(50, 90, channels, 256, 0)
    image[0, :2] = torch.tensor([[0], [255]], dtype=torch.uint8)
    assert_equal_to_tensor_operations(image, palette)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("constant", [0, -1])
def test_a_channel_may_be_constant(channels, constant):
    image, palette = random_image(9, 30, channels, 256, 0), random_image(1, 20, channels, 256, 1)[0]
    image[..., constant], palette[:, constant] = 90, 90
    assert_equal_to_tensor_operations(image, palette)


@pytest.mark.parametrize("block", [1, 100, 1000])
def test_rows_are_dithered_in_blocks(monkeypatch, block):
    image, palette = random_image(41, 30, 4, 256, 0), random_image(1, 20, 4, 256, 1)[0]
    expected = dither(image, palette)
    monkeypatch.setattr("gpukmeans.engines.native.dithering._BLOCK", block)
    monkeypatch.setattr("gpukmeans.engines.native.dithering._CELLS", block)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(dither(image, palette), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_strides_are_dithered(channels):
    image, palette = random_image(60, 50, channels, 256, 0), random_image(2, 20, channels, 256, 1)[0]
    for view in (image.transpose(0, 1), image[::2, 3::3], image.flip(2), image[:, :1].expand(-1, 9, -1)):
        assert_equal_to_tensor_operations(view, palette)
    assert_equal_to_tensor_operations(image, palette[::2])


@pytest.mark.parametrize(("n_colors", "nearest_size"), [(2, (5, 4)), (300, (4, 5))])
def test_shapes_that_do_not_fit_are_refused(n_colors, nearest_size, unchecked):
    image, palette = random_image(4, 5, 3, 256, 0), random_image(1, n_colors, 3, 256, 1)[0]
    with pytest.raises(ValueError, match=r"must have shapes \(H, W, C\), \(K, C\), K up to 256, and \(H, W\)"):
        floyd_steinberg(image, palette, torch.zeros(nearest_size, dtype=torch.uint8), 256)


def test_nearest_colors_may_be_any_index():
    image, palette = random_image(9, 9, 3, 256, 0), random_image(1, 5, 3, 256, 1)[0]
    nearest = torch.full((9, 9), 255, dtype=torch.uint8)
    assert floyd_steinberg(image, palette, nearest, 256).shape == (9, 9)


@pytest.mark.parametrize("level", native.DRIVER_LEVELS)
def test_the_kernels_stay_within_their_arrays(level):
    driver = """
import ctypes, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
i32, i64 = ctypes.c_int, ctypes.c_int64
prefix, to = "gpukmeans_dithering_", lambda array: array.ctypes.data_as(ctypes.c_void_p)
four = lambda values: [*values] + [0] * (4 - len(values))
rng = np.random.default_rng(0)

def structure(numbers, words):
    numbers = np.array(numbers + [0] * (len(numbers) % 2), np.int32)
    return np.concatenate([numbers, np.array(words, np.int64).view(np.int32)])

for channels in (1, 2, 3, 4):
    for height, width, k in ((1, 1, 2), (1, 9, 256), (9, 1, 3), (2, 2, 255), (5, 3, 16), (23, 31, 256)):
        for shift in (0, 5, 9, 13):
            image = rng.integers(256, size=(height, width, channels)).astype(np.uint8)
            lowest, highest = np.full(channels, 65536, np.int32), np.zeros(channels, np.int32)
            library[prefix + "range"](i32(channels), to(image), i64(0), i64(height * width), to(lowest), to(highest))
            if channels % 2 == 0:
                lowest[:], highest[-1] = 0, 4080
            span = highest - lowest
            while np.prod((span >> shift).astype(np.int64) + 1) > 5000:
                shift += 1
            sizes = (span >> shift) + 1
            sizes[-1] += channels % 2 == 0
            palette = np.minimum(rng.integers(4081, size=(k, channels)), highest).clip(min=lowest).astype(np.int32)
            points, opaque = np.ascontiguousarray(palette.T.astype(np.float32)), np.ones(k, np.uint8)
            cells = np.full(np.prod(sizes), 255, np.uint8)
            numbers = four(lowest) + four(sizes) + [shift, channels, k]
            rows = four([row.ctypes.data for row in points])
            state = structure(numbers, rows + [opaque.ctypes.data, cells.ctypes.data])
            library[prefix + "inverse_palette"](to(state), i64(0), i64(np.prod(sizes[:-1])))
            assert (cells < k).all()
            lanes = np.zeros((256, 4), np.int32)
            lanes[:k, :channels] = palette - lowest
            nearest = rng.integers(256, size=(height, width)).astype(np.uint8)
            indices, errors = np.empty_like(nearest), np.zeros((width + 1, 4), np.int32)
            numbers = four(lowest) + four(span) + four(sizes) + [shift, 200, 256, channels]
            arrays = lanes, cells, image, nearest, indices, errors
            state = structure(numbers, [width] + [array.ctypes.data for array in arrays])
            library[prefix + "diffuse"](to(state), i64(0), i64(height // 2))
            library[prefix + "diffuse"](to(state), i64(height // 2), i64(height))
            assert ((indices < k) | (indices == nearest)).all() and not errors[-1].any()
"""
    native.run_sanitized(driver, level=level)
