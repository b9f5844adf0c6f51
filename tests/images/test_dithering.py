import contextlib
import math

import pytest
import torch
from helpers import native
from helpers.problems import random_image, seeded
from hypothesis import given, settings
from hypothesis import strategies as st

from gpukmeans.assignment import assign
from gpukmeans.images.colorspace import SRGB, clear_transparent_pixels
from gpukmeans.images.dithering import DITHERINGS, bayer_ranks, blue_noise_ranks, dither
from gpukmeans.images.quantization import quantize

MIXING = [name for name in DITHERINGS if name != "none"]

# Without native kernels in both cases in a pure installation.
WAYS = {"by kernels": contextlib.nullcontext, "by tensor operations": native.without_native}


def random_palette(k, channels, seed):
    return torch.randint(0, 256, (k, channels), generator=seeded(seed), dtype=torch.uint8)


def grey(*levels):
    return torch.tensor(levels, dtype=torch.uint8)[:, None]


def flat(height, width, *color):
    return torch.tensor(color, dtype=torch.uint8).expand(height, width, -1)


def nearest_by_assign(image, palette):
    labels = assign(SRGB.encode(image.flatten(0, 1)), SRGB.encode(palette)).labels
    entries = (palette[:, -1] == 255).nonzero().squeeze(1)
    if image.shape[2] in (2, 4) and len(entries):
        among_opaque = entries[assign(SRGB.encode(image.flatten(0, 1)), SRGB.encode(palette[entries])).labels]
        labels = torch.where(image.flatten(0, 1)[:, -1] == 255, among_opaque, labels)
    return labels.view(image.shape[:2]).to(torch.uint8)


