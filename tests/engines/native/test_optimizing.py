"""Rate-distortion optimization and the rate of PNG rows by native kernels have the bits of tensor operations."""

import itertools
from typing import NamedTuple

import pytest
import torch
from helpers import native
from helpers.problems import random_image, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans.engines.native import optimizing, png
from gpukmeans.images.colorspace import clear_transparent_pixels
from gpukmeans.images.contrast import contrast_weights
from gpukmeans.images.dithering import dither
from gpukmeans.images.gif_rate import GifRate, fitted_gif_rate
from gpukmeans.images.indexed import IndexedImage
from gpukmeans.images.palette_order import palette_orders
from gpukmeans.images.png_rate import PngRate, fitted_rate
from gpukmeans.images.quantization import quantize
from gpukmeans.images.rate_distortion import Objective, color_cells, energy, optimized, price_of_bit, refitted, sweep

SIZES = st.sampled_from([(1, 1), (1, 2), (2, 1), (1, 30), (30, 1), (2, 3), (5, 4), (4, 5), (5, 6), (6, 7), (13, 17)])
ALPHAS = st.sampled_from(["0", "255", "254", "any", "0 and 255", "254 and 255", "0 and 90 and 255"])
COLORS = st.sampled_from([1, 2, 3, 16, 17, 256])
PRICES = st.sampled_from([0, 1, 50_000, 1 << 30, 1 << 39, (1 << 39) + 1])
# The arguments of `random_problem`, but for the seed.
PROBLEMS = {
    "size": SIZES,
    "channels": st.integers(1, 4),
    "k": COLORS,
    "levels": st.sampled_from([2, 5, 256]),
    "alphas": ALPHAS,
    "palette_alphas": ALPHAS,
}


class Problem(NamedTuple):
    """An image, a palette and indices."""

    image: torch.Tensor
    palette: torch.Tensor
    indices: torch.Tensor


