"""Rate-distortion optimization lowers the cost that it defines, and what it says about colors holds."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.problems import random_image
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans.images import rate_distortion
from gpukmeans.images.colorspace import SRGB, clear_transparent_pixels
from gpukmeans.images.gif_rate import fitted_gif_rate
from gpukmeans.images.indexed import IndexedImage, mean_squared_error
from gpukmeans.images.palette_order import palette_orders
from gpukmeans.images.png_rate import BIT, PngRate, fitted_rate, smallest_rate
from gpukmeans.images.quantization import quantize
from gpukmeans.images.rate_distortion import (
    WHOLE,
    Objective,
    color_cells,
    energy,
    optimized,
    price_of_bit,
    refitted,
    sweep,
)

BY_PIXEL = Objective(share=0, price=0)


def cost(image, indexed, rate, objective):
    return BIT * energy(image, indexed, objective) + objective.price * rate.total_bits(indexed.indices)


def problem_of(channels, seed, size=(12, 17), k=9):
    image = clear_transparent_pixels(random_image(*size, channels, 256, seed))
    if channels in (2, 4):
        image[::2, :, -1] = 255
    palette = random_image(1, k, channels, 256, seed + 1)[0]
    if channels in (2, 4):
        palette[::2, -1] = 255
    return image, palette, random_image(*size, 1, k, seed + 2)[..., 0]


def reflected(errors, share):
    """e·R·e in floating point, R from its definition: the blur [1 2 1] x [1 2 1] and the identity."""
    blur = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    kernel = (blur[:, None] * blur).expand(errors.shape[2], 1, 3, 3)
    channels = errors.double().permute(2, 0, 1)
    blurred = torch.nn.functional.conv2d(channels, kernel, padding=2, groups=len(channels))
    return share * blurred.square().sum() + (WHOLE - share) * WHOLE * channels.square().sum()


def crop_of(photo, k):
    image = photo[100:196, 200:328].clone()
    return image, quantize(image, k)


@given(channels=st.integers(1, 4), share=st.sampled_from([0, 1, 208, 256]), seed=st.integers(0, 2**31))
def test_the_energy_is_that_of_the_blurred_and_of_single_errors(channels, share, seed):
    image, palette, indices = problem_of(channels, seed)
    points = SRGB.encode(image.flatten(0, 1)).view(*image.shape[:2], -1)
    errors = points - SRGB.encode(palette)[indices.int()]
    found = energy(image, IndexedImage(palette, indices), Objective(share=share, price=0))
    assert found == pytest.approx(float(reflected(errors, share)), rel=1e-12)


def test_the_weights_sum_to_the_whole_squared():
    for share in (0, 1, 208, 256):
        assert sum(Objective(share=share, price=0).weights().values()) == WHOLE**2
    assert list(BY_PIXEL.weights()) == [(0, 0)]


def test_the_energy_of_a_picture_with_alpha_exceeds_64_bits():
    image = torch.full((100, 100, 4), 255, dtype=torch.uint8)
    indexed = IndexedImage(torch.zeros(1, 4, dtype=torch.uint8), torch.zeros(100, 100, dtype=torch.uint8))
    assert energy(image, indexed, BY_PIXEL) == WHOLE**2 * 4 * 255**4 * 10_000 > 2**63


@given(
    channels=st.integers(1, 4),
    share=st.sampled_from([0, 208, 256]),
    price=st.sampled_from([0, 1 << 10, 1 << 20, 1 << 34]),
    per_byte=st.sampled_from([1, 2, 4, 8, None]),
    is_weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_sweep_never_raises_the_cost(channels, share, price, per_byte, is_weighted, seed):
    image, palette, indices = problem_of(channels, seed, k=min(9, 1 << 8 // (per_byte or 1)))
    objective, indexed = Objective(share=share, price=price), IndexedImage(palette, indices.clone())
    weights = random_image(2, 3, 1, 33, seed)[..., 0] if is_weighted and per_byte in (1, None) else None
    if per_byte is None:
        rate = replace(fitted_gif_rate(indices), weights=weights)
    else:
        filters = random_image(1, len(indices), 1, 5, seed).flatten().int()
        rate = PngRate(filters, fitted_rate(indices, per_byte).lengths, per_byte, weights)
    candidates = color_cells(image).nearest(palette, 8)
    costs = [cost(image, indexed, rate, objective)]
    for _ in range(3):
        sweep(image, indexed, candidates, rate, objective)
        costs.append(cost(image, indexed, rate, objective))
    assert costs == sorted(costs, reverse=True)
    assert costs[1] < costs[0]


def test_a_sweep_without_a_price_of_bits_finds_the_nearest_colors():
    image, palette, _ = problem_of(3, 0, size=(20, 20), k=8)
    indexed = IndexedImage(palette, torch.zeros(20, 20, dtype=torch.uint8))
    sweep(image, indexed, color_cells(image).nearest(palette, 8), fitted_rate(indexed.indices), BY_PIXEL)
    distances = torch.cdist(image.flatten(0, 1).double(), palette.double())
    assert torch.equal(indexed.indices.flatten().long(), distances.argmin(dim=1))


@pytest.mark.parametrize("fitted", [fitted_rate, fitted_gif_rate])
def test_a_sweep_leaves_no_pixel_with_a_better_color_among_those_tried_last(fitted):
    # The pixels of the last phase are followed by no other, so each of their colors is the best of all.
    image, palette, indices = problem_of(3, 5, size=(9, 9), k=8)
    objective, indexed = Objective(share=208, price=1 << 20), IndexedImage(palette, indices)
    rate = fitted(indices)
    sweep(image, indexed, color_cells(image).nearest(palette, 8), rate, objective)
    least = cost(image, indexed, rate, objective)
    for y, x in ((2, 2), (5, 8), (8, 5)):
        for color in range(8):
            changed = indexed.indices.clone()
            changed[y, x] = color
            assert cost(image, IndexedImage(palette, changed), rate, objective) >= least


def test_the_bits_of_a_gif_are_optimized_for_a_gif(china):
    image, start = crop_of(china, 16)
    price = price_of_bit(15.0, energy(image, start, BY_PIXEL) >> 16, start.indices.numel())
    objective = Objective(share=208, price=price)
    results = [optimized(image, *start, objective, rate_name=name) for name in ("png", "gif")]
    costs = [cost(image, one, fitted_gif_rate(one.indices), objective) for one in (start, *results)]
    assert costs[2] < 0.97 * costs[1] < costs[0]


@pytest.mark.parametrize("share", [0, 208])
@pytest.mark.parametrize(("per_byte", "k"), [(2, 11), (4, 4), (8, 2)])
def test_a_sweep_leaves_no_byte_with_better_colors_among_those_swept_last(share, per_byte, k):
    image, palette, indices = problem_of(3, 5, size=(6, 4 * per_byte - 1), k=k)
    objective, indexed = Objective(share=share, price=1 << 20), IndexedImage(palette, indices)
    rate = fitted_rate(indices, per_byte)
    sweep(image, indexed, color_cells(image).nearest(palette, 8), rate, objective)
    least = cost(image, indexed, rate, objective)
    pixels = slice(3 * per_byte, None)  # of the last byte, one less than in others
    for colors in itertools.product(range(k), repeat=per_byte - 1):
        changed = indexed.indices.clone()
        changed[5, pixels] = torch.tensor(colors, dtype=torch.uint8)
        assert cost(image, IndexedImage(palette, changed), rate, objective) >= least


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("k", [2, 6])
def test_opaque_pixels_take_opaque_colors(channels, k):
    image, palette, _ = problem_of(channels, 0, k=k)
    opaque = (palette[:, -1] == 255).nonzero().flatten()
    indices = torch.where(image[..., -1] == 255, opaque[0], 1).to(torch.uint8)
    result = optimized(image, palette, indices, Objective(share=208, price=1 << 40))
    assert (result.pixels()[image[..., -1] == 255][:, -1] == 255).all()


def test_cells_have_the_colors_nearest_to_their_centers():
    image, palette, _ = problem_of(4, 0, k=40)
    cells = color_cells(image)
    candidates = cells.nearest(palette, 5)
    points, opaque = 2 * SRGB.encode(palette).double(), palette[:, -1] == 255
    for center, is_opaque, found in zip(cells.centers, cells.opaque, candidates.lists, strict=True):
        distances = (center.double() * 255 - points).square().sum(dim=1)
        distances[~opaque & is_opaque] = torch.inf
        assert torch.equal(distances[found.long()], distances.sort().values[:5])
    assert torch.equal(cells.opaque[cells.index], image[..., -1] == 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_center_of_a_cell_is_within_its_side_of_its_colors(channels):
    image, _, _ = problem_of(channels, 0)
    cells = color_cells(image)
    distance = (cells.centers[cells.index] - 2 * image.expand(-1, -1, 3).int()).abs().amax()
    assert distance <= 3  # halves of a level: cells have a side of 4 levels


@given(channels=st.integers(1, 4), share=st.sampled_from([0, 208, 256]), seed=st.integers(0, 2**31))
def test_refitting_never_raises_the_energy(channels, share, seed):
    image, palette, indices = problem_of(channels, seed)
    objective = Objective(share=share, price=0)
    free = random_image(1, len(palette), 1, 3, seed).flatten() > 0
    result = refitted(image, IndexedImage(palette, indices), free, objective)
    before, after = (energy(image, IndexedImage(p, indices), objective) for p in (palette, result))
    assert after <= before
    changing = free if channels in (1, 3) else free & (palette[:, -1] == 255)
    assert torch.equal(result[~changing], palette[~changing])


def test_refitting_for_single_pixels_gives_the_rounded_means(china):
    image, start = crop_of(china, 20)
    result = refitted(image, start, torch.ones(20) > 0, BY_PIXEL)
    pixels, labels = image.flatten(0, 1).double(), start.indices.flatten()
    means = torch.stack([pixels[labels == k].mean(dim=0) for k in range(20)])
    assert torch.equal(result, (means + 0.5).floor().to(torch.uint8))


def test_refitting_comes_close_to_the_solution_of_the_normal_equations(china):
    image, start = crop_of(china, 20)
    objective = Objective(share=208, price=0)
    result = refitted(image, start, torch.ones(20) > 0, objective)

    height, width = start.indices.shape
    one_hot = torch.nn.functional.one_hot(start.indices.long(), 20).double().permute(2, 0, 1)
    padded = torch.nn.functional.pad(one_hot, (2, 2, 2, 2))
    weighted = sum(
        weight * padded[:, y + 2 : y + 2 + height, x + 2 : x + 2 + width]
        for (y, x), weight in objective.weights().items()
    ).flatten(1)
    a, v = weighted @ one_hot.flatten(1).T, weighted @ image.flatten(0, 1).double()
    solution = torch.from_numpy(np.linalg.solve(a.numpy(), v.numpy())).round().clamp(0, 255).to(torch.uint8)

    # Four rounds over the colors, each rounded, do not reach the solution, but most of what it gains.
    assert (result.int() - solution.int()).abs().amax() <= 4
    energies = [energy(image, IndexedImage(p, start.indices), objective) for p in (start.palette, result, solution)]
    assert energies[0] - energies[1] >= 0.95 * (energies[0] - energies[2]) > 0


def test_colors_without_pixels_stay():
    image, palette, indices = problem_of(3, 0)
    indices[indices == 4] = 5
    result = refitted(image, IndexedImage(palette, indices), torch.ones(9) > 0, Objective(share=208, price=0))
    assert torch.equal(result[4], palette[4])
    assert not torch.equal(result[5], palette[5])


def test_an_image_takes_fewer_bits_for_a_little_error(china):
    image, start = crop_of(china, 64)
    error = mean_squared_error(image, start)
    price = price_of_bit(15.0, round(error * start.indices.numel()), start.indices.numel())
    result = optimized(image, *start, Objective(share=0, price=price))

    def bits(indexed):
        places = palette_orders(indexed.indices, 64)[0].argsort().to(torch.uint8)
        rows = places[indexed.indices.int()]
        return fitted_rate(rows).total_bits(rows)

    assert bits(result) < 0.93 * bits(start)
    assert mean_squared_error(image, result) < 1.2 * error


@pytest.mark.parametrize("k", [2, 4])
def test_few_colors_take_fewer_bits_in_packed_bytes(monkeypatch, china, k):
    image, start = crop_of(china, k)
    n_pixels = start.indices.numel()
    objective = Objective(
        share=0, price=price_of_bit(60.0, round(mean_squared_error(image, start) * n_pixels), n_pixels)
    )

    def least_cost():
        result = optimized(image, *start, objective)
        places = palette_orders(result.indices, k)[0].argsort().to(torch.uint8)
        ordered = IndexedImage(result.palette[places.argsort()], places[result.indices.int()])
        rates = [fitted_rate(ordered.indices, per_byte) for per_byte in (1, smallest_rate(start.indices, k).per_byte)]
        return min(cost(image, ordered, rate, objective) for rate in rates)

    found = least_cost()
    monkeypatch.setattr(rate_distortion, "smallest_rate", lambda indices, _: fitted_rate(indices))
    assert found < 0.99 * least_cost()


def test_the_blurred_error_falls_without_a_price_of_bits(china):
    image, start = crop_of(china, 16)
    objective = Objective(share=208, price=0)
    result = optimized(image, *start, objective)
    assert energy(image, result, objective) < 0.85 * energy(image, start, objective)


def test_more_rounds_cost_no_more(china):
    image, start = crop_of(china, 16)
    objective = Objective(share=208, price=1 << 19)

    def final_cost(indexed):
        order = palette_orders(indexed.indices, 16)[0]
        ordered = IndexedImage(indexed.palette[order], order.argsort().to(torch.uint8)[indexed.indices.int()])
        return cost(image, ordered, fitted_rate(ordered.indices), objective)

    costs = [final_cost(optimized(image, *start, objective, n_rounds=n)) for n in (0, 1, 3)]
    assert costs[0] > costs[1] > costs[2]
    assert costs[0] == final_cost(start)


def test_the_lowest_index_of_equal_colors_is_taken():
    palette = torch.tensor([[0], [200], [200], [200]], dtype=torch.uint8)
    image, indices = torch.full((1, 1, 1), 200, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.uint8)
    rate = PngRate(torch.zeros(1, dtype=torch.int32), torch.full((256,), BIT, dtype=torch.int32))
    for old, new in ((0, 1), (1, 1), (2, 2), (3, 3)):  # the present color wins a tie
        indexed = IndexedImage(palette, torch.full_like(indices, old))
        sweep(image, indexed, color_cells(image).nearest(palette, 4), rate, BY_PIXEL)
        assert indexed.indices.item() == new