def premultiplied(color):
    """The premultiplied color in sixteenths of a level, as Python integers."""
    if len(color) in (1, 3):
        return [16 * channel for channel in color]
    return [(16 * channel * color[-1] * 2 + 255) // 510 for channel in color[:-1]] + [16 * color[-1]]


def squared_distances(target, colors):
    """Squared distances to the colors. Grey with alpha counts as three channels."""
    weights = [3, 1] if len(target) == 2 else [1] * len(target)
    return [sum(w * (a - b) ** 2 for w, a, b in zip(weights, target, color, strict=True)) for color in colors]


def channel_spacing(colors):
    spacings = []
    for color in colors:
        others = [sum((a - b) ** 2 for a, b in zip(color, other, strict=True)) for other in colors]
        spacings += [min(other for other in others if other)] if any(others) else []
    spacing = math.isqrt(sorted(spacings)[(len(spacings) - 1) // 2]) if spacings else 0
    channels = len(colors[0])
    return math.isqrt(spacing**2 // (channels - (channels in (2, 4))))


def cell_center(pixels, colors, target):
    """Center of the target's cell: at most 2**19 cubes, whose side is a power of two, fill the box of all colors."""
    both = pixels + colors
    alpha = len(target) in (2, 4)
    lowest = [0 if alpha else min(axis) for axis in zip(*both, strict=True)]
    spans = [max(axis) - low for axis, low in zip(zip(*both, strict=True), lowest, strict=True)]
    max_cells = min(2**19, 64 * len(pixels))
    shift = next(s for s in range(13) if math.prod((span >> s) + 1 for span in spans) <= max_cells)
    side = 1 << shift
    return [low + (t - low) // side * side + side // 2 for t, low in zip(target, lowest, strict=True)]


def floyd_steinberg_by_hand(image, palette, strength):
    """Error diffusion pixel by pixel, row by row from left to right; the strength in 256ths."""
    height, width, channels = image.shape
    alpha = channels in (2, 4)
    nearest = nearest_by_assign(image, palette).tolist()
    rows = image.tolist()
    pixels = [premultiplied(color) for row in rows for color in row]
    colors = [premultiplied(color) for color in palette.tolist()]
    limit = channel_spacing(colors)
    lowest = [0 if alpha else min(axis) for axis in zip(*(pixels + colors), strict=True)]
    highest = [max(axis) for axis in zip(*(pixels + colors), strict=True)]
    pending = {}
    indices = [[0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            own = pixels[y * width + x]
            received = [error >> 13 for error in pending.get((y, x), [0] * channels)]
            bounds = zip(own, received, lowest, highest, strict=True)
            target = [min(max(a + b, low), high) for a, b, low, high in bounds]
            if alpha:
                if rows[y][x][-1] == 255:
                    target[-1] = 4080
                target = [min(value, target[-1]) for value in target]
            best = colors[nearest[y][x]]
            transparent = alpha and rows[y][x][-1] == 0
            if transparent or max(abs(a - b) for a, b in zip(own, best, strict=True)) <= 16:
                indices[y][x] = nearest[y][x]
                continue
            sqdists = squared_distances(cell_center(pixels, colors, target), colors)
            if alpha and rows[y][x][-1] == 255 and any(color[-1] == 4080 for color in colors):
                sqdists = [d if color[-1] == 4080 else math.inf for d, color in zip(sqdists, colors, strict=True)]
            indices[y][x] = sqdists.index(min(sqdists))
            difference = [a - b for a, b in zip(target, colors[indices[y][x]], strict=True)]
            error = [(e + min(max(e, -limit), limit)) * strength for e in difference]
            for dy, dx, weight in [(0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)]:
                position = (y + dy, x + dx)
                pending[position] = [
                    a + weight * e for a, e in zip(pending.get(position, [0] * channels), error, strict=True)
                ]
    return torch.tensor(indices, dtype=torch.uint8)


@settings(max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(2, 9),
    st.integers(1, 256),
    st.integers(0, 2**31),
)
def test_diffusion_equals_a_loop_over_pixels(channels, height, width, k, strength, seed):
    image = clear_transparent_pixels(random_image(height, width, channels, 256, seed))
    if channels in (2, 4):
        image[0, :, -1] = 255
    palette = random_palette(k, channels, seed + 1)
    if channels in (2, 4):
        palette[: seed % k, -1] = 255
    expected = floyd_steinberg_by_hand(image, palette, strength)
    for way in WAYS.values():
        with way():
            assert torch.equal(dither(image, palette, strength=strength / 256), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_diffusion_equals_a_loop_over_pixels_for_smooth_images(channels):
    ramp = torch.arange(24)[:, None] * 6 + torch.arange(31) * 3
    image = torch.stack([(ramp + 20 * channel).clamp(max=255) for channel in range(channels)], dim=2).to(torch.uint8)
    palette = quantize(image, 5).palette
    expected = floyd_steinberg_by_hand(image, palette, 256)
    for way in WAYS.values():
        with way():
            assert torch.equal(dither(image, palette), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 17])
@pytest.mark.parametrize("height", [1, 2, 3, 12])
def test_diffusion_in_chunks_of_few_waves_equals_a_loop_over_pixels(channels, width, height, monkeypatch):
    monkeypatch.setattr("gpukmeans.images.dithering._CHUNK", 15)
    monkeypatch.setattr("gpukmeans.images.dithering._MIN_WAVES", 3)
    monkeypatch.setattr("gpukmeans.images.dithering._BLOCK", 7)
    batch = clear_transparent_pixels(random_image(2 * height, width, channels, 256, 0))
    image, palette = batch.view(2, height, width, channels)[1], random_palette(6, channels, 1)
    if channels in (2, 4):
        image[0, :, -1] = 255
        palette[:2, -1] = 255
    with native.without_native():
        assert torch.equal(dither(image, palette, strength=0.75), floyd_steinberg_by_hand(image, palette, 192))


@pytest.mark.parametrize("name", ["bayer", "blue-noise"])
@pytest.mark.parametrize("block", [80, 200, 1000])
def test_ordered_dithering_in_blocks_of_any_size_is_the_same(name, block, monkeypatch):
    image, palette = clear_transparent_pixels(random_image(30, 90, 4, 256, 0)), random_palette(9, 4, 1)
    whole = dither(image, palette, name)
    monkeypatch.setattr("gpukmeans.images.dithering._BLOCK", block)
    assert torch.equal(dither(image, palette, name), whole)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_without_dithering_each_pixel_has_the_nearest_color(channels):
    image, palette = random_image(30, 20, channels, 256, 0), random_palette(13, channels, 1)
    assert torch.equal(dither(image, palette, "none"), nearest_by_assign(image, palette))


def test_the_lowest_index_wins_a_tie():
    assert dither(grey(5)[None], grey(7, 3, 7), "none").tolist() == [[0]]
    assert dither(grey(7)[None], grey(3, 7, 7)).tolist() == [[1]]


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_strength_zero_is_no_dithering(name, channels):
    image, palette = random_image(30, 20, channels, 256, 0), random_palette(13, channels, 1)
    plain = dither(image, palette, "none")
    assert torch.equal(dither(image, palette, name, strength=0.0), plain)
    assert not torch.equal(dither(image, palette, name), plain)


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("level", [20, 90, 128, 200, 250])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_flat_area_keeps_its_mean(name, level, channels):
    # From 0 to 255 each of the 64 thresholds of Bayer is worth 4 levels, so the mean cannot be within one level.
    for low, high, error in [(level - 12, level + 3, 1), (level - 20, min(level + 44, 255), 1), (0, 255, 4)]:
        palette = torch.tensor([[low] * channels, [high] * channels], dtype=torch.uint8)
        # "optimized" weighs the mean against the error of single pixels.
        error = (high - low) / 10 if name == "optimized" else error
        mean = palette[dither(flat(64, 64, *[level] * channels), palette, name).int()].double().mean().item()
        assert mean == pytest.approx(level, abs=error)


@pytest.mark.parametrize("name", MIXING)
def test_areas_of_palette_colors_are_not_dithered(name):
    # Paper with a line, a noisy patch, and a flat patch whose color is not in the palette.
    image = flat(80, 90, 250, 250, 245).clone()
    image[5:40, 5:40] = torch.tensor([90, 120, 160], dtype=torch.uint8)
    image[30:70, 50:80] = random_image(40, 30, 3, 256, 0)
    image[:, 45:47] = 0
    palette = torch.tensor([[250, 250, 245], [0, 0, 0], [40, 90, 200], [200, 150, 100], [128, 128, 128]]).to(
        torch.uint8
    )
    indices = dither(image, palette, name)
    for index, color in enumerate(palette[:2]):
        assert (indices[(image == color).all(dim=2)] == index).all()
    assert len(indices[5:40, 5:40].unique()) > 1  # a color that is not in the palette is dithered


def test_errors_do_not_cross_a_line_of_a_palette_color():
    palette = torch.cat([random_palette(6, 3, 1), torch.tensor([[0] * 3, [7] * 3, [255] * 3], dtype=torch.uint8)])
    image = random_image(21, 30, 3, 256, 0)
    image[10] = 7
    other = torch.cat([random_image(10, 30, 3, 256, 2), image[10:]])
    assert not torch.equal(dither(other, palette)[:10], dither(image, palette)[:10])
    assert torch.equal(dither(other, palette)[10:], dither(image, palette)[10:])


def test_errors_do_not_accumulate():
    # Red, which no mixture of the palette can reach, beside a grey between two of its colors.
    palette = torch.tensor([[100, 100, 100], [120, 120, 120], [140, 140, 140]], dtype=torch.uint8)
    image = torch.cat([flat(40, 20, 255, 0, 0), flat(40, 60, 110, 110, 110)], dim=1)
    shown = palette[dither(image, palette).int()][:, 24:, 0].double()
    assert shown.mean().item() == pytest.approx(110, abs=2)


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("channels", [2, 4])
def test_fully_transparent_pixels_neither_receive_nor_pass_on_errors(name, channels):
    image = random_image(12, 20, channels, 256, 0)
    image[4:8] = 0
    image[8:, :, -1] = 200
    ends = torch.tensor([[0] * channels, [255] * channels], dtype=torch.uint8)
    palette = torch.cat([random_palette(6, channels, 1), ends])
    indices = dither(image, palette, name)
    assert (indices[4:8] == 6).all()
    other = torch.cat([random_image(4, 20, channels, 256, 2), image[4:]])
    assert torch.equal(dither(other, palette, name)[4:], indices[4:])


@pytest.mark.parametrize("name", MIXING)
def test_opaque_pixels_stay_opaque_beside_a_translucent_shadow(name):
    shadow = torch.zeros(40, 60, 4, dtype=torch.uint8)
    shadow[..., 3] = torch.arange(60) * 4
    paper = flat(40, 30, 180, 140, 90, 255)
    palette = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 90], [0, 0, 0, 180], [160, 120, 80, 255], [200, 160, 100, 255]])
    image = torch.cat([shadow, paper, shadow.flip(1)], dim=1)
    indices = dither(image, palette.to(torch.uint8), name)
    assert (indices[:, 60:90] >= 3).all()
    assert (indices[:, :55] < 3).all()  # no color spills into the shadow
    alpha = palette[indices.long()][..., 3].double()
    error = (
        6 if name == "floyd-steinberg" else 12
    )  # the spacing of the palette is below the differences of these alphas
    assert alpha[:, 10:20].mean().item() == pytest.approx(image[:, 10:20, 3].double().mean().item(), abs=error)


@pytest.mark.parametrize("name", DITHERINGS)
@pytest.mark.parametrize("channels", [2, 4])
def test_opaque_pixels_take_opaque_colors_only(name, channels):
    image = random_image(40, 50, channels, 256, 0)
    image[::3, :, -1] = 255
    image[1::3, :, -1] = 254
    palette = random_palette(40, channels, 1)
    palette[:30, -1] = 254  # nearer to most opaque pixels than the opaque colors are
    palette[30:33, -1] = 255
    alpha = palette[:, -1][dither(image, palette, name).long()]
    assert (alpha[::3] == 255).all()
    assert (alpha[1::3] < 255).any()
    palette[30:33, -1] = 253
    assert (dither(image, palette, name)[::3] < 40).all()  # without an opaque color they take any


@pytest.mark.parametrize("name", DITHERINGS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 1), (1, 2), (70, 2)])
@pytest.mark.parametrize("way", WAYS)
def test_narrow_images_and_small_palettes_are_dithered(name, channels, shape, way):
    image = random_image(*shape, channels, 256, 0)
    for k in (1, 2, 256):
        palette = random_palette(k, channels, 1)
        with WAYS[way]():
            indices = dither(image, palette, name)
        assert (indices.shape, indices.dtype) == (shape, torch.uint8)
        assert int(indices.max()) < k


@pytest.mark.parametrize("name", DITHERINGS)
@pytest.mark.parametrize(("color", "index"), [((255, 255, 255, 255), 2), ((0, 0, 0, 0), 0)])
def test_an_image_that_is_all_white_or_all_transparent_stays_so(name, color, index):
    palette = torch.tensor([[0, 0, 0, 0], [9, 9, 9, 255], [255, 255, 255, 255]], dtype=torch.uint8)
    assert (dither(flat(10, 10, *color), palette, name) == index).all()


def test_the_first_of_a_palette_of_equal_colors_is_used():
    assert (dither(random_image(9, 9, 3, 256, 0), flat(3, 1, 50, 60, 70)[:, 0]) == 0).all()


@pytest.mark.parametrize("name", DITHERINGS)
def test_strides_do_not_matter(name):
    image, palette = random_image(33, 44, 3, 256, 0), random_palette(9, 3, 1)
    strided = image.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert not strided.is_contiguous()
    assert torch.equal(dither(strided, palette, name), dither(image, palette, name))
    assert torch.equal(dither(image, palette.T.contiguous().T, name), dither(image, palette, name))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", DITHERINGS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_gpu_gives_the_same_bits(name, channels):
    image, palette = clear_transparent_pixels(random_image(61, 47, channels, 256, 0)), random_palette(20, channels, 1)
    assert torch.equal(dither(image.cuda(), palette.cuda(), name).cpu(), dither(image, palette, name))


def test_inputs_are_not_changed():
    image, palette = random_image(20, 20, 4, 256, 0), random_palette(9, 4, 1)
    before = image.clone(), palette.clone()
    for name in DITHERINGS:
        dither(image, palette, name)
    assert torch.equal(image, before[0])
    assert torch.equal(palette, before[1])


def test_dithering_reduces_the_error_of_local_means_of_a_photo(china):
    palette = quantize(china, 16).palette

    def local_means(image):
        return torch.nn.functional.avg_pool2d(image.movedim(2, 0).double(), 8)

    def error(name):
        shown = palette[dither(china, palette, name).int()]
        return (local_means(shown) - local_means(china)).square().mean().item()

    assert error("floyd-steinberg") < 0.75 * error("none")
    assert error("blue-noise") < error("none")
    assert error("bayer") < error("none")


def test_bayer_ranks_are_the_published_matrices():
    assert bayer_ranks(2).tolist() == [[0, 2], [3, 1]]
    assert bayer_ranks(4).tolist() == [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]


@pytest.mark.parametrize("ranks", [bayer_ranks, blue_noise_ranks])
def test_ranks_are_a_permutation(ranks):
    assert ranks().flatten().sort().values.tolist() == list(range(ranks().numel()))


def test_every_quadrant_of_bayer_has_as_many_of_the_first_ranks():
    ranks = bayer_ranks()
    for count in (4, 16, 32, 48):
        quarters = (ranks < count).unfold(0, 4, 4).unfold(1, 4, 4).sum(dim=(2, 3))
        assert (quarters == count // 4).all()


@pytest.mark.parametrize("denominator", [16, 4, 2])
def test_blue_noise_has_hardly_any_low_frequencies(denominator):
    side = 64
    dots = (blue_noise_ranks(side) < side * side // denominator).double()
    power = torch.fft.fft2(dots - dots.mean()).abs().square() / dots.var() / side**2  # white noise has 1 everywhere
    frequency = torch.fft.fftfreq(side) * side
    radius = (frequency[:, None].square() + frequency.square()).sqrt()
    assert power[(radius > 0) & (radius < side / 4 / math.sqrt(denominator))].mean() < 0.1
    assert power.mean() == pytest.approx(1, abs=0.01)


def test_the_first_ranks_of_blue_noise_keep_a_minimum_distance():
    ranks = blue_noise_ranks()
    dots = (ranks < 256).nonzero()
    offsets = (dots[:, None] - dots).abs()
    sqdist = torch.minimum(offsets, 64 - offsets).square().sum(dim=2) + 10_000 * torch.eye(256, dtype=torch.int64)
    assert sqdist.min() >= 8  # a square grid of 256 has 16; random positions come as close as 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dithering": "riemersma"}, ValueError, "dither must be one of none, optimized, .* got 'riemersma'"),
        ({"dithering": 3}, TypeError, "dither must be a name or a function, got int"),
        ({"strength": 1.1}, ValueError, "strength must be from 0 to 1, got 1.1"),
        ({"strength": -0.1}, ValueError, "strength must be from 0 to 1, got -0.1"),
        ({"strength": math.nan}, ValueError, "strength must be from 0 to 1, got nan"),
        ({"strength": "1"}, TypeError, "strength must be a number, got str"),
        ({"strength": True}, TypeError, "strength must be a number, got bool"),
        (
            {"palette": torch.zeros(2, 4, dtype=torch.uint8)},
            ValueError,
            r"palette must have shape \(K, 3\) on cpu, .*\(2, 4\)",
        ),
        (
            {"palette": torch.zeros(257, 3, dtype=torch.uint8)},
            ValueError,
            "palette must have at most 256 colors, got 257",
        ),
        ({"palette": torch.zeros(0, 3, dtype=torch.uint8)}, ValueError, "palette must have at least 1 color, got 0"),
        ({"palette": torch.zeros(2, 3)}, TypeError, r"palette must be uint8, got torch\.float32"),
        ({"palette": [[0, 0, 0]]}, TypeError, "palette must be a tensor, got list"),
        ({"image": torch.zeros(2, 3, 3)}, TypeError, "image must be uint8"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_was_expected(arguments, error, message, unchecked):
    valid = {"image": torch.zeros(2, 2, 3, dtype=torch.uint8), "palette": torch.zeros(2, 3, dtype=torch.uint8)}
    with pytest.raises(error, match=message):
        dither(**{**valid, **arguments})


def test_a_function_can_be_given_as_dithering_method():
    image, palette = random_image(9, 9, 3, 256, 0), random_palette(4, 3, 1)
    nearest = dither(image, palette, "none")
    assert torch.equal(dither(image, palette, lambda image, palette, nearest, strength: 3 - nearest), 3 - nearest)


@pytest.mark.parametrize(
    ("returned", "received"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), r"uint8 \(2, 3\) on cpu"),
        (torch.zeros(2, 2, dtype=torch.int64), r"int64 \(2, 2\) on cpu"),
        (torch.full((2, 2), 2, dtype=torch.uint8), "an index of 2"),
        (None, "NoneType"),
    ],
)
def test_a_function_that_returns_no_indices_of_the_palette_is_refused(returned, received):
    image, palette = random_image(2, 2, 3, 256, 0), random_palette(2, 3, 1)
    expected = r"dither must return uint8 \(2, 2\) on cpu, with indices below 2"
    with pytest.raises(ValueError, match=f"{expected}, got {received}"):
        dither(image, palette, lambda *arguments: returned)


def test_indices_can_be_used_with_autograd():
    image = random_image(9, 9, 3, 60, 0)
    palette = torch.tensor([[0, 0, 0], [255, 255, 255], [200, 30, 90]], dtype=torch.uint8)
    indices = dither(image, palette)
    assert not indices.is_inference()
    values = torch.rand(3, requires_grad=True)
    values[indices.int()].square().sum().backward()
    assert values.grad.shape == (3,)