def random_colors(height, width, channels, levels, alphas, seed):
    colors = random_image(height, width, channels, levels, seed) * (255 // (levels - 1))
    if channels in (2, 4) and alphas != "any":
        values = torch.tensor([int(alpha) for alpha in alphas.split(" and ")], dtype=torch.uint8)
        colors[..., -1] = values[torch.randint(len(values), (height, width), generator=seeded(seed))]
    return colors


def random_problem(size, channels, k, levels, alphas, palette_alphas, seed):
    image = clear_transparent_pixels(random_colors(*size, channels, levels, alphas, seed))
    palette = random_colors(1, k, channels, levels, palette_alphas, seed + 1)[0]
    return Problem(image, palette, random_image(*size, 1, k, seed + 2)[..., 0])


def random_weights(height, width, seed):
    return random_image(-(-height // 8), -(-width // 8), 1, 33, seed)[..., 0]


def photo_problem(photo, channels, k):
    image = torch.cat([photo, photo.flip(0)[..., :1]], dim=2)[100:180, :150, :channels].clone()
    if channels in (2, 4):
        image[:30, :, -1], image[60:, :90, -1] = 255, 0
    image = clear_transparent_pixels(image)
    return Problem(image, *quantize(image, k))


def assert_equal(found, expected):
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, tuple | list):
        for first, second in zip(found, expected, strict=True):
            assert_equal(first, second)
    else:
        assert found == expected


def assert_equal_to_tensor_operations(function):
    found = function()
    with native.without_native():
        assert_equal(found, function())
    return found


def swept(problem, rate, objective, n_tried=8):
    indexed = IndexedImage(problem.palette, problem.indices.clone())
    sweep(problem.image, indexed, color_cells(problem.image).nearest(problem.palette, n_tried), rate, objective)
    return indexed.indices


@settings(max_examples=50)
@given(
    **PROBLEMS,
    share=st.sampled_from([0, 1, 208, 256]),
    price=PRICES,
    n_tried=st.integers(1, 8),
    per_byte=st.sampled_from([1, 2, 4, 8, None]),
    is_weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_indices_are_swept_as_by_tensor_operations(
    size, channels, k, levels, alphas, palette_alphas, share, price, n_tried, per_byte, is_weighted, seed
):
    k = min(k, 1 << 8 // (per_byte or 1))
    problem = random_problem(size, channels, k, levels, alphas, palette_alphas, seed)
    weights = random_weights(*size, seed) if is_weighted and per_byte in (1, None) else None
    if per_byte is None:
        rate = GifRate(torch.randint(0, 769, (256, 256), generator=seeded(seed), dtype=torch.int32), weights)
    else:
        lengths = fitted_rate(problem.indices, per_byte).lengths
        rate = PngRate(random_image(1, size[0], 1, 5, seed).flatten().int(), lengths, per_byte, weights)
    objective = Objective(share=share, price=price)
    assert_equal_to_tensor_operations(lambda: swept(problem, rate, objective, n_tried))
    assert_equal_to_tensor_operations(lambda: rate.total_bits(problem.indices))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(("per_byte", "k"), [(1, 40), (2, 16), (2, 9), (4, 4), (8, 2)])
def test_each_pair_of_filters_has_its_bits(each_library, channels, per_byte, k):
    filters = [filter_type for pair in itertools.product(range(5), repeat=2) for filter_type in pair]
    problem = random_problem((50, 25), channels, k, 256, "254 and 255", "254 and 255", 0)
    weights = random_weights(50, 25, 0) if per_byte == 1 else None
    rate = PngRate(torch.tensor(filters).int(), fitted_rate(problem.indices, per_byte).lengths, per_byte, weights)
    indices = assert_equal_to_tensor_operations(lambda: swept(problem, rate, Objective(share=208, price=1 << 24)))
    assert not torch.equal(indices, problem.indices)


@settings(max_examples=25)
@given(
    **PROBLEMS,
    share=st.sampled_from([0, 208, 256]),
    n=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
def test_cells_and_energy_and_palette_are_those_of_tensor_operations(
    size, channels, k, levels, alphas, palette_alphas, share, n, seed
):
    problem = random_problem(size, channels, k, levels, alphas, palette_alphas, seed)
    objective, indexed = Objective(share=share, price=0), IndexedImage(problem.palette, problem.indices)
    free = random_image(1, k, 1, 4, seed).flatten() > 0

    def results():
        cells = color_cells(problem.image)
        return (
            *(cells.centers, cells.opaque, cells.index, cells.unit),
            tuple(cells.nearest(problem.palette, n)),
            energy(problem.image, indexed, objective),
            refitted(problem.image, indexed, free, objective),
        )

    assert_equal_to_tensor_operations(results)


@pytest.mark.parametrize("share", [0, 208])
@pytest.mark.parametrize(
    ("channels", "k", "rate"),
    [
        *[(1, 16, "png"), (2, 30, "png"), (3, 256, "png"), (4, 100, "png"), (3, 14, "png"), (4, 2, "png")],
        *[(3, 256, "gif"), (4, 30, "gif")],
    ],
)
def test_each_library_optimizes_a_photo(each_library, channels, k, rate, share, china):
    problem = photo_problem(china, channels, k)
    sum_of_squares = energy(problem.image, IndexedImage(*problem[1:]), Objective(share=0, price=0)) // 2**16
    objective = Objective(share=share, price=price_of_bit(15.0, sum_of_squares, problem.indices.numel()))

    def result_of():
        weights = contrast_weights(problem.image)
        return weights, *optimized(*problem, objective, n_rounds=2, rate_name=rate, bit_weights=weights)

    result = assert_equal_to_tensor_operations(result_of)[1:]
    assert (result[1] != problem.indices).float().mean() > 0.002


@pytest.mark.parametrize(("n_threads", "k"), [(1, 20), (3, 20), (3, 3)])
def test_rows_are_computed_in_blocks(monkeypatch, n_threads, k):
    problem = random_problem((41, 30), 4, k, 256, "254 and 255", "254 and 255", 0)
    objective = Objective(share=208, price=1 << 24)
    weights = contrast_weights(problem.image)
    expected = optimized(*problem, objective, bit_weights=weights)
    for name in ("_BLOCK", "_SWEEP_BLOCK", "_CELLS"):
        monkeypatch.setattr(optimizing, name, 100)
    monkeypatch.setattr(png, "_BLOCK", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    assert_equal(contrast_weights(problem.image), weights)
    assert_equal(tuple(optimized(*problem, objective, bit_weights=weights)), tuple(expected))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_strides_are_optimized(channels):
    problem = random_problem((40, 30), channels, 40, 256, "any", "any", 0)
    objective = Objective(share=208, price=1 << 24)
    for view in (problem.image.transpose(0, 1), problem.image[::2, 3::3], problem.image[:, :1].expand(-1, 9, -1)):
        palette = problem.palette[::2]
        indices = dither(view, palette, "none").T.contiguous().T
        assert_equal_to_tensor_operations(lambda v=view, p=palette, i=indices: tuple(optimized(v, p, i, objective)))


def test_shapes_that_do_not_fit_are_refused(unchecked):
    problem = random_problem((4, 5), 3, 3, 256, "any", "any", 0)
    objective = Objective(share=208, price=0)
    with pytest.raises(ValueError, match="must fit each other"):
        energy(problem.image, IndexedImage(problem.palette, problem.indices[1:].contiguous()), objective)
    with pytest.raises(ValueError, match="must fit each other"):
        refitted(problem.image, IndexedImage(problem.palette[:1], problem.indices), torch.ones(1) > 0, objective)
    with pytest.raises(ValueError, match="must fit each other"):
        swept(problem, GifRate(fitted_gif_rate(problem.indices).lengths[:255]), objective)
    with pytest.raises(ValueError, match="indices must be below 2"):
        palette_orders(problem.indices, 2)
    with pytest.raises(ValueError, match="rows, filters and lengths must have shapes"):
        PngRate(torch.zeros(5).int(), torch.zeros(256).int()).total_bits(problem.indices)
    weights = torch.zeros(1, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"weights must have shapes .* up to 32"):
        PngRate(torch.zeros(4).int(), torch.zeros(256).int(), weights=weights).total_bits(problem.indices)
    too_high = PngRate(torch.zeros(4).int(), torch.zeros(256).int(), weights=weights[:, :1] + 33)
    with pytest.raises(ValueError, match=r"weights must have shapes .* up to 32"):
        too_high.total_bits(problem.indices)


@pytest.mark.parametrize("level", native.DRIVER_LEVELS)
def test_the_kernels_stay_within_their_arrays(level):
    driver = """
import ctypes, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
i32, i64 = ctypes.c_int, ctypes.c_int64
to = lambda array: ctypes.c_void_p(array.ctypes.data)
rng = np.random.default_rng(0)

def structure(*fields):
    # Groups of int32 numbers in pairs, and words of 64 bits.
    parts = [np.array(f, np.int32) if isinstance(f, list) else np.array([f], np.int64).view(np.int32) for f in fields]
    return np.concatenate(parts)

def address(array):
    return array.ctypes.data

for channels in (1, 2, 3, 4):
    alpha = channels % 2 == 0
    for height, width, k in ((1, 1, 1), (1, 9, 256), (9, 1, 3), (2, 2, 255), (5, 3, 16), (23, 31, 256)):
        for share, price in ((0, 0), (208, 1 << 39), (256, 1 << 20)):
            image = rng.integers(256, size=(height, width, channels), dtype=np.uint8)
            indices = rng.integers(k, size=(height, width), dtype=np.uint8)
            points = np.zeros((256, 4), np.int32)
            points[:k, : 3 + alpha] = rng.integers(65026 if alpha else 256, size=(k, 3 + alpha))
            n_cells = 1 << (21 if alpha else 19)
            used, cells = np.zeros(n_cells, np.uint8), np.full((height, width), -1, np.int32)
            library.gpukmeans_optimizing_mark_cells(i32(channels), to(image), i64(0), i64(image[..., 0].size), to(used))
            numbers = np.cumsum(used, dtype=np.int32) - 1
            arguments = i32(channels), to(image), i64(0), i64(cells.size), to(numbers), to(cells)
            library.gpukmeans_optimizing_number_cells(*arguments)
            assert cells.min() == 0 and cells.max() == used.sum() - 1
            m, n = int(used.sum()), min(k, 8)
            centers = rng.integers(512, size=(m, 4)).astype(np.int32)
            opaque, excluded = rng.integers(2, size=(2, 256 + m), dtype=np.uint8)
            planes, lists = np.ascontiguousarray(2 * points.T), np.zeros((m, n), np.uint8)
            arrays = centers, opaque, planes, excluded, lists
            state = structure(k, [n, 255 if alpha else 1], *map(address, arrays))
            library.gpukmeans_optimizing_nearest(to(state), i64(0), i64(m))
            assert lists.max() < k
            picture = structure(height, width, [channels, k], [share, 0], *map(address, (image, indices, points)))
            scratch = np.zeros((6, width + 4, 4), np.int32)
            energies = np.zeros((-(-height // 8), -(-width // 8)), np.int64)
            for rows in ((0, height // 2), (height // 2, height)):
                rows = i64(rows[0]), i64(rows[1])
                library.gpukmeans_optimizing_energy(to(picture), *rows, to(scratch), to(energies))
                sums = np.zeros((k, k), np.int64), np.zeros(k, np.int64), np.zeros((256, 4), np.int64)
                equations = structure(*map(address, sums))
                arguments = to(picture), *rows, to(scratch), to(equations)
                library.gpukmeans_optimizing_normal_equations(*arguments)
            a = sums[0] + sums[0].T + np.diag(sums[1] + 1)
            levels, changing = rng.integers(256, size=(k, 3)).astype(np.int64), np.arange(k, dtype=np.int64)
            residuals = np.ascontiguousarray(sums[2][:k, :3])
            arguments = to(a), i64(k), to(changing), i64(k), i32(3), i32(255), i32(4), to(residuals), to(levels)
            library.gpukmeans_optimizing_descend(*arguments)
            assert 0 <= levels.min() and levels.max() <= 255
            errors = np.zeros((height + 4, width + 4, 4), np.int32 if alpha else np.int16)
            library.gpukmeans_optimizing_errors(to(picture), i64(0), i64(height), to(scratch), to(errors))
            lists = rng.integers(k, size=(m, 8), dtype=np.uint8)
            filters, lengths = rng.integers(5, size=height), rng.integers(64, 961, size=256)
            filters, lengths = filters.astype(np.int32), lengths.astype(np.int32)
            scratch = np.zeros((2, width + 4, 4), np.int32)
            differences = np.zeros((-(-height // 8), -(-width // 8)), np.int64)
            arguments = i32(channels), to(image), i64(height), i64(width), i64(0), i64(len(differences))
            library.gpukmeans_optimizing_differences(*arguments, to(differences))
            weights = (differences % 33).astype(np.uint8)
            pairs = rng.integers(769, size=(256, 256), dtype=np.int32)
            for per_byte, of_pairs in ((1, True), (1, False), (2, False), (4, False), (8, False)):
                if per_byte > 1 and k > 1 << 8 // per_byte:
                    continue
                n_bytes = -(-width // per_byte)
                values = np.pad(indices, ((0, 0), (0, n_bytes * per_byte - width))).reshape(height, n_bytes, per_byte)
                padded = np.pad((values << 8 // per_byte * np.arange(per_byte)[::-1]).sum(axis=2).astype(np.uint8), 1)
                arrays = image, cells, lists, padded, errors, points, excluded, filters, lengths, weights
                numbers = 64, [per_byte, k]
                addresses = list(map(address, arrays))
                if of_pairs:
                    addresses[-3:-1] = 0, address(pairs)
                state = structure(height, width, [channels, share], price, *addresses, *numbers)
                for top in range(min(3, height)):
                    arguments = to(state), i64(top), i64(0), i64((height - top + 2) // 3), to(scratch)
                    library.gpukmeans_optimizing_sweep(*arguments)
                assert padded.max() < (256 if per_byte > 1 else k)
            counts, rows = np.zeros(256, np.int64), np.zeros((6, width), np.uint8)
            for given in (0, address(lengths)):
                state = structure(width, address(indices), given, address(filters))
                library.gpukmeans_png_filter(to(state), i64(0), i64(height), to(rows), to(counts))
            assert counts.sum() == 2 * height * (width + 1)
            by_weight = np.zeros((33, 256), np.int64)
            library.gpukmeans_png_count(to(state), to(weights), i64(0), i64(height), to(rows), to(by_weight))
            assert by_weight.sum() == height * (width + 1)
            pairs = np.zeros((k, k), np.uint32)
            arguments = to(indices), i64(height), i64(width), i64(k), i64(0), i64(height), to(pairs)
            library.gpukmeans_png_adjacency(*arguments)
            if k > 1:
                pairs, order = (pairs + pairs.T).astype(np.int64), np.zeros(k, np.int64)
                library.gpukmeans_png_chain_bytes.restype = i64
                memory = np.zeros(library.gpukmeans_png_chain_bytes(i64(k)), np.uint8)
                library.gpukmeans_png_chain(to(pairs), i64(k), to(memory), to(order))
                assert sorted(order) == list(range(k))
                library.gpukmeans_png_grow(to(pairs), i64(k), to(order))
                assert sorted(order) == list(range(k))
                library.gpukmeans_png_differences(to(pairs), i64(k), to(order), to(counts))
                assert counts.sum() == pairs.sum()
"""
    native.run_sanitized(driver, level=level)
