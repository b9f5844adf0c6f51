import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.problems import random_image, seeded
from hypothesis import given
from hypothesis import strategies as st

from gpukmeans import (
    IndexedImage,
    apply_palette,
    fit_palette,
    map_to_palette,
    mean_squared_error,
    quantize,
    unique_colors,
)
from gpukmeans.engines.native.library import unavailable_reason
from gpukmeans.images.colorspace import COLOR_SPACES, SRGB, clear_transparent_pixels
from gpukmeans.images.dithering import DITHERINGS


def nearest_by_hand(pixels, palette):
    return ((pixels[:, None].int() - palette[None].int()) ** 2).sum(dim=2).argmin(dim=1)


def test_a_photo_has_the_requested_number_of_colors_and_each_pixel_the_nearest(china):
    palette, indices = quantize(china, 20)
    assert (palette.shape, palette.dtype) == ((20, 3), torch.uint8)
    assert (indices.shape, indices.dtype) == (china.shape[:2], torch.uint8)
    assert torch.equal(nearest_by_hand(china.reshape(-1, 3), palette), indices.flatten().long())


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_an_image_of_few_colors_is_returned_without_loss(channels, height, width, seed):
    image = random_image(height, width, channels, 3, seed)
    if channels in (2, 4):
        image[..., -1] += 1  # no pixel is fully transparent
    result = quantize(image, min(256, height * width))
    assert torch.equal(result.pixels(), image)
    assert len(result.palette) == len(unique_colors(image).colors)


def test_an_image_of_one_color_more_than_requested_is_clustered():
    image = torch.tensor([[[0, 0, 0], [0, 0, 2], [200, 0, 0]]], dtype=torch.uint8)
    assert quantize(image, 3).palette.tolist() == [[0, 0, 0], [0, 0, 2], [200, 0, 0]]
    assert quantize(image, 2).palette.tolist() == [[0, 0, 1], [200, 0, 0]]


def test_centers_are_rounded_and_not_truncated():
    image = torch.tensor([[[0, 0, 0], [3, 3, 3], [2, 2, 2]]], dtype=torch.uint8)
    assert quantize(image, 1).palette.tolist() == [[2, 2, 2]]  # the mean is 1.67


def _ramp(channels):
    """257 colors that differ little."""
    digits = torch.arange(257)
    image = torch.stack([digits % 7, digits // 7 % 7, digits // 49, digits * 0 + 200], dim=1)
    return image[None, :, [0, 1, 2, 3][:channels]].to(torch.uint8)


def _faint(channels):
    """Many nearly transparent colors, and some of higher alpha."""
    image = random_image(40, 40, channels, 256, 3)
    image[:30, :, -1] = image[:30, :, -1] % 3
    return clear_transparent_pixels(image)


@pytest.mark.parametrize("space", COLOR_SPACES)
@pytest.mark.parametrize("k", [2, 17, 256])
@pytest.mark.parametrize(
    "image",
    [
        _ramp(3),
        _ramp(4),
        random_image(40, 40, 3, 7, 0),
        random_image(40, 40, 2, 17, 1),
        _faint(2),
        _faint(4),
        torch.tensor([9, 12], dtype=torch.uint8).repeat(5)[None, :, None],
        torch.arange(256).to(torch.uint8).expand(2, -1)[..., None],
    ],
    ids=["ramp", "ramp-alpha", "flat", "grey-alpha", "faint-grey", "faint", "two-greys", "gradient"],
)
def test_there_are_exactly_as_many_colors_as_requested_if_the_image_has_as_many(image, k, space):
    # For 256 colors refinement would take most of the time; without it more centers round to the same color.
    palette, indices = quantize(image, k, space=space, refine=0 if k == 256 else None)
    assert len(palette) == min(k, len(unique_colors(image).colors))
    assert torch.equal(palette, palette.unique(dim=0))
    assert torch.equal(indices.unique(), torch.arange(len(palette)).to(torch.uint8))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 20, 256])
def test_the_palette_is_ordered_distinct_and_used(channels, k):
    image = random_image(60, 50, channels, 256, channels)
    palette, indices = quantize(image, k, max_iter=3)
    assert torch.equal(palette, palette.unique(dim=0))
    assert torch.equal(indices.unique(), torch.arange(len(palette)).to(torch.uint8))
    assert len(palette) == min(k, len(unique_colors(clear_transparent_pixels(image)).colors))


def test_fully_transparent_colors_take_one_entry():
    image = random_image(30, 30, 4, 256, 0)
    image[:20, :, 3] = 0
    image[20:, :, 3] = 255
    image[20:, :, :3] //= 128  # 8 visible colors
    palette, indices = quantize(image, 9)
    assert len(palette) == 9
    assert palette[0].tolist() == [0, 0, 0, 0]
    assert (indices[:20] == 0).all()
    assert torch.equal(IndexedImage(palette, indices).pixels()[20:], image[20:])


def test_nearly_transparent_colors_have_little_weight():
    # The reds are many and far apart but hardly visible, so the palette has the two greys.
    reds = torch.tensor([[200 + i, 0, 0, 1] for i in range(50)], dtype=torch.uint8)
    greys = torch.tensor([[0, 0, 0, 255], [90, 90, 90, 255]], dtype=torch.uint8)
    palette, _ = quantize(torch.cat([reds, greys])[None], 3)
    assert greys.tolist() == palette[palette[:, 3] == 255].tolist()


def test_the_same_input_gives_the_same_palette_and_seeds_differ(china):
    first, again, other = (quantize(china, 16, generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first.palette, again.palette)
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(quantize(china, 16).palette, first.palette)
    assert not torch.equal(first.palette, other.palette)


@pytest.mark.parametrize(
    ("n_colors", "error", "message"),
    [(0, ValueError, "from 1 to 256, got 0"), (257, ValueError, "got 257"), (2.0, TypeError, "an int, got float")],
)
def test_a_wrong_number_of_colors_is_refused(n_colors, error, message, unchecked):
    with pytest.raises(error, match=message):
        quantize(torch.zeros(1, 1, 3, dtype=torch.uint8), n_colors)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "bogus"}, "init must be"),
        ({"n_init": -3}, "n_init must"),
        ({"polish": -1}, "polish must"),
        ({"engine": "warp"}, "engine must"),
    ],
)
def test_a_wrong_option_is_refused_even_if_no_clustering_is_needed(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        quantize(torch.zeros(1, 1, 3, dtype=torch.uint8), 2, **options)


def test_anything_but_an_image_is_refused(unchecked):
    with pytest.raises(TypeError, match=r"image must be uint8, got torch\.int64"):
        quantize(torch.zeros(1, 1, 4, dtype=torch.int64), 2)
    with pytest.raises(TypeError, match="image must be a tensor, got list"):
        quantize([[0]], 2)


GREYS = torch.tensor([[255, 255, 255], [0, 0, 0], [255, 0, 255]], dtype=torch.uint8)


@pytest.mark.parametrize("k", [3, 4, 20])
def test_fixed_colors_are_the_first_of_the_palette_and_the_others_lie_around_them(china, k):
    palette, indices = quantize(china, k, fixed=GREYS)
    assert torch.equal(palette[:3], GREYS)
    assert torch.equal(palette[3:], palette[3:].unique(dim=0))
    assert len(palette) == k
    assert torch.equal(nearest_by_hand(china.reshape(-1, 3), palette), indices.flatten().long())
    assert 2 not in indices or k == 3  # no pixel of the photo is near that color


def test_a_photo_with_its_own_palette_fixed_stays_as_it_is(china):
    first = quantize(china, 12)
    again = quantize(china, 12, fixed=first.palette)
    assert torch.equal(again.palette, first.palette)
    assert torch.equal(again.indices, first.indices)
    assert torch.equal(quantize(china, 12, fixed=first.palette.flip(0)).palette, first.palette.flip(0))


def test_one_color_more_than_the_fixed_ones_leave_entries_for_is_clustered():
    image = torch.tensor([[[0, 0, 0], [9, 9, 9], [5, 0, 0], [255, 255, 255]]], dtype=torch.uint8)
    assert quantize(image, 3, fixed=GREYS[:2]).palette.tolist() == [[255, 255, 255], [0, 0, 0], [9, 9, 9]]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_fixed_colors_may_be_unused_repeated_or_fully_transparent(channels):
    image = random_image(30, 40, channels, 200, channels)
    fixed = torch.tensor([[255] * channels, [250] * channels, [255] * channels, [7] * channels], dtype=torch.uint8)
    if channels in (2, 4):
        fixed[3, -1] = 0
    result = quantize(image, 9, fixed=fixed)
    assert torch.equal(result.palette[:4], fixed)
    assert 2 not in result.indices
    x, palette = (SRGB.encode(clear_transparent_pixels(t.reshape(1, -1, channels))[0]) for t in (image, result.palette))
    sqdist = (x[:, None].double() - palette).square().sum(dim=2)
    assert torch.equal(sqdist.argmin(dim=1), result.indices.flatten().long())


def test_an_empty_tensor_of_fixed_colors_is_the_same_as_none(china):
    none = torch.zeros(0, 3, dtype=torch.uint8)
    for image, k in ((china, 8), (china[:2, :2], 8)):
        first, second = quantize(image, k), quantize(image, k, fixed=none)
        assert torch.equal(first.palette, second.palette)
        assert torch.equal(first.indices, second.indices)


def test_each_image_of_a_batch_has_the_result_it_has_alone(china, flower):
    few = torch.zeros_like(china)
    few[:5] = 200
    batch = torch.stack([china, few, flower])[:, ::4, ::4]
    generator = seeded(3)
    together = quantize(batch, 16, generator=generator, fixed=GREYS[2:])
    assert together.palette.shape == (3, 16, 3)
    assert together.indices.shape == batch.shape[:3]
    for index, image in enumerate(batch):
        alone = quantize(image, 16, generator=seeded(3), fixed=GREYS[2:])
        n_found = len(alone.palette)
        assert torch.equal(together.palette[index, :n_found], alone.palette)
        assert torch.equal(together.indices[index], alone.indices)
        assert torch.equal(together.pixels()[index], alone.pixels())
    assert together.palette[1].tolist() == [[255, 0, 255], [0, 0, 0]] + [[200, 200, 200]] * 14
    assert not torch.equal(generator.get_state(), seeded(3).get_state())


def test_apply_palette_takes_the_lowest_index_of_the_nearest_colors(china, flower):
    palette = torch.cat([quantize(china, 30).palette, GREYS, GREYS])
    batch = torch.stack([china, flower])[:, ::3, ::3]
    result = apply_palette(batch, palette)
    assert torch.equal(result.palette, palette)
    assert torch.equal(nearest_by_hand(batch.reshape(-1, 3), palette), result.indices.flatten().long())
    assert torch.equal(result.pixels(), palette[result.indices.long()])
    assert torch.equal(apply_palette(batch[1], palette).indices, result.indices[1])
    assert torch.equal(quantize(china, 30).pixels(), apply_palette(china, palette[:30]).pixels())


def test_apply_palette_compares_premultiplied_colors():
    palette = torch.tensor([[255, 0, 0, 255], [90, 90, 90, 0], [0, 0, 255, 9]], dtype=torch.uint8)
    image = torch.tensor([[[0, 0, 255, 200], [255, 255, 255, 0], [255, 0, 0, 3]]], dtype=torch.uint8)
    assert apply_palette(image, palette).indices.tolist() == [[2, 1, 1]]


def test_a_function_that_dithers_gets_the_cleared_image_its_palette_nearest_colors_and_strength(china):
    calls = []

    def by_rows(*arguments):
        calls.append(arguments)
        image, palette = arguments[:2]
        return (torch.arange(len(image))[:, None] % len(palette)).expand(image.shape[:2]).to(torch.uint8)

    image = torch.cat([china, china[..., :1] // 64], dim=2)[::9, ::9]
    result, plain = quantize(image, 8, dither=by_rows, strength=0.25), quantize(image, 8)
    assert torch.equal(result.palette, plain.palette)
    assert result.indices[:9, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    ((dithered_image, palette, nearest, strength),) = calls
    assert torch.equal(dithered_image, clear_transparent_pixels(image))
    assert torch.equal(palette, plain.palette)
    assert torch.equal(nearest, plain.indices)
    assert strength == 64
    batch = torch.stack([image, image.flip(0)])
    assert torch.equal(quantize(batch, 8, dither=by_rows).indices[0], result.indices)
    assert torch.equal(apply_palette(batch, result.palette, dither=by_rows).indices[1], result.indices)
    assert torch.equal(apply_palette(image, result.palette, dither=by_rows).pixels(), result.pixels())
    histogram = unique_colors(clear_transparent_pixels(image))
    mapped = map_to_palette(dithered_image, histogram, fit_palette(histogram, 8), dither=by_rows)
    assert torch.equal(mapped.indices, result.indices)
    calls.clear()
    assert torch.equal(quantize(image, 8, dither=by_rows, strength=0.0).indices, plain.indices)
    assert not calls


@pytest.mark.parametrize("space", list(COLOR_SPACES))
def test_a_strength_of_zero_is_no_dithering_in_any_space(china, space):
    image = china[:64, :64].contiguous()
    plain, dithered = (quantize(image, 8, space=space, dither=name, strength=0.0) for name in ("none", "bayer"))
    assert torch.equal(plain.indices, dithered.indices)


@pytest.fixture(scope="module")
def fitted(china, flower):
    """Two photos with alpha (2, H, W, 4), their histogram, and a palette in OKLab."""
    photos = torch.stack([china, flower])[:, ::8, ::8]
    images = clear_transparent_pixels(torch.cat([photos, photos[..., 1:2] // 64 * 85], dim=3))
    histogram = unique_colors(images.flatten(0, 1))
    return images, histogram, fit_palette(histogram, 12, space="oklab")


@pytest.mark.parametrize("space", list(COLOR_SPACES))
@pytest.mark.parametrize("dither", DITHERINGS)
def test_map_to_palette_is_the_last_step_of_quantize(fitted, space, dither):
    image = fitted[0][0]
    histogram = unique_colors(image)
    palette = fit_palette(histogram, 9, space=space)
    mapped, quantized = (
        map_to_palette(image, histogram, palette, dither=dither),
        quantize(image, 9, space=space, dither=dither),
    )
    assert torch.equal(mapped.palette, quantized.palette)
    assert torch.equal(mapped.indices, quantized.indices)


def test_map_to_palette_takes_the_labels_of_the_palette(fitted):
    images, histogram, palette = fitted
    expected = palette.labels[histogram.lookup(images.flatten(0, 1)).long()].view(images.shape[:3])
    assert torch.equal(map_to_palette(images, histogram, palette).indices, expected)
    assert torch.equal(map_to_palette(images[1], histogram, palette).indices, expected[1])
    assert torch.equal(map_to_palette(images, histogram, palette, dither="bayer", strength=0.0).indices, expected)
    assert not torch.equal(apply_palette(images, palette.colors).indices, expected)  # that is nearest in sRGB


@pytest.mark.parametrize("dither", [name for name in DITHERINGS if name != "none"])
def test_map_to_palette_with_dithering_is_apply_palette(fitted, dither):
    images, histogram, palette = fitted
    for image in (images, images[1]):
        mapped = map_to_palette(image, histogram, palette, dither=dither, strength=0.7)
        applied = apply_palette(image, palette.colors, dither=dither, strength=0.7)
        assert torch.equal(mapped.palette, palette.colors)
        assert torch.equal(mapped.indices, applied.indices)


def test_map_to_palette_refuses_wrong_arguments(fitted, unchecked):
    images, histogram, palette = fitted
    with pytest.raises(ValueError, match="dither must be one of"):
        map_to_palette(images, histogram, palette, dither="bogus")
    with pytest.raises(ValueError, match="strength must be from 0 to 1, got 2"):
        map_to_palette(images, histogram, palette, strength=2)
    with pytest.raises(TypeError, match="image must be a tensor, got list"):
        map_to_palette([[0]], histogram, palette)
    with pytest.raises(ValueError, match="image must have 4 channels"):
        map_to_palette(images[..., :3], histogram, palette)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dither": "bogus"}, ValueError, "dither must be one of none.*, got 'bogus'"),
        ({"dither": None}, TypeError, "dither must be a name or a function, got NoneType"),
        ({"strength": 1.5}, ValueError, "strength must be from 0 to 1, got 1.5"),
        ({"strength": float("nan")}, ValueError, "strength must be from 0 to 1, got nan"),
        ({"strength": "x"}, TypeError, "strength must be a number, got str"),
        ({"space": "bogus"}, ValueError, "space must be one of srgb.*, got 'bogus'"),
        ({"fixed": [[0, 0, 0]]}, TypeError, "fixed must be a tensor, got list"),
        ({"fixed": GREYS.float()}, TypeError, r"fixed must be uint8, got torch\.float32"),
        ({"fixed": GREYS}, ValueError, "fixed must have at most 2 colors, got 3"),
        (
            {"fixed": GREYS[:1, :1]},
            ValueError,
            r"fixed must have shape \(K, 3\) on cpu, as the image has 3 channels, got shape \(1, 1\)",
        ),
    ],
)
def test_a_wrong_palette_or_dithering_is_refused(options, error, message, unchecked):
    with pytest.raises(error, match=message):
        quantize(torch.zeros(2, 1, 1, 3, dtype=torch.uint8), 2, **options)


@pytest.mark.parametrize(
    ("palette", "options", "error", "message"),
    [
        (GREYS[:0], {}, ValueError, "palette must have at least 1 color, got 0"),
        (GREYS.repeat(86, 1), {}, ValueError, "palette must have at most 256 colors, got 258"),
        (GREYS[0], {}, ValueError, r"palette must have shape \(K, 3\)"),
        (GREYS.int(), {}, TypeError, r"palette must be uint8, got torch\.int32"),
        (GREYS, {"dither": "bogus"}, ValueError, "dither must be one of"),
        (GREYS, {"strength": -1}, ValueError, "strength must be from 0 to 1, got -1"),
    ],
)
def test_apply_palette_refuses_wrong_arguments(palette, options, error, message, unchecked):
    with pytest.raises(error, match=message):
        apply_palette(torch.zeros(1, 1, 3, dtype=torch.uint8), palette, **options)


@pytest.mark.parametrize("shape", [(2, 3), (1, 1, 1, 1, 3), (0, 2, 2, 3), (2, 2, 5)])
def test_anything_but_an_image_or_a_batch_is_refused(shape, unchecked):
    with pytest.raises(ValueError, match=r"image must have shape \(H, W, C\) or \(B, H, W, C\)"):
        quantize(torch.zeros(shape, dtype=torch.uint8), 2)


@pytest.mark.parametrize(
    ("shape", "order"), [((3, 20, 30), "1, 2, 0"), ((4, 9, 9), "1, 2, 0"), ((2, 3, 9, 9), "0, 2, 3, 1")]
)
def test_the_error_for_channels_first_names_permute_and_the_module(shape, order, unchecked):
    image, palette = torch.zeros(shape, dtype=torch.uint8), GREYS
    histogram = unique_colors(palette[None])
    calls = [
        lambda: quantize(image, 2),
        lambda: apply_palette(image, palette),
        lambda: map_to_palette(image, histogram, fit_palette(histogram, 2)),
        lambda: unique_colors(image),
        lambda: histogram.lookup(image),
        lambda: histogram.map_values(palette[:, 0], image),
        lambda: clear_transparent_pixels(image),
        lambda: mean_squared_error(image, image),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=rf"got .*: use permute\({order}\) if channels are first, or QuantizeColors"
        ):
            call()
    assert quantize(image.movedim(-3, -1), 2).indices.shape == image.movedim(-3, -1).shape[:-1]


def test_the_error_for_other_shapes_names_no_permutation(unchecked):
    with pytest.raises(ValueError, match=r"got \(9, 9, 9\)$"):
        quantize(torch.zeros(9, 9, 9, dtype=torch.uint8), 2)


def test_a_palette_of_another_histogram_is_an_error():
    image, other = random_image(20, 20, 3, 255, 0), random_image(20, 20, 3, 9, 1)
    histogram, both = unique_colors(image), unique_colors(torch.cat([image, other]))
    with pytest.raises(ValueError, match="palette must be fitted to the histogram, with a label for each color, got "):
        map_to_palette(image, histogram, fit_palette(both, 8))


@pytest.mark.usefixtures("unchecked")
def test_arguments_of_another_kind_are_errors():
    image = random_image(20, 20, 3, 255, 0)
    histogram = unique_colors(image)
    with pytest.raises(TypeError, match="histogram must be a ColorHistogram, from unique_colors, got Tensor"):
        fit_palette(image, 4)
    with pytest.raises(TypeError, match="palette must be a Palette, from fit_palette, got Tensor"):
        map_to_palette(image, histogram, histogram.colors[:4])
    with pytest.raises(TypeError, match="unsupported operand"):
        histogram + 3


@pytest.mark.parametrize("dithering", DITHERINGS)
def test_opaque_pixels_stay_opaque_in_images_and_batches(china, dithering):
    alpha = torch.arange(80).mul(6).clamp(max=255).to(torch.uint8).expand(2, 60, 80)
    images = torch.cat([torch.stack([china[:60, :80], china[60:120, :80]]), alpha[..., None]], dim=3)
    palette = torch.cat([random_image(1, 30, 4, 255, 3)[0], images[0, :3, -1]])  # three of the 33 are opaque
    histogram = unique_colors(images.flatten(0, 1))
    results = [
        quantize(images, 6, dither=dithering),
        apply_palette(images, palette, dither=dithering),
        map_to_palette(images, histogram, fit_palette(histogram, 6), dither=dithering),
    ]
    for result in results:
        assert (result.pixels()[images[..., 3] == 255][:, 3] == 255).all()
    one = quantize(images[0], 6, dither=dithering)
    assert torch.equal(one.indices, results[0].indices[0])
    assert torch.equal(apply_palette(images[1], palette, dither=dithering).indices, results[1].indices[1])


_MEASURE_MEMORY = """
import re
import sys
from pathlib import Path
import torch
from gpukmeans import apply_palette, mean_squared_error, quantize

def peak():
    return int(re.search("VmHWM:[^0-9]*([0-9]+) kB", Path("/proc/self/status").read_text())[1]) << 10

image = torch.empty(1500, 2000, 3, dtype=torch.uint8)
for channel, (rows, columns) in enumerate([(8, 999), (999, 16), (32, 32)]):
    image[..., channel] = (torch.arange(1500) // rows).byte()[:, None] + (torch.arange(2000) // columns).byte()
apply_palette(image[:99, :99], image[0, ::30], dither="blue-noise")
start = peak()
palette = quantize(image, 8, max_iter=2).palette
for dither in sys.argv[1:]:
    mean_squared_error(image, apply_palette(image, palette, dither=dither))
    print(dither, (peak() - start) / image[..., 0].numel())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize(("dithers", "limit"), [(set(DITHERINGS) - {"optimized"}, 12), ({"optimized"}, 40)])
def test_an_image_takes_few_bytes_per_pixel_and_32_megabytes(dithers, limit):
    if "optimized" in dithers and (reason := unavailable_reason()):
        pytest.skip(f"tensor operations of the optimizer take more memory, and {reason}")
    run = [sys.executable, "-c", _MEASURE_MEMORY, *dithers]
    output = subprocess.check_output(run, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True)
    peaks = [float(value) for value in re.findall(r"[0-9.]+$", output, re.MULTILINE)]
    assert len(peaks) == len(dithers)
    assert 1 < max(peaks) < limit + 32e6 / 3e6, output
